//! The two pages that REST comes from, line by line with curl, as a user of theirs would call it.

use std::process::Command;

use harness::app::{PROJECT, TestApp};
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::json;

#[tokio::test]
async fn the_calls_of_both_pages_are_answered_as_they_say() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    // The page lists event types and does not tell how one is made.
    let event_type = json!({
        "project_id": PROJECT,
        "name": "budget.threshold_reached",
        "description": "A budget has reached its threshold",
    });
    let types = "/manage/v1/webhooks/event-types";
    assert_eq!(app.rest().post(types, &event_type).await.status, 201);
    let mut command = Command::new("bash");
    command
        .arg(harness::workspace().join("tests/suites/rest/pages.sh"))
        .envs([("URL", app.url()), ("KEY", ADMIN_KEY), ("PROJECT", PROJECT)])
        .env("RECEIVER", receiver.url("/hook"));
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran.await.expect("a thread").expect("run bash");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    // A line for each route of the pages.
    assert_eq!(said.lines().count(), 17, "{said}");
    // The event, the test event and the replay.
    assert_eq!(receiver.requests("/hook").len(), 3);
}
