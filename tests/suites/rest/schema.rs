//! The document keeps its word: schemathesis calls every route as the document says and as it does not, and finds no answer
//! that the document does not tell of.

use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::app::{PROJECT, TestApp};
use harness::process::Process;
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::{Value, json};

use super::DELIVER;
use super::endpoints::create;

/// Fewest calls that are to be made.
const CALLS: u64 = 5_000;
/// Fewest calls that are to be answered with what was asked for: a document that is never followed shows little.
const ACCEPTED: u64 = 1_000;
/// How long they may take. They take two to three minutes where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(15);

#[tokio::test]
async fn no_generated_call_is_answered_but_as_the_document_says() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    // Something to find.
    create(&app, json!({"url": receiver.url("/hook")})).await;
    let event = json!({"project_id": PROJECT, "event_type": "a.b", "payload": {}});
    assert_eq!(app.rest().post(DELIVER, &event).await.status, 202);

    let dir = tempfile::tempdir().expect("make a directory");
    let (report, output) = (dir.path().join("report.json"), dir.path().join("output.log"));
    let mut command = Command::new("python3");
    command
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()"])
        .arg("--config-file")
        .arg(harness::workspace().join("tests/suites/rest/schemathesis.toml"))
        .args(["run", &format!("{}/api/openapi.json", app.url())])
        .args(["--report", "json", "--report-json-path"])
        .arg(&report)
        .env("PYTHONPATH", harness::workspace().join(".tools/python"))
        .env("CUITTY_WEBHOOKS_API_KEY", ADMIN_KEY)
        .current_dir(dir.path());
    let mut schemathesis = Process::spawn("schemathesis", command, &output);
    let status = schemathesis.wait(PATIENCE).await;
    let said = fs::read_to_string(output).expect("its output");
    assert!(status.success(), "{said}\n`make setup` installs what is needed");

    let report: Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    let operations = &report["operations"];
    assert_eq!(operations["tested"], operations["total"], "{said}");
    let made = report["test_cases"]["generated"].as_u64().unwrap_or_default();
    assert!(made >= CALLS, "{made} calls: {said}");
    let phases = report["valid_rates"].as_object().into_iter().flatten();
    let counts = phases.flat_map(|(_, phases)| phases.as_object().into_iter().flatten());
    let accepted = counts.filter_map(|(_, count)| count["accepted"].as_u64());
    let accepted: u64 = accepted.sum();
    assert!(accepted >= ACCEPTED, "{accepted} calls were accepted: {said}");
    assert_eq!(
        app.rest().get("/api/webhooks/status").await.json()["status"],
        "ok"
    );
}
