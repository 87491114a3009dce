//! Events to append.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{Attempt, AttemptError, AttemptRequest, ErrorClass, Timing};
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DeliveryRef, Due, FailureReason, Origin, Requested,
};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::{EventBody, EventReader, Log, StoredEvent};
use cuitty_webhooks_domain::delivery::DeliveryEvent;

pub(super) fn now() -> DateTime<Utc> {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

/// The same id for the same number.
pub(super) fn endpoint_id(number: u64) -> EndpointId {
    EndpointId::new(now(), &mut StdRng::seed_from_u64(number))
}

pub(super) fn message_id(number: u64) -> MessageId {
    MessageId::new(now(), &mut StdRng::seed_from_u64(number))
}

/// Message `message` to endpoint `endpoint`.
pub(super) fn requested(message: u64, endpoint: u64) -> Requested {
    let (message_id, endpoint_id) = (message_id(message), endpoint_id(endpoint));
    Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint_id),
            message_id,
            project_id: "acme".parse().unwrap(),
            endpoint_id,
            event_type: "budget.exceeded".parse().unwrap(),
        },
        content_type: "application/json".into(),
        payload: Bytes::from_static(br#"{"limit":100}"#),
        requested_at: now(),
        origin: Origin::Event,
        replay_of: None,
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        deadline: now() + Duration::from_hours(1),
    }
}

pub(super) fn due(request: &Requested, due_at: DateTime<Utc>) -> Due {
    Due {
        delivery: request.delivery.clone(),
        requested_sequence: 1,
        attempt_number: 2,
        due_at,
    }
}

/// Attempt `number` failed and will be retried.
pub(super) fn concluded(request: &Requested, number: u32) -> Concluded {
    Concluded {
        delivery: request.delivery.clone(),
        requested_sequence: 1,
        attempt: Some(Attempt {
            number,
            started_at: now(),
            duration: Duration::from_millis(12),
            request: AttemptRequest {
                url: "https://example.com/hook".into(),
                ..AttemptRequest::default()
            },
            response: None,
            error: Some(AttemptError {
                class: ErrorClass::Connect,
                message: "refused".into(),
            }),
            timing: Timing::default(),
            remote_address: None,
            endpoint_revision: 1,
            dispatcher_id: "d1".into(),
            trace_id: String::new(),
        }),
        conclusion: Conclusion::Retry {
            next_attempt_at: now(),
        },
        at: now(),
    }
}

/// Failed, to be tried again.
pub(super) fn retry(request: &Requested, number: u32) -> Concluded {
    Concluded {
        conclusion: Conclusion::Retry {
            next_attempt_at: now() + Duration::from_secs(number.into()),
        },
        ..concluded(request, number)
    }
}

pub(super) fn success(request: &Requested, number: u32) -> Concluded {
    Concluded {
        conclusion: Conclusion::Succeeded,
        ..concluded(request, number)
    }
}

/// Ended without an attempt.
pub(super) fn cancelled(request: &Requested) -> Concluded {
    Concluded {
        attempt: None,
        conclusion: Conclusion::Failed {
            reason: FailureReason::Cancelled,
        },
        ..concluded(request, 0)
    }
}

/// Stores `events` at the next sequences.
pub(super) async fn append_all(log: &Log, events: &[Concluded]) {
    for event in events {
        assert!(!log.append_concluded(event).await.unwrap().duplicate);
    }
}

/// The request that a stored event holds.
pub(super) fn request_of(event: &StoredEvent) -> Requested {
    match &event.body {
        EventBody::Event(DeliveryEvent::Requested(request)) => request.clone(),
        other => panic!("not a request: {other:?}"),
    }
}

/// Reads on until `count` events have come, in as many batches as it takes. Errors of a restarting server are passed over.
pub(super) async fn read_events(reader: &mut EventReader, count: usize) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    let reading = async {
        while events.len() < count {
            events.extend(
                reader
                    .next_batch(count - events.len(), Duration::from_secs(1))
                    .await
                    .unwrap_or_default(),
            );
        }
    };
    let finished = tokio::time::timeout(crate::testing::SOON, reading).await;
    assert!(finished.is_ok(), "only {} of {count} events came", events.len());
    events
}
