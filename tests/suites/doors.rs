//! What tools find at the doors: gRPC health and reflection, and the admin listener's health and metrics.

use std::collections::BTreeSet;

use cuitty_webhooks_proto::v1::GetStatusRequest;
use harness::app::TestApp;
use harness::eventually::{eventually, is};
use harness::receiver::Receiver;
use harness::rest::RestClient;
use serde_json::json;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn grpc_health_is_served_without_a_key() {
    let app = TestApp::start().await;
    let mut health = HealthClient::new(app.channel(None));
    let answer = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let app = TestApp::start().await;
    let mut reflection = ServerReflectionClient::new(app.channel(Some(harness::roles::ADMIN_KEY)));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let mut answers = reflection
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(listed) = answer else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<_> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "EndpointService",
        "MessageService",
        "DeliveryService",
        "StatusService",
    ] {
        assert!(
            names.contains(&*format!("cuitty.webhooks.v1.{name}")),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn readiness_follows_the_log_and_liveness_does_not() {
    let mut app = TestApp::builder()
        .processes(["api,dispatcher,projector"])
        .start()
        .await;
    let admin = RestClient::new(app.roles[0].admin_url(), None);
    assert_eq!(admin.get("/readyz").await.json()["log"], "ok");

    app.nats.kill9();
    eventually("it is not ready", || async {
        is(admin.get("/readyz").await.status.as_u16(), 503)
    })
    .await;
    assert_eq!(admin.get("/livez").await.status, 200);
    eventually("the status says so", || async {
        let status = app
            .status()
            .get_status(GetStatusRequest {})
            .await
            .map_err(|status| status.to_string())?;
        is(status.into_inner().status, "down".to_owned())
    })
    .await;

    app.nats.restart().await;
    app.roles[0].ready().await;
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let app = TestApp::builder()
        .processes(["api,dispatcher,projector"])
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    for _ in 0..3 {
        let accepted = app.deliver("order.paid", &json!({})).await;
        app.ended(&accepted.deliveries[0].id).await;
    }
    let metrics = RestClient::new(app.roles[0].admin_url(), None)
        .get("/metrics")
        .await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let ours = samples
        .iter()
        .filter(|line| line.starts_with("webhooks_"))
        .count();
    assert!(ours > 20, "{text}");
    // Labels are bounded: none names an endpoint, a delivery or a URL.
    for line in samples {
        assert!(
            !["ep_", "dlv_", "msg_", "http://"]
                .iter()
                .any(|part| line.contains(part)),
            "{line}"
        );
    }
    let accepted = text
        .lines()
        .any(|line| line.contains("deliver_message") && line.ends_with(" 3"));
    assert!(accepted, "{text}");
}
