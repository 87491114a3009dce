//! What tools find at the doors: gRPC health and reflection, and the admin listener's health and metrics.

use std::collections::BTreeSet;

use cuitty_webhooks_proto::v1::GetStatusRequest;
use harness::app::TestApp;
use harness::eventually::{eventually, is};
use harness::grpc::{methods_of, reflected_methods};
use harness::receiver::Receiver;
use harness::rest::RestClient;
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::json;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

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
async fn reflection_tells_of_every_method_of_the_contract() {
    let app = TestApp::start().await;
    let told = reflected_methods(app.channel(Some(harness::roles::ADMIN_KEY))).await;
    let contract = FileDescriptorSet::decode(cuitty_webhooks_proto::FILE_DESCRIPTOR_SET).unwrap();
    let declared: BTreeSet<_> = contract.file.iter().flat_map(methods_of).collect();
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(declared.difference(&told).count(), 0, "{told:?}");
    assert!(told.contains("/grpc.health.v1.Health/Check"), "{told:?}");
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
