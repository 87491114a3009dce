//! Test events: what a user sends to see whether an endpoint works.

use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, Delivery, DeliveryStatus, Endpoint, SendTestEventRequest,
};
use harness::app::{TestApp, summary};
use harness::grpc::{Refusal, refused};
use harness::receiver::Receiver;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

fn request(endpoint_id: &str, event_type: &str, key: &str) -> SendTestEventRequest {
    SendTestEventRequest {
        endpoint_id: endpoint_id.to_owned(),
        event_type: event_type.to_owned(),
        idempotency_key: key.to_owned(),
    }
}

async fn send(
    app: &TestApp,
    request: impl tonic::IntoRequest<SendTestEventRequest>,
) -> Result<Delivery, Status> {
    let answer = app.endpoints().send_test_event(request).await?.into_inner();
    Ok(answer.delivery.expect("a delivery"))
}

/// An endpoint that takes no event of the types that are sent here.
async fn endpoint(app: &TestApp, receiver: &Receiver) -> Endpoint {
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        event_types: vec!["order.*".into()],
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap()
}

#[tokio::test]
async fn a_test_event_arrives_signed_like_any_other_and_is_told_apart_by_its_origin() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = endpoint(&app, &receiver).await;

    let sent = send(&app, request(&endpoint.id, "budget.exceeded", ""))
        .await
        .unwrap();
    assert_eq!(
        (sent.origin.as_str(), sent.status(), sent.endpoint_id.as_str()),
        ("test", DeliveryStatus::Pending, endpoint.id.as_str())
    );
    let arrived = receiver.received("/hook", 1).await;
    assert_eq!(arrived[0].header("webhook-id"), sent.message_id);
    assert_eq!(arrived[0].header("x-cuitty-event-type"), "budget.exceeded");
    assert!(arrived[0].header("webhook-signature").starts_with("v1,"));
    let payload: Value = serde_json::from_slice(&arrived[0].body).unwrap();
    assert_eq!(
        (&payload["type"], &payload["data"]),
        (&json!("budget.exceeded"), &json!({"test": true}))
    );
    let detail = app.ended(&sent.id).await;
    let ended = summary(&detail);
    assert_eq!(
        (ended.status(), ended.origin.as_str()),
        (DeliveryStatus::Delivered, "test")
    );
    assert_eq!(detail.payload, arrived[0].body);
    assert_eq!(ended.created_at, sent.created_at);
}

#[tokio::test]
async fn the_same_key_sends_once_and_answers_the_same() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = endpoint(&app, &receiver).await;

    let first = send(&app, request(&endpoint.id, "budget.exceeded", "k1"))
        .await
        .unwrap();
    let again = send(&app, request(&endpoint.id, "budget.exceeded", "k1"))
        .await
        .unwrap();
    assert_eq!(again, first);
    let mut by_metadata = Request::new(request(&endpoint.id, "budget.exceeded", ""));
    by_metadata
        .metadata_mut()
        .insert("idempotency-key", "k1".parse().unwrap());
    assert_eq!(send(&app, by_metadata).await.unwrap(), first);
    let other = refused(send(&app, request(&endpoint.id, "budget.reset", "k1")).await);
    assert_eq!(
        (other.code, other.reason.as_str()),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );

    let second = send(&app, request(&endpoint.id, "budget.exceeded", "k2"))
        .await
        .unwrap();
    assert_ne!(second.id, first.id);
    app.ended(&first.id).await;
    app.ended(&second.id).await;
    assert_eq!(receiver.count("/hook"), 2);
}

#[tokio::test]
async fn a_disabled_endpoint_is_not_tested_and_the_refusal_says_why() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = endpoint(&app, &receiver).await;
    app.set_active(&endpoint.id, false).await;

    let status = send(&app, request(&endpoint.id, "budget.exceeded", ""))
        .await
        .unwrap_err();
    let refusal = Refusal::from(&status);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::Aborted, "ENDPOINT_CONFLICT")
    );
    assert!(
        status.message().contains("disabled (manual)"),
        "{}",
        status.message()
    );

    app.set_active(&endpoint.id, true).await;
    let sent = send(&app, request(&endpoint.id, "budget.exceeded", ""))
        .await
        .unwrap();
    let ended = app.ended(&sent.id).await;
    assert_eq!(summary(&ended).status(), DeliveryStatus::Delivered);
    assert_eq!(receiver.count("/hook"), 1);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_by_its_field() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = endpoint(&app, &receiver).await;
    for (wrong, field) in [
        (request("ep_1", "budget.exceeded", ""), "endpoint_id"),
        (request(&endpoint.id, "", ""), "event_type"),
        (request(&endpoint.id, "not a type", ""), "event_type"),
        (
            request(&endpoint.id, "budget.exceeded", "a\nb"),
            "idempotency_key",
        ),
    ] {
        assert_eq!(refused(send(&app, wrong).await).field_names(), [field]);
    }
    let unknown = request("ep_01jd75c1g094s8avcpkyatawp7", "budget.exceeded", "");
    assert_eq!(refused(send(&app, unknown).await).reason, "ENDPOINT_NOT_FOUND");
    assert_eq!(receiver.count("/hook"), 0);
}
