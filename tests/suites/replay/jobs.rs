//! Replays as jobs: how many there may be, and what a restart does to them.

use std::collections::BTreeSet;

use cuitty_webhooks_domain::delivery::{DeliveryEvent, Origin};
use cuitty_webhooks_log::EventBody;
use cuitty_webhooks_proto::v1::{DeliveryStatus, StartReplayRequest};
use harness::app::{TestApp, summary};
use harness::eventually::{eventually, is};
use harness::grpc::refused;
use harness::log::stored;
use harness::receiver::{Receiver, Reply};
use serde_json::json;

use super::{endpoint, get, start};

/// `count` deliveries to a new endpoint at `/hook` that failed because it was disabled. It is active again.
async fn failed_while_disabled(app: &TestApp, receiver: &Receiver, count: usize) {
    let hook = endpoint(app, receiver, "/hook", &[]).await;
    app.set_active(&hook.id, false).await;
    let mut accepted = Vec::new();
    for number in 0..count {
        accepted.push(app.deliver("order.paid", &json!({ "number": number })).await);
    }
    for accepted in accepted {
        let ended = app.ended(&accepted.deliveries[0].id).await;
        assert_eq!(summary(&ended).status(), DeliveryStatus::Failed);
    }
    app.set_active(&hook.id, true).await;
}

#[tokio::test]
async fn a_project_has_at_most_a_hundred_replays_running() {
    let app = TestApp::builder()
        .set("projector.replay.max_outstanding", 1)
        .start()
        .await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::hang()]);
    // The second one of each replay waits for the first one to end.
    failed_while_disabled(&app, &receiver, 2).await;
    for _ in 0..100 {
        start(&app, StartReplayRequest::default()).await.unwrap();
    }
    let one_more = start(&app, StartReplayRequest::default()).await;
    assert_eq!(refused(one_more).reason, "PROJECT_CONFLICT");
    let dry_run = StartReplayRequest {
        dry_run: true,
        ..Default::default()
    };
    assert_eq!(start(&app, dry_run).await.unwrap().total, 2);
}

#[tokio::test]
async fn a_replay_taken_up_again_after_the_duplicate_window_sends_nothing_twice() {
    const FAILED: usize = 40;
    /// In the middle of the second page.
    const SENT: usize = 24;
    let mut app = TestApp::builder()
        .processes(["api,dispatcher", "projector"])
        .set("log.duplicate_window", "1s")
        .start()
        .await;
    let receiver = Receiver::start();
    failed_while_disabled(&app, &receiver, FAILED).await;
    let request = StartReplayRequest {
        rate_per_second: 16,
        ..Default::default()
    };
    let started = start(&app, request).await.unwrap();
    eventually("a part is sent", || async {
        let count = receiver.count("/hook");
        if count >= SENT { Ok(()) } else { Err(count) }
    })
    .await;
    app.roles[1].kill9();
    assert!(receiver.count("/hook") < FAILED);
    app.roles[1].start_again();

    let ended = eventually("the replay ends", || async {
        let replay = get(&app, &started.id)
            .await
            .map_err(|status| status.to_string())?;
        is(replay.state.clone(), "done".to_owned()).map(|_| replay)
    })
    .await;
    assert_eq!((ended.total, ended.replayed, ended.skipped), (40, 40, 0));
    receiver.received("/hook", FAILED).await;
    let ids = receiver.ids("/hook");
    assert_eq!(ids.len(), FAILED);
    // A dispatcher may notice that a request is stored twice; here none is.
    let mut requested = BTreeSet::new();
    for event in stored(&app.nats.url()).await {
        if let EventBody::Event(DeliveryEvent::Requested(request)) = event.body
            && request.origin == Origin::Replay
        {
            let id = request.delivery.delivery_id;
            assert!(requested.insert(id), "{id} is requested twice");
        }
    }
    assert_eq!(requested.len(), FAILED);
}
