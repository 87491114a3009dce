//! `Idempotency-Key` on every change: the same request under it is made once and answered the same, whatever comes between.

use async_nats::jetstream;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use harness::app::{PROJECT, TestApp};
use harness::eventually::{eventually, is};
use harness::receiver::{Receiver, Reply};
use harness::rest::RestResponse;
use hyper::Method;
use serde_json::{Value, json};

use super::endpoints::{create, path_of};
use super::{DELIVER, error, refusal};

const ENDPOINTS: &str = "/manage/v1/webhooks/endpoints";
const DELIVERIES: &str = "/manage/v1/webhooks/deliveries";
const UNUSED: &str = "http://127.0.0.1:9/unused";

/// Hands an event over and waits until its first delivery has been made. Its path.
pub(crate) async fn delivered(app: &TestApp, event: &Value) -> String {
    let rest = app.rest();
    let accepted = rest.post(DELIVER, event).await.json();
    let delivery = format!(
        "{DELIVERIES}/{}",
        accepted["deliveries"][0]["id"].as_str().unwrap()
    );
    eventually("the delivery is made", || async {
        is(
            rest.get(&delivery).await.json()["status"].clone(),
            json!("delivered"),
        )
    })
    .await;
    delivery
}

pub(crate) async fn keyed(
    app: &TestApp,
    method: &Method,
    path: &str,
    key: &str,
    body: &Value,
) -> RestResponse {
    let headers = [("idempotency-key", key)];
    app.rest().send_json(method.clone(), path, &headers, body).await
}

/// The entries of idempotency keys, by their names in the bucket.
async fn records(app: &TestApp) -> Vec<(String, Value)> {
    let bucket = bucket(app).await;
    let names: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    let entries = names.into_iter().map(async |name| {
        let value = bucket.get(&name).await.unwrap().expect("an entry");
        (name, serde_json::from_slice(&value).unwrap())
    });
    join_all(entries).await
}

async fn bucket(app: &TestApp) -> jetstream::kv::Store {
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    let bucket = jetstream::new(client).get_key_value("WEBHOOKS_IDEMPOTENCY").await;
    bucket.unwrap()
}

/// Makes the only record one of a request whose process was killed before it recorded that it was done.
pub(crate) async fn forget_that_it_is_done(app: &TestApp, change: impl FnOnce(&mut Value)) {
    let [(name, mut record)] = <[_; 1]>::try_from(records(app).await).unwrap();
    assert!(record.as_object_mut().unwrap().remove("log_sequence").is_some());
    change(&mut record);
    bucket(app)
        .await
        .put(&name, record.to_string().into())
        .await
        .unwrap();
}

async fn revisions(app: &TestApp, path: &str) -> u64 {
    app.rest().get(path).await.json()["revision"].as_u64().unwrap()
}

/// Every route of the document that changes something is tried here, but for those of event types, which have a test of their own.
async fn every_route_is_among<'a>(app: &TestApp, tried: impl Iterator<Item = (&'a Method, &'a str)> + Clone) {
    let document = app.rest().get("/api/openapi.json").await.json();
    let mut routes = 0;
    for (template, operations) in document["paths"].as_object().unwrap() {
        if template.starts_with("/manage/v1/webhooks/event-type") {
            continue;
        }
        for method in operations
            .as_object()
            .unwrap()
            .keys()
            .filter(|method| *method != "get")
        {
            let fits = |path: &str| {
                let (wanted, parts) = (template.split('/'), path.split('/'));
                wanted.clone().count() == parts.clone().count()
                    && wanted
                        .zip(parts)
                        .all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
            };
            let is_tried = tried
                .clone()
                .any(|(tried, path)| tried.as_str().eq_ignore_ascii_case(method) && fits(path));
            assert!(is_tried, "{method} {template}");
            routes += 1;
        }
    }
    assert!(routes >= 12, "{routes}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "every route that changes something, once")]
async fn every_change_is_made_once_under_its_key_and_answered_the_same() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    receiver.script("/hangs", [Reply::hang()]);
    let endpoint = create(
        &app,
        json!({"url": receiver.url("/hook"), "event_types": ["a.b"]}),
    )
    .await;
    let doomed = create(&app, json!({"event_types": ["x"]})).await;
    create(
        &app,
        json!({"url": receiver.url("/hangs"), "event_types": ["hangs"]}),
    )
    .await;
    let path = path_of(&endpoint);
    let event =
        |event_type: &str| json!({"project_id": PROJECT, "event_type": event_type, "payload": {"a": 1}});
    let rotated_away = endpoint["secrets"][0]["id"].as_str().unwrap();
    // So many that a replay of one a second is not done before it is stopped.
    for _ in 0..40 {
        rest.post(DELIVER, &event("a.b")).await;
    }
    let delivered = delivered(&app, &event("a.b")).await;
    let accepted = rest.post(DELIVER, &event("hangs")).await.json();
    let pending = accepted["deliveries"][0]["id"].as_str().unwrap();
    let replays = "/manage/v1/webhooks/replays";
    let slow = json!({"project_id": PROJECT, "status": "delivered", "rate_per_second": 1});
    let replay = rest.post(replays, &slow).await;
    let replay = replay.header("location");

    let (post, update, delete) = (Method::POST, Method::PATCH, Method::DELETE);
    let changes = [
        (
            &post,
            ENDPOINTS.to_owned(),
            json!({"project_id": PROJECT, "url": UNUSED, "event_types": ["y"]}),
        ),
        (&update, path.clone(), json!({"description": "second"})),
        (
            &post,
            format!("{path}/rotate-secret"),
            json!({"overlap_seconds": 60}),
        ),
        (
            &post,
            format!(
                "/api/webhooks/endpoints/{}/rotate",
                endpoint["id"].as_str().unwrap()
            ),
            json!({}),
        ),
        (&delete, format!("{path}/secrets/{rotated_away}"), json!({})),
        (&post, format!("{path}/test"), json!({"event_type": "a.b"})),
        (&post, DELIVER.to_owned(), event("a.b")),
        (&post, format!("{delivered}/replay"), json!({})),
        (&post, format!("{DELIVERIES}/{pending}/cancel"), json!({})),
        (&post, replays.to_owned(), slow),
        (&delete, replay.to_owned(), json!({})),
        (&delete, path_of(&doomed), json!({})),
    ];
    every_route_is_among(
        &app,
        changes.iter().map(|(method, path, _)| (*method, path.as_str())),
    )
    .await;
    let mut answers = Vec::new();
    for (n, (method, path, body)) in changes.iter().enumerate() {
        let first = keyed(&app, method, path, &format!("key {n}"), body).await;
        assert!(first.status.is_success(), "{method} {path}: {first:?}");
        assert_eq!(first.header("idempotent-replayed"), "", "{method} {path}");
        answers.push(first);
    }
    let before = app.rest().get(&path).await.json();
    // What has changed since changes no answer.
    rest.patch(&path, &json!({"description": "third", "active": false}))
        .await;
    for (n, ((method, path, body), first)) in changes.iter().zip(&answers).enumerate() {
        let again = keyed(&app, method, path, &format!("key {n}"), body).await;
        assert_eq!(again.status, first.status, "{method} {path}: {again:?}");
        assert_eq!(again.header("idempotent-replayed"), "true", "{method} {path}");
        assert_eq!(again.header("etag"), first.header("etag"), "{method} {path}");
        if path == DELIVER {
            let mut expected = first.json();
            expected["duplicate"] = json!(true);
            assert_eq!(again.json(), expected, "it says so itself");
        } else {
            assert_eq!(again.body, first.body, "{method} {path}");
        }
        // Another request under this key: another body, and another route.
        let other = keyed(
            &app,
            &update,
            &path_of(&endpoint),
            &format!("key {n}"),
            &json!({"active": true}),
        )
        .await;
        assert_eq!(
            error(&other),
            refusal(409, "idempotency_key_reused", &[]),
            "{method} {path}"
        );
    }
    assert_eq!(
        revisions(&app, &path).await,
        before["revision"].as_u64().unwrap() + 1
    );
    let secrets: Vec<_> = [&answers[0], &answers[2], &answers[3]]
        .map(|answer| {
            answer.json()["signing_secret"]
                .as_str()
                .unwrap()
                .replace("whsec_", "")
        })
        .into();
    for (name, record) in records(&app).await {
        let record = record.to_string();
        assert!(
            !secrets.iter().any(|secret| record.contains(secret)),
            "a secret is in {name}"
        );
    }
}

#[tokio::test]
async fn a_key_is_the_projects_and_a_refusal_takes_none() {
    let app = TestApp::start().await;
    let body = |project: &str, url: &str| json!({"project_id": project, "url": url});
    let refused = keyed(&app, &Method::POST, ENDPOINTS, "k", &body(PROJECT, "nonsense")).await;
    assert_eq!(refused.status, 422);
    let created = keyed(&app, &Method::POST, ENDPOINTS, "k", &body(PROJECT, UNUSED)).await;
    assert_eq!(created.status, 201, "the key was free");
    let other = keyed(&app, &Method::POST, ENDPOINTS, "k", &body("other", UNUSED)).await;
    assert_eq!(other.status, 201, "another project's key is another one");
    assert_ne!(other.json()["id"], created.json()["id"]);
    let ours = [
        ("x-cuitty-idempotency-key", "k"),
        ("content-type", "application/json"),
    ];
    let again = app
        .rest()
        .send(Method::POST, ENDPOINTS, &ours, body(PROJECT, UNUSED).to_string())
        .await;
    assert_eq!(again.body, created.body, "both headers carry it");
    let (longest, too_long) = ("k".repeat(256), "k".repeat(257));
    assert_eq!(
        keyed(&app, &Method::POST, ENDPOINTS, &longest, &body(PROJECT, UNUSED))
            .await
            .status,
        201
    );
    let refused = keyed(&app, &Method::POST, ENDPOINTS, &too_long, &body(PROJECT, UNUSED)).await;
    assert_eq!(
        error(&refused),
        refusal(422, "invalid_fields", &["idempotency_key"])
    );
}

#[tokio::test]
async fn what_is_in_no_state_for_a_change_leaves_its_key_free() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    let endpoint = create(&app, json!({"url": receiver.url("/hook")})).await;
    let path = path_of(&endpoint);
    let event = json!({"project_id": PROJECT, "event_type": "a.b", "payload": {}});
    let delivery = delivered(&app, &event).await;
    let all = json!({"project_id": PROJECT, "status": "delivered"});
    let replay = rest.post("/manage/v1/webhooks/replays", &all).await;
    let replay = replay.header("location");
    eventually("the replay is done", || async {
        is(rest.get(replay).await.json()["state"].clone(), json!("done"))
    })
    .await;
    let current = endpoint["secrets"][0]["id"].as_str().unwrap();
    for (method, refused, code) in [
        (
            Method::DELETE,
            format!("{path}/secrets/{current}"),
            "secret_conflict",
        ),
        (Method::POST, format!("{delivery}/cancel"), "delivery_conflict"),
        (Method::DELETE, replay.to_owned(), "replay_conflict"),
    ] {
        let nothing = json!({});
        let answer = keyed(&app, &method, &refused, code, &nothing).await;
        assert_eq!(error(&answer), refusal(409, code, &[]));
        let another = keyed(&app, &Method::PATCH, &path, code, &json!({"description": code})).await;
        assert_eq!(another.status, 200, "{code}: {another:?}");
    }
    let hex = path_of(&create(&app, json!({"signature_header": "x-hex"})).await);
    let rotate = format!("{hex}/rotate-secret");
    let asymmetric = json!({"signature_scheme": "ed25519"});
    let answer = keyed(&app, &Method::POST, &rotate, "rotate", &asymmetric).await;
    assert_eq!(
        error(&answer),
        refusal(422, "invalid_fields", &["signature_scheme"])
    );
    let corrected = keyed(&app, &Method::POST, &rotate, "rotate", &json!({})).await;
    assert_eq!(corrected.status, 200, "{corrected:?}");
}

#[tokio::test]
async fn of_the_same_request_many_times_at_once_one_is_made() {
    let app = TestApp::start().await;
    let body = json!({"project_id": PROJECT, "url": UNUSED});
    let calls = (0..16).map(|_| keyed(&app, &Method::POST, ENDPOINTS, "create", &body));
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    let path = path_of(&answers[0].json());
    let listed = app
        .rest()
        .get(&format!("{ENDPOINTS}?project_id={PROJECT}"))
        .await
        .json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);

    let rotate = format!("{path}/rotate-secret");
    let nothing = json!({});
    let answers = join_all((0..16).map(|_| keyed(&app, &Method::POST, &rotate, "rotate", &nothing))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 && answer.body == answers[0].body)
    );
    assert_eq!(revisions(&app, &path).await, 2);

    // Under a condition that only the first one meets.
    let change = json!({"description": "once"});
    let patches = (0..16).map(|_| {
        let headers = [("idempotency-key", "patch"), ("if-match", "\"2\"")];
        let (rest, path, change) = (app.rest(), &path, &change);
        async move { rest.send_json(Method::PATCH, path, &headers, change).await }
    });
    let answers = join_all(patches).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 && answer.body == answers[0].body),
        "{answers:?}"
    );
    assert_eq!(revisions(&app, &path).await, 3);
}

#[tokio::test]
async fn a_request_that_was_cut_off_after_its_change_is_not_made_again() {
    let app = TestApp::start().await;
    let body = json!({"project_id": PROJECT, "url": UNUSED});
    let created = keyed(&app, &Method::POST, ENDPOINTS, "create", &body).await;
    forget_that_it_is_done(&app, |_| {}).await;
    let again = keyed(&app, &Method::POST, ENDPOINTS, "create", &body).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &created.body));
    let listed = app
        .rest()
        .get(&format!("{ENDPOINTS}?project_id={PROJECT}"))
        .await
        .json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_request_that_was_cut_off_before_its_change_is_made_under_the_same_id() {
    let app = TestApp::start().await;
    let body = json!({"project_id": PROJECT, "url": UNUSED});
    let first = keyed(&app, &Method::POST, ENDPOINTS, "create", &body)
        .await
        .json();
    // Of a request that nothing was done of.
    let other = "msg_01h455vb4pex5vsknk084sn02q";
    forget_that_it_is_done(&app, |record| record["message_id"] = json!(other)).await;
    let made = keyed(&app, &Method::POST, ENDPOINTS, "create", &body).await;
    let again = keyed(&app, &Method::POST, ENDPOINTS, "create", &body).await;
    assert_eq!((made.status, &made.body), (again.status, &again.body));
    assert_ne!(made.json()["id"], first["id"]);
    assert!(
        made.json()["id"].as_str().unwrap().starts_with("ep_01h455vb4"),
        "the time is the request's"
    );
    let record = &records(&app).await[0].1;
    assert!(record["log_sequence"].is_u64(), "{record}");
}

#[tokio::test]
async fn a_rotation_that_was_cut_off_after_its_change_answers_the_same_secret() {
    let app = TestApp::start().await;
    let path = path_of(&create(&app, json!({})).await);
    let rotate = format!("{path}/rotate-secret");
    let rotated = keyed(&app, &Method::POST, &rotate, "rotate", &json!({})).await;
    forget_that_it_is_done(&app, |_| {}).await;
    app.rest()
        .patch(&path, &json!({"description": "meanwhile"}))
        .await;
    let again = keyed(&app, &Method::POST, &rotate, "rotate", &json!({})).await;
    assert_eq!((again.status, &again.body), (rotated.status, &rotated.body));
    let secrets = app.rest().get(&path).await.json()["secrets"].clone();
    assert_eq!(secrets.as_array().unwrap().len(), 2);
}
