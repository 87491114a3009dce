//! Deliveries that the log has forgotten are found by the history, and made due again.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, DeliveryRef, Origin, Requested};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_log::{Log, LogConfig};
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliveryStatus};
use futures_util::StreamExt;
use harness::app::{PROJECT, TestApp, summary};
use harness::eventually::{eventually, is};
use harness::local::CLOCK;
use harness::receiver::{Receiver, Reply};
use harness::roles::RoleProcess;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

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
}

#[tokio::test]
async fn a_delivery_past_its_deadline_that_no_dispatcher_has_ends_as_expired() {
    let app = app("api").await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let endpoint_id: EndpointId = created.endpoint.unwrap().id.parse().unwrap();
    let requested_at = CLOCK() - DEFAULT_DEADLINE - Duration::from_mins(1);
    let message_id = MessageId::new(requested_at, &mut StdRng::seed_from_u64(1));
    let request = Requested {
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
    };
    let id = request.delivery.delivery_id.to_string();
    let url = app.nats.url();
    let log = Log::connect(LogConfig {
        url,
        ..LogConfig::default()
    })
    .await
    .unwrap();
    log.append_requested(&[request]).await.unwrap();
    // While it waits for a dispatcher, nothing is forgotten.
    assert_eq!(
        summary(&app.delivery(&id).await).status(),
        DeliveryStatus::Pending
    );
    assert_eq!(app.roles[1].metric(SWEPT).await as u64, 0);

    // Somebody takes the work away.
    let consumer: PullConsumer = stream(&app).await.get_consumer("dispatch-0").await.unwrap();
    let mut work = consumer.fetch().max_messages(1).messages().await.unwrap();
    work.next().await.unwrap().unwrap().double_ack().await.unwrap();

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
