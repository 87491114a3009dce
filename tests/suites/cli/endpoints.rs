//! `endpoints`.

use harness::app::{PROJECT, TestApp};
use harness::cli::rows;
use harness::receiver::Receiver;
use serde_json::{Value, json};

use super::cli;

#[tokio::test]
async fn endpoints_are_created_changed_shown_and_deleted() {
    let app = TestApp::start().await;
    let url = "http://127.0.0.1:9/hooks";
    let create = [
        "endpoints",
        "create",
        url,
        "--project",
        PROJECT,
        "--event-types",
        "order.*,budget.exceeded",
        "--header",
        "X-Team: core",
        "--timeout-ms",
        "2000",
        "--retry-schedule",
        "1,2",
        "--ordered",
        "--json",
    ];
    let created = cli(&app, &create).json();
    assert_eq!(created["event_types"], json!(["order.*", "budget.exceeded"]));
    assert_eq!(created["headers"], json!({"x-team": "core"}));
    assert_eq!(
        (
            &created["timeout_ms"],
            &created["retry_schedule_seconds"],
            &created["ordered"]
        ),
        (&json!(2000), &json!([1, 2]), &json!(true))
    );
    assert!(created["signing_secret"].as_str().unwrap().starts_with("whsec_"));
    let id = created["id"].as_str().unwrap();

    let change = [
        "--description",
        "billing",
        "--event-types",
        "",
        "--ordered=false",
        "--disable",
    ];
    let updated = cli(
        &app,
        &[&["endpoints", "update", id, "--json"], &change[..]].concat(),
    )
    .json();
    assert_eq!(
        (&updated["event_types"], &updated["active"]),
        (&json!([]), &json!(false))
    );
    assert_eq!(
        (&updated["url"], &updated["timeout_ms"]),
        (&json!(url), &json!(2000))
    );
    let table = cli(&app, &["endpoints", "list", "--project", PROJECT]).ok();
    assert_eq!(
        rows(&table),
        [
            vec!["ID", "URL", "EVENT TYPES", "STATE", "DESCRIPTION"],
            vec![id, url, "*", "disabled: manual", "billing"],
        ]
    );
    cli(
        &app,
        &[
            "endpoints",
            "update",
            id,
            "--enable",
            "--to",
            "http://127.0.0.1:9/new",
        ],
    )
    .ok();
    let shown = cli(&app, &["endpoints", "get", id]).ok();
    let value = |field: &str| {
        let shown = rows(&shown);
        let row = shown.iter().find(|row| row[0] == field);
        row.and_then(|row| row.get(1)).map(|&value| value.to_owned())
    };
    assert_eq!(value("url").as_deref(), Some("http://127.0.0.1:9/new"));
    assert_eq!(
        (value("active").as_deref(), value("disabled_reason")),
        (Some("true"), None)
    );
    assert_eq!(value("headers.x-team").as_deref(), Some("core"));

    let deleted = cli(&app, &["endpoints", "delete", id]);
    assert_eq!((deleted.code, &*deleted.out), (Some(0), ""));
    let gone = cli(&app, &["endpoints", "get", id]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.err.contains("was not found"), "{gone:?}");
}

#[tokio::test]
async fn secrets_are_rotated_made_or_imported() {
    let app = TestApp::start().await;
    let created = app.create_endpoint_at("http://127.0.0.1:9/hooks".into()).await;
    let id = created.endpoint.unwrap().id;
    let rotate = |more: &[&str]| {
        let rotated = cli(
            &app,
            &[&["endpoints", "rotate-secret", &id, "--json"], more].concat(),
        );
        rotated.json()
    };
    let asymmetric = rotate(&["--scheme", "ed25519", "--overlap", "60"]);
    assert!(asymmetric["public_key"].as_str().unwrap().starts_with("whpk_"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let imported = rotate(&["--secret-file", file.to_str().unwrap()]);
    assert_eq!(
        (&imported["signing_secret"], &imported["public_key"]),
        (&json!(secret), &Value::Null)
    );
    let shown = cli(&app, &["endpoints", "get", &id, "--json"]).json();
    assert_eq!(shown["secrets"].as_array().unwrap().len(), 3);
    assert_eq!(shown["signature_scheme"], "hmac-sha256");
}

#[tokio::test]
async fn a_test_event_arrives() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hooks")).await;
    let id = created.endpoint.unwrap().id;
    let sent = cli(
        &app,
        &["endpoints", "test", &id, "--event-type", "order.paid", "--json"],
    )
    .json();
    assert_eq!(
        (&sent["origin"], &sent["status"]),
        (&json!("test"), &json!("pending"))
    );
    let requests = receiver.received("/hooks", 1).await;
    assert_eq!(
        requests[0].header("x-cuitty-delivery-id"),
        sent["id"].as_str().unwrap()
    );
}
