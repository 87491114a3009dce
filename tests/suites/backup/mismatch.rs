//! A history that does not belong to its log.

use harness::app::TestApp;
use harness::eventually::eventually;
use harness::receiver::Receiver;
use harness::roles::{RoleProcess, command};
use serde_json::json;

use super::{empty_place, succeeds};

#[tokio::test]
async fn a_history_that_is_younger_than_the_restored_log_is_refused_until_it_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (app, receiver) = (TestApp::start().await, Receiver::start());
    app.create_endpoint_at(receiver.url("/hook")).await;
    let send = async |app: &TestApp, what: &str| {
        let accepted = app.deliver("order.paid", &json!({ "sent": what })).await;
        app.ended(&accepted.deliveries[0].id).await;
        accepted.deliveries[0].id.clone()
    };
    let kept = send(&app, "before").await;
    succeeds("backup", &dir.path().join("early"), &app.settings).await;
    let lost = send(&app, "after").await;
    succeeds("backup", &dir.path().join("late"), &app.settings).await;
    drop(app);

    // The history of the later backup with the log of the earlier one.
    let (nats, settings, history_url) = empty_place(dir.path()).await;
    succeeds("restore", &dir.path().join("early"), &settings).await;
    let path = dir.path().join("restored.db");
    std::fs::copy(dir.path().join("late/history.db"), path).unwrap();
    let projector = RoleProcess::spawn("projector", &settings);
    eventually("the projector says what is wrong", || async {
        let said = projector.output();
        let is_told = said.contains("the history is ahead of the log") && said.contains("projection rebuild");
        if is_told { Ok(()) } else { Err(said) }
    })
    .await;
    drop(projector);

    // The log has gone on, so that its sequences alone tell nothing.
    let app = TestApp::builder()
        .processes(["api,dispatcher"])
        .history_at(&history_url)
        .start_on(nats)
        .await;
    for number in 0..3 {
        app.deliver("order.paid", &json!({ "number": number })).await;
    }
    receiver.received("/hook", 5).await;
    let projector = RoleProcess::spawn("projector", &settings);
    eventually("the projector says what is wrong", || async {
        let said = projector.output();
        let is_told = said.contains("was not requested there in the log") && said.contains(&lost);
        if is_told { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(
        projector.metric("webhooks_projected_events_total").await as u64,
        0
    );
    let rebuilt = command(&["projection", "rebuild"], &settings);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let verified = command(&["projection", "verify"], &settings);
    assert!(verified.status.success(), "{verified:?}");
    app.ended(&kept).await;
    projector.ready().await;
}
