//! Endpoints over REST: created, shown, listed, changed, deleted, their secrets rotated and revoked, on both surfaces.

use harness::app::{PROJECT, TestApp};
use harness::receiver::Receiver;
use serde_json::{Value, json};

use super::{DELIVER, error, refusal};

const ENDPOINTS: &str = "/manage/v1/webhooks/endpoints";
/// Where nothing is sent to.
const UNUSED: &str = "http://127.0.0.1:9/unused";

/// Creates an endpoint of the tests' project; the answer.
pub(super) async fn create(app: &TestApp, settings: Value) -> Value {
    let mut body = json!({"project_id": PROJECT, "url": UNUSED});
    body.as_object_mut()
        .unwrap()
        .extend(settings.as_object().unwrap().clone());
    let created = app.rest().post(ENDPOINTS, &body).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.json()
}

/// Where the endpoint of an answer is.
pub(super) fn path_of(endpoint: &Value) -> String {
    format!("{ENDPOINTS}/{}", endpoint["id"].as_str().unwrap())
}

#[tokio::test]
async fn an_endpoint_lives_from_its_creation_to_its_deletion() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let settings = json!({
        "project_id": PROJECT, "url": UNUSED, "event_types": ["budget.*"], "description": "first",
        "headers": {"x-team": "finance"}, "timeoutMs": 2000, "retry_schedule_seconds": [1, 2], "envelope": true,
    });
    let created = rest.post(ENDPOINTS, &settings).await;
    assert_eq!((created.status.as_u16(), created.header("etag")), (201, "\"1\""));
    let mut shown = created.json();
    let path = path_of(&shown);
    assert_eq!(created.header("location"), path);
    let secret = shown.as_object_mut().unwrap().remove("signing_secret").unwrap();
    assert!(secret.as_str().unwrap().starts_with("whsec_"));
    for (field, expected) in [
        ("project_id", json!(PROJECT)),
        ("kind", json!("http")),
        ("event_types", json!(["budget.*"])),
        ("description", json!("first")),
        ("active", json!(true)),
        ("disabled_reason", json!(null)),
        ("headers", json!({"x-team": "finance"})),
        ("signature_header", json!(null)),
        ("timeout_ms", json!(2000)),
        ("max_in_flight", json!(64)),
        ("rate_limit_per_second", json!(0)),
        ("ordered", json!(false)),
        ("retry_schedule_seconds", json!([1, 2])),
        ("envelope", json!(true)),
        ("revision", json!(1)),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
    let got = rest.get(&path).await;
    assert_eq!((got.status.as_u16(), got.header("etag")), (200, "\"1\""));
    assert_eq!(got.json(), shown, "the same, without the secret");
    for list in [ENDPOINTS, "/api/webhooks/endpoints"] {
        let listed = rest.get(&format!("{list}?project_id={PROJECT}")).await.json();
        assert_eq!(
            (&listed["data"], &listed["next_cursor"]),
            (&json!([shown]), &json!(null))
        );
    }

    let deleted = rest.delete(&path).await;
    assert_eq!((deleted.status.as_u16(), &deleted.body[..]), (204, &b""[..]));
    for gone in [
        rest.get(&path).await,
        rest.patch(&path, &json!({"active": false})).await,
        rest.delete(&path).await,
        rest.post(&format!("{path}/rotate-secret"), &json!({})).await,
        rest.post(&format!("{path}/test"), &json!({"event_type": "a.b"}))
            .await,
    ] {
        assert_eq!(error(&gone), refusal(404, "endpoint_not_found", &[]));
        assert_eq!(gone.json()["error"]["id"], shown["id"]);
    }
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_means_the_default() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let before = create(
        &app,
        json!({"description": "first", "timeout_ms": 2000, "event_types": ["a.b"]}),
    )
    .await;
    let path = path_of(&before);
    let change = json!({"timeout_ms": null, "maxInFlight": 3, "active": false});
    let patched = rest.patch(&path, &change).await;
    assert_eq!((patched.status.as_u16(), patched.header("etag")), (200, "\"2\""));
    let mut expected = before.clone();
    expected.as_object_mut().unwrap().remove("signing_secret");
    let after = patched.json();
    for (field, value) in [
        ("timeout_ms", json!(15_000)),
        ("max_in_flight", json!(3)),
        ("active", json!(false)),
        ("disabled_reason", json!("manual")),
        ("revision", json!(2)),
        ("updated_at", after["updated_at"].clone()),
    ] {
        expected[field] = value;
    }
    assert_eq!(after, expected);
    let nothing = rest.patch(&path, &json!({})).await;
    assert_eq!((nothing.status.as_u16(), nothing.json()), (200, after));
    let defaults = json!({"active": null, "event_types": null, "description": null, "headers": null});
    let cleared = rest.patch(&path, &defaults).await.json();
    assert_eq!(
        (
            &cleared["active"],
            &cleared["event_types"],
            &cleared["description"],
            &cleared["headers"]
        ),
        (&json!(true), &json!([]), &json!(""), &json!({}))
    );
}

#[tokio::test]
async fn the_kind_is_what_is_said_or_else_what_the_url_looks_like() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let (nats, other) = (
        "nats:cuitty.notifications.acme.a",
        "nats:cuitty.notifications.acme.b",
    );
    for (settings, kind) in [
        (json!({}), "http"),
        (json!({"kind": null}), "http"),
        (json!({"kind": "slack"}), "slack"),
        (json!({"url": nats}), "nats"),
        (json!({"url": nats, "kind": null}), "nats"),
        (json!({"url": nats, "kind": "nats"}), "nats"),
    ] {
        assert_eq!(create(&app, settings.clone()).await["kind"], kind, "{settings}");
    }
    let path = path_of(&create(&app, json!({"kind": "slack"})).await);
    for (patch, expected) in [
        (json!({"description": "x"}), json!(["slack", UNUSED])),
        (json!({"kind": null}), json!(["http", UNUSED])),
        (json!({"kind": "slack"}), json!(["slack", UNUSED])),
        (json!({"kind": "nats", "url": nats}), json!(["nats", nats])),
        (json!({"url": other}), json!(["nats", other])),
        (json!({"url": UNUSED, "kind": null}), json!(["http", UNUSED])),
    ] {
        let patched = rest.patch(&path, &patch).await;
        assert_eq!(patched.status, 200, "{patch}: {patched:?}");
        let shown = patched.json();
        assert_eq!(json!([shown["kind"], shown["url"]]), expected, "{patch}");
    }
    for (patch, field) in [
        (json!({"url": nats}), "url"),
        (json!({"kind": "nats"}), "url"),
        (json!({"kind": "ftp"}), "kind"),
        (json!({"kind": 1}), "kind"),
    ] {
        let refused = rest.patch(&path, &patch).await;
        assert_eq!(
            error(&refused),
            refusal(422, "invalid_fields", &[field]),
            "{patch}"
        );
    }
    let refused = rest
        .post(
            ENDPOINTS,
            &json!({"project_id": PROJECT, "url": nats, "kind": "http"}),
        )
        .await;
    assert_eq!(error(&refused), refusal(422, "invalid_fields", &["url"]));
}

#[tokio::test]
async fn everything_wrong_with_an_endpoint_is_told_at_once() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let endpoint = create(&app, json!({})).await;
    let path = path_of(&endpoint);
    for (body, fields) in [
        (json!({}), &["url", "project_id"][..]),
        (
            json!({"project_id": "a b", "url": 7, "timeout_ms": 1, "max_in_flight": 257, "ordered": 1, "active": true}),
            &[
                "url",
                "ordered",
                "active",
                "project_id",
                "timeout_ms",
                "max_in_flight",
            ],
        ),
        (
            json!({"project_id": PROJECT, "url": "ftp://x", "event_types": ["a b"], "headers": {"host": "x"}}),
            &["url", "event_types[0]", "headers.host"],
        ),
        (
            json!({"project_id": PROJECT, "url": UNUSED, "signing_secret": "short", "signature_scheme": "rsa"}),
            &["signature_scheme", "signing_secret"],
        ),
    ] {
        let refused = rest.post(ENDPOINTS, &body).await;
        assert_eq!(error(&refused), refusal(422, "invalid_fields", fields), "{body}");
    }
    for (body, fields) in [
        (
            json!({"revision": 9, "id": "x", "descripton": ""}),
            &["id", "revision", "descripton"][..],
        ),
        (json!({"url": null}), &["url"]),
        (
            json!({"timeout_ms": "1", "max_in_flight": 0}),
            &["timeout_ms", "max_in_flight"],
        ),
        (json!({"timeout_ms": 60_001}), &["timeout_ms"]),
    ] {
        let refused = rest.patch(&path, &body).await;
        assert_eq!(error(&refused), refusal(422, "invalid_fields", fields), "{body}");
    }
    assert_eq!(
        rest.get(&path).await.header("etag"),
        "\"1\"",
        "nothing has changed"
    );
    for edge in [
        json!({"timeout_ms": 1000, "max_in_flight": 256}),
        json!({"timeout_ms": 60_000, "max_in_flight": 1}),
    ] {
        assert_eq!(rest.patch(&path, &edge).await.status, 200, "{edge}");
    }
    let malformed = rest.get(&format!("{ENDPOINTS}/ep_x")).await;
    assert_eq!(
        error(&malformed),
        refusal(422, "invalid_fields", &["endpoint_id"])
    );
    let not_text = rest.get(&format!("{ENDPOINTS}/%ff")).await;
    assert_eq!(error(&not_text), refusal(422, "invalid_fields", &["endpoint_id"]));
    let unknown = rest
        .get(&format!("{ENDPOINTS}?project_id={PROJECT}&limt=3&cursor=x"))
        .await;
    assert_eq!(
        error(&unknown),
        refusal(422, "invalid_fields", &["limt", "cursor"])
    );
    let stranger = json!({"project_id": PROJECT, "url": "http://10.0.0.1/"});
    assert_eq!(
        error(&rest.post(ENDPOINTS, &stranger).await),
        refusal(422, "invalid_fields", &["url"])
    );
}

#[tokio::test]
async fn secrets_are_rotated_on_both_surfaces_and_revoked() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let receiver = Receiver::start();
    let imported = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let created = create(
        &app,
        json!({"url": receiver.url("/hook"), "signing_secret": imported}),
    )
    .await;
    assert_eq!(created["signing_secret"], imported);
    let path = path_of(&created);
    let first = created["secrets"][0]["id"].as_str().unwrap().to_owned();

    let rotated = rest.post(&format!("{path}/rotate-secret"), &json!({})).await;
    assert_eq!((rotated.status.as_u16(), rotated.header("etag")), (200, "\"2\""));
    let second = rotated.json();
    let other_surface = format!(
        "/api/webhooks/endpoints/{}/rotate",
        created["id"].as_str().unwrap()
    );
    let third = rest
        .post(&other_surface, &json!({"signature_scheme": "ed25519"}))
        .await
        .json();
    assert!(third["public_key"].as_str().unwrap().starts_with("whpk_"));
    let live = rest.get(&path).await.json()["secrets"].clone();
    let ids: Vec<_> = live
        .as_array()
        .unwrap()
        .iter()
        .map(|secret| &secret["id"])
        .collect();
    assert_eq!(ids, [&third["secret_id"], &second["secret_id"], &json!(first)]);
    assert_eq!(live[1]["expires_at"], third["previous_expires_at"]);
    assert_eq!(live[2]["expires_at"], second["previous_expires_at"]);

    let revoked = rest.delete(&format!("{path}/secrets/{first}")).await;
    assert_eq!((revoked.status.as_u16(), revoked.header("etag")), (200, "\"4\""));
    assert_eq!(revoked.json()["secrets"].as_array().unwrap().len(), 2);
    let current = third["secret_id"].as_str().unwrap();
    let refused = rest.delete(&format!("{path}/secrets/{current}")).await;
    assert_eq!(error(&refused), refusal(409, "secret_conflict", &[]));
    let unknown = rest
        .delete(&format!("{path}/secrets/sec_01h455vb4pex5vsknk084sn02q"))
        .await;
    assert_eq!(error(&unknown), refusal(404, "secret_not_found", &[]));

    let event = json!({"project_id": PROJECT, "event_type": "a.b", "payload": {}});
    assert_eq!(rest.post(DELIVER, &event).await.status, 202);
    let request = receiver.received("/hook", 1).await.remove(0);
    let signatures: Vec<_> = request.header("webhook-signature").split(' ').collect();
    assert_eq!(
        signatures.len(),
        2,
        "the one that is current, and the one that is not revoked"
    );
}
