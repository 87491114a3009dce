use super::*;
use crate::testing::{concluded, endpoint as sample, now, requested};
use cuitty_webhooks_domain::endpoint::DisabledReason;

#[test]
fn an_endpoint_shows_its_settings_and_its_live_secrets_without_values() {
    let mut given = sample(1);
    let mut retired = given.secrets[0].clone();
    retired.expires_at = Some(now());
    given.secrets.push(retired);
    given.disabled_reason = Some(DisabledReason::Gone);
    let shown = endpoint(&given, EndpointHealth::new(&given, None), now());
    assert_eq!(shown.id, given.id.to_string());
    assert_eq!(
        (shown.project_id.as_str(), shown.url.as_str()),
        ("acme", "https://hooks.example.com/in")
    );
    assert_eq!((shown.active, shown.disabled_reason.as_str()), (false, "gone"));
    assert_eq!(
        (shown.timeout_ms, shown.max_in_flight, shown.rate_limit_per_second),
        (15_000, 64, 0)
    );
    assert_eq!(
        shown.headers,
        [v1::Header {
            name: "x-team".into(),
            value: "finance".into()
        }]
    );
    assert_eq!(shown.secrets.len(), 1);
    assert_eq!(
        (shown.secrets[0].id.as_str(), shown.secrets[0].expires_at),
        (&*given.secrets[0].id.to_string(), None)
    );
    assert_eq!(
        shown.created_at,
        Some(Timestamp {
            seconds: now().timestamp(),
            nanos: 250_000_000
        })
    );
}

#[test]
fn a_shown_endpoint_updates_to_the_same_settings() {
    let given = sample(1);
    let draft = update_draft(endpoint(&given, EndpointHealth::new(&given, None), now()));
    assert_eq!(draft, EndpointDraft::from(&given.settings));
}

#[test]
fn zero_means_default_only_when_creating() {
    let draft = new_draft(v1::CreateEndpointRequest::default()).unwrap();
    assert_eq!((draft.timeout_ms, draft.max_in_flight), (15_000, 64));
    let draft = new_draft(v1::CreateEndpointRequest {
        timeout_ms: 1,
        ..Default::default()
    })
    .unwrap();
    assert_eq!(draft.timeout_ms, 1);
    assert_eq!(update_draft(v1::Endpoint::default()).timeout_ms, 0);
    let refused = new_draft(v1::CreateEndpointRequest {
        kind: 99,
        ..Default::default()
    });
    assert!(matches!(refused, Err(Rejection::Invalid(fields)) if fields[0].field == "kind"));
}

#[test]
fn times_and_statuses_are_checked() {
    assert_eq!(time("since", None), Ok(None));
    assert_eq!(time("since", Some(timestamp(now()))), Ok(Some(now())));
    for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, 2_000_000_000)] {
        assert!(
            time("since", Some(Timestamp { seconds, nanos })).is_err(),
            "{seconds} {nanos}"
        );
    }
    assert_eq!(read_status(0), Ok(None));
    for (number, expected) in (1..).zip(DeliveryStatus::ALL) {
        assert_eq!(read_status(number), Ok(Some(expected)));
        assert_eq!(i32::from(status(expected)), number);
    }
    assert!(read_status(4).is_err());
}

#[test]
fn a_page_of_zero_is_the_default_one() {
    assert_eq!(page(None).limit, None);
    assert_eq!(
        page(Some(v1::PageRequest {
            limit: 0,
            cursor: "c".into()
        }))
        .cursor,
        "c"
    );
    assert_eq!(
        page(Some(v1::PageRequest {
            limit: 201,
            cursor: String::new()
        }))
        .limit,
        Some(201)
    );
}

#[test]
fn a_delivery_shows_all_its_attempts() {
    let mut state = Delivery::requested(&requested(), 7);
    let next_attempt_at = now() + Duration::from_secs(5);
    let ended = concluded(Conclusion::Retry { next_attempt_at });
    state.evolve(&ended);
    let row = AttemptRow {
        attempt: ended.attempt.unwrap(),
        next_attempt_at: Some(next_attempt_at),
    };
    let detail = DeliveryDetail {
        delivery: state,
        content_type: "application/json".into(),
        payload: "{}".into(),
        attempts: vec![row],
    };
    let shown = delivery_detail(&detail, &[]);
    assert_eq!(&shown.payload[..], b"{}");
    let shown_delivery = shown.delivery.unwrap();
    assert_eq!(shown_delivery.status(), v1::DeliveryStatus::Pending);
    assert_eq!(
        (shown_delivery.attempt_count, shown_delivery.response_status),
        (1, 500)
    );
    assert_eq!(shown_delivery.origin, "event");
    let attempt = &shown.attempts[0];
    assert_eq!(
        (attempt.number, attempt.duration_ms, attempt.outcome.as_str()),
        (1, 12.5, "failed")
    );
    assert_eq!(attempt.next_attempt_at, Some(timestamp(next_attempt_at)));
    assert_eq!(attempt.error.as_ref().unwrap().class, "status");
    assert_eq!(&attempt.response.as_ref().unwrap().body[..], b"oops");
    let timing = attempt.timing.unwrap();
    assert_eq!(
        (timing.queue_ms, timing.connect_ms, timing.dns_ms),
        (2.0, Some(1.0), None)
    );
    assert_eq!(attempt.remote_address, "192.0.2.7:443");
}

#[test]
fn watched_events_are_named_by_what_happened() {
    let shown = |event| delivery_event(&Watched { sequence: 9, event }).unwrap();
    let retry = Conclusion::Retry {
        next_attempt_at: now(),
    };
    let failed = Conclusion::Failed {
        reason: FailureReason::Exhausted,
    };
    for (conclusion, kind, reason, next) in [
        (retry, "attempted", "", Some(timestamp(now()))),
        (Conclusion::Succeeded, "succeeded", "", None),
        (failed, "failed", "exhausted", None),
    ] {
        let event = shown(DeliveryEvent::Concluded(Box::new(concluded(conclusion))));
        assert_eq!((event.log_sequence, event.kind.as_str()), (9, kind));
        assert_eq!(
            (event.failure_reason.as_str(), event.next_attempt_at),
            (reason, next)
        );
        assert_eq!(event.attempt.unwrap().number, 1);
    }
    let event = shown(DeliveryEvent::Requested(requested()));
    assert_eq!((event.kind.as_str(), event.attempt), ("requested", None));
    assert_eq!(event.delivery_id, requested().delivery.delivery_id.to_string());
}
