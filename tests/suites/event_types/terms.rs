//! On what terms event types are changed: idempotency keys and revisions.

use futures_util::future::join_all;
use hyper::Method;

use super::rest::{POLICY, TYPES, path_of};
use super::*;
use crate::rest::idempotency::{forget_that_it_is_done, keyed};
use crate::rest::{error, refusal};

fn new(name: &str) -> Value {
    json!({"project_id": PROJECT, "name": name, "description": "first"})
}

fn policy_of(unknown: &str) -> Value {
    json!({"project_id": PROJECT, "unknown_event_types": unknown})
}

#[tokio::test]
async fn every_change_is_made_once_under_its_key_and_answered_the_same() {
    let app = TestApp::start().await;
    let rest = app.rest();
    rest.post(TYPES, &new("a.b")).await;
    rest.post(TYPES, &new("doomed")).await;
    let [post, patch, put, delete] = [Method::POST, Method::PATCH, Method::PUT, Method::DELETE];
    let changes = [
        (&post, TYPES.to_owned(), new("c.d")),
        (&patch, path_of("a.b"), json!({"description": "second"})),
        (&delete, path_of("doomed"), json!({})),
        // What is so already is answered under its key, too.
        (&put, POLICY.to_owned(), policy_of("accepted")),
        (&put, POLICY.to_owned(), policy_of("refused")),
    ];
    let mut answers = Vec::new();
    for (n, (method, path, body)) in changes.iter().enumerate() {
        let first = keyed(&app, method, path, &format!("key {n}"), body).await;
        assert!(first.status.is_success(), "{method} {path}: {first:?}");
        assert_eq!(first.header("idempotent-replayed"), "", "{method} {path}");
        answers.push(first);
    }
    // What has changed since changes no answer, and no answer changes it back.
    let since = [
        (&patch, path_of("a.b"), json!({"description": "third"})),
        (&patch, path_of("c.d"), json!({"description": "third"})),
        (&patch, path_of("doomed"), json!({"archived": false})),
        (&put, POLICY.to_owned(), policy_of("accepted")),
    ];
    for (method, path, body) in &since {
        let answer = rest.send_json((*method).clone(), path, &[], body).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let state = async || {
        let types = rest.get(&format!("{TYPES}?project_id={PROJECT}")).await.json();
        let policy = rest.get(&format!("{POLICY}?project_id={PROJECT}")).await.json();
        (types, policy)
    };
    let before = state().await;
    assert_eq!(before.0["data"].as_array().unwrap().len(), 3);
    for (n, ((method, path, body), first)) in changes.iter().zip(&answers).enumerate() {
        let key = format!("key {n}");
        let again = keyed(&app, method, path, &key, body).await;
        let told = |answer: &harness::rest::RestResponse| {
            let headers = ["etag", "location"].map(|name| answer.header(name).to_owned());
            (answer.status, headers, answer.body.clone())
        };
        assert_eq!(told(&again), told(first), "{method} {path}");
        assert_eq!(again.header("idempotent-replayed"), "true", "{method} {path}");
        let other = keyed(&app, &patch, &path_of("a.b"), &key, &json!({"archived": true})).await;
        assert_eq!(
            error(&other),
            refusal(409, "idempotency_key_reused", &[]),
            "{method} {path}"
        );
    }
    assert_eq!(state().await, before);
}

#[tokio::test]
async fn of_the_same_request_many_times_at_once_one_is_made() {
    let app = TestApp::start().await;
    let body = new("a.b");
    let created = join_all((0..16).map(|_| keyed(&app, &Method::POST, TYPES, "create", &body))).await;
    assert!(
        created
            .iter()
            .all(|answer| answer.status == 201 && answer.body == created[0].body),
        "{created:?}"
    );
    // Under a condition that only the first one meets.
    let (target, once) = (path_of("a.b"), json!({"description": "once"}));
    let calls = (0..16).map(|_| {
        let headers = [("idempotency-key", "patch"), ("if-match", "\"1\"")];
        let (rest, target, once) = (app.rest(), &target, &once);
        async move { rest.send_json(Method::PATCH, target, &headers, once).await }
    });
    let changed = join_all(calls).await;
    assert!(
        changed
            .iter()
            .all(|answer| answer.status == 200 && answer.header("etag") == "\"2\""),
        "{changed:?}"
    );
}

#[tokio::test]
async fn a_request_that_was_cut_off_after_its_change_is_not_refused_as_one_that_comes_too_late() {
    let app = TestApp::start().await;
    let created = keyed(&app, &Method::POST, TYPES, "create", &new("a.b")).await;
    forget_that_it_is_done(&app, |_| {}).await;
    let again = keyed(&app, &Method::POST, TYPES, "create", &new("a.b")).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &created.body));
    // Somebody else's is.
    let other = keyed(&app, &Method::POST, TYPES, "other", &new("a.b")).await;
    assert_eq!(error(&other), refusal(409, "event_type_conflict", &[]));
    // A refusal takes no key.
    let other = keyed(&app, &Method::POST, TYPES, "other", &new("c.d")).await;
    assert_eq!(other.status, 201);
    let too_long = keyed(&app, &Method::POST, TYPES, &"k".repeat(257), &new("e.f")).await;
    assert_eq!(
        error(&too_long),
        refusal(422, "invalid_fields", &["idempotency_key"])
    );
}

#[tokio::test]
async fn a_conditional_change_that_was_cut_off_after_it_was_made_is_known_as_its_own() {
    let app = TestApp::start().await;
    let rest = app.rest();
    rest.post(TYPES, &new("a.b")).await;
    let headers = [("idempotency-key", "patch"), ("if-match", "\"1\"")];
    let (path, change) = (path_of("a.b"), json!({"description": "once"}));
    let first = rest.send_json(Method::PATCH, &path, &headers, &change).await;
    forget_that_it_is_done(&app, |_| {}).await;
    let again = rest.send_json(Method::PATCH, &path, &headers, &change).await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
}

#[tokio::test]
async fn a_change_happens_at_the_revision_that_is_named_and_at_no_other() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let created = rest.post(TYPES, &new("a.b")).await;
    let path = created.header("location").to_owned();
    assert_eq!(
        (path.as_str(), created.header("etag")),
        (&*path_of("a.b"), "\"1\"")
    );
    for (known, expected) in [("\"1\"", 304), ("*", 304), ("\"2\"", 200)] {
        let headers = [("if-none-match", known)];
        let got = rest.send(Method::GET, &path, &headers, "").await;
        assert_eq!(
            (got.status.as_u16(), got.header("etag")),
            (expected, "\"1\""),
            "{known}"
        );
    }
    for (condition, expected) in [("\"2\"", 412), ("\"0\"", 412), ("\"1\"", 200), ("*", 200)] {
        let headers = [("if-match", condition)];
        let body = json!({"description": condition});
        let changed = rest.send_json(Method::PATCH, &path, &headers, &body).await;
        assert_eq!(changed.status.as_u16(), expected, "{condition}");
        if expected == 412 {
            assert_eq!(error(&changed), refusal(412, "revision_mismatch", &[]));
            let about = &changed.json()["error"];
            assert_eq!(
                (&about["resource"], &about["id"]),
                (&json!("event_type"), &json!("a.b"))
            );
        }
    }
    for (condition, expected) in [("\"2\"", 412), ("\"3\"", 204)] {
        let archived = rest
            .send(Method::DELETE, &path, &[("if-match", condition)], "")
            .await;
        assert_eq!(archived.status.as_u16(), expected, "{condition}");
    }
    assert_eq!(rest.get(&path).await.json()["archived"], true);
}

#[tokio::test]
async fn a_key_in_the_metadata_is_the_same_key() {
    let app = TestApp::start().await;
    let create = async || {
        let mut request = tonic::Request::new(CreateEventTypeRequest {
            event_type: Some(event_type("a.b", "")),
        });
        request
            .metadata_mut()
            .insert("idempotency-key", "k".parse().unwrap());
        client(&app).create_event_type(request).await
    };
    let created = create().await.unwrap().into_inner();
    assert_eq!(create().await.unwrap().into_inner(), created);
    let mut request = tonic::Request::new(ArchiveEventTypeRequest {
        project_id: PROJECT.into(),
        name: "a.b".into(),
    });
    request
        .metadata_mut()
        .insert("idempotency-key", "k".parse().unwrap());
    let reused = refused(client(&app).archive_event_type(request).await);
    assert_eq!(reused.reason, "IDEMPOTENCY_KEY_REUSED");
}
