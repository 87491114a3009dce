//! Sending again: one delivery, or all that a filter selects.

mod jobs;

use std::collections::{BTreeMap, BTreeSet};

use cuitty_webhooks_proto::v1::{
    CancelReplayRequest, CreateEndpointRequest, DeleteEndpointRequest, Delivery, DeliveryStatus, Endpoint,
    GetReplayRequest, Replay, ReplayDeliveryRequest, StartReplayRequest,
};
use harness::app::{PROJECT, TestApp, event, summary};
use harness::eventually::{eventually, is};
use harness::grpc::refused;
use harness::receiver::{Receiver, Reply};
use serde_json::json;
use tonic::{Code, Status};

/// An endpoint that takes `types` and is not retried.
async fn endpoint(app: &TestApp, receiver: &Receiver, path: &str, types: &[&str]) -> Endpoint {
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        event_types: types.iter().map(|&name| name.into()).collect(),
        retry_schedule_seconds: vec![1],
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap()
}

/// Delivers an event that the endpoint refuses for good, and waits for the end; the delivery.
async fn failed(app: &TestApp, event_type: &str) -> Delivery {
    let accepted = app.deliver(event_type, &json!({ "of": event_type })).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(summary(&detail).status(), DeliveryStatus::Failed);
    summary(&detail).clone()
}

fn refusing() -> [Reply; 1] {
    [Reply::status(400).header("webhook-delivery", "abort-message")]
}

async fn replay_one(app: &TestApp, id: &str, key: &str) -> Result<Delivery, Status> {
    let request = ReplayDeliveryRequest {
        delivery_id: id.into(),
        idempotency_key: key.into(),
    };
    Ok(app.deliveries().replay_delivery(request).await?.into_inner())
}

async fn start(app: &TestApp, request: StartReplayRequest) -> Result<Replay, Status> {
    let request = StartReplayRequest {
        project_id: PROJECT.into(),
        ..request
    };
    Ok(app.deliveries().start_replay(request).await?.into_inner())
}

async fn get(app: &TestApp, id: &str) -> Result<Replay, Status> {
    let replay_id = id.into();
    let replay = app
        .deliveries()
        .get_replay(GetReplayRequest { replay_id })
        .await?;
    Ok(replay.into_inner())
}

/// Starts a replay and waits for its end: how many it selected, replayed, skipped.
async fn run(app: &TestApp, request: StartReplayRequest) -> (u64, u64, u64) {
    let dry = StartReplayRequest {
        dry_run: true,
        ..request.clone()
    };
    let counted = start(app, dry).await.unwrap();
    assert_eq!((&*counted.state, &*counted.id), ("dry_run", ""));
    let started = start(app, request).await.unwrap();
    assert_eq!((&*started.state, started.total), ("running", counted.total));
    let ended = eventually("the replay ends", || async {
        let replay = get(app, &started.id).await.map_err(|status| status.to_string())?;
        is(replay.state.clone(), "done".to_owned()).map(|_| replay)
    })
    .await;
    assert!(ended.ended_at.is_some() && ended.reason.is_empty());
    (ended.total, ended.replayed, ended.skipped)
}

async fn delete(app: &TestApp, endpoint: &Endpoint) {
    let request = DeleteEndpointRequest {
        endpoint_id: endpoint.id.clone(),
    };
    app.endpoints().delete_endpoint(request).await.unwrap();
}

#[tokio::test]
async fn a_replayed_delivery_is_a_new_one_of_the_same_message() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script(
        "/hook",
        [
            Reply::status(400).header("webhook-delivery", "abort-message"),
            Reply::status(200),
        ],
    );
    endpoint(&app, &receiver, "/hook", &[]).await;
    let payload = "{ \"kept\" :  \"byte for byte\" }\n";
    let accepted = app
        .messages()
        .deliver(event("order.paid", payload))
        .await
        .unwrap()
        .into_inner();
    let original = app.ended(&accepted.deliveries[0].id).await;
    let original = summary(&original).clone();
    assert_eq!(original.failure_reason, "aborted");

    let replayed = replay_one(&app, &original.id, "").await.unwrap();

    assert_ne!(replayed.id, original.id);
    assert_eq!(replayed.status(), DeliveryStatus::Pending);
    let ended = app.ended(&replayed.id).await;
    let after = summary(&ended);
    assert_eq!(after.status(), DeliveryStatus::Delivered);
    assert_eq!((&*after.origin, &*after.replay_of), ("replay", &*original.id));
    assert_eq!(after.message_id, original.message_id);
    assert_eq!(
        (&ended.payload[..], &*ended.content_type),
        (payload.as_bytes(), "application/json")
    );
    let requests = receiver.received("/hook", 2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[1].body, payload.as_bytes());
    assert_eq!(requests[0].body, requests[1].body);
    // What was delivered can be sent again too, and so can a replay.
    let again = replay_one(&app, &replayed.id, "").await.unwrap();
    assert_eq!(again.replay_of, replayed.id);
    receiver.received("/hook", 3).await;
}

#[tokio::test]
async fn a_replay_repeated_under_its_key_is_the_same_one() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", refusing());
    endpoint(&app, &receiver, "/hook", &[]).await;
    let (first, other) = (failed(&app, "a").await, failed(&app, "b").await);

    let replayed = replay_one(&app, &first.id, "key").await.unwrap();
    assert_eq!(replay_one(&app, &first.id, "key").await.unwrap(), replayed);
    let refusal = refused(replay_one(&app, &other.id, "key").await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    app.ended(&replayed.id).await;
    assert_eq!(receiver.count("/hook"), 3);
}

#[tokio::test]
async fn what_cannot_be_delivered_is_not_replayed() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", refusing());
    receiver.script("/hangs", [Reply::hang()]);
    let taken = endpoint(&app, &receiver, "/hook", &["failing"]).await;
    endpoint(&app, &receiver, "/hangs", &["hanging"]).await;
    let delivery = failed(&app, "failing").await;
    let pending = app.deliver("hanging", &json!({})).await.deliveries[0].id.clone();
    app.delivery(&pending).await;

    let refusal = refused(replay_one(&app, &pending, "").await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::Aborted, "DELIVERY_CONFLICT")
    );
    app.set_active(&taken.id, false).await;
    let status = replay_one(&app, &delivery.id, "").await.unwrap_err();
    assert_eq!(refused::<()>(Err(status.clone())).reason, "ENDPOINT_CONFLICT");
    assert!(status.message().contains("is disabled"), "{status}");
    delete(&app, &taken).await;
    let status = replay_one(&app, &delivery.id, "").await.unwrap_err();
    assert_eq!(refused::<()>(Err(status.clone())).reason, "ENDPOINT_CONFLICT");
    assert!(status.message().contains("is deleted"), "{status}");
    let unknown = format!("dlv_{:026}", 1);
    assert_eq!(refused(replay_one(&app, &unknown, "").await).code, Code::NotFound);
}

#[tokio::test]
async fn a_bulk_replay_sends_what_its_filter_selects() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    for path in ["/a", "/b"] {
        receiver.script(path, refusing());
    }
    let a = endpoint(&app, &receiver, "/a", &["budget.*", "ok"]).await;
    let b = endpoint(&app, &receiver, "/b", &["key.*"]).await;
    let mut failures = BTreeMap::new();
    for event_type in ["budget.exceeded", "budget.reached", "key.revoked"] {
        failures.insert(event_type, failed(&app, event_type).await);
    }
    for path in ["/a", "/b"] {
        receiver.script(path, [Reply::status(200)]);
    }
    let delivered = app.deliver("ok", &json!({})).await;
    app.ended(&delivered.deliveries[0].id).await;
    let since = failures["budget.reached"].created_at;
    let request = StartReplayRequest::default;
    let mut sent = receiver.count("/a") + receiver.count("/b");
    for (name, request, expected) in [
        (
            "endpoint",
            StartReplayRequest {
                endpoint_id: b.id.clone(),
                ..request()
            },
            1,
        ),
        (
            "type",
            StartReplayRequest {
                event_type: "budget.exceeded".into(),
                ..request()
            },
            1,
        ),
        (
            "pattern",
            StartReplayRequest {
                event_type: "budget.*".into(),
                ..request()
            },
            2,
        ),
        ("since", StartReplayRequest { since, ..request() }, 2),
        (
            "until",
            StartReplayRequest {
                until: since,
                ..request()
            },
            1,
        ),
        (
            "reason",
            StartReplayRequest {
                failure_reasons: vec!["aborted".into()],
                ..request()
            },
            3,
        ),
        (
            "other reason",
            StartReplayRequest {
                failure_reasons: vec!["gone".into()],
                ..request()
            },
            0,
        ),
        ("failed", request(), 3),
        // The one that was not replayed, and every replay before.
        (
            "delivered",
            StartReplayRequest {
                status: DeliveryStatus::Delivered.into(),
                event_type: "ok".into(),
                ..request()
            },
            1,
        ),
    ] {
        assert_eq!(run(&app, request).await, (expected, expected, 0), "{name}");
        sent += expected as usize;
        eventually(name, || async {
            is(receiver.count("/a") + receiver.count("/b"), sent)
        })
        .await;
    }
    // Each time under the message's id.
    let ids: BTreeSet<_> = receiver.ids("/b").into_keys().collect();
    assert_eq!(ids, BTreeSet::from([failures["key.revoked"].message_id.clone()]));

    delete(&app, &b).await;
    app.set_active(&a.id, false).await;
    assert_eq!(run(&app, request()).await, (3, 0, 3), "nobody takes them now");
}

#[tokio::test]
async fn what_failed_since_the_endpoint_was_disabled_is_sent_when_it_is_back() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", refusing());
    let hook = endpoint(&app, &receiver, "/hook", &[]).await;
    let never = StartReplayRequest {
        endpoint_id: hook.id.clone(),
        since_disabled: true,
        ..Default::default()
    };
    assert_eq!(
        refused(start(&app, never.clone()).await).field_names(),
        ["since_disabled"]
    );
    failed(&app, "before").await;
    app.set_active(&hook.id, false).await;
    assert_eq!(
        failed(&app, "first.time").await.failure_reason,
        "endpoint_disabled"
    );
    app.set_active(&hook.id, true).await;
    app.set_active(&hook.id, false).await;
    let wanted = [failed(&app, "one").await, failed(&app, "two").await];
    app.set_active(&hook.id, true).await;
    receiver.script("/hook", [Reply::status(200)]);

    assert_eq!(run(&app, never).await, (2, 2, 0));
    let requests = receiver.received("/hook", 3).await;
    let arrived: BTreeSet<_> = requests[1..]
        .iter()
        .map(|request| request.header("webhook-id"))
        .collect();
    assert_eq!(
        arrived,
        wanted.iter().map(|delivery| &*delivery.message_id).collect()
    );
}

#[tokio::test]
async fn messages_that_nobody_took_go_to_those_who_take_them_now() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    // Makes the project known.
    endpoint(&app, &receiver, "/other", &["other"]).await;
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let accepted = app.deliver("budget.exceeded", &json!({ "limit": 100 })).await;
        assert_eq!(accepted.deliveries, []);
        ids.insert(accepted.message_id);
    }
    app.deliver("never.heard", &json!({})).await;
    let only = endpoint(&app, &receiver, "/a", &["budget.*"]).await;
    endpoint(&app, &receiver, "/b", &["budget.exceeded"]).await;
    let unmatched = StartReplayRequest {
        include_unmatched: true,
        ..Default::default()
    };

    assert_eq!(
        run(&app, StartReplayRequest::default()).await,
        (0, 0, 0),
        "not asked for"
    );
    assert_eq!(run(&app, unmatched.clone()).await, (3, 2, 1));
    for path in ["/a", "/b"] {
        let requests = receiver.received(path, 2).await;
        let arrived: BTreeSet<_> = requests
            .iter()
            .map(|request| request.header("webhook-id").to_owned())
            .collect();
        assert_eq!(arrived, ids);
        assert_eq!(&requests[0].body[..], br#"{"limit":100}"#);
    }
    let to_one = StartReplayRequest {
        endpoint_id: only.id,
        ..unmatched
    };
    assert_eq!(run(&app, to_one).await, (3, 2, 1));
    receiver.received("/a", 4).await;
    assert_eq!(receiver.count("/b"), 2);
}

#[tokio::test]
async fn a_replay_keeps_its_rate_and_stops_when_it_is_cancelled() {
    /// Too few for the endpoint to be left alone.
    const FAILED: u64 = 8;
    let app = TestApp::builder()
        .set("projector.replay.max_outstanding", 3)
        .start()
        .await;
    let receiver = Receiver::start();
    receiver.script("/hook", refusing());
    endpoint(&app, &receiver, "/hook", &[]).await;
    for number in 0..FAILED {
        failed(&app, &format!("n{number}")).await;
    }
    receiver.script("/hook", [Reply::hang()]);
    let before = receiver.count("/hook");
    let request = StartReplayRequest {
        rate_per_second: 1000,
        idempotency_key: "once".into(),
        ..Default::default()
    };
    let started = start(&app, request.clone()).await.unwrap();
    assert_eq!(started.total, FAILED);
    assert_eq!(start(&app, request.clone()).await.unwrap().id, started.id);
    let other = StartReplayRequest {
        rate_per_second: 999,
        ..request
    };
    assert_eq!(refused(start(&app, other).await).reason, "IDEMPOTENCY_KEY_REUSED");

    // None of them ends, so no more than these are under way.
    eventually("three are under way", || async {
        is(receiver.count("/hook"), before + 3)
    })
    .await;
    let replay_id = started.id.clone();
    let mut client = app.deliveries();
    let cancelled = client
        .cancel_replay(CancelReplayRequest { replay_id })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(cancelled.state, "cancelled");
    let counted = eventually("what was sent is counted", || async {
        let replay = get(&app, &started.id)
            .await
            .map_err(|status| status.to_string())?;
        is(replay.replayed, 3).map(|_| replay)
    })
    .await;
    assert_eq!(
        (&*counted.state, counted.total, counted.skipped),
        ("cancelled", FAILED, 0)
    );
    let again = CancelReplayRequest {
        replay_id: started.id,
    };
    let again = client.cancel_replay(again).await.unwrap().into_inner();
    assert_eq!(
        (again.state, again.ended_at),
        ("cancelled".into(), cancelled.ended_at)
    );
    assert_eq!(receiver.count("/hook"), before + 3);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    endpoint(&app, &receiver, "/hook", &[]).await;
    let request = StartReplayRequest::default;
    for (request, fields) in [
        (
            StartReplayRequest {
                status: DeliveryStatus::Pending.into(),
                ..request()
            },
            &["status"][..],
        ),
        (
            StartReplayRequest {
                rate_per_second: 10_001,
                ..request()
            },
            &["rate_per_second"],
        ),
        (
            StartReplayRequest {
                since_disabled: true,
                ..request()
            },
            &["since_disabled"],
        ),
        (
            StartReplayRequest {
                event_type: "a b".into(),
                ..request()
            },
            &["event_type"],
        ),
    ] {
        assert_eq!(refused(start(&app, request).await).field_names(), fields);
    }
    let unknown = format!("rpl_{:026}", 1);
    let refusal = refused(get(&app, &unknown).await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::NotFound, "REPLAY_NOT_FOUND")
    );
    let other = StartReplayRequest {
        project_id: "nobody".into(),
        ..request()
    };
    let refusal = refused(app.deliveries().start_replay(other).await);
    assert_eq!(refusal.reason, "PROJECT_NOT_FOUND");
}
