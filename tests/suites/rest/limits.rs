//! What bounds every call: the rate limit of a key, the size and the type of a body, the methods of a route.

use cuitty_webhooks_proto::v1::ListEndpointsRequest;
use harness::app::{PROJECT, TestApp};
use harness::grpc::refused;
use hyper::Method;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use super::{error, refusal};

const ENDPOINTS: &str = "/manage/v1/webhooks/endpoints";

#[tokio::test]
async fn a_key_that_calls_too_often_is_told_when_to_come_back_by_either_door() {
    let app = TestApp::builder()
        .set("api.rate_limit_per_second", 1)
        .set("api.rate_limit_burst", 4)
        .start()
        .await;
    let rest = app.rest();
    let mut last = None;
    for _ in 0..6 {
        last = Some(rest.get(&format!("{ENDPOINTS}?project_id={PROJECT}")).await);
    }
    let refusal_of_rest = last.unwrap();
    assert_eq!(error(&refusal_of_rest), refusal(429, "rate_limited", &[]));
    for (header, value) in [
        ("retry-after", "1"),
        ("ratelimit-limit", "4"),
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "1"),
    ] {
        assert_eq!(refusal_of_rest.header(header), value, "{header}");
    }
    let listed = app
        .endpoints()
        .list_endpoints(ListEndpointsRequest::default())
        .await;
    let status = listed.as_ref().unwrap_err().clone();
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay.as_millis() > 0 && delay.as_secs() < 2, "{delay:?}");
    let refusal_of_grpc = refused(listed);
    assert_eq!(
        (refusal_of_grpc.code, refusal_of_grpc.reason.as_str()),
        (Code::ResourceExhausted, "RATE_LIMITED")
    );
    for _ in 0..6 {
        assert_eq!(rest.with_key(None).get("/api/webhooks/status").await.status, 200);
        let wrong = rest.with_key(Some("wrong-key-0123456789")).get(ENDPOINTS).await;
        assert_eq!(wrong.status, 401, "who shows no good key has no bucket");
    }
}

/// Every route of the document with the methods that it has.
async fn routes(app: &TestApp) -> Vec<(String, Vec<String>, Value)> {
    let document = app.rest().get("/api/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap().clone();
    let routes = paths.into_iter().map(|(path, item)| {
        let methods = item.as_object().unwrap().keys().map(|name| name.to_uppercase());
        let path = path
            .replace("{endpoint_id}", "ep_01h455vb4pex5vsknk084sn02q")
            .replace("{delivery_id}", "dlv_01h455vb4pex5vsknk084sn02q")
            .replace("{secret_id}", "sec_01h455vb4pex5vsknk084sn02q")
            .replace("{replay_id}", "rpl_01h455vb4pex5vsknk084sn02q")
            .replace("{id}", "ep_01h455vb4pex5vsknk084sn02q")
            .replace("{name}", "budget.exceeded");
        (path, methods.collect(), item)
    });
    routes.collect()
}

#[tokio::test]
async fn every_route_refuses_other_methods_types_and_sizes_in_the_form_of_errors() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let routes = routes(&app).await;
    assert!(routes.len() >= 13);
    for (path, methods, item) in &routes {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            if methods.iter().any(|known| known == method.as_str()) {
                continue;
            }
            let refused = rest.send_json(method.clone(), path, &[], &json!({})).await;
            assert_eq!(
                error(&refused),
                refusal(405, "method_not_allowed", &[]),
                "{method} {path}"
            );
            let allowed = refused.header("allow");
            assert!(
                methods.iter().all(|known| allowed.contains(known.as_str())),
                "{path}: {allowed}"
            );
        }
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("requestBody").is_none() {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let text = [("content-type", "text/plain")];
            let refused = rest.send(method.clone(), path, &text, "{}").await;
            assert_eq!(
                error(&refused),
                refusal(415, "unsupported_media_type", &[]),
                "{method} {path}"
            );
            let json = [("content-type", "application/json")];
            let refused = rest.send(method.clone(), path, &json, " ".repeat(300_000)).await;
            assert_eq!(
                error(&refused),
                refusal(413, "payload_too_large", &["payload"]),
                "{method} {path}"
            );
            for malformed in ["{", "[]", "\u{0}", "{}x"] {
                let refused = rest.send(method.clone(), path, &json, malformed).await;
                assert_eq!(
                    error(&refused),
                    refusal(400, "malformed_body", &[]),
                    "{method} {path}"
                );
            }
        }
    }
    for path in [
        "/",
        "/manage/v1/webhooks",
        "/manage/v1/webhooks/endpoints/a/b/c",
        "/api/webhooks/",
    ] {
        assert_eq!(
            error(&rest.get(path).await),
            refusal(404, "route_not_found", &[]),
            "{path}"
        );
    }
}
