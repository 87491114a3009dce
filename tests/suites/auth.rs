//! No call works without a key, whatever the door. What there is to call is taken from what the doors tell of themselves, so
//! that what is added later is covered.

use std::collections::BTreeSet;

use cuitty_webhooks_proto::v1::RevokeApiKeyRequest;
use harness::app::TestApp;
use harness::grpc::{call_empty, reflected_methods, refused};
use harness::roles::ADMIN_KEY;
use hyper::Method;
use serde_json::json;
use tonic::Code;

/// What answers without a key, on purpose.
const OPEN_METHODS: [&str; 4] = [
    "/cuitty.webhooks.v1.StatusService/GetStatus",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
];
const OPEN_ROUTES: [&str; 1] = ["GET /api/webhooks/status"];

/// A key that is well formed and was never made.
const UNMADE_KEY: &str = "cwk_yv8a90276zy48mxedwbf6j44s0z6582ap12yd1250bgwfqxkjmqrf322t6";

/// Keys that are none, and what is said of them.
fn bad_keys(revoked: &str) -> [(Option<&str>, &'static str); 6] {
    [
        (None, "MISSING_API_KEY"),
        (Some("wrong-key-of-the-right-length-000"), "INVALID_API_KEY"),
        (Some(&ADMIN_KEY[1..]), "INVALID_API_KEY"),
        (Some("*"), "INVALID_API_KEY"),
        (Some(UNMADE_KEY), "INVALID_API_KEY"),
        (Some(revoked), "INVALID_API_KEY"),
    ]
}

/// An admin key that was let in and is revoked.
async fn revoked_key(app: &TestApp) -> String {
    let made = app.create_key("", &["admin"]).await;
    let reflection = reflected_methods(app.channel(Some(&made.secret))).await;
    assert!(!reflection.is_empty());
    let id = made.api_key.unwrap().id;
    let revoked = app.api_keys().revoke_api_key(RevokeApiKeyRequest { id }).await;
    assert!(revoked.unwrap().into_inner().revoked_at.is_some());
    made.secret
}

#[tokio::test]
async fn every_grpc_method_but_status_and_health_needs_a_key() {
    let app = TestApp::start().await;
    let methods = reflected_methods(app.channel(Some(ADMIN_KEY))).await;
    let reflection =
        ["v1", "v1alpha"].map(|v| format!("/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo"));
    let methods: BTreeSet<_> = methods.into_iter().chain(reflection).collect();
    let open = OPEN_METHODS.map(str::to_owned).into();
    let closed: Vec<_> = methods.difference(&open).collect();
    assert!(closed.len() > 20, "{closed:?}");
    let revoked = revoked_key(&app).await;
    for (key, reason) in bad_keys(&revoked) {
        for path in &closed {
            let refusal = refused(call_empty(app.channel(key), path).await);
            assert_eq!(
                (refusal.code, refusal.reason.as_str()),
                (Code::Unauthenticated, reason),
                "{path} with {key:?}"
            );
        }
        for path in open.intersection(&methods) {
            call_empty(app.channel(key), path).await.unwrap();
        }
    }
    // With the key, each of them gets further.
    for path in closed.iter().filter(|path| !path.ends_with("/WatchDeliveries")) {
        let code = call_empty(app.channel(Some(ADMIN_KEY)), path)
            .await
            .err()
            .map(|status| status.code());
        assert_ne!(code, Some(Code::Unauthenticated), "{path}");
    }
}

#[tokio::test]
async fn every_rest_route_but_status_needs_a_key() {
    let app = TestApp::start().await;
    let document = app.rest().with_key(None).get("/api/openapi.json").await.json();
    let revoked = revoked_key(&app).await;
    let mut closed = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let name = format!("{method} {path}");
            let is_open = OPEN_ROUTES.contains(&&*name);
            let told = &operation["security"];
            assert_eq!(told == &json!([{}]), is_open, "{name} says: {told}");
            closed += usize::from(!is_open);
            let path: Vec<_> = path
                .split('/')
                .map(|part| {
                    if part.starts_with('{') {
                        "ep_01h455vb4pex5vsknk084sn02q"
                    } else {
                        part
                    }
                })
                .collect();
            for (key, reason) in bad_keys(&revoked) {
                let headers = [("content-type", "application/json")];
                let rest = app.rest().with_key(key);
                let answer = rest.send(method.clone(), &path.join("/"), &headers, "{}").await;
                if is_open {
                    assert_eq!(answer.status, 200, "{name} with {key:?}");
                } else {
                    let code = answer.json()["error"]["code"].as_str().unwrap().to_uppercase();
                    assert_eq!(
                        (answer.status.as_u16(), &*code),
                        (401, reason),
                        "{name} with {key:?}"
                    );
                }
            }
        }
    }
    assert!(closed >= 3, "{document}");
}
