//! The HTTP of `/mcp`: who is let in, what is read, and what browsers may not do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cuitty_webhooks_domain::limits::PAYLOAD_BYTES;
use harness::app::{TestApp, event};
use harness::rest::{RestClient, RestResponse};
use harness::roles::ADMIN_KEY;
use hyper::Method;
use serde_json::{Value, json};

const MCP: &str = "/mcp";
const HEADERS: [(&str, &str); 2] = [
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
];
/// Largest body, in bytes.
const BODY_BYTES: usize = PAYLOAD_BYTES + 16 * 1024;

async fn post(client: &RestClient, body: impl Into<bytes::Bytes>) -> RestResponse {
    client.send(Method::POST, MCP, &HEADERS, body).await
}

fn request(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string()
}

fn code(response: &RestResponse) -> i64 {
    response.json()["error"]["code"].as_i64().unwrap()
}

#[tokio::test]
async fn nobody_is_let_in_without_a_key() {
    let app = TestApp::start().await;
    let listing = request("tools/list", &json!({}));
    for (key, code) in [
        (None, "missing_api_key"),
        (Some("wrong-key-0123456789"), "invalid_api_key"),
    ] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let client = app.rest().with_key(key);
            let response = client.send(method.clone(), MCP, &HEADERS, listing.clone()).await;
            assert_eq!(
                (response.status.as_u16(), response.header("www-authenticate")),
                (401, "Bearer"),
                "{method}"
            );
            assert_eq!(response.json()["error"]["code"], code, "{method}");
        }
    }
    let listed = post(&app.rest(), listing).await;
    assert_eq!(listed.status, 200);
    assert_eq!(listed.json()["result"]["tools"].as_array().unwrap().len(), 11);
}

#[tokio::test]
async fn a_call_counts_for_the_rate_of_its_key() {
    let app = TestApp::builder()
        .set("api.rate_limit_per_second", 1)
        .set("api.rate_limit_burst", 3)
        .start()
        .await;
    let mut last = None;
    for _ in 0..5 {
        last = Some(post(&app.rest(), request("ping", &json!({}))).await);
    }
    let refused = last.unwrap();
    assert_eq!(
        (refused.status.as_u16(), refused.header("retry-after")),
        (429, "1")
    );
    assert_eq!(refused.json()["error"]["code"], "rate_limited");
}

#[tokio::test]
async fn what_is_no_message_is_refused_as_the_protocol_says() {
    let app = TestApp::start().await;
    let client = app.rest();
    for (body, expected) in [
        ("", -32700),
        ("{", -32700),
        ("{}", -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
    ] {
        let refused = post(&client, body).await;
        assert_eq!(
            (refused.status.as_u16(), code(&refused)),
            (400, expected),
            "{body}"
        );
    }
    for (method, params, expected) in [
        (
            "tools/call",
            json!({"name": "get_webhook_endpoint", "arguments": []}),
            -32602,
        ),
        ("tools/call", json!({"arguments": {}}), -32602),
        ("tools/call", json!({"name": "none"}), -32602),
        ("tools/list", json!({"cursor": "x"}), -32602),
        ("resources/read", json!({"uri": "file:///etc/passwd"}), -32601),
        ("none", json!({}), -32601),
    ] {
        let refused = post(&client, request(method, &params)).await;
        assert_eq!(
            (code(&refused), refused.json()["id"].as_i64()),
            (expected, Some(7)),
            "{method} {params}"
        );
    }
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let taken = post(&client, notification.to_string()).await;
    assert_eq!((taken.status.as_u16(), taken.body.len()), (202, 0));
}

#[tokio::test]
async fn only_messages_of_a_size_and_type_are_read() {
    let app = TestApp::start().await;
    let client = app.rest();
    let ping = request("ping", &json!({}));
    let padded = |len: usize| format!("{ping}{}", " ".repeat(len - ping.len()));
    assert_eq!(post(&client, padded(BODY_BYTES)).await.status, 200);
    let refused = post(&client, padded(BODY_BYTES + 1)).await;
    assert_eq!(refused.status, 413);
    assert_eq!(refused.json()["error"]["code"], "payload_too_large");

    let text = [("content-type", "text/plain"), HEADERS[1]];
    assert_eq!(
        client.send(Method::POST, MCP, &text, ping.clone()).await.status,
        415
    );
    let html = [HEADERS[0], ("accept", "text/html")];
    assert_eq!(
        client.send(Method::POST, MCP, &html, ping.clone()).await.status,
        406
    );
    // There are no sessions to listen to or to end.
    for method in [Method::GET, Method::DELETE] {
        let refused = client.send(method.clone(), MCP, &HEADERS, "").await;
        assert_eq!(
            (refused.status.as_u16(), refused.header("allow")),
            (405, "POST"),
            "{method}"
        );
    }
}

#[tokio::test]
async fn pages_of_browsers_are_refused_wherever_they_come_from() {
    let app = TestApp::start().await;
    let ping = request("ping", &json!({}));
    for origin in ["https://evil.example", "http://127.0.0.1:7710", app.url(), "null"] {
        let headers = [&HEADERS[..], &[("origin", origin)]].concat();
        let refused = app.rest().send(Method::POST, MCP, &headers, ping.clone()).await;
        assert_eq!(refused.status, 403, "{origin}");
    }
    // Behind a proxy the service has any name.
    let headers = [&HEADERS[..], &[("host", "webhooks.example.com")]].concat();
    let taken = RestClient::new(app.url(), Some(ADMIN_KEY))
        .send(Method::POST, MCP, &headers, ping)
        .await;
    assert_eq!(taken.status, 200);
}

#[tokio::test]
async fn a_payload_that_only_some_readers_of_json_can_hold_is_shown_in_base64() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let client = app.rest();
    let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
    for payload in ["1e999", r#"["\ud800"]"#, &deep] {
        let event = event("order.paid", payload.to_owned());
        let accepted = app.messages().deliver(event).await.unwrap().into_inner();
        let call = json!({
            "name": "get_webhook_delivery",
            "arguments": {"delivery_id": accepted.deliveries[0].id, "min_log_sequence": accepted.log_sequence},
        });
        let answer = post(&client, request("tools/call", &call)).await.json();
        let shown = &answer["result"]["structuredContent"];
        let expected = json!(STANDARD.encode(payload));
        assert_eq!(
            (&shown["payload"], &shown["payload_base64"]),
            (&Value::Null, &expected),
            "{answer}"
        );
    }
}
