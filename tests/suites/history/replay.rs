//! What a bulk replay reads: counted, page by page, and known again.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::FailureReason::{EndpointDisabled, Exhausted, Gone};
use cuitty_webhooks_domain::delivery::{Conclusion, DeliveryEvent, DeliveryRef, DeliveryStatus};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_domain::replay::{ReplayFilter, Selection};
use cuitty_webhooks_history::{Store, StoreConfig};

use super::given::{Given, apply_split};

super::contract! {
    what_is_selected_is_counted_and_read_page_by_page_in_order
    unmatched_messages_are_selected_by_type_and_time
    known_and_ended_deliveries_and_their_contents_are_told
    nothing_is_told_by_a_history_that_is_behind
}

/// Everything of `acme` that has failed.
fn selection(given: &Given) -> Selection {
    Selection {
        filter: ReplayFilter::failed("acme".parse().unwrap()),
        disabled_at: None,
        through_sequence: u64::MAX >> 1,
        before: given.now + Duration::from_hours(1),
    }
}

async fn selected(store: &Store, selection: &Selection, limit: u32) -> Vec<DeliveryId> {
    let mut found: Vec<DeliveryId> = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .replayable(selection, after, 0, limit)
            .await
            .unwrap()
            .unwrap();
        assert!(page.len() <= limit as usize);
        let Some(last) = page.last() else { return found };
        after = Some((last.created_at, last.delivery.delivery_id));
        found.extend(page.iter().map(|delivery| delivery.delivery.delivery_id));
    }
}

/// A delivery, when it was created, at which sequence, and when it ended.
type Known = (DeliveryRef, DateTime<Utc>, u64, DateTime<Utc>);

/// Deliveries of two projects to two endpoints, and the events that tell of them.
fn deliveries(given: &mut Given, endpoints: [EndpointId; 2]) -> (Vec<(u64, DeliveryEvent)>, Vec<Known>) {
    let failed = |reason| Conclusion::Failed { reason };
    let (mut events, mut deliveries) = (Vec::new(), Vec::new());
    for (project, endpoint, event_type, conclusion) in [
        ("acme", 0, "budget.exceeded", Some(failed(Exhausted))),
        ("acme", 0, "budget.exceeded.twice", Some(failed(Gone))),
        ("acme", 1, "budgets.exceeded", Some(failed(EndpointDisabled))),
        ("acme", 1, "budget", Some(Conclusion::Succeeded)),
        ("acme", 1, "budget.exceeded", None),
        ("other", 1, "budget.exceeded", Some(failed(Exhausted))),
        ("acme", 1, "budget.exceeded", Some(failed(EndpointDisabled))),
        ("acme", 1, "key.revoked", Some(failed(Exhausted))),
    ] {
        let delivery = given.delivery(project, endpoints[endpoint], event_type);
        let requested = given.requested(&delivery);
        let (created_at, sequence) = (given.now, requested.0);
        events.push(requested);
        if let Some(conclusion) = conclusion {
            let attempt = (conclusion == Conclusion::Succeeded).then(|| given.answered(1, 204));
            events.push(given.concluded(&delivery, attempt, conclusion));
        }
        deliveries.push((delivery, created_at, sequence, given.now));
    }
    (events, deliveries)
}

async fn what_is_selected_is_counted_and_read_page_by_page_in_order(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(70);
    let endpoints = [given.endpoint(), given.endpoint()];
    let (events, deliveries) = deliveries(&mut given, endpoints);
    apply_split(&store, &events, &[]).await;
    let all = selection(&given);
    let with = |change: &dyn Fn(&mut Selection)| {
        let mut selection = all.clone();
        change(&mut selection);
        selection
    };
    for (name, selection, expected) in [
        ("failed", all.clone(), &[0, 1, 2, 6, 7][..]),
        (
            "endpoint",
            with(&|s| s.filter.endpoint_id = Some(endpoints[0])),
            &[0, 1],
        ),
        (
            "delivered",
            with(&|s| s.filter.status = DeliveryStatus::Delivered),
            &[3],
        ),
        (
            "reasons",
            with(&|s| s.filter.failure_reasons = vec![Gone, EndpointDisabled]),
            &[1, 2, 6],
        ),
        (
            "type",
            with(&|s| s.filter.event_types = Some("budget.exceeded".parse().unwrap())),
            &[0, 6],
        ),
        (
            "pattern",
            with(&|s| s.filter.event_types = Some("budget.*".parse().unwrap())),
            &[0, 1, 6],
        ),
        (
            "every type",
            with(&|s| s.filter.event_types = Some("*".parse().unwrap())),
            &[0, 1, 2, 6, 7],
        ),
        (
            "since",
            with(&|s| s.filter.since = Some(deliveries[2].1)),
            &[2, 6, 7],
        ),
        (
            "until",
            with(&|s| s.filter.until = Some(deliveries[2].1)),
            &[0, 1],
        ),
        (
            "through",
            with(&|s| s.through_sequence = deliveries[6].2),
            &[0, 1, 2, 6],
        ),
        (
            "disabled",
            with(&|s| {
                s.filter.endpoint_id = Some(endpoints[1]);
                s.filter.since_disabled = true;
                s.disabled_at = Some(deliveries[6].3);
            }),
            &[6],
        ),
        (
            "project",
            with(&|s| s.filter.project_id = "other".parse().unwrap()),
            &[5],
        ),
        (
            "nothing",
            with(&|s| s.filter.project_id = "nobody".parse().unwrap()),
            &[],
        ),
    ] {
        let expected: Vec<_> = expected
            .iter()
            .map(|&index: &usize| deliveries[index].0.delivery_id)
            .collect();
        for limit in [1, 2, 100] {
            assert_eq!(
                self::selected(&store, &selection, limit).await,
                expected,
                "{name}, {limit}"
            );
        }
        assert_eq!(
            store.count_replayable(&selection).await.unwrap(),
            expected.len() as u64,
            "{name}"
        );
    }
}

async fn unmatched_messages_are_selected_by_type_and_time(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(71);
    let mut events = Vec::new();
    let mut messages = Vec::new();
    for event_type in ["budget.exceeded", "key.revoked", "budget.unheard"] {
        let message_id = MessageId::new(given.tick(), &mut given.rng);
        let mut unmatched = given.unmatched(message_id);
        if let DeliveryEvent::Unmatched(event) = &mut unmatched.1 {
            event.event_type = event_type.parse().unwrap();
            messages.push((message_id, event.requested_at));
        }
        events.push(unmatched);
    }
    apply_split(&store, &events, &[]).await;
    let mut all = selection(&given);
    assert_eq!(store.count_replayable(&all).await.unwrap(), 0, "not asked for");
    all.filter.include_unmatched = true;
    let budget = Selection {
        filter: ReplayFilter {
            event_types: Some("budget.*".parse().unwrap()),
            ..all.filter.clone()
        },
        ..all.clone()
    };
    let since = Selection {
        filter: ReplayFilter {
            since: Some(messages[1].1),
            ..all.filter.clone()
        },
        ..all.clone()
    };
    let earlier = Selection {
        before: messages[2].1,
        ..all.clone()
    };
    for (selection, expected) in [
        (&all, &[0, 1, 2][..]),
        (&budget, &[0, 2]),
        (&since, &[1, 2]),
        (&earlier, &[0, 1]),
    ] {
        let expected: Vec<_> = expected.iter().map(|&index: &usize| messages[index].0).collect();
        for limit in [1, 100] {
            let mut found: Vec<MessageId> = Vec::new();
            loop {
                let page = store.replayable_unmatched(selection, found.last().copied(), 0, limit);
                let page = page.await.unwrap().unwrap();
                if page.is_empty() {
                    break;
                }
                found.extend(page.iter().map(|message| message.message_id));
            }
            assert_eq!(found, expected);
        }
        assert_eq!(
            store.count_replayable(selection).await.unwrap(),
            expected.len() as u64
        );
    }
    let first = store
        .replayable_unmatched(&all, None, 0, 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first[0].event_type.as_str(), "budget.exceeded");
}

async fn known_and_ended_deliveries_and_their_contents_are_told(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(72);
    let [pending, ended, unknown] = [(); 3].map(|()| given.any_delivery());
    let mut events = vec![given.requested(&pending), given.requested(&ended)];
    let attempt = given.answered(1, 204);
    events.push(given.concluded(&ended, Some(attempt), Conclusion::Succeeded));
    apply_split(&store, &events, &[]).await;
    let ids = [&pending, &ended, &unknown].map(|delivery| delivery.delivery_id);
    let existing = store.existing(&ids, 0).await.unwrap();
    assert_eq!(existing, Some(HashSet::from([ids[0], ids[1]])));
    assert_eq!(store.existing(&ids[2..], 0).await.unwrap(), Some(HashSet::new()));
    assert_eq!(store.ended(&ids).await.unwrap(), HashSet::from([ids[1]]));
    let contents = store
        .contents(&[pending.message_id, unknown.message_id])
        .await
        .unwrap();
    let payload = format!("{{\"message\":\"{}\"}}", pending.message_id);
    assert_eq!(contents.len(), 1);
    assert_eq!(
        contents[&pending.message_id],
        ("application/json".to_owned(), payload.into())
    );
}

async fn nothing_is_told_by_a_history_that_is_behind(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(73);
    let delivery = given.any_delivery();
    let requested = given.requested(&delivery);
    let reached = requested.0;
    apply_split(&store, &[requested], &[]).await;
    let mut selection = selection(&given);
    selection.filter.include_unmatched = true;
    let ids = [delivery.delivery_id];
    for (reached, told) in [(reached, true), (reached + 1, false)] {
        let page = store.replayable(&selection, None, reached, 9).await.unwrap();
        assert_eq!(page.map(|page| page.len()), told.then_some(0));
        let page = store
            .replayable_unmatched(&selection, None, reached, 9)
            .await
            .unwrap();
        assert_eq!(page.map(|page| page.len()), told.then_some(0));
        let known = store.existing(&ids, reached).await.unwrap();
        assert_eq!(known.map(|known| known.len()), told.then_some(1));
    }
}
