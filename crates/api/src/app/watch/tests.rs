use super::*;
use crate::testing::{caller, concluded, endpoint, now, requested};
use cuitty_webhooks_domain::delivery::{Conclusion, Due};
use futures_util::StreamExt;

fn stored(sequence: u64, event: DeliveryEvent) -> StoredEvent {
    StoredEvent {
        sequence,
        stored_at: now(),
        traceparent: None,
        body: EventBody::Event(event),
    }
}

fn everything() -> Filter {
    Filter {
        project_id: None,
        endpoint_id: None,
    }
}

/// A sender, and a stream of what a watcher behind `filter` sees of it.
fn watch(
    buffer: usize,
    filter: Filter,
    stop: &CancellationToken,
) -> (
    broadcast::Sender<Arc<Watched>>,
    impl Stream<Item = Result<Arc<Watched>, AppError>> + Unpin,
) {
    let sender = broadcast::Sender::new(buffer);
    let place = Places::new(1).take(&caller(None)).unwrap();
    let subscription = Subscription {
        events: sender.subscribe(),
        filter,
        stop: stop.clone(),
        revoked: Box::pin(std::future::pending()),
        _place: place,
    };
    (sender, Box::pin(stream::unfold(Some(subscription), next)))
}

fn send(sender: &broadcast::Sender<Arc<Watched>>, sequence: u64) {
    let watched = Watched::new(stored(sequence, DeliveryEvent::Requested(requested()))).unwrap();
    sender.send(Arc::new(watched)).unwrap();
}

#[test]
fn payloads_are_not_kept_for_watchers() {
    let watched = Watched::new(stored(3, DeliveryEvent::Requested(requested()))).unwrap();
    let DeliveryEvent::Requested(shown) = watched.event else {
        panic!("{watched:?}")
    };
    assert_eq!((watched.sequence, shown.payload.len()), (3, 0));
    assert_eq!(shown.delivery, requested().delivery);
}

#[test]
fn only_requests_and_outcomes_are_shown() {
    let ended = concluded(Conclusion::Succeeded);
    assert!(Watched::new(stored(1, DeliveryEvent::Concluded(Box::new(ended)))).is_some());
    let delivery = requested().delivery;
    let due = Due {
        delivery,
        requested_sequence: 1,
        attempt_number: 2,
        due_at: now(),
    };
    assert!(Watched::new(stored(2, DeliveryEvent::Due(due))).is_none());
    let timer = StoredEvent {
        body: EventBody::Timer,
        ..stored(3, DeliveryEvent::Requested(requested()))
    };
    assert!(Watched::new(timer).is_none());
}

#[test]
fn filters_select_by_project_and_endpoint() {
    let event = DeliveryEvent::Requested(requested());
    let project = |name: &str| Some(name.parse().unwrap());
    for (project_id, endpoint_id, expected) in [
        (None, None, true),
        (project("acme"), None, true),
        (project("other"), None, false),
        (None, Some(endpoint(1).id), true),
        (project("acme"), Some(endpoint(1).id), true),
        (project("acme"), Some(endpoint(2).id), false),
    ] {
        let filter = Filter {
            project_id,
            endpoint_id,
        };
        assert_eq!(filter.selects(&event), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn events_arrive_in_order() {
    let stop = CancellationToken::new();
    let (sender, mut events) = watch(8, everything(), &stop);
    (1..=3).for_each(|sequence| send(&sender, sequence));
    for sequence in 1..=3 {
        assert_eq!(events.next().await.unwrap().unwrap().sequence, sequence);
    }
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_how_far() {
    let stop = CancellationToken::new();
    let (sender, mut events) = watch(2, everything(), &stop);
    (1..=5).for_each(|sequence| send(&sender, sequence));
    assert!(matches!(
        events.next().await,
        Some(Err(AppError::WatcherBehind(3)))
    ));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn shutting_down_ends_the_stream() {
    let stop = CancellationToken::new();
    let (_sender, mut events) = watch(2, everything(), &stop);
    stop.cancel();
    assert!(matches!(events.next().await, Some(Err(AppError::ShuttingDown))));
    assert!(events.next().await.is_none());
}
