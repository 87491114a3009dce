//! `ETag`, `If-Match` and `If-None-Match` of endpoints.

use harness::app::TestApp;
use harness::rest::RestResponse;
use hyper::Method;
use serde_json::json;

use super::endpoints::{create, path_of};
use super::{error, refusal};

fn told(response: &RestResponse) -> (u16, &str) {
    (response.status.as_u16(), response.header("etag"))
}

#[tokio::test]
async fn who_has_the_current_revision_is_told_so() {
    let app = TestApp::start().await;
    let path = path_of(&create(&app, json!({})).await);
    for (known, expected) in [
        ("\"1\"", 304),
        ("W/\"1\"", 304),
        ("\"7\", \"1\"", 304),
        ("*", 304),
        ("\"2\"", 200),
        ("1", 200),
    ] {
        let headers = [("if-none-match", known)];
        let got = app.rest().send(Method::GET, &path, &headers, "").await;
        assert_eq!(told(&got), (expected, "\"1\""), "{known}");
        assert_eq!(got.body.is_empty(), expected == 304, "{known}");
    }
}

#[tokio::test]
async fn a_change_happens_at_the_revision_that_is_named_and_at_no_other() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let path = path_of(&create(&app, json!({})).await);
    let rotate = format!("{path}/rotate-secret");
    let change = |n: u32| json!({"description": n.to_string()});
    for wrong in ["\"2\"", "W/\"1\"", "1", "\"0\", \"3\"", "\"x\"", "\"01\""] {
        let headers = [("if-match", wrong)];
        for refused in [
            rest.send_json(Method::PATCH, &path, &headers, &change(9)).await,
            rest.send_json(Method::POST, &rotate, &headers, &json!({})).await,
            rest.send(Method::DELETE, &path, &headers, "").await,
        ] {
            assert_eq!(error(&refused), refusal(412, "revision_mismatch", &[]), "{wrong}");
            assert_eq!(refused.json()["error"]["resource"], "endpoint");
        }
    }
    for (right, after) in [("\"1\"", "\"2\""), ("\"9\", \"2\"", "\"3\""), ("*", "\"4\"")] {
        let headers = [("if-match", right)];
        let body = change(right.len() as u32);
        let patched = rest.send_json(Method::PATCH, &path, &headers, &body).await;
        assert_eq!(told(&patched), (200, after), "{right}");
    }
    let rotated = rest
        .send_json(Method::POST, &rotate, &[("if-match", "\"4\"")], &json!({}))
        .await;
    assert_eq!(told(&rotated), (200, "\"5\""));
    let deleted = rest
        .send(Method::DELETE, &path, &[("if-match", "\"5\"")], "")
        .await;
    assert_eq!(deleted.status, 204);
    let gone = rest.send(Method::DELETE, &path, &[("if-match", "*")], "").await;
    assert_eq!(error(&gone), refusal(404, "endpoint_not_found", &[]));
}

#[tokio::test]
async fn of_many_changes_of_one_revision_one_is_made() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let path = path_of(&create(&app, json!({})).await);
    let changes = (0..16).map(|n| {
        let (rest, path) = (rest.clone(), path.clone());
        async move {
            let body = json!({"description": format!("by {n}")});
            rest.send_json(Method::PATCH, &path, &[("if-match", "\"1\"")], &body)
                .await
                .status
                .as_u16()
        }
    });
    let mut statuses = futures_util::future::join_all(changes).await;
    statuses.sort_unstable();
    assert_eq!(statuses[0], 200);
    assert!(statuses[1..].iter().all(|&status| status == 412), "{statuses:?}");
    assert_eq!(rest.get(&path).await.header("etag"), "\"2\"");
}
