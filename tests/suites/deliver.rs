//! Delivering: what a receiver gets, and that endpoints do not get into each other's way.

use std::time::Duration;

use chrono::DateTime;
use cuitty_webhooks_domain::signing::{SignedHeaders, SigningSecret, VerificationKey, verify};
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliverRequest, Header};
use harness::app::{TestApp, event};
use harness::eventually::{eventually, is};
use harness::receiver::{Captured, Receiver, Reply};
use serde_json::json;

/// Checks the signature as a receiver does, five minutes' tolerance included.
pub(crate) fn verified<K>(request: &Captured, keys: &[K]) -> bool
where
    for<'a> &'a K: Into<VerificationKey>,
{
    let id = request.header("webhook-id");
    let timestamp = request.header("webhook-timestamp");
    let signature = request.header("webhook-signature");
    let now = DateTime::from_timestamp(timestamp.parse().unwrap(), 0).unwrap();
    let headers = SignedHeaders {
        id,
        timestamp,
        signature,
    };
    verify(headers, &request.body, keys, now, Duration::from_mins(5)).is_ok()
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
async fn every_live_secret_signs_during_a_rotation() {
    use cuitty_webhooks_proto::v1::RotateSecretRequest;
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let endpoint_id = created.endpoint.unwrap().id;
    let rotate = |overlap| RotateSecretRequest {
        endpoint_id: endpoint_id.clone(),
        overlap_seconds: Some(overlap),
        ..Default::default()
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
    // The first ones take long enough for the others to queue up behind them.
    let slow = || Reply::status(200).after(Duration::from_secs(2));
    let quick = Reply::status(200).after(Duration::from_millis(40));
    receiver.script("/hook", [slow(), slow(), slow(), quick]);
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
    let request = CreateEndpointRequest {
        url: receiver.url("/hangs"),
        timeout_ms: 30_000,
        ..Default::default()
    };
    app.create_endpoint(request).await;
    app.create_endpoint_at(receiver.url("/healthy")).await;
    for number in 0..200 {
        app.deliver("order.paid", &json!({ "number": number })).await;
    }
    receiver.received("/healthy", 200).await;
    eventually(
        "the hanging endpoint has what one gets that has shown nothing",
        || async { is(receiver.requests("/hangs").len(), 2) },
    )
    .await;

    let last = app.deliver("order.paid", &json!({"last": true})).await;
    let arrived = receiver.received("/healthy", 201).await.remove(200);

    assert_eq!(arrived.header("webhook-id"), last.message_id);
    // All of it while the first attempts at the other endpoint hang: none of them has made room for another one.
    assert_eq!(receiver.requests("/hangs").len(), 2);
    assert_eq!(receiver.peak_in_flight("/hangs"), 2);
}
