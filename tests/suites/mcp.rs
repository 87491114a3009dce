//! The tools for agents, as the protocol's official client for Python finds them over both transports.

mod http;
mod stdio;

use std::collections::BTreeSet;

use harness::app::{PROJECT, TestApp};
use harness::mcp::{McpClient, Mode};
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::{Value, json};

const MANAGE: &str = "/manage/v1/webhooks";
const EVENT_TYPE: &str = "budget.exceeded";
const UNKNOWN_ENDPOINT: &str = "ep_01h455vb4pex5vsknk084sn02q";
const UNKNOWN_DELIVERY: &str = "dlv_01h455vb4pex5vsknk084sn02q";
const READS: [&str; 5] = [
    "list_webhook_endpoints",
    "get_webhook_endpoint",
    "list_webhook_deliveries",
    "get_webhook_delivery",
    "list_webhook_event_types",
];
const CHANGES: [&str; 6] = [
    "create_webhook_endpoint",
    "update_webhook_endpoint",
    "delete_webhook_endpoint",
    "rotate_webhook_secret",
    "send_webhook_test",
    "replay_webhook_delivery",
];

/// What all eleven tools are for, in turn. `place` keeps what it makes apart from what others make.
async fn use_every_tool(app: &TestApp, receiver: &Receiver, client: &mut McpClient, place: &str) {
    let url = receiver.url(&format!("/{place}"));
    let new = json!({
        "project_id": PROJECT, "url": url, "event_types": [EVENT_TYPE], "timeout_ms": null, "idempotency_key": place
    });
    let created = client.get("create_webhook_endpoint", new.clone()).await;
    let id = created["id"].as_str().unwrap();
    let secret = created["signing_secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let again = client.call("create_webhook_endpoint", new).await;
    assert_eq!(
        again.structured["id"], id,
        "the same key makes no second endpoint"
    );
    assert_eq!(again.meta["webhooks.cuitty.com/idempotent-replayed"], true);

    let this = json!({"endpoint_id": id});
    let rest = app.rest();
    let shown = rest.get(&format!("{MANAGE}/endpoints/{id}")).await.json();
    assert_eq!(client.get("get_webhook_endpoint", this.clone()).await, shown);
    let listed = client
        .get(
            "list_webhook_endpoints",
            json!({"project_id": PROJECT, "limit": 1}),
        )
        .await;
    assert_eq!(listed["data"][0]["id"], id, "the newest comes first");

    let change = json!({"endpoint_id": id, "description": "by an agent", "revision": 1});
    let changed = client.get("update_webhook_endpoint", change.clone()).await;
    assert_eq!(
        (&changed["description"], &changed["revision"]),
        (&json!("by an agent"), &json!(2))
    );
    let stale = client.call("update_webhook_endpoint", change).await;
    assert_eq!(stale.refusal().0, "revision_mismatch");

    let sent = client
        .get(
            "send_webhook_test",
            json!({"endpoint_id": id, "event_type": EVENT_TYPE}),
        )
        .await;
    assert_eq!(
        (&sent["status"], &sent["origin"]),
        (&json!("pending"), &json!("test"))
    );
    let delivery = sent["id"].as_str().unwrap();
    app.ended(delivery).await;
    let verified = client
        .get(
            "get_webhook_delivery",
            json!({"delivery_id": delivery, "verify": true}),
        )
        .await;
    let path = format!("{MANAGE}/deliveries/{delivery}?verify=true");
    assert_eq!(verified, rest.get(&path).await.json());
    assert_eq!(verified["attempts"][0]["signature_checks"][0]["valid"], true);

    let replayed = client
        .get("replay_webhook_delivery", json!({"delivery_id": delivery}))
        .await;
    assert_eq!(replayed["replay_of"], delivery);
    app.ended(replayed["id"].as_str().unwrap()).await;
    let arrived = receiver.received(&format!("/{place}"), 2).await;
    assert_eq!(arrived[0].header("webhook-id"), arrived[1].header("webhook-id"));
    let query = json!({"endpoint_id": id, "status": "delivered", "event_type": EVENT_TYPE});
    let delivered = client.get("list_webhook_deliveries", query).await;
    let ids: BTreeSet<_> = delivered["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].clone().to_string())
        .collect();
    assert_eq!(
        ids,
        BTreeSet::from([sent["id"].to_string(), replayed["id"].to_string()])
    );

    let rotated = client
        .get(
            "rotate_webhook_secret",
            json!({"endpoint_id": id, "overlap_seconds": 60}),
        )
        .await;
    assert_ne!(rotated["signing_secret"], secret);
    let types = client
        .get("list_webhook_event_types", json!({"project_id": PROJECT}))
        .await;
    let types_of_rest = rest
        .get(&format!("{MANAGE}/event-types?project_id={PROJECT}"))
        .await
        .json();
    assert_eq!(types, types_of_rest);
    assert_eq!(types["data"][0]["example"], json!({"spent": 101}));

    let deleted = client.get("delete_webhook_endpoint", this.clone()).await;
    assert_eq!(deleted, json!({"id": id, "deleted": true}));
    let gone = client.call("get_webhook_endpoint", this).await;
    assert_eq!(gone.refusal(), ("endpoint_not_found".to_owned(), Vec::new()));
}

/// One wrong call of each tool.
async fn misuse_every_tool(client: &mut McpClient) {
    let invalid = "invalid_fields";
    let wrong = [
        (
            "list_webhook_endpoints",
            json!({"project_id": PROJECT, "limit": 201}),
            invalid,
            vec!["limit"],
        ),
        ("get_webhook_endpoint", json!({}), invalid, vec!["endpoint_id"]),
        (
            "create_webhook_endpoint",
            json!({"project_id": PROJECT, "url": "ftp://example.com", "timeout_ms": 1, "kind": "smtp"}),
            invalid,
            vec!["kind", "timeout_ms", "url"],
        ),
        (
            "update_webhook_endpoint",
            json!({"endpoint_id": "ep_x", "revision": "1", "ordered": "yes", "actve": false}),
            invalid,
            vec!["actve", "endpoint_id", "ordered", "revision"],
        ),
        (
            "delete_webhook_endpoint",
            json!({"endpoint_id": UNKNOWN_ENDPOINT}),
            "endpoint_not_found",
            vec![],
        ),
        (
            "rotate_webhook_secret",
            json!({"endpoint_id": UNKNOWN_ENDPOINT, "overlap_seconds": -1}),
            invalid,
            vec!["overlap_seconds"],
        ),
        (
            "send_webhook_test",
            json!({"endpoint_id": UNKNOWN_ENDPOINT}),
            invalid,
            vec!["event_type"],
        ),
        (
            "list_webhook_deliveries",
            json!({"status": "lost", "since": "yesterday", "limit": 0}),
            invalid,
            vec!["limit", "since", "status"],
        ),
        (
            "get_webhook_delivery",
            json!({"delivery_id": 7}),
            invalid,
            vec!["delivery_id"],
        ),
        (
            "replay_webhook_delivery",
            json!({"delivery_id": UNKNOWN_DELIVERY}),
            "delivery_not_found",
            vec![],
        ),
        (
            "list_webhook_event_types",
            json!({"project_id": "", "limit": 0, "archived": true}),
            invalid,
            vec!["archived", "limit", "project_id"],
        ),
    ];
    assert_eq!(wrong.len(), READS.len() + CHANGES.len());
    for (tool, arguments, code, fields) in wrong {
        let result = client.call(tool, arguments).await;
        let (told, mut at_fault) = result.refusal();
        at_fault.sort_unstable();
        assert_eq!(
            (&*told, at_fault),
            (code, fields.iter().map(ToString::to_string).collect()),
            "{tool}"
        );
        let words = &result.texts[0];
        assert!(
            fields.iter().all(|field| words.contains(field)),
            "{tool}: {words}"
        );
        assert_eq!(result.structured, Value::Null, "{tool}");
    }
}

async fn described_event_type(app: &TestApp) {
    let event_type = json!({"project_id": PROJECT, "name": EVENT_TYPE, "example": {"spent": 101}});
    let made = app
        .rest()
        .post(&format!("{MANAGE}/event-types"), &event_type)
        .await;
    assert_eq!(made.status, 201);
}

/// All that the tools do, right and wrong, for clients of each way to settle on a version.
async fn serves_agents(transport: &str, connect: impl AsyncFn(Mode, &str) -> McpClient) {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    described_event_type(&app).await;
    for (mode, version) in [(Mode::Auto, "2026-07-28"), (Mode::Legacy, "2025-11-25")] {
        let mut client = connect(mode, app.url()).await;
        let place = format!("{transport}-{mode:?}");
        assert_eq!(
            (&client.server["server"], &client.server["version"]),
            (&json!("cuitty-webhooks"), &json!(version)),
            "{place}"
        );
        assert_eq!(client.tools().await.len(), 11, "{place}");
        use_every_tool(&app, &receiver, &mut client, &place).await;
        misuse_every_tool(&mut client).await;
        let unknown = client.try_call("drop_everything", json!({})).await.unwrap_err();
        assert_eq!(unknown.0, -32602, "{place}: {unknown:?}");
        assert!(unknown.1.contains("drop_everything"), "{place}: {unknown:?}");
    }
}

#[tokio::test]
async fn every_tool_does_its_work_and_refuses_what_is_wrong_over_http() {
    serves_agents("http", async |mode, url: &str| {
        McpClient::over_http(mode, url, ADMIN_KEY).await
    })
    .await;
}

#[tokio::test]
async fn every_tool_does_its_work_and_refuses_what_is_wrong_over_stdio() {
    serves_agents("stdio", async |mode, url: &str| {
        McpClient::over_stdio(mode, url, ADMIN_KEY).await
    })
    .await;
}

#[tokio::test]
async fn tools_tell_what_they_take_and_do() {
    let app = TestApp::start().await;
    let mut client = McpClient::over_http(Mode::Auto, app.url(), ADMIN_KEY).await;
    assert!(
        client.server["instructions"]
            .as_str()
            .unwrap()
            .contains("replayed")
    );
    let tools = client.tools().await;
    let names: BTreeSet<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, READS.into_iter().chain(CHANGES).collect());

    for tool in &tools {
        let name = tool["name"].as_str().unwrap();
        let hint = |hint: &str| tool["annotations"][hint].as_bool().unwrap();
        assert_eq!(hint("readOnlyHint"), READS.contains(&name), "{name}");
        let replaces = [
            "update_webhook_endpoint",
            "delete_webhook_endpoint",
            "rotate_webhook_secret",
        ];
        assert_eq!(hint("destructiveHint"), replaces.contains(&name), "{name}");
        let once = READS.contains(&name) || replaces[..2].contains(&name);
        assert_eq!(hint("idempotentHint"), once, "{name}");
        let sends = ["send_webhook_test", "replay_webhook_delivery"].contains(&name);
        assert_eq!(hint("openWorldHint"), sends, "{name}");
        let scope = if READS.contains(&name) {
            "Scope: read."
        } else {
            "Scope: manage."
        };
        assert!(tool["description"].as_str().unwrap().ends_with(scope), "{name}");
        assert_eq!(
            tool["inputSchema"]["properties"].get("idempotency_key").is_some(),
            !READS.contains(&name),
            "{name}"
        );
        assert_eq!(tool["outputSchema"]["type"], "object", "{name}");

        // What a schema names is understood.
        let properties = tool["inputSchema"]["properties"].as_object().unwrap();
        let nothing: serde_json::Map<_, _> =
            properties.keys().map(|key| (key.clone(), Value::Null)).collect();
        let result = client.call(name, nothing.into()).await;
        assert!(
            !result.texts[0].contains("is not known"),
            "{name}: {:?}",
            result.texts
        );
    }
}

#[tokio::test]
async fn keys_allow_over_mcp_what_they_allow_elsewhere() {
    let app = TestApp::start().await;
    let endpoint = app
        .create_endpoint_at("http://127.0.0.1:9/hook".into())
        .await
        .endpoint
        .unwrap();
    let this = json!({"endpoint_id": endpoint.id});
    let url = json!({"url": "http://127.0.0.1:9/other"});

    let read = app.create_key(PROJECT, &["read"]).await.secret;
    let mut client = McpClient::over_http(Mode::Auto, app.url(), &read).await;
    let listed = client.get("list_webhook_endpoints", json!({})).await;
    assert_eq!(listed["data"][0]["id"], endpoint.id, "the key tells the project");
    assert_eq!(
        client.get("get_webhook_endpoint", this.clone()).await["id"],
        endpoint.id
    );
    let delivery = json!({"delivery_id": UNKNOWN_DELIVERY});
    let test = json!({"endpoint_id": endpoint.id, "event_type": "a.b"});
    for (tool, arguments) in CHANGES
        .into_iter()
        .zip([&url, &this, &this, &this, &test, &delivery])
    {
        let result = client.call(tool, arguments.clone()).await;
        assert_eq!(result.refusal().0, "missing_scope", "{tool}");
        assert!(
            result.texts[0].contains("`manage`"),
            "{tool}: {}",
            result.texts[0]
        );
    }

    let deliver = app.create_key(PROJECT, &["deliver"]).await.secret;
    let mut client = McpClient::over_http(Mode::Auto, app.url(), &deliver).await;
    for (tool, arguments) in READS
        .into_iter()
        .zip([&json!({}), &this, &json!({}), &delivery, &json!({})])
    {
        let result = client.call(tool, arguments.clone()).await;
        assert_eq!(result.refusal().0, "missing_scope", "{tool}");
    }

    let other = app.create_key("other", &["read", "manage"]).await.secret;
    let mut client = McpClient::over_http(Mode::Auto, app.url(), &other).await;
    for tool in [
        "get_webhook_endpoint",
        "update_webhook_endpoint",
        "delete_webhook_endpoint",
        "rotate_webhook_secret",
    ] {
        let result = client.call(tool, this.clone()).await;
        assert_eq!(result.refusal().0, "endpoint_not_found", "{tool}");
    }
    let shown = app
        .rest()
        .get(&format!("{MANAGE}/endpoints/{}", endpoint.id))
        .await
        .json();
    assert_eq!(shown["revision"], 1, "nobody has changed it");
}
