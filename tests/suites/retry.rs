//! Retrying: when, until when, and what is recorded of each attempt.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_domain::delivery::{Concluded, Conclusion, DeliveryEvent};
use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_log::EventBody;
use cuitty_webhooks_proto::v1::{Attempt, CreateEndpointRequest, DeliveryDetail, DeliveryStatus, Header};
use harness::app::{TestApp, summary};
use harness::receiver::{Captured, Receiver, Reply};
use serde_json::json;

use crate::deliver::verified;

/// How much later than due an attempt may start: timers fire up to 0.5 s late, and the machine may be busy.
const LATE: TimeDelta = TimeDelta::seconds(10);

fn time(timestamp: Option<prost_types::Timestamp>) -> DateTime<Utc> {
    let timestamp = timestamp.expect("a time");
    DateTime::from_timestamp(timestamp.seconds, timestamp.nanos as u32).expect("in range")
}

fn statuses(detail: &DeliveryDetail) -> Vec<u32> {
    detail
        .attempts
        .iter()
        .map(|attempt| attempt.response.as_ref().map_or(0, |response| response.status))
        .collect()
}

/// The outcomes that the log of `app` holds, in order.
async fn outcomes(app: &TestApp) -> Vec<Concluded> {
    let events = harness::log::stored(&app.nats.url()).await;
    let outcome = |body| match body {
        EventBody::Event(DeliveryEvent::Concluded(concluded)) => Some(*concluded),
        _ => None,
    };
    events
        .into_iter()
        .filter_map(|event| outcome(event.body))
        .collect()
}

/// When the attempt after this one was scheduled.
fn scheduled(outcome: &Concluded) -> DateTime<Utc> {
    match outcome.conclusion {
        Conclusion::Retry { next_attempt_at } => next_attempt_at,
        other => panic!("{other:?} is no retry"),
    }
}

fn values<'a>(headers: &'a [Header], name: &str) -> Vec<&'a str> {
    headers
        .iter()
        .filter(|header| header.name == name)
        .map(|header| header.value.as_str())
        .collect()
}

/// The record of an attempt says what the receiver got, header by header.
fn is_what_arrived(attempt: &Attempt, arrived: &Captured) {
    let mut recorded: Vec<_> = attempt.request.as_ref().unwrap().headers.iter().collect();
    recorded.sort_by_key(|header| &header.name);
    let mut seen: Vec<_> = arrived
        .headers
        .iter()
        // These two follow from the URL and the body.
        .filter(|(name, _)| *name != "host" && *name != "content-length")
        .map(|(name, value)| Header {
            name: name.to_string(),
            value: value.to_str().unwrap().to_owned(),
        })
        .collect();
    seen.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(recorded, seen.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_receiver_that_fails_twice_gets_three_attempts_at_the_scheduled_times() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let replies = [
        Reply::status(500).header("x-reply", "first").body("out of order"),
        Reply::status(503).header("x-reply", "second").body("try later"),
        Reply::status(200).header("x-reply", "third").body("thanks"),
    ];
    receiver.script("/hook", replies);
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![1, 2],
        ..Default::default()
    };
    let created = app.create_endpoint(request).await;

    let accepted = app.deliver("budget.exceeded", &json!({"amount": 12})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;

    let delivery = summary(&detail);
    assert_eq!(delivery.status(), DeliveryStatus::Delivered);
    assert_eq!((delivery.attempt_count, delivery.response_status), (3, 200));
    assert_eq!(detail.payload, json!({"amount": 12}).to_string());
    assert_eq!(statuses(&detail), [500, 503, 200]);

    let secret = SigningSecret::parse(&created.signing_secret).unwrap();
    let arrived = receiver.requests("/hook");
    let expected = [
        ("first", "out of order"),
        ("second", "try later"),
        ("third", "thanks"),
    ];
    assert_eq!((arrived.len(), detail.attempts.len()), (3, 3));
    for (index, (attempt, (reply, body))) in detail.attempts.iter().zip(expected).enumerate() {
        let number = index as u32 + 1;
        assert_eq!(attempt.number, number);
        let response = attempt.response.as_ref().unwrap();
        assert_eq!(values(&response.headers, "x-reply"), [reply]);
        assert_eq!(
            (&*response.body, response.body_truncated),
            (body.as_bytes(), false)
        );
        assert_eq!(attempt.outcome, if number == 3 { "succeeded" } else { "failed" });
        assert_eq!(
            attempt.error.as_ref().map(|error| error.class.as_str()),
            (number < 3).then_some("status")
        );
        assert_eq!(attempt.endpoint_revision, 1);
        assert_eq!(attempt.remote_address, format!("127.0.0.1:{}", receiver.port()));
        assert!(attempt.timing.as_ref().unwrap().first_byte_ms.is_some());

        let request = attempt.request.as_ref().unwrap();
        assert_eq!(request.url, receiver.url("/hook"));
        assert_eq!(
            request.signed_with,
            [&*created.endpoint.as_ref().unwrap().secrets[0].id]
        );
        is_what_arrived(attempt, &arrived[index]);
        assert_eq!(arrived[index].header("webhook-id"), accepted.message_id);
        assert_eq!(arrived[index].header("x-cuitty-attempt"), number.to_string());
        // Each is signed for its own time.
        let started = time(attempt.started_at).timestamp().to_string();
        assert_eq!(arrived[index].header("webhook-timestamp"), started);
        assert!(verified(&arrived[index], std::slice::from_ref(&secret)));
    }

    let outcomes = outcomes(&app).await;
    assert_eq!(outcomes.len(), 3);
    for (index, seconds) in [(0, 1), (1, 2)] {
        let (outcome, next) = (&outcomes[index], &detail.attempts[index + 1]);
        // ±20 %, counted from the end of the attempt.
        let due = scheduled(outcome);
        let delay = due - outcome.at;
        let allowed = TimeDelta::milliseconds(seconds * 800)..=TimeDelta::milliseconds(seconds * 1200);
        assert!(allowed.contains(&delay), "{index}: {delay}");
        assert_eq!(time(detail.attempts[index].next_attempt_at), due);
        let late = time(next.started_at) - due;
        assert!((TimeDelta::zero()..=LATE).contains(&late), "{index}: {late}");
    }
    assert_eq!(detail.attempts[2].next_attempt_at, None);
}

#[tokio::test]
async fn a_delivery_that_never_succeeds_ends_as_exhausted() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(500), Reply::reset()]);
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![1],
        ..Default::default()
    };
    app.create_endpoint(request).await;

    let accepted = app.deliver("budget.exceeded", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;

    let delivery = summary(&detail);
    assert_eq!(delivery.status(), DeliveryStatus::Failed);
    assert_eq!(
        (delivery.failure_reason.as_str(), delivery.attempt_count),
        ("exhausted", 2)
    );
    assert_eq!(statuses(&detail), [500, 0]);
    assert_eq!(detail.attempts[1].error.as_ref().unwrap().class, "reset");
    assert_eq!(delivery.next_attempt_at, None);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script(
        "/hook",
        [Reply::status(429).header("retry-after", "3"), Reply::status(204)],
    );
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![1],
        ..Default::default()
    };
    app.create_endpoint(request).await;

    let accepted = app.deliver("budget.exceeded", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;

    assert_eq!(statuses(&detail), [429, 204]);
    let outcomes = outcomes(&app).await;
    let due = scheduled(&outcomes[0]);
    let asked = Duration::from_secs(3);
    assert!(due - outcomes[0].at >= TimeDelta::from_std(asked).unwrap());
    let late = time(detail.attempts[1].started_at) - due;
    assert!((TimeDelta::zero()..=LATE).contains(&late), "{late}");
}
