//! Delivering: what a receiver gets, and how a delivery is retried until it is taken or given up.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::signing::{SignedHeaders, SigningSecret, verify};
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliverRequest, DeliveryDetail, DeliveryStatus, Header,
};
use harness::app::{TestApp, event, summary};
use harness::receiver::{Captured, Receiver, Reply};
use serde_json::json;

/// How much later than due an attempt may start: timers fire up to 0.5 s late, and this machine is busy.
const LATE: chrono::TimeDelta = chrono::TimeDelta::seconds(3);

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

/// Checks the signature as a receiver does, five minutes' tolerance included.
fn verified(request: &Captured, secrets: &[SigningSecret]) -> bool {
    let id = request.header("webhook-id");
    let timestamp = request.header("webhook-timestamp");
    let signature = request.header("webhook-signature");
    let now = DateTime::from_timestamp(timestamp.parse().unwrap(), 0).unwrap();
    let headers = SignedHeaders {
        id,
        timestamp,
        signature,
    };
    verify(headers, &request.body, secrets, now, Duration::from_mins(5)).is_ok()
}

#[tokio::test]
async fn a_receiver_gets_the_payload_byte_for_byte_with_a_signature_it_can_verify() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app
        .create_endpoint(CreateEndpointRequest {
            url: receiver.url("/hook?tenant=7"),
            headers: vec![Header {
                name: "X-Own".into(),
                value: "mine".into(),
            }],
            signature_header: "X-Cuitty-Signature".into(),
            ..Default::default()
        })
        .await;
    // Key order, escapes and white space are the caller's: they must survive.
    let payload = "{ \"b\":1,\t\"a\" : [1.0, 1e3, \"\\u00e9\u{e9}\"] }\n";

    let accepted = app
        .messages()
        .deliver(event("budget.exceeded", payload))
        .await
        .unwrap()
        .into_inner();

    let request = receiver.received("/hook", 1).await.remove(0);
    assert_eq!(request.method, "POST");
    assert_eq!(request.uri.query(), Some("tenant=7"));
    assert_eq!(request.body, payload);
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("content-length"), payload.len().to_string());
    assert!(request.header("user-agent").starts_with("cuitty-webhooks/"));
    assert_eq!(request.header("webhook-id"), accepted.message_id);
    assert_eq!(request.header("x-cuitty-event-type"), "budget.exceeded");
    assert_eq!(request.header("x-cuitty-delivery-id"), accepted.deliveries[0].id);
    assert_eq!(request.header("x-cuitty-attempt"), "1");
    assert_eq!(request.header("x-own"), "mine");
    assert_eq!(request.header("traceparent").len(), 55);
    let secret = SigningSecret::parse(&created.signing_secret).unwrap();
    assert!(verified(&request, std::slice::from_ref(&secret)));
    let tampered = Captured {
        body: "{}".into(),
        ..request.clone()
    };
    assert!(!verified(&tampered, std::slice::from_ref(&secret)));
    let hex = request.header("x-cuitty-signature");
    assert!(
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{hex}"
    );
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
    app.create_endpoint(request).await;

    let accepted = app.deliver("budget.exceeded", &json!({"amount": 12})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;

    let delivery = summary(&detail);
    assert_eq!(delivery.status(), DeliveryStatus::Delivered);
    assert_eq!((delivery.attempt_count, delivery.response_status), (3, 200));
    assert_eq!(detail.payload, json!({"amount": 12}).to_string());
    assert_eq!(statuses(&detail), [500, 503, 200]);
    for (attempt, (number, (reply, body))) in detail.attempts.iter().zip((1..).zip([
        ("first", "out of order"),
        ("second", "try later"),
        ("third", "thanks"),
    ])) {
        let response = attempt.response.as_ref().unwrap();
        assert_eq!(attempt.number, number);
        assert_eq!(response.body, body);
        assert!(!response.body_truncated);
        let headers: Vec<_> = response
            .headers
            .iter()
            .filter(|header| header.name == "x-reply")
            .collect();
        assert_eq!(
            headers
                .iter()
                .map(|header| header.value.as_str())
                .collect::<Vec<_>>(),
            [reply]
        );
        let request = attempt.request.as_ref().unwrap();
        assert_eq!(request.url, receiver.url("/hook"));
        assert_eq!(request.signed_with.len(), 1);
        assert!(
            request
                .headers
                .iter()
                .any(|h| h.name == "x-cuitty-attempt" && h.value == number.to_string())
        );
        assert_eq!(attempt.outcome, if number == 3 { "succeeded" } else { "failed" });
        assert_eq!(
            attempt.error.as_ref().map(|error| error.class.as_str()),
            (number < 3).then_some("status")
        );
        assert_eq!(attempt.endpoint_revision, 1);
        assert_eq!(attempt.remote_address, format!("127.0.0.1:{}", receiver.port()));
        assert!(attempt.timing.as_ref().unwrap().first_byte_ms.is_some());
    }
    // ±20 % of 1 s and 2 s after the attempt before, and each when it was said to be.
    for (index, scheduled) in [(0, 1000), (1, 2000)] {
        let (attempt, next) = (&detail.attempts[index], &detail.attempts[index + 1]);
        let ended = time(attempt.started_at) + Duration::from_secs_f64(attempt.duration_ms / 1000.0);
        let due = time(attempt.next_attempt_at);
        let delay = (due - ended).num_milliseconds();
        assert!(
            (scheduled * 8 / 10 - 50..=scheduled * 12 / 10 + 500).contains(&delay),
            "{index}: {delay} ms"
        );
        let late = time(next.started_at) - due;
        assert!(
            late >= chrono::TimeDelta::milliseconds(-20) && late <= LATE,
            "{index}: {late}"
        );
    }
    let requests = receiver.requests("/hook");
    let ids: Vec<_> = requests
        .iter()
        .map(|request| request.header("webhook-id"))
        .collect();
    assert_eq!(ids, [&accepted.message_id; 3]);
    let numbers: Vec<_> = requests
        .iter()
        .map(|request| request.header("x-cuitty-attempt"))
        .collect();
    assert_eq!(numbers, ["1", "2", "3"]);
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
    let gap = time(detail.attempts[1].started_at) - time(detail.attempts[0].started_at);
    assert!(
        (chrono::TimeDelta::seconds(3)..=chrono::TimeDelta::seconds(3) + LATE).contains(&gap),
        "{gap}"
    );
}

#[tokio::test]
async fn every_live_secret_signs_during_a_rotation() {
    use cuitty_webhooks_proto::v1::RotateSecretRequest;
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let endpoint_id = created.endpoint.unwrap().id;
    let rotate = |overlap| RotateSecretRequest {
        endpoint_id: endpoint_id.clone(),
        overlap_seconds: Some(overlap),
        signing_secret: String::new(),
    };
    let secret = |text: &str| [SigningSecret::parse(text).unwrap()];

    let second = app
        .endpoints()
        .rotate_secret(rotate(3600))
        .await
        .unwrap()
        .into_inner();
    app.deliver("order.paid", &json!({})).await;
    let both = receiver.received("/hook", 1).await.remove(0);
    assert_eq!(both.header("webhook-signature").split(' ').count(), 2);
    assert!(verified(&both, &secret(&created.signing_secret)));
    assert!(verified(&both, &secret(&second.signing_secret)));

    // Without an overlap the second one stops at once; the first one's overlap goes on.
    let third = app
        .endpoints()
        .rotate_secret(rotate(0))
        .await
        .unwrap()
        .into_inner();
    app.deliver("order.paid", &json!({})).await;
    let after = receiver.received("/hook", 2).await.remove(1);
    assert!(verified(&after, &secret(&third.signing_secret)));
    assert!(verified(&after, &secret(&created.signing_secret)));
    assert!(!verified(&after, &secret(&second.signing_secret)));
}

#[tokio::test]
async fn other_media_types_pass_through() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let payload: Vec<u8> = (0..=255).collect();

    let request = DeliverRequest {
        content_type: "application/octet-stream".into(),
        ..event("blob.made", payload.clone())
    };
    app.messages().deliver(request).await.unwrap();

    let request = receiver.received("/hook", 1).await.remove(0);
    assert_eq!(request.header("content-type"), "application/octet-stream");
    assert_eq!(request.body, payload);
}

#[tokio::test]
async fn attempts_at_the_same_time_stay_within_the_endpoints_limit() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(200).after(Duration::from_millis(40))]);
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        max_in_flight: 3,
        ..Default::default()
    };
    app.create_endpoint(request).await;
    for _ in 0..30 {
        app.deliver("order.paid", &json!({})).await;
    }
    receiver.received("/hook", 30).await;
    assert_eq!(receiver.peak_in_flight("/hook"), 3);
}

#[tokio::test]
async fn a_hanging_endpoint_does_not_slow_its_neighbour() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hangs", [Reply::hang()]);
    app.create_endpoint_at(receiver.url("/hangs")).await;
    app.create_endpoint_at(receiver.url("/healthy")).await;
    for number in 0..200 {
        app.deliver("order.paid", &json!({ "number": number })).await;
    }
    receiver.received("/healthy", 200).await;
    let last = app.deliver("order.paid", &json!({"last": true})).await;
    let handed_over = tokio::time::Instant::now();
    let arrived = receiver.received("/healthy", 201).await.remove(200);
    assert_eq!(arrived.header("webhook-id"), last.message_id);
    let took = arrived.at.saturating_duration_since(handed_over);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(receiver.peak_in_flight("/hangs"), 64);
}
