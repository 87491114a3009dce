//! Watching deliveries as they happen.

use std::time::Duration;

use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliveryEvent, WatchDeliveriesRequest};
use harness::app::{PROJECT, TestApp};
use harness::grpc::refused;
use harness::receiver::{Receiver, Reply};
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Streaming};

async fn next(stream: &mut Streaming<DeliveryEvent>) -> DeliveryEvent {
    timeout(Duration::from_secs(20), stream.message())
        .await
        .expect("an event in time")
        .unwrap()
        .expect("an event")
}

async fn watch(app: &TestApp, endpoint_id: &str) -> Streaming<DeliveryEvent> {
    let request = WatchDeliveriesRequest {
        project_id: PROJECT.into(),
        endpoint_id: endpoint_id.into(),
    };
    app.deliveries()
        .watch_deliveries(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_watcher_sees_every_event_of_a_delivery_in_order() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(500), Reply::status(200)]);
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![1],
        ..Default::default()
    };
    app.create_endpoint(request).await;
    let mut stream = watch(&app, "").await;

    let accepted = app.deliver("order.paid", &json!({})).await;

    let events = [
        next(&mut stream).await,
        next(&mut stream).await,
        next(&mut stream).await,
    ];
    assert_eq!(
        events.each_ref().map(|event| event.kind.as_str()),
        ["requested", "attempted", "succeeded"]
    );
    assert_eq!(events[0].log_sequence, accepted.log_sequence);
    assert!(events.is_sorted_by_key(|event| event.log_sequence));
    for event in &events {
        assert_eq!(event.delivery_id, accepted.deliveries[0].id);
        assert_eq!(
            (event.message_id.as_str(), event.event_type.as_str()),
            (&*accepted.message_id, "order.paid")
        );
        assert_eq!(event.endpoint_id, accepted.deliveries[0].endpoint_id);
    }
    let numbers = events
        .each_ref()
        .map(|event| event.attempt.as_ref().map(|attempt| attempt.number));
    assert_eq!(numbers, [None, Some(1), Some(2)]);
    assert!(events[1].next_attempt_at.is_some());
}

#[tokio::test]
async fn a_watcher_of_one_endpoint_sees_no_other() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/other")).await;
    let watched = app
        .create_endpoint_at(receiver.url("/watched"))
        .await
        .endpoint
        .unwrap()
        .id;
    let mut stream = watch(&app, &watched).await;
    for _ in 0..3 {
        app.deliver("order.paid", &json!({})).await;
    }
    for _ in 0..6 {
        assert_eq!(next(&mut stream).await.endpoint_id, watched);
    }
}

#[tokio::test]
async fn a_watcher_survives_a_restart_of_the_log() {
    let mut app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let mut stream = watch(&app, "").await;
    let before = app.deliver("order.paid", &json!({})).await;
    assert_eq!(next(&mut stream).await.message_id, before.message_id);
    assert_eq!(next(&mut stream).await.message_id, before.message_id);

    app.nats.kill9();
    app.nats.restart().await;
    let after = harness::eventually::eventually("the API accepts again", || async {
        app.messages()
            .deliver(harness::app::event("order.paid", "{}"))
            .await
    })
    .await
    .into_inner();

    // A refused one may have been stored before the answer was lost.
    let mut event = next(&mut stream).await;
    while event.message_id != after.message_id {
        event = next(&mut stream).await;
    }
    assert_eq!(event.log_sequence, after.log_sequence);
}

#[tokio::test]
async fn watching_an_unknown_project_is_refused() {
    let app = TestApp::start().await;
    let request = WatchDeliveriesRequest {
        project_id: "nobody".into(),
        endpoint_id: String::new(),
    };
    let refusal = refused(app.deliveries().watch_deliveries(request).await.map(drop));
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::NotFound, "PROJECT_NOT_FOUND")
    );
}
