//! Destinations: what carries a message is the endpoint's affair, and everything else is the same for each kind.

mod nats;
mod slack;

use std::collections::BTreeMap;
use std::fmt::Display;

use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliverRequest, DeliveryDetail, Endpoint, EndpointKind, GetDeliveryRequest,
    GetEndpointRequest, UpdateEndpointRequest,
};
use harness::app::{PROJECT, TestApp, event, summary};
use harness::grpc::{Refusal, refused};
use harness::receiver::Receiver;
use prost_types::FieldMask;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tonic::Response;

/// An event of each type of the field's examples, by type, as it is written.
fn examples() -> BTreeMap<String, Box<RawValue>> {
    serde_json::from_str(include_str!("destinations/events.json")).unwrap()
}

/// Sends an event to one endpoint only; the delivery's id.
async fn send(app: &TestApp, endpoint: &Endpoint, event_type: &str, payload: &impl Display) -> String {
    let request = DeliverRequest {
        endpoint_id: endpoint.id.clone(),
        ..event(event_type, payload.to_string())
    };
    let accepted = app.messages().deliver(request).await.unwrap().into_inner();
    accepted.deliveries[0].id.clone()
}

/// A delivery that has ended, its signatures checked.
async fn verified(app: &TestApp, delivery_id: &str) -> DeliveryDetail {
    app.ended(delivery_id).await;
    let request = GetDeliveryRequest {
        delivery_id: delivery_id.to_owned(),
        verify: true,
        ..Default::default()
    };
    let detail = app.deliveries().get_delivery(request).await.unwrap().into_inner();
    for attempt in &detail.attempts {
        let checks = &attempt.signature_checks;
        assert!(
            !checks.is_empty() && checks.iter().all(|check| check.valid == Some(true)),
            "{checks:?}"
        );
    }
    detail
}

/// How a delivery ended: its status, its reason, and of each attempt the class and the message of its error.
fn outcome(detail: &DeliveryDetail) -> (&'static str, &str, Vec<(&str, &str)>) {
    let errors = detail.attempts.iter().map(|attempt| {
        let error = attempt.error.as_ref();
        error.map_or(("", ""), |error| (&*error.class, &*error.message))
    });
    let summary = summary(detail);
    let status = summary
        .status()
        .as_str_name()
        .trim_start_matches("DELIVERY_STATUS_");
    (status, &summary.failure_reason, errors.collect())
}

async fn get(app: &TestApp, id: &str) -> Endpoint {
    let request = GetEndpointRequest {
        endpoint_id: id.to_owned(),
    };
    app.endpoints().get_endpoint(request).await.unwrap().into_inner()
}

async fn update(app: &TestApp, new: Endpoint, fields: &[&str]) -> Result<Endpoint, Refusal> {
    let request = UpdateEndpointRequest {
        endpoint: Some(new),
        update_mask: Some(FieldMask {
            paths: fields.iter().map(ToString::to_string).collect(),
        }),
        ..Default::default()
    };
    let updated = app.endpoints().update_endpoint(request).await;
    updated
        .map(Response::into_inner)
        .map_err(|status| Refusal::from(&status))
}

/// The fields at fault in a request that must not succeed, each with what is wrong with it.
async fn create_refused(app: &TestApp, request: CreateEndpointRequest) -> Vec<(String, String)> {
    let request = CreateEndpointRequest {
        project_id: PROJECT.into(),
        ..request
    };
    let refusal = refused(app.endpoints().create_endpoint(request).await);
    refusal.fields.into_iter().collect()
}

#[tokio::test]
async fn a_kind_can_be_changed_and_the_next_attempt_goes_its_way() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app
        .create_endpoint_at(receiver.url("/hook"))
        .await
        .endpoint
        .unwrap();
    assert_eq!(created.kind(), EndpointKind::Http);
    let with_kind = |kind: EndpointKind| Endpoint {
        kind: kind.into(),
        ..created.clone()
    };

    let slack = update(&app, with_kind(EndpointKind::Slack), &["kind"])
        .await
        .unwrap();
    assert_eq!((slack.kind(), &slack.url), (EndpointKind::Slack, &created.url));
    let delivery = send(&app, &slack, "budget.exceeded", &json!({"spent": 1})).await;
    verified(&app, &delivery).await;
    let body: Value = serde_json::from_slice(&receiver.received("/hook", 1).await[0].body).unwrap();
    assert_eq!(body["blocks"][0]["text"]["text"], "Budget exceeded");

    // Not given, the URL tells it; together with the URL it goes anywhere.
    let back = update(&app, with_kind(EndpointKind::Unspecified), &["kind"])
        .await
        .unwrap();
    assert_eq!(back.kind(), EndpointKind::Http);
    let delivery = send(&app, &back, "budget.exceeded", &json!({"spent": 2})).await;
    verified(&app, &delivery).await;
    assert_eq!(receiver.received("/hook", 2).await[1].body, r#"{"spent":2}"#);
    let elsewhere = Endpoint {
        url: format!("nats:cuitty.notifications.{PROJECT}.budgets"),
        ..with_kind(EndpointKind::Unspecified)
    };
    let nats = update(&app, elsewhere.clone(), &["kind", "url"]).await.unwrap();
    assert_eq!((nats.kind(), &nats.url), (EndpointKind::Nats, &elsewhere.url));

    // The URL alone does not change the kind.
    let refusal = update(&app, created.clone(), &["url"]).await.unwrap_err();
    assert_eq!(refusal.field_names(), ["url"]);
    let unknown = Endpoint {
        kind: 99,
        ..created.clone()
    };
    let refusal = update(&app, unknown, &["kind"]).await.unwrap_err();
    assert_eq!(refusal.field_names(), ["kind"]);
    assert_eq!(get(&app, &created.id).await.revision, nats.revision);
}
