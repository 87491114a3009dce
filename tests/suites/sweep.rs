//! Deliveries that the log has forgotten are found by the history, and made due again.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, DeliveryRef, Origin, Requested};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_log::{HealthState, LaneHealth, LaneRecord, Lanes, Log, LogConfig};
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliveryStatus};
use futures_util::StreamExt;
use harness::app::{PROJECT, TestApp, summary};
use harness::books::Books;
use harness::eventually::{PATIENCE, eventually, is};
use harness::local::CLOCK;
use harness::receiver::{Receiver, Reply};
use harness::roles::RoleProcess;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// When a retry counts as lost.
const SWEEP_AFTER: TimeDelta = TimeDelta::seconds(1);
const SWEPT: &str = "webhooks_swept_deliveries_total";

/// An installation whose second process is the projector.
async fn app(other: &str) -> TestApp {
    TestApp::builder()
        .processes([other, "projector"])
        .set("log.partitions", 1)
        .set("projector.sweep_interval", "500ms")
        .set("projector.sweep_after", "1s")
        .start()
        .await
}

/// The log's stream, as somebody else gets at it.
async fn stream(app: &TestApp) -> Stream {
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    async_nats::jetstream::new(client)
        .get_stream("WEBHOOKS")
        .await
        .unwrap()
}

fn time(timestamp: Option<prost_types::Timestamp>) -> DateTime<Utc> {
    let timestamp = timestamp.expect("a time");
    DateTime::from_timestamp(timestamp.seconds, timestamp.nanos as u32).expect("in range")
}

/// When the delivery's retry is due, once the history says that there is to be one.
async fn next_attempt_at(app: &TestApp, id: &str) -> DateTime<Utc> {
    eventually(&format!("{id} waits for its retry"), || async {
        let detail = app.delivery(id).await;
        summary(&detail).next_attempt_at.map(Some).ok_or(detail)
    })
    .await
    .map(|timestamp| time(Some(timestamp)))
    .expect("a time")
}

#[tokio::test]
async fn retries_whose_timers_are_lost_are_made_all_the_same() {
    let app = app("api,dispatcher").await;
    let receiver = Receiver::start();
    let mut deliveries = Vec::new();
    // The ordered one's retry is due first.
    for (path, ordered, delay) in [
        ("/ordered", true, 1),
        ("/a", false, 4),
        ("/b", false, 4),
        ("/c", false, 4),
    ] {
        receiver.script(path, [Reply::status(500), Reply::status(200)]);
        let request = CreateEndpointRequest {
            url: receiver.url(path),
            ordered,
            retry_schedule_seconds: vec![delay],
            event_types: vec![format!("sent.to_{}", &path[1..])],
            ..Default::default()
        };
        let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
        let accepted = app.deliver(&endpoint.event_types[0], &json!({})).await;
        deliveries.push(accepted.deliveries[0].id.clone());
    }
    let stream = stream(&app).await;
    let mut due = Vec::new();
    for id in &deliveries {
        due.push(next_attempt_at(&app, id).await);
        stream
            .purge()
            .filter(format!("webhooks.timer.{id}.>"))
            .await
            .unwrap();
    }
    let timers = stream.purge().filter("webhooks.timer.>").await.unwrap();
    assert_eq!(timers.purged, 0);

    for (id, due) in deliveries.iter().zip(due).skip(1) {
        let detail = app.ended(id).await;
        let delivery = summary(&detail);
        assert_eq!(
            (delivery.status(), delivery.attempt_count),
            (DeliveryStatus::Delivered, 2)
        );
        let retried_at = time(detail.attempts[1].started_at);
        assert!(retried_at >= due + SWEEP_AFTER, "{retried_at}, due {due}");
    }
    // More than once when it did not show at once.
    assert!(app.roles[1].metric(SWEPT).await as u64 >= 3);
    let said = app.roles[1].output();
    let swept: Vec<_> = deliveries.iter().map(|id| said.contains(id)).collect();
    // The lane of an ordered endpoint waits by itself.
    assert_eq!(swept, [false, true, true, true], "{said}");
    // Once each, however often they were armed again.
    app.ended(&deliveries[0]).await;
    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!(books.len(), deliveries.len());
    books.check_delivered();
    assert_eq!(books.repeated(), []);
}

/// A delivery whose deadline passed so long ago.
fn past_deadline(endpoint_id: EndpointId, ago: Duration) -> Requested {
    let requested_at = CLOCK() - DEFAULT_DEADLINE - ago;
    let message_id = MessageId::new(requested_at, &mut StdRng::seed_from_u64(ago.as_secs()));
    Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint_id),
            message_id,
            project_id: PROJECT.parse().unwrap(),
            endpoint_id,
            event_type: "order.paid".parse().unwrap(),
        },
        content_type: "application/json".into(),
        payload: "{}".into(),
        requested_at,
        origin: Origin::Event,
        replay_of: None,
        traceparent: String::new(),
        deadline: requested_at + DEFAULT_DEADLINE,
    }
}

async fn log(app: &TestApp) -> Log {
    let config = LogConfig {
        url: app.nats.url(),
        ..LogConfig::default()
    };
    Log::connect(config).await.unwrap()
}

/// Somebody acknowledges so many work items, and does nothing about them.
async fn take_away(app: &TestApp, count: usize) {
    let consumer: PullConsumer = stream(app).await.get_consumer("dispatch-0").await.unwrap();
    let batch = consumer.batch().max_messages(count).expires(PATIENCE);
    let mut work = batch.messages().await.unwrap();
    for _ in 0..count {
        work.next().await.unwrap().unwrap().double_ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_delivery_past_its_deadline_that_no_dispatcher_has_ends_as_expired() {
    let app = app("api").await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let endpoint_id: EndpointId = created.endpoint.unwrap().id.parse().unwrap();
    let request = past_deadline(endpoint_id, Duration::from_mins(1));
    let id = request.delivery.delivery_id.to_string();
    let log = log(&app).await;
    log.append_requested(&[request]).await.unwrap();
    // While it waits for a dispatcher, nothing is forgotten.
    assert_eq!(
        summary(&app.delivery(&id).await).status(),
        DeliveryStatus::Pending
    );
    assert_eq!(app.roles[1].metric(SWEPT).await as u64, 0);

    take_away(&app, 1).await;

    eventually("it is found", || async {
        is(app.roles[1].metric(SWEPT).await as u64, 1)
    })
    .await;
    let _dispatcher = RoleProcess::start("dispatcher", &app.settings).await;
    let detail = app.ended(&id).await;
    let delivery = summary(&detail);
    assert_eq!(
        (delivery.failure_reason.as_str(), delivery.attempt_count),
        ("expired", 0)
    );
    assert_eq!(receiver.requests("/hook").len(), 0);
    assert_eq!(app.roles[1].metric(SWEPT).await as u64, 1);
}

#[tokio::test]
async fn what_was_never_attempted_although_its_work_is_acknowledged_is_delivered() {
    let app = app("api").await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let accepted = app.deliver("order.paid", &json!({})).await;
    let id = &accepted.deliveries[0].id;

    take_away(&app, 1).await;

    eventually("it is found", || async {
        is(app.roles[1].metric(SWEPT).await as u64, 1)
    })
    .await;
    let _dispatcher = RoleProcess::start("dispatcher", &app.settings).await;
    let detail = app.ended(id).await;
    let delivery = summary(&detail);
    assert_eq!(
        (delivery.status(), delivery.attempt_count),
        (DeliveryStatus::Delivered, 1)
    );
    assert_eq!(receiver.requests("/hook").len(), 1);
    assert_eq!(app.roles[1].metric(SWEPT).await as u64, 1);
}

#[tokio::test]
async fn what_waits_in_a_detached_lane_is_left_to_it() {
    let app = app("api").await;
    let receiver = Receiver::start();
    let mut ids: Vec<EndpointId> = Vec::new();
    for _ in 0..2 {
        let created = app.create_endpoint_at(receiver.url("/hook")).await;
        ids.push(created.endpoint.unwrap().id.parse().unwrap());
    }
    let log = log(&app).await;
    let lanes = Lanes::start(&log, CancellationToken::new()).await.unwrap();
    let now = CLOCK();
    let detached = LaneRecord {
        endpoint_id: ids[0],
        project_id: PROJECT.parse().unwrap(),
        partition: 0,
        detached: true,
        floor: 0,
        cursor: 0,
        done: Vec::new(),
        outcomes_from: 0,
        health: LaneHealth {
            state: HealthState::Closed,
            since: now,
            consecutive_failures: 0,
            probe: 0,
            next_probe_at: None,
        },
        blocked_by: None,
        dispatcher_id: String::new(),
        saved_at: now,
    };
    lanes.save(&detached).await.unwrap();
    // The older one is looked at first.
    let requests = [
        past_deadline(ids[0], Duration::from_mins(2)),
        past_deadline(ids[1], Duration::from_mins(1)),
    ];
    log.append_requested(&requests).await.unwrap();
    take_away(&app, 2).await;

    let swept = async |count: u64| {
        eventually(&format!("{count} are found"), || async {
            is(app.roles[1].metric(SWEPT).await as u64, count)
        })
        .await;
        let said = app.roles[1].output();
        requests
            .each_ref()
            .map(|request| said.contains(&request.delivery.delivery_id.to_string()))
    };
    assert_eq!(swept(1).await, [false, true]);
    // What was made due waits for a dispatcher, and until it is done nothing else in the partition counts as forgotten.
    take_away(&app, 1).await;
    lanes.forget(ids[0]).await.unwrap();
    assert_eq!(swept(2).await, [true, true]);
}
