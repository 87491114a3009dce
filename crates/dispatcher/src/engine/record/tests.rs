use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{AttemptRequest, Timing};
use cuitty_webhooks_domain::delivery::{Delivery, DeliveryRef, DeliveryStatus, FailureReason};
use cuitty_webhooks_domain::delivery::{Origin, Requested};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_log::CodecError;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const SUCCEEDED: Conclusion = Conclusion::Succeeded;
const FAILED: Conclusion = Conclusion::Failed {
    reason: FailureReason::Exhausted,
};

fn now() -> DateTime<Utc> {
    "2026-11-21T10:00:00.123456789Z".parse().unwrap()
}

fn retry() -> Conclusion {
    Conclusion::Retry {
        next_attempt_at: now(),
    }
}

/// How attempt 2 ended that `dispatcher` made.
fn concluded(dispatcher: &str, conclusion: Conclusion) -> Concluded {
    let mut rng = StdRng::seed_from_u64(1);
    let (message_id, endpoint_id) = (MessageId::new(now(), &mut rng), EndpointId::new(now(), &mut rng));
    Concluded {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint_id),
            message_id,
            project_id: "acme".parse().unwrap(),
            endpoint_id,
            event_type: "budget.exceeded".parse().unwrap(),
        },
        requested_sequence: 1,
        attempt: Some(Attempt {
            number: 2,
            started_at: now(),
            duration: Duration::from_millis(12),
            request: AttemptRequest::default(),
            response: None,
            error: None,
            timing: Timing::default(),
            remote_address: None,
            endpoint_revision: 1,
            dispatcher_id: dispatcher.into(),
            trace_id: String::new(),
        }),
        conclusion,
        at: now(),
    }
}

fn stored(concluded: Concluded) -> EventBody {
    EventBody::Event(DeliveryEvent::Concluded(Box::new(concluded)))
}

fn judge(ours: Conclusion, stored_by: &str, theirs: Conclusion) -> Repeated {
    Repeated::judge(&concluded("a", ours), Some(&stored(concluded(stored_by, theirs))))
}

#[test]
fn what_we_stored_ourselves_needs_nothing() {
    for conclusion in [SUCCEEDED, FAILED, retry()] {
        assert_eq!(judge(conclusion, "a", conclusion), Repeated::Recorded);
    }
    let mut from_the_log = concluded("a", SUCCEEDED);
    from_the_log.attempt.as_mut().unwrap().started_at = "2026-11-21T10:00:00.123456Z".parse().unwrap();
    let judged = Repeated::judge(&concluded("a", SUCCEEDED), Some(&stored(from_the_log)));
    assert_eq!(judged, Repeated::Recorded, "stored to the microsecond");
}

#[test]
fn an_end_is_stored_beside_a_retry_and_a_retry_yields_to_an_end() {
    assert_eq!(judge(SUCCEEDED, "b", retry()), Repeated::Ends);
    assert_eq!(judge(FAILED, "b", retry()), Repeated::Ends);
    assert_eq!(judge(retry(), "b", SUCCEEDED), Repeated::Ended);
    assert_eq!(judge(retry(), "b", FAILED), Repeated::Ended);
    assert_eq!(judge(SUCCEEDED, "b", FAILED), Repeated::Recorded);
    assert_eq!(
        judge(retry(), "b", retry()),
        Repeated::Recorded,
        "the timer that we armed has replaced theirs"
    );
}

#[test]
fn a_repeated_run_of_the_same_dispatcher_is_another_run() {
    let mut before = concluded("a", retry());
    before.attempt.as_mut().unwrap().started_at = now() - Duration::from_secs(8);
    let judged = Repeated::judge(&concluded("a", SUCCEEDED), Some(&stored(before)));
    assert_eq!(judged, Repeated::Ends);
}

#[test]
fn an_end_is_never_dropped_for_something_that_cannot_be_told() {
    let unreadable = EventBody::Unreadable(CodecError::Missing("attempt"));
    let mut other = concluded("b", SUCCEEDED);
    other.attempt.as_mut().unwrap().number = 3;
    for found in [None, Some(&unreadable), Some(&stored(other))] {
        assert_eq!(Repeated::judge(&concluded("a", SUCCEEDED), found), Repeated::Ends);
        assert_eq!(
            Repeated::judge(&concluded("a", retry()), found),
            Repeated::Recorded
        );
    }
}

#[test]
fn an_end_without_an_attempt_is_stored_once() {
    let ended = Concluded {
        attempt: None,
        ..concluded("a", FAILED)
    };
    assert_eq!(
        Repeated::judge(&ended, Some(&stored(ended.clone()))),
        Repeated::Recorded
    );
}

/// Whoever folds the log takes the success that follows a retry of the same attempt.
#[test]
fn the_history_ends_with_the_end() {
    let first = concluded("b", retry());
    let requested = Requested {
        delivery: first.delivery.clone(),
        content_type: String::new(),
        payload: "{}".into(),
        requested_at: now(),
        origin: Origin::Event,
        replay_of: None,
        traceparent: String::new(),
        deadline: now(),
    };
    let mut delivery = Delivery::requested(&requested, 1);
    delivery.evolve(&first);
    delivery.evolve(&concluded("a", SUCCEEDED));
    assert_eq!(
        (delivery.status, delivery.attempt_count, delivery.next_attempt_at),
        (DeliveryStatus::Delivered, 2, None)
    );
}
