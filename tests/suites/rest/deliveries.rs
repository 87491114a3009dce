//! Deliveries over REST: a test event, lists, one with its attempts, replayed, cancelled, and bulk replays.

use std::slice;

use harness::app::{PROJECT, TestApp};
use harness::eventually::{eventually, is};
use harness::receiver::{Receiver, Reply};
use serde_json::{Value, json};

use super::endpoints::{create, path_of};
use super::{DELIVER, error, refusal};

const DELIVERIES: &str = "/manage/v1/webhooks/deliveries";
const REPLAYS: &str = "/manage/v1/webhooks/replays";

/// Delivers an event; the id of its only delivery.
async fn deliver(app: &TestApp, event_type: &str, payload: Value) -> String {
    let body = json!({"project_id": PROJECT, "event_type": event_type, "payload": payload});
    let accepted = app.rest().post(DELIVER, &body).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    accepted.json()["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The delivery, once it has this status.
async fn standing(app: &TestApp, id: &str, status: &str) -> Value {
    eventually(&format!("{id} is {status}"), || async {
        let got = app.rest().get(&format!("{DELIVERIES}/{id}?verify=true")).await;
        is(got.status.as_u16(), 200)?;
        let delivery = got.json();
        is(delivery["status"].clone(), json!(status)).map(|_| delivery)
    })
    .await
}

async fn ids(app: &TestApp, query: &str) -> Vec<String> {
    let page = app.rest().get(&format!("{DELIVERIES}?{query}")).await;
    assert_eq!(page.status, 200, "{query}: {page:?}");
    let page = page.json();
    let ids = page["data"].as_array().unwrap().iter();
    ids.map(|delivery| delivery["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_delivery_is_shown_with_everything_that_was_sent_and_came_back() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    receiver.script(
        "/hook",
        [
            Reply::status(500).body("not now"),
            Reply::status(200).body("thanks"),
        ],
    );
    let endpoint = create(
        &app,
        json!({"url": receiver.url("/hook"), "retry_schedule_seconds": [1]}),
    )
    .await;

    let test = json!({"event_type": "budget.threshold_reached"});
    let sent = rest.post(&format!("{}/test", path_of(&endpoint)), &test).await;
    assert_eq!(sent.status, 202);
    let sent = sent.json();
    for (field, expected) in [
        ("project_id", json!(PROJECT)),
        ("endpoint_id", endpoint["id"].clone()),
        ("event_type", json!("budget.threshold_reached")),
        ("status", json!("pending")),
        ("failure_reason", json!(null)),
        ("origin", json!("test")),
        ("replay_of", json!(null)),
        ("attempt_count", json!(0)),
        ("completed_at", json!(null)),
        ("response_status", json!(null)),
    ] {
        assert_eq!(sent[field], expected, "{field}");
    }

    let id = sent["id"].as_str().unwrap();
    let delivered = standing(&app, id, "delivered").await;
    assert_eq!(delivered["payload"]["type"], "budget.threshold_reached");
    assert_eq!(
        (&delivered["response_status"], &delivered["response_body"]),
        (&json!(200), &json!("thanks"))
    );
    let attempts = delivered["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    let (failed, succeeded) = (&attempts[0], &attempts[1]);
    assert_eq!(
        (&failed["number"], &failed["outcome"]),
        (&json!(1), &json!("failed"))
    );
    assert_eq!(failed["response"]["body"], "not now");
    assert_eq!(failed["error"]["class"], "status");
    assert_eq!(
        (&succeeded["outcome"], &succeeded["error"]),
        (&json!("succeeded"), &json!(null))
    );
    assert_eq!(succeeded["request"]["url"], receiver.url("/hook"));
    assert_eq!(
        succeeded["request"]["signed_with"],
        json!([endpoint["secrets"][0]["id"]])
    );
    assert_eq!(succeeded["signature_checks"][0]["valid"], true);
    assert!(succeeded["timing"]["queue_ms"].is_number() && succeeded["duration_ms"].is_number());
    assert_eq!(succeeded["endpoint_revision"], 1);
}

#[tokio::test]
async fn deliveries_are_found_by_every_filter_in_pages() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    receiver.script(
        "/fails",
        [Reply::status(400).header("webhook-delivery", "abort-message")],
    );
    let good = create(
        &app,
        json!({"url": receiver.url("/hook"), "event_types": ["good.*"]}),
    )
    .await;
    let bad = create(
        &app,
        json!({"url": receiver.url("/fails"), "event_types": ["bad.*"]}),
    )
    .await;
    let mut delivered = Vec::new();
    for n in 0..3 {
        delivered.push(deliver(&app, "good.one", json!(n)).await);
    }
    let failed = deliver(&app, "bad.one", json!({})).await;
    for id in &delivered {
        standing(&app, id, "delivered").await;
    }
    let shown = standing(&app, &failed, "failed").await;
    assert_eq!(shown["failure_reason"], "aborted");
    delivered.sort_unstable();
    let sorted = |mut ids: Vec<String>| {
        ids.sort_unstable();
        ids
    };
    let of = |endpoint: &Value| format!("endpoint_id={}", endpoint["id"].as_str().unwrap());
    let at = shown["created_at"].as_str().unwrap();
    for (query, expected) in [
        (format!("project_id={PROJECT}&status=delivered"), &delivered[..]),
        ("status=failed".to_owned(), slice::from_ref(&failed)),
        ("status=pending".to_owned(), &[]),
        (of(&good), &delivered),
        (of(&bad), slice::from_ref(&failed)),
        ("event_type=good.one".to_owned(), &delivered),
        (format!("since={at}"), slice::from_ref(&failed)),
        (format!("until={at}"), &delivered),
    ] {
        assert_eq!(sorted(ids(&app, &query).await), expected, "{query}");
    }
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rest.get(&format!("{DELIVERIES}?limit=3{cursor}")).await.json();
        paged.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|delivery| delivery["id"].clone()),
        );
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((paged.len(), &paged[0]), (4, &json!(failed)), "newest first");

    for (query, fields) in [
        (
            "status=done&limit=201&since=now&verify=1",
            &["status", "since", "verify", "limit"][..],
        ),
        (
            "endpoint_id=ep_1&event_type=a..b&cursor=x",
            &["cursor", "event_type", "endpoint_id"],
        ),
        ("limit=3&limit=4", &["limit"]),
        (
            "project_id=&endpoint_id=&until=&status=",
            &["project_id", "endpoint_id", "status", "until"],
        ),
        ("min_log_sequence=1000000", &["min_log_sequence"]),
    ] {
        let refused = rest.get(&format!("{DELIVERIES}?{query}")).await;
        assert_eq!(error(&refused), refusal(422, "invalid_fields", fields), "{query}");
    }
    let unknown = rest
        .get(&format!("{DELIVERIES}/dlv_01h455vb4pex5vsknk084sn02q"))
        .await;
    assert_eq!(error(&unknown), refusal(404, "delivery_not_found", &[]));
    let nobody = rest.get(&format!("{DELIVERIES}?project_id=nobody")).await;
    assert_eq!(error(&nobody), refusal(404, "project_not_found", &[]));
}

#[tokio::test]
async fn a_delivery_is_replayed_and_one_that_is_pending_cancelled() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    receiver.script("/hangs", [Reply::hang()]);
    create(
        &app,
        json!({"url": receiver.url("/hook"), "event_types": ["good"]}),
    )
    .await;
    create(
        &app,
        json!({"url": receiver.url("/hangs"), "event_types": ["hangs"]}),
    )
    .await;

    let original = deliver(&app, "good", json!({"a": 1})).await;
    standing(&app, &original, "delivered").await;
    let replayed = rest
        .post(&format!("{DELIVERIES}/{original}/replay"), &json!({}))
        .await;
    assert_eq!(replayed.status, 202);
    let replayed = replayed.json();
    assert_eq!(
        (&replayed["origin"], &replayed["replay_of"]),
        (&json!("replay"), &json!(original))
    );
    standing(&app, replayed["id"].as_str().unwrap(), "delivered").await;
    let requests = receiver.received("/hook", 2).await;
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    let too_late = rest
        .post(&format!("{DELIVERIES}/{original}/cancel"), &json!({}))
        .await;
    assert_eq!(error(&too_late), refusal(409, "delivery_conflict", &[]));

    let pending = deliver(&app, "hangs", json!({})).await;
    standing(&app, &pending, "pending").await;
    let too_early = rest
        .post(&format!("{DELIVERIES}/{pending}/replay"), &json!({}))
        .await;
    assert_eq!(error(&too_early), refusal(409, "delivery_conflict", &[]));
    let cancelled = rest
        .post(&format!("{DELIVERIES}/{pending}/cancel"), &json!({}))
        .await;
    assert_eq!(cancelled.status, 200);
    let cancelled = cancelled.json();
    assert_eq!(
        (&cancelled["status"], &cancelled["failure_reason"]),
        (&json!("failed"), &json!("cancelled"))
    );
}

#[tokio::test]
async fn many_are_replayed_counted_first_and_stopped() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    let refusing = || Reply::status(400).header("webhook-delivery", "abort-message");
    receiver.script("/hook", [refusing(), refusing(), Reply::status(200)]);
    let endpoint = create(&app, json!({"url": receiver.url("/hook"), "ordered": true})).await;
    for n in 0..2 {
        let id = deliver(&app, "a.b", json!(n)).await;
        standing(&app, &id, "failed").await;
    }
    let filter =
        json!({"project_id": PROJECT, "endpoint_id": endpoint["id"], "failure_reasons": ["aborted"]});
    let with = |field: &str, value: Value| {
        let mut body = filter.clone();
        body[field] = value;
        body
    };
    let counted = rest.post(REPLAYS, &with("dry_run", json!(true))).await;
    assert_eq!(counted.status, 200);
    let counted = counted.json();
    assert_eq!(
        counted,
        json!({"project_id": PROJECT, "state": "dry_run", "total": 2})
    );
    let started = rest.post(REPLAYS, &filter).await;
    assert_eq!(started.status, 202);
    let path = started.header("location").to_owned();
    assert_eq!(
        path,
        format!("{REPLAYS}/{}", started.json()["id"].as_str().unwrap())
    );
    let done = eventually("the replay ends", || async {
        let replay = rest.get(&path).await.json();
        is(replay["state"].clone(), json!("done")).map(|_| replay)
    })
    .await;
    assert_eq!((&done["replayed"], &done["skipped"]), (&json!(2), &json!(0)));
    receiver.received("/hook", 4).await;
    assert_eq!(
        error(&rest.delete(&path).await),
        refusal(409, "replay_conflict", &[])
    );

    // At one a second it is not done before it is stopped.
    let slow = rest
        .post(REPLAYS, &with("rate_per_second", json!(1)))
        .await
        .json();
    let path = format!("{REPLAYS}/{}", slow["id"].as_str().unwrap());
    let stopped = rest.delete(&path).await;
    assert_eq!(
        (stopped.status.as_u16(), &stopped.json()["state"]),
        (200, &json!("cancelled"))
    );
    assert_eq!(rest.get(&path).await.json()["state"], "cancelled");

    let wrong = json!({"project_id": PROJECT, "status": "pending", "since": "x", "rate_per_second": -1, "dryrun": true});
    let refused = rest.post(REPLAYS, &wrong).await;
    let fields = &["since", "rate_per_second", "dryrun"];
    assert_eq!(error(&refused), refusal(422, "invalid_fields", fields));
    let refused = rest.post(REPLAYS, &with("rate_per_second", json!(10_001))).await;
    assert_eq!(
        error(&refused),
        refusal(422, "invalid_fields", &["rate_per_second"])
    );
    let unknown = rest
        .get(&format!("{REPLAYS}/rpl_01h455vb4pex5vsknk084sn02q"))
        .await;
    assert_eq!(error(&unknown), refusal(404, "replay_not_found", &[]));
}
