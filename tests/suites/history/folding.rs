//! What the rows are, given the events.

use std::time::Duration;

use bytes::Bytes;
use cuitty_webhooks_domain::attempt::Header;
use cuitty_webhooks_domain::delivery::{
    Conclusion, Delivery, DeliveryEvent, DeliveryRef, DeliveryStatus, FailureReason,
};
use cuitty_webhooks_history::{AppliedStats, AttemptRow, Store, StoreConfig, UnmatchedMessage};

use super::given::{Given, Whole, batch};

super::contract! {
    life_cycles_are_folded
    later_batches_go_on_where_earlier_ones_ended
    unmatched_messages_are_kept
    attempts_are_kept_whole
    what_a_text_column_cannot_hold_does_no_harm
    facts_without_their_request_are_left_out
}

async fn state(store: &Store, delivery: &DeliveryRef) -> Delivery {
    store
        .get_delivery(delivery.delivery_id)
        .await
        .unwrap()
        .unwrap()
        .delivery
}

async fn life_cycles_are_folded(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(1);
    let [delivered, retried, disabled] = std::array::from_fn(|_| given.any_delivery());
    let mut events = Vec::from([&delivered, &retried, &disabled].map(|delivery| given.requested(delivery)));
    let requested = events.clone();
    let next_attempt_at = given.now + Duration::from_secs(5);
    for (number, status) in [(1, 500), (2, 503)] {
        let attempt = given.answered(number, status);
        events.push(given.concluded(&retried, Some(attempt), Conclusion::Retry { next_attempt_at }));
    }
    let attempt = given.answered(1, 204);
    events.push(given.concluded(&delivered, Some(attempt), Conclusion::Succeeded));
    let delivered_at = given.now;
    let reason = FailureReason::EndpointDisabled;
    events.push(given.concluded(&disabled, None, Conclusion::Failed { reason }));
    let failed_at = given.now;

    let stats = store.apply(&batch(0, &events)).await.unwrap();
    assert_eq!(
        stats,
        AppliedStats {
            created: 3,
            attempts: 3,
            ..AppliedStats::default()
        }
    );
    let begun = |index: usize| match &requested[index] {
        (sequence, DeliveryEvent::Requested(event)) => Delivery::requested(event, *sequence),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        state(&store, &delivered).await,
        Delivery {
            status: DeliveryStatus::Delivered,
            attempt_count: 1,
            completed_at: Some(delivered_at),
            response_status: Some(204),
            ..begun(0)
        }
    );
    assert_eq!(
        state(&store, &retried).await,
        Delivery {
            attempt_count: 2,
            next_attempt_at: Some(next_attempt_at),
            response_status: Some(503),
            ..begun(1)
        }
    );
    assert_eq!(
        state(&store, &disabled).await,
        Delivery {
            status: DeliveryStatus::Failed,
            failure_reason: Some(reason),
            completed_at: Some(failed_at),
            ..begun(2)
        }
    );
    assert_eq!(
        store
            .get_delivery(given.any_delivery().delivery_id)
            .await
            .unwrap(),
        None
    );
}

async fn later_batches_go_on_where_earlier_ones_ended(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(5);
    let delivery = given.any_delivery();
    let requested = given.requested(&delivery);
    let first = given.answered(1, 500);
    let next_attempt_at = given.now + Duration::from_secs(5);
    let retried = given.concluded(&delivery, Some(first), Conclusion::Retry { next_attempt_at });
    store
        .apply(&batch(0, &[requested, retried.clone()]))
        .await
        .unwrap();
    let waiting = state(&store, &delivery).await;
    assert_eq!(waiting.next_attempt_at, Some(next_attempt_at));

    let due = given.due(&delivery, 2);
    let stats = store
        .apply(&batch(retried.0, std::slice::from_ref(&due)))
        .await
        .unwrap();
    assert_eq!(
        stats,
        AppliedStats {
            updated: 1,
            ..AppliedStats::default()
        }
    );
    let is_due = Delivery {
        next_attempt_at: None,
        ..waiting
    };
    assert_eq!(state(&store, &delivery).await, is_due);

    let second = given.unanswered(2);
    let reason = FailureReason::Exhausted;
    let failed = given.concluded(&delivery, Some(second), Conclusion::Failed { reason });
    let stats = store
        .apply(&batch(due.0, std::slice::from_ref(&failed)))
        .await
        .unwrap();
    assert_eq!(
        stats,
        AppliedStats {
            updated: 1,
            attempts: 1,
            ..AppliedStats::default()
        }
    );
    assert_eq!(
        state(&store, &delivery).await,
        Delivery {
            status: DeliveryStatus::Failed,
            failure_reason: Some(reason),
            attempt_count: 2,
            completed_at: Some(given.now),
            ..is_due
        }
    );
    let attempts = store
        .get_delivery(delivery.delivery_id)
        .await
        .unwrap()
        .unwrap()
        .attempts;
    let schedule: Vec<_> = attempts
        .iter()
        .map(|row| (row.attempt.number, row.next_attempt_at))
        .collect();
    assert_eq!(schedule, [(1, Some(next_attempt_at)), (2, None)]);
    assert_eq!(store.checkpoint().await.unwrap(), failed.0);
}

async fn unmatched_messages_are_kept(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(12);
    let message_id = given.any_delivery().message_id;
    let event = given.unmatched(message_id);
    let stats = store.apply(&batch(0, &[event])).await.unwrap();
    assert_eq!(
        stats,
        AppliedStats {
            unmatched: 1,
            ..AppliedStats::default()
        }
    );
    assert_eq!(
        Whole::of(&store).await.unmatched,
        [UnmatchedMessage {
            message_id,
            project_id: "acme".parse().unwrap(),
            event_type: "budget.unheard".parse().unwrap(),
            content_type: "application/json".into(),
            payload: Bytes::from_static(b"{\"unheard\":true}"),
            created_at: given.now,
        }]
    );
}

async fn attempts_are_kept_whole(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(2);
    let delivery = given.any_delivery();
    let answered = given.answered(1, 500);
    let unanswered = given.unanswered(2);
    let next_attempt_at = given.now + Duration::from_secs(30);
    let retry = Conclusion::Retry { next_attempt_at };
    let events = [
        given.requested(&delivery),
        given.concluded(&delivery, Some(answered.clone()), retry),
        given.concluded(&delivery, Some(unanswered.clone()), retry),
    ];
    store.apply(&batch(0, &events)).await.unwrap();

    let detail = store.get_delivery(delivery.delivery_id).await.unwrap().unwrap();
    assert_eq!(detail.content_type, "application/json");
    assert_eq!(
        detail.payload,
        format!("{{\"message\":\"{}\"}}", delivery.message_id)
    );
    let row = |attempt| AttemptRow {
        attempt,
        next_attempt_at: Some(next_attempt_at),
    };
    assert_eq!(detail.attempts, [row(answered), row(unanswered)]);
}

async fn what_a_text_column_cannot_hold_does_no_harm(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(3);
    let delivery = given.any_delivery();
    let mut requested = given.requested(&delivery);
    let payload = Bytes::from_static(b"\0\xff\xfe");
    if let (_, DeliveryEvent::Requested(event)) = &mut requested {
        event.content_type = "text/\0plain".into();
        event.payload = payload.clone();
    }
    let mut attempt = given.answered(1, 500);
    attempt.request.headers.push(Header {
        name: "x-nul".into(),
        value: "a\0b \u{10ffff}\"\\\n".into(),
    });
    attempt.error.as_mut().unwrap().message = "\0".into();
    attempt.response.as_mut().unwrap().body = Bytes::from_static(b"\0\xff");
    attempt.endpoint_revision = u64::MAX;
    attempt.duration = Duration::MAX;
    let reason = FailureReason::Exhausted;
    let failed = given.concluded(&delivery, Some(attempt.clone()), Conclusion::Failed { reason });
    store.apply(&batch(0, &[requested, failed])).await.unwrap();

    let detail = store.get_delivery(delivery.delivery_id).await.unwrap().unwrap();
    assert_eq!(
        (detail.content_type.as_str(), detail.payload),
        ("text/\u{fffd}plain", payload)
    );
    attempt.duration = Duration::from_micros(i64::MAX as u64);
    assert_eq!(
        detail.attempts,
        [AttemptRow {
            attempt,
            next_attempt_at: None
        }]
    );
}

async fn facts_without_their_request_are_left_out(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(4);
    let (known, older) = (given.any_delivery(), given.any_delivery());
    let attempt = given.answered(1, 204);
    let events = [
        given.due(&older, 2),
        given.concluded(&older, Some(attempt.clone()), Conclusion::Succeeded),
        given.requested(&known),
        given.concluded(&known, Some(attempt), Conclusion::Succeeded),
    ];
    let stats = store.apply(&batch(0, &events)).await.unwrap();
    assert_eq!(
        stats,
        AppliedStats {
            created: 1,
            attempts: 1,
            orphaned: 2,
            ..AppliedStats::default()
        }
    );
    let whole = Whole::of(&store).await;
    let ids: Vec<_> = whole
        .deliveries
        .iter()
        .map(|detail| detail.delivery.delivery.delivery_id)
        .collect();
    assert_eq!((whole.checkpoint, ids), (events[3].0, vec![known.delivery_id]));
}
