//! What somebody has to see to: which deliveries wait for too long, and since when endpoints fail.

use std::time::Duration;

use cuitty_webhooks_domain::delivery::{Conclusion, Delivery, DeliveryEvent, FailureReason};
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_history::{Backlog, EndpointFailures, Store, StoreConfig, Waiting};

use super::given::{Given, apply_split};

super::contract! {
    failures_are_told_from_the_first_after_the_last_success
    failing_endpoints_are_found_in_order_of_since_when
    waiting_deliveries_are_found_in_order_of_their_times
    nothing_is_found_before_the_history_has_come_so_far
    the_backlog_is_what_has_not_ended
}

const EARLY: Duration = Duration::from_hours(1);

/// Everything that is pending, page by page.
async fn pending(store: &Store, waiting: Waiting, given: &Given, limit: u32) -> Vec<Delivery> {
    let mut found: Vec<Delivery> = Vec::new();
    loop {
        let page = store
            .pending(waiting, given.now, 0, found.last(), limit)
            .await
            .unwrap();
        if page.is_empty() {
            return found;
        }
        assert!(page.len() <= limit as usize);
        found.extend(page);
    }
}

async fn failing(store: &Store, given: &Given, limit: u32) -> Vec<EndpointFailures> {
    let mut found: Vec<EndpointFailures> = Vec::new();
    loop {
        let page = store
            .failing_endpoints(given.now + EARLY, 0, found.last(), limit)
            .await
            .unwrap();
        if page.is_empty() {
            return found;
        }
        assert!(page.len() <= limit as usize);
        found.extend(page);
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries
        .iter()
        .map(|delivery| delivery.delivery.delivery_id)
        .collect()
}

async fn failures_are_told_from_the_first_after_the_last_success(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(40);
    let delivery = given.any_delivery();
    let mut events = vec![given.requested(&delivery)];
    let (mut failed_at, mut expected) = (Vec::new(), Vec::new());
    // 1: fails, 2: fails, 3: succeeds, 4: fails without an attempt, 5: fails, 6: fails for good.
    for number in 1..=6 {
        let status = if number == 3 { 204 } else { 500 };
        let attempt = (number != 4).then(|| given.answered(number, status));
        let conclusion = match number {
            3 => Conclusion::Succeeded,
            4 => Conclusion::Failed {
                reason: FailureReason::EndpointDisabled,
            },
            6 => Conclusion::Failed {
                reason: FailureReason::Exhausted,
            },
            _ => Conclusion::Retry {
                next_attempt_at: given.now,
            },
        };
        events.push(given.concluded(&delivery, attempt, conclusion));
        match number {
            3 => failed_at.clear(),
            4 => {}
            _ => failed_at.push(given.now),
        }
        expected.push(failed_at.first().map(|&failing_since| EndpointFailures {
            endpoint_id: delivery.endpoint_id,
            project_id: delivery.project_id.clone(),
            failing_since,
            last_failure_at: failed_at[failed_at.len() - 1],
            failures: failed_at.len() as u64,
        }));
    }
    for (until, expected) in expected.into_iter().enumerate() {
        let events = &events[..until + 2];
        for ends in [vec![], (1..events.len()).collect()] {
            store.reset().await.unwrap();
            apply_split(&store, events, &ends).await;
            let found = failing(&store, &given, 5).await;
            assert_eq!(found, Vec::from_iter(expected.clone()), "{until}, {ends:?}");
        }
    }
}

async fn failing_endpoints_are_found_in_order_of_since_when(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(41);
    let mut events = Vec::new();
    let mut endpoints = Vec::new();
    for _ in 0..7 {
        let delivery = given.any_delivery();
        events.push(given.requested(&delivery));
        let attempt = given.unanswered(1);
        let next_attempt_at = given.now;
        events.push(given.concluded(&delivery, Some(attempt), Conclusion::Retry { next_attempt_at }));
        endpoints.push((delivery.endpoint_id, given.now));
    }
    apply_split(&store, &events, &[]).await;

    for limit in [1, 3, 7, 100] {
        let found = failing(&store, &given, limit).await;
        let found: Vec<_> = found
            .iter()
            .map(|row| (row.endpoint_id, row.failing_since))
            .collect();
        assert_eq!(found, endpoints);
    }
    let before = store
        .failing_endpoints(endpoints[2].1, 0, None, 100)
        .await
        .unwrap();
    assert_eq!(before.len(), 2);
}

async fn waiting_deliveries_are_found_in_order_of_their_times(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(42);
    let start = given.now;
    let mut events = Vec::new();
    let (mut timers, mut starts) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let delivery = given.any_delivery();
        let id = delivery.delivery_id;
        events.push(given.requested(&delivery));
        let attempt = given.answered(1, if number % 4 == 3 { 204 } else { 500 });
        // The later it was requested, the earlier it is retried; the first ones only in the future.
        let next_attempt_at = start + Duration::from_hours(1) - Duration::from_mins(6 * number);
        let retry = Conclusion::Retry { next_attempt_at };
        match number % 4 {
            0 => starts.push(id),
            1 => {
                events.push(given.concluded(&delivery, Some(attempt), retry));
                timers.push(id);
            }
            2 => {
                events.push(given.concluded(&delivery, Some(attempt), retry));
                events.push(given.due(&delivery, 2));
                starts.push(id);
            }
            _ => events.push(given.concluded(&delivery, Some(attempt), Conclusion::Succeeded)),
        }
    }
    apply_split(&store, &events, &[]).await;
    given.now = start + Duration::from_mins(40);
    // 54 min is not over yet; 30 and 6 are.
    let overdue: Vec<_> = timers[1..].iter().rev().copied().collect();

    for limit in [1, 2, 100] {
        assert_eq!(
            ids(&pending(&store, Waiting::Timer, &given, limit).await),
            overdue
        );
        assert_eq!(ids(&pending(&store, Waiting::Start, &given, limit).await), starts);
    }
    given.now = match &events[0].1 {
        DeliveryEvent::Requested(first) => first.requested_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(pending(&store, Waiting::Start, &given, 100).await, []);
}

async fn nothing_is_found_before_the_history_has_come_so_far(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(43);
    let delivery = given.any_delivery();
    let requested = given.requested(&delivery);
    let attempt = given.unanswered(1);
    let next_attempt_at = given.now;
    let retried = given.concluded(&delivery, Some(attempt), Conclusion::Retry { next_attempt_at });
    let last = retried.0;
    apply_split(&store, &[requested, retried], &[]).await;
    let before = given.now + EARLY;
    for (reached, found) in [(last, 1), (last + 1, 0)] {
        let timers = store
            .pending(Waiting::Timer, before, reached, None, 9)
            .await
            .unwrap();
        let failing = store.failing_endpoints(before, reached, None, 9).await.unwrap();
        assert_eq!((timers.len(), failing.len()), (found, found));
    }
}

async fn the_backlog_is_what_has_not_ended(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(44);
    assert_eq!(store.backlog(given.now).await.unwrap(), Backlog::default());
    let mut events = Vec::new();
    let next_attempt_at = given.now + Duration::from_hours(1);
    for number in 0..10 {
        let delivery = given.any_delivery();
        events.push(given.requested(&delivery));
        let attempt = given.answered(1, if number < 3 { 204 } else { 500 });
        match number {
            0..3 => events.push(given.concluded(&delivery, Some(attempt), Conclusion::Succeeded)),
            3..8 => {
                let retry = Conclusion::Retry { next_attempt_at };
                events.push(given.concluded(&delivery, Some(attempt), retry));
            }
            _ => {}
        }
    }
    apply_split(&store, &events, &[]).await;
    let requested_at = match &events[6].1 {
        DeliveryEvent::Requested(requested) => requested.requested_at,
        other => panic!("{other:?}"),
    };
    // Ten, of which three were delivered; five of the others wait for a time, which passes.
    for (now, retries) in [(given.now, 5), (next_attempt_at, 0)] {
        let expected = Backlog {
            pending: 7,
            retries,
            oldest: Some(requested_at),
        };
        assert_eq!(store.backlog(now).await.unwrap(), expected);
    }
    let pool = store.pool();
    assert!(
        pool.used <= pool.limit && pool.limit == config.max_connections,
        "{pool:?}"
    );
}
