//! The REST routes of both surfaces, the document that describes them, and how they refuse.

mod conditions;
mod cut_off;
mod deliveries;
mod endpoints;
pub(crate) mod idempotency;
mod limits;
mod pages;
mod schema;

use harness::app::{PROJECT, TestApp};
use harness::receiver::Receiver;
use harness::rest::RestResponse;
use harness::roles::command;
use hyper::Method;
use serde_json::{Value, json};

const DELIVER: &str = "/api/webhooks/deliver";

pub(crate) fn error(response: &RestResponse) -> (u16, String, Vec<String>) {
    let body = response.json();
    let fields = body["error"]["fields"].as_array().unwrap();
    let fields = fields
        .iter()
        .map(|field| field["field"].as_str().unwrap().to_owned())
        .collect();
    (
        response.status.as_u16(),
        body["error"]["code"].as_str().unwrap().to_owned(),
        fields,
    )
}

pub(crate) fn refusal(status: u16, code: &str, fields: &[&str]) -> (u16, String, Vec<String>) {
    (
        status,
        code.to_owned(),
        fields.iter().map(|&field| field.to_owned()).collect(),
    )
}

#[tokio::test]
async fn status_is_public() {
    let app = TestApp::start().await;
    let response = app.rest().with_key(None).get("/api/webhooks/status").await;
    assert_eq!(response.status, 200);
    let body = response.json();
    assert_eq!(
        (&body["status"], &body["components"]["dispatchers"]),
        (&json!("ok"), &json!(1)),
        "{body}"
    );
    assert_eq!(
        (&body["components"]["log"], &body["components"]["history"]),
        (&json!("ok"), &json!("ok"))
    );
    assert!(body["components"]["projection_lag"].is_u64());
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn an_event_goes_in_and_arrives_byte_for_byte() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = app
        .create_endpoint_at(receiver.url("/hook"))
        .await
        .endpoint
        .unwrap();
    let body =
        format!(r#"{{"project_id":"{PROJECT}","event_type":"a.b","payload": {{ "z" : 1.0,  "a":[] }} }}"#);

    let headers = [("content-type", "application/json")];
    let response = app.rest().send(Method::POST, DELIVER, &headers, body).await;

    assert_eq!(response.status, 202);
    let accepted = response.json();
    assert_eq!(accepted["duplicate"], false);
    assert!(accepted["log_sequence"].as_u64().unwrap() > 0);
    assert_eq!(accepted["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(accepted["deliveries"][0]["endpoint_id"], endpoint.id);
    let request = receiver.received("/hook", 1).await.remove(0);
    assert_eq!(request.body, r#"{ "z" : 1.0,  "a":[] }"#);
    assert_eq!(request.header("webhook-id"), accepted["message_id"]);
}

#[tokio::test]
async fn camel_case_and_both_idempotency_headers_are_understood() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = app
        .create_endpoint_at(receiver.url("/hook"))
        .await
        .endpoint
        .unwrap();
    let body = json!({"projectId": PROJECT, "eventType": "a.b", "endpointId": endpoint.id, "payload": [1]})
        .to_string();
    let mut answers = Vec::new();
    for header in ["idempotency-key", "x-cuitty-idempotency-key"] {
        let headers = [("content-type", "application/json"), (header, "once")];
        let response = app
            .rest()
            .send(Method::POST, DELIVER, &headers, body.clone())
            .await;
        assert_eq!(response.status, 202);
        answers.push(response.json());
    }
    assert_eq!(
        (&answers[0]["duplicate"], &answers[1]["duplicate"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(answers[0]["deliveries"], answers[1]["deliveries"]);

    let other =
        json!({"project_id": PROJECT, "event_type": "a.b", "payload": [2], "idempotency_key": "once"});
    let conflict = app.rest().post(DELIVER, &other).await;
    assert_eq!(error(&conflict), refusal(409, "idempotency_key_reused", &[]));
}

#[tokio::test]
async fn endpoints_are_listed_in_pages() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    }
    let mut ids = Vec::new();
    let mut query = format!("/api/webhooks/endpoints?project_id={PROJECT}&limit=2");
    loop {
        let page = app.rest().get(&query).await;
        assert_eq!(page.status, 200);
        let page = page.json();
        for endpoint in page["data"].as_array().unwrap() {
            ids.push(endpoint["id"].as_str().unwrap().to_owned());
            assert_eq!(
                (&endpoint["kind"], &endpoint["active"]),
                (&json!("http"), &json!(true))
            );
            assert_eq!(endpoint["disabled_reason"], Value::Null);
            assert_eq!(endpoint["secrets"].as_array().unwrap().len(), 1);
            assert_eq!(endpoint.get("signing_secret"), None);
        }
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        query = format!("/api/webhooks/endpoints?project_id={PROJECT}&limit=2&cursor={cursor}");
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn a_secret_is_rotated() {
    let app = TestApp::start().await;
    let created = app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let path = format!("/api/webhooks/endpoints/{}/rotate", created.endpoint.unwrap().id);
    let rotated = app.rest().post(&path, &json!({"overlap_seconds": 60})).await;
    assert_eq!(rotated.status, 200);
    let rotated = rotated.json();
    assert!(rotated["signing_secret"].as_str().unwrap().starts_with("whsec_"));
    assert_ne!(rotated["signing_secret"], created.signing_secret);
    assert!(rotated["secret_id"].as_str().unwrap().starts_with("sec_"));
    assert!(rotated["previous_expires_at"].as_str().unwrap().ends_with('Z'));
    let without_body = app.rest().send(Method::POST, &path, &[], "").await;
    assert_eq!(without_body.status, 200);
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let rest = app.rest();
    let good = json!({"project_id": PROJECT, "event_type": "a.b", "payload": {}});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, expected) in [
        (
            with("event_type", json!("a..b")),
            refusal(422, "invalid_fields", &["event_type"]),
        ),
        (
            with("event_type", json!(7)),
            refusal(422, "invalid_fields", &["event_type"]),
        ),
        (
            with("endpointid", json!("ep_1")),
            refusal(422, "invalid_fields", &["endpointid"]),
        ),
        (
            with("endpoint_id", json!("ep_1")),
            refusal(422, "invalid_fields", &["endpoint_id"]),
        ),
        (
            with("project_id", json!("nobody")),
            refusal(404, "project_not_found", &[]),
        ),
        (
            with("endpoint_id", json!("ep_01h455vb4pex5vsknk084sn02q")),
            refusal(404, "endpoint_not_found", &[]),
        ),
        (
            json!({"project_id": PROJECT, "event_type": "a.b"}),
            refusal(422, "invalid_fields", &["payload"]),
        ),
        (json!([]), refusal(400, "malformed_body", &[])),
        (
            with("payload", json!("x".repeat(300_000))),
            refusal(413, "payload_too_large", &["payload"]),
        ),
        (
            with("payload", json!("x".repeat(256 * 1024 - 1))),
            refusal(413, "payload_too_large", &["payload"]),
        ),
    ] {
        assert_eq!(
            error(&rest.post(DELIVER, &body).await),
            expected,
            "{}",
            &body.to_string()[..body.to_string().len().min(100)]
        );
    }
    let json_header = [("content-type", "application/json")];
    let broken = rest.send(Method::POST, DELIVER, &json_header, "{").await;
    assert_eq!(error(&broken), refusal(400, "malformed_body", &[]));
    let form = rest
        .send(Method::POST, DELIVER, &[("content-type", "text/plain")], "x")
        .await;
    assert_eq!(error(&form), refusal(415, "unsupported_media_type", &[]));

    let list = "/api/webhooks/endpoints?project_id=acme";
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
    ] {
        let response = rest.get(&format!("{list}&{query}")).await;
        assert_eq!(
            error(&response),
            refusal(422, "invalid_fields", &[field]),
            "{query}"
        );
    }
    assert_eq!(
        error(&rest.get("/api/webhooks/endpoints?project_id=nobody").await).0,
        404
    );
    assert_eq!(
        error(&rest.get("/api/webhooks/nothing").await),
        refusal(404, "route_not_found", &[])
    );
    assert_eq!(
        error(&rest.get(DELIVER).await),
        refusal(405, "method_not_allowed", &[])
    );

    let none = rest.with_key(None).post(DELIVER, &good).await;
    assert_eq!(error(&none), refusal(401, "missing_api_key", &[]));
    assert_eq!(none.headers["www-authenticate"], "Bearer");
    let wrong = rest.with_key(Some("wrong-key-0123456789")).get(list).await;
    assert_eq!(error(&wrong), refusal(401, "invalid_api_key", &[]));
}

#[tokio::test]
async fn the_openapi_document_is_public_and_describes_every_route() {
    let app = TestApp::start().await;
    let response = app.rest().with_key(None).get("/api/openapi.json").await;
    assert_eq!(response.status, 200);
    let document = response.json();
    let printed = command(&["openapi"], &app.settings).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&printed).unwrap(), document);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let manage = "/manage/v1/webhooks";
    let endpoint = &format!("{manage}/endpoints/{{endpoint_id}}");
    let delivery = &format!("{manage}/deliveries/{{delivery_id}}");
    let replay = &format!("{manage}/replays/{{replay_id}}");
    for (path, method) in [
        ("/api/webhooks/status", "get"),
        ("/api/webhooks/endpoints", "get"),
        (DELIVER, "post"),
        ("/api/webhooks/endpoints/{id}/rotate", "post"),
        (&format!("{manage}/endpoints"), "get"),
        (&format!("{manage}/endpoints"), "post"),
        (endpoint, "get"),
        (endpoint, "patch"),
        (endpoint, "delete"),
        (&format!("{endpoint}/rotate-secret"), "post"),
        (&format!("{endpoint}/secrets/{{secret_id}}"), "delete"),
        (&format!("{endpoint}/test"), "post"),
        (&format!("{manage}/deliveries"), "get"),
        (delivery, "get"),
        (&format!("{delivery}/replay"), "post"),
        (&format!("{delivery}/cancel"), "post"),
        (&format!("{manage}/replays"), "post"),
        (replay, "get"),
        (replay, "delete"),
        (&format!("{manage}/event-types"), "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
}
