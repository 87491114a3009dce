//! Changes whose callers or processes went away before they were answered, asked for again under their keys.

use std::time::Duration;

use harness::app::{PROJECT, TestApp};

use harness::receiver::Receiver;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::endpoints::{create, path_of};
use super::idempotency::{delivered, forget_that_it_is_done, keyed};
use super::{error, refusal};

const REPLAYS: &str = "/manage/v1/webhooks/replays";

#[tokio::test]
async fn a_conditional_change_that_was_cut_off_after_it_was_made_is_known_as_its_own() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let path = path_of(&create(&app, json!({})).await);
    let headers = [("idempotency-key", "patch"), ("if-match", "\"1\"")];
    let change = json!({"description": "once"});
    let first = rest.send_json(Method::PATCH, &path, &headers, &change).await;
    forget_that_it_is_done(&app, |_| {}).await;
    let again = rest.send_json(Method::PATCH, &path, &headers, &change).await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(rest.get(&path).await.json()["revision"], 2);
}

/// The caller goes away at every moment of the change; what it asked for is done once, and not over what came after it.
#[tokio::test]
async fn a_change_whose_caller_goes_away_is_not_made_over_what_others_changed_since() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let path = path_of(&create(&app, json!({})).await);
    let revision = |endpoint: &Value| endpoint["revision"].as_u64().unwrap();
    let mut before = 1;
    for n in 0..16_u64 {
        let ours = json!({"description": format!("ours {n}")});
        let key = format!("key {n}");
        let headers = [("idempotency-key", key.as_str())];
        let patience = Duration::from_millis(n);
        let answered = timeout(patience, rest.send_json(Method::PATCH, &path, &headers, &ours));
        let _ = answered.await;
        let theirs = rest.patch(&path, &json!({"description": "theirs"})).await.json();
        let ours_came_first = revision(&theirs) == before + 2;
        let again = rest.send_json(Method::PATCH, &path, &headers, &ours).await;
        assert_eq!(again.json()["description"], ours["description"], "{again:?}");
        let after = rest.get(&path).await.json();
        if ours_came_first {
            assert_eq!(after, theirs, "it was made again");
        }
        before = revision(&after);
    }
}

#[tokio::test]
async fn what_was_begun_is_not_checked_again() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    let endpoint = create(&app, json!({"url": receiver.url("/hook")})).await;
    let path = path_of(&endpoint);
    let event = json!({"project_id": PROJECT, "event_type": "a.b", "payload": {}});
    let delivery = delivered(&app, &event).await;
    let (post, nothing) = (Method::POST, json!({}));
    let once_more = format!("{delivery}/replay");
    let first = keyed(&app, &post, &once_more, "one", &nothing).await;
    forget_that_it_is_done(&app, |_| {}).await;
    rest.patch(&path, &json!({"active": false})).await;
    let again = keyed(&app, &post, &once_more, "one", &nothing).await;
    assert_eq!(again.status, first.status, "{again:?}");
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert_eq!(again.header("idempotent-replayed"), "true");

    let of_endpoint = json!({"project_id": PROJECT, "endpoint_id": endpoint["id"], "status": "delivered"});
    let first = keyed(&app, &post, REPLAYS, "many", &of_endpoint).await;
    assert!(first.status.is_success(), "{first:?}");
    rest.send(Method::DELETE, &path, &[], "").await;
    let again = keyed(&app, &post, REPLAYS, "many", &of_endpoint).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    let other = keyed(&app, &post, REPLAYS, "new", &of_endpoint).await;
    assert_eq!(error(&other), refusal(404, "endpoint_not_found", &[]));
}
