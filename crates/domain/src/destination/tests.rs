use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::delivery::tests::{answered, failed_attempt};
use crate::ids::{DeliveryId, EndpointId, MessageId};
use crate::slack::SLACK_ERRORS;
use crate::subject::{SubjectPrefix, listener_subject};

fn at() -> DateTime<Utc> {
    "2026-11-22T08:57:41.25Z".parse().unwrap()
}

pub(crate) fn delivery(event_type: &str) -> DeliveryRef {
    let mut rng = StdRng::seed_from_u64(1);
    let message_id = MessageId::new(at(), &mut rng);
    let endpoint_id = EndpointId::new(at(), &mut rng);
    DeliveryRef {
        delivery_id: DeliveryId::derive(message_id, endpoint_id),
        message_id,
        project_id: "acme".parse().unwrap(),
        endpoint_id,
        event_type: event_type.parse().unwrap(),
    }
}

/// What is sent for this payload.
pub(crate) fn sent(kind: EndpointKind, wants_envelope: bool, payload: &[u8], content_type: &str) -> Body {
    let (delivery, payload) = (delivery("budget.exceeded"), Bytes::copy_from_slice(payload));
    let message = Message {
        delivery: &delivery,
        payload: &payload,
        content_type,
        requested_at: at(),
    };
    let body = body(kind, wants_envelope, &message);
    assert!(bodies(&message).contains(&body.bytes), "it can be verified");
    body
}

#[test]
fn every_kind_is_sent_what_its_endpoint_asks_for() {
    let payload = br#"{"spent": 12}"#;
    let wrapped =
        br#"{"type":"budget.exceeded","timestamp":"2026-11-22T08:57:41.250Z","data":{"spent": 12}}"#;
    for kind in [EndpointKind::Http, EndpointKind::Nats] {
        assert_eq!(sent(kind, false, payload, "application/json").bytes, &payload[..]);
        assert_eq!(sent(kind, true, payload, "application/json").bytes, &wrapped[..]);
        let text = sent(kind, true, payload, "text/plain");
        assert_eq!(
            (&text.bytes[..], &*text.content_type),
            (&payload[..], "text/plain")
        );
    }
    let slack = sent(EndpointKind::Slack, false, payload, "text/plain");
    assert_eq!(slack.content_type, "application/json");
    assert!(slack.bytes.starts_with(br#"{"text":"Budget exceeded\n"#));
}

#[test]
fn answers_mean_what_the_kind_says() {
    let said = |status, body: &'static str| {
        let mut attempt = answered(1, status);
        attempt.response.as_mut().unwrap().body = body.into();
        attempt
    };
    for kind in EndpointKind::ALL {
        assert_eq!(answer(kind, &failed_attempt(1)), Answer::Retry);
        assert_eq!(answer(kind, &answered(1, 410)), Answer::Gone);
        for status in [302, 400, 404, 429, 500, 503] {
            assert_eq!(answer(kind, &said(status, "<html>")), Answer::Retry, "{status}");
        }
    }
    for error in SLACK_ERRORS {
        let attempt = said(404, error.code);
        assert_eq!(
            answer(EndpointKind::Slack, &attempt),
            error.answer,
            "{}",
            error.code
        );
        assert_eq!(
            answer(EndpointKind::Http, &attempt),
            Answer::Retry,
            "{}",
            error.code
        );
    }
    let gone = said(404, "no_service").response.unwrap();
    assert_eq!(
        explain(EndpointKind::Slack, &gone).as_deref(),
        Some("no_service, the webhook was removed or disabled")
    );
    assert_eq!(explain(EndpointKind::Http, &gone), None);
}

#[test]
fn a_listener_that_is_not_there_for_some_time_is_gone() {
    let missed = |number, url: &str, class| {
        let mut attempt = failed_attempt(number);
        attempt.request.url = url.into();
        attempt.error.as_mut().unwrap().class = class;
        answer(EndpointKind::Nats, &attempt)
    };
    let subject = listener_subject(&SubjectPrefix::default(), &"acme".parse().unwrap(), 7);
    let listener = format!("nats:{subject}?reply");
    for (number, expected) in [
        (1, Answer::Retry),
        (2, Answer::Retry),
        (3, Answer::Gone),
        (4, Answer::Gone),
    ] {
        assert_eq!(
            missed(number, &listener, ErrorClass::Connect),
            expected,
            "{number}"
        );
    }
    assert_eq!(missed(3, &listener, ErrorClass::Timeout), Answer::Retry);
    let other = "nats:cuitty.notifications.acme.billing?reply";
    assert_eq!(missed(3, other, ErrorClass::Connect), Answer::Retry);
}
