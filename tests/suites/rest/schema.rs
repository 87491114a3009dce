//! The document keeps its word: schemathesis calls every route as the document says and as it does not, and finds no answer
//! that the document does not tell of.

use std::process::Command;

use harness::app::{PROJECT, TestApp};
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::{Value, json};

use super::DELIVER;
use super::endpoints::create;

/// Fewest calls that are to be made.
const CALLS: u64 = 5_000;

#[tokio::test]
async fn no_generated_call_is_answered_but_as_the_document_says() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    // Something to find.
    create(&app, json!({"url": receiver.url("/hook")})).await;
    let event = json!({"project_id": PROJECT, "event_type": "a.b", "payload": {}});
    assert_eq!(app.rest().post(DELIVER, &event).await.status, 202);

    let dir = tempfile::tempdir().expect("make a directory");
    let report = dir.path().join("report.json");
    let config = harness::workspace().join("tests/suites/rest/schemathesis.toml");
    let mut command = Command::new("python3");
    command
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()"])
        .arg("--config-file")
        .arg(config)
        .args(["run", &format!("{}/api/openapi.json", app.url())])
        .args(["--report", "json", "--report-json-path"])
        .arg(&report)
        .env("PYTHONPATH", harness::workspace().join(".tools/python"))
        .env("CUITTY_WEBHOOKS_API_KEY", ADMIN_KEY)
        .current_dir(dir.path());
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran.await.expect("a thread").expect("run python3");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{said}\n{}\n`make setup` installs what is needed",
        String::from_utf8_lossy(&ran.stderr)
    );
    let report: Value = serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    let made = report["test_cases"]["generated"].as_u64().unwrap_or_default();
    assert!(made >= CALLS, "{made} calls: {said}");
    assert_eq!(
        app.rest().get("/api/webhooks/status").await.json()["status"],
        "ok"
    );
}
