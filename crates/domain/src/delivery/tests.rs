use super::*;
use crate::attempt::{AttemptError, AttemptRequest, AttemptResponse, ErrorClass, Header, Timing};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn now() -> DateTime<Utc> {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

pub(crate) fn failed_attempt(number: u32) -> Attempt {
    Attempt {
        number,
        started_at: now(),
        duration: Duration::from_millis(12),
        request: AttemptRequest::default(),
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
    }
}

pub(crate) fn answered(number: u32, status: u16) -> Attempt {
    Attempt {
        response: Some(AttemptResponse {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            body_truncated: false,
        }),
        error: (!(200..300).contains(&status)).then(|| AttemptError {
            class: ErrorClass::Status,
            message: String::new(),
        }),
        ..failed_attempt(number)
    }
}

/// The first attempt, answered with `status` and these `webhook-delivery` headers.
fn answered_with(status: u16, values: &[&str]) -> Attempt {
    let mut attempt = answered(1, status);
    let response = attempt.response.as_mut().unwrap();
    response.headers = values
        .iter()
        .map(|&value| Header {
            name: "webhook-delivery".into(),
            value: value.into(),
        })
        .collect();
    attempt
}

fn delivery() -> Delivery {
    let mut rng = StdRng::seed_from_u64(1);
    let message_id = MessageId::new(now(), &mut rng);
    let endpoint_id = EndpointId::new(now(), &mut rng);
    let event = Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint_id),
            message_id,
            project_id: "acme".parse().unwrap(),
            endpoint_id,
            event_type: "budget.exceeded".parse().unwrap(),
        },
        content_type: "application/json".into(),
        payload: Bytes::from_static(b"{}"),
        requested_at: now(),
        origin: Origin::Event,
        replay_of: None,
        traceparent: String::new(),
        deadline: now() + DEFAULT_DEADLINE,
    };
    Delivery::requested(&event, 7)
}

fn concluded(state: &Delivery, attempt: Option<Attempt>, conclusion: Conclusion) -> Concluded {
    Concluded {
        delivery: state.delivery.clone(),
        requested_sequence: state.requested_sequence,
        attempt,
        conclusion,
        at: now(),
    }
}

#[test]
fn outcomes_decide() {
    let mut rng = StdRng::seed_from_u64(1);
    let schedule = RetrySchedule::from_seconds(&[5]);
    let deadline = now() + Duration::from_mins(1);
    let mut decide = |attempt: &Attempt, deadline| {
        conclude(EndpointKind::Http, attempt, &schedule, deadline, now(), &mut rng).conclusion
    };
    assert_eq!(decide(&answered(1, 204), deadline), Conclusion::Succeeded);
    assert_eq!(
        decide(&answered(1, 410), deadline),
        Conclusion::Failed {
            reason: FailureReason::Gone
        }
    );
    assert_eq!(
        decide(&answered(2, 500), deadline),
        Conclusion::Failed {
            reason: FailureReason::Exhausted
        }
    );
    assert_eq!(
        decide(&failed_attempt(1), now()),
        Conclusion::Failed {
            reason: FailureReason::Expired
        }
    );
    for status in [301, 400, 429, 500, 503] {
        let conclusion = decide(&answered(1, status), deadline);
        assert!(
            matches!(conclusion, Conclusion::Retry { next_attempt_at } if next_attempt_at > now()),
            "{status}"
        );
    }
}

/// What an attempt means while there are more to come.
fn judged(attempt: &Attempt) -> (Option<Result<(), FailureReason>>, bool) {
    judged_of(EndpointKind::Http, attempt)
}

fn judged_of(kind: EndpointKind, attempt: &Attempt) -> (Option<Result<(), FailureReason>>, bool) {
    let deadline = now() + Duration::from_mins(1);
    let schedule = RetrySchedule::from_seconds(&[5]);
    let mut rng = StdRng::seed_from_u64(1);
    let Verdict { conclusion, disables } = conclude(kind, attempt, &schedule, deadline, now(), &mut rng);
    let stored = concluded(&delivery(), Some(attempt.clone()), conclusion);
    assert_eq!(stored.asks_to_disable(), disables, "{attempt:?}");
    let ended = match conclusion {
        Conclusion::Retry { .. } => None,
        Conclusion::Succeeded => Some(Ok(())),
        Conclusion::Failed { reason } => Some(Err(reason)),
    };
    (ended, disables)
}

#[test]
fn slacks_words_may_end_a_delivery_and_its_endpoint() {
    let failed = |reason| Some(Err(reason));
    for (status, word, expected) in [
        (200, "ok", (Some(Ok(())), false)),
        // Nothing that says that it was taken is asked further.
        (200, "no_service", (Some(Ok(())), false)),
        (404, "no_service", (failed(FailureReason::Gone), true)),
        (500, "no_text", (failed(FailureReason::Aborted), false)),
        (500, "rollup_error", (None, false)),
        (404, "", (None, false)),
        (410, "", (failed(FailureReason::Gone), true)),
    ] {
        let mut attempt = answered(1, status);
        attempt.response.as_mut().unwrap().body = word.into();
        assert_eq!(
            judged_of(EndpointKind::Slack, &attempt),
            expected,
            "{status} {word}"
        );
    }
}

#[test]
fn an_answer_may_end_its_delivery_and_its_endpoint() {
    let succeeded = Some(Ok(()));
    let failed = |reason| Some(Err(reason));
    for (status, values, expected) in [
        (500, &[][..], (None, false)),
        (500, &["abort-message"], (failed(FailureReason::Aborted), false)),
        (429, &["abort-message"], (failed(FailureReason::Aborted), false)),
        (302, &["abort-message"], (failed(FailureReason::Aborted), false)),
        (500, &["disable"], (failed(FailureReason::Gone), true)),
        (
            500,
            &["abort-message, disable"],
            (failed(FailureReason::Gone), true),
        ),
        (
            500,
            &["disable", "abort-message"],
            (failed(FailureReason::Gone), true),
        ),
        (410, &[], (failed(FailureReason::Gone), true)),
        (410, &["abort-message"], (failed(FailureReason::Gone), true)),
        (200, &["abort-message"], (succeeded, false)),
        (204, &["disable"], (succeeded, true)),
        // In any case, with any white space; what is not known is passed over.
        (500, &[" ABORT-Message "], (failed(FailureReason::Aborted), false)),
        (500, &["pause,\tDISABLE"], (failed(FailureReason::Gone), true)),
        (
            500,
            &["", "abort", "abort-message; now", "disabled"],
            (None, false),
        ),
    ] {
        assert_eq!(
            judged(&answered_with(status, values)),
            expected,
            "{status} {values:?}"
        );
    }
}

#[test]
fn a_header_counts_in_any_case_and_only_by_its_name() {
    for (name, aborted) in [("Webhook-Delivery", true), ("x-webhook-delivery", false)] {
        let mut attempt = answered_with(500, &["abort-message"]);
        attempt.response.as_mut().unwrap().headers[0].name = name.into();
        let expected = aborted.then_some(Err(FailureReason::Aborted));
        assert_eq!(judged(&attempt), (expected, false), "{name}");
    }
}

#[test]
fn a_2xx_whose_body_never_ended_is_no_success_but_its_headers_count() {
    let cut = |values| Attempt {
        error: failed_attempt(1).error,
        ..answered_with(200, values)
    };
    assert_eq!(judged(&cut(&[])), (None, false));
    assert_eq!(
        judged(&cut(&["abort-message"])),
        (Some(Err(FailureReason::Aborted)), false)
    );
    assert_eq!(judged(&cut(&["disable"])), (Some(Err(FailureReason::Gone)), true));
}

#[test]
fn three_attempts_are_counted_and_the_end_is_kept() {
    let mut state = delivery();
    let next_attempt_at = now() + Duration::from_secs(5);
    for number in 1..=2 {
        let event = concluded(
            &state,
            Some(answered(number, 500)),
            Conclusion::Retry { next_attempt_at },
        );
        state.evolve(&event);
        assert_eq!(
            (state.attempt_count, state.next_attempt_at),
            (number, Some(next_attempt_at))
        );
    }
    let event = concluded(&state, Some(answered(3, 200)), Conclusion::Succeeded);
    state.evolve(&event);
    assert_eq!(state.status, DeliveryStatus::Delivered);
    assert_eq!(
        (state.attempt_count, state.next_attempt_at, state.response_status),
        (3, None, Some(200))
    );
    let ended = state.clone();
    let late = concluded(
        &state,
        Some(failed_attempt(4)),
        Conclusion::Failed {
            reason: FailureReason::Exhausted,
        },
    );
    state.evolve(&late);
    assert_eq!(state, ended);
}

#[test]
fn of_two_ends_the_first_one_stands() {
    let open = delivery();
    let cancelled = concluded(
        &open,
        None,
        Conclusion::Failed {
            reason: FailureReason::Cancelled,
        },
    );
    let succeeded = concluded(&open, Some(answered(1, 200)), Conclusion::Succeeded);
    let fold = |events: [&Concluded; 2]| {
        let mut state = open.clone();
        for event in events {
            state.evolve(event);
        }
        state
    };
    let by_cancel = fold([&cancelled, &succeeded]);
    assert_eq!(
        (
            by_cancel.status,
            by_cancel.failure_reason,
            by_cancel.attempt_count
        ),
        (DeliveryStatus::Failed, Some(FailureReason::Cancelled), 0)
    );
    let by_success = fold([&succeeded, &cancelled]);
    assert_eq!(
        (
            by_success.status,
            by_success.failure_reason,
            by_success.attempt_count
        ),
        (DeliveryStatus::Delivered, None, 1)
    );
}

#[test]
fn only_a_pending_delivery_is_cancelled_and_that_twice() {
    let mut refused = 0;
    for (status, failure_reason, expected) in [
        (DeliveryStatus::Pending, None, Some(true)),
        (
            DeliveryStatus::Failed,
            Some(FailureReason::Cancelled),
            Some(false),
        ),
        (DeliveryStatus::Failed, Some(FailureReason::Exhausted), None),
        (
            DeliveryStatus::Failed,
            Some(FailureReason::EndpointDisabled),
            None,
        ),
        (DeliveryStatus::Delivered, None, None),
    ] {
        let state = Delivery {
            status,
            failure_reason,
            ..delivery()
        };
        let decided = state.is_cancellable();
        assert_eq!(decided.as_ref().ok(), expected.as_ref(), "{status:?}");
        if let Err(Rejection::Conflict { message, .. }) = decided {
            let named = failure_reason.map_or(status.as_str(), FailureReason::as_str);
            assert!(message.contains(named), "{message}");
            refused += 1;
        }
    }
    assert_eq!(refused, 3);
}

proptest! {
    #[test]
    fn applying_a_fact_twice_changes_nothing(steps in proptest::collection::vec((1u32..6, 0u8..4), 0..12)) {
        let mut state = delivery();
        for (number, kind) in steps {
            let conclusion = match kind {
                0 => Conclusion::Succeeded,
                1 => Conclusion::Failed { reason: FailureReason::Exhausted },
                _ => Conclusion::Retry { next_attempt_at: now() },
            };
            let event = concluded(&state, Some(failed_attempt(number)), conclusion);
            state.evolve(&event);
            let once = state.clone();
            state.evolve(&event);
            prop_assert_eq!(&state, &once);
            prop_assert_eq!(state.completed_at.is_some(), state.status != DeliveryStatus::Pending);
            prop_assert_eq!(state.failure_reason.is_some(), state.status == DeliveryStatus::Failed);
        }
    }
}
