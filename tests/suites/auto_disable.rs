//! An endpoint that only fails is switched off, and whoever switches it on again gets as long as before.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_domain::endpoint::{Actor, DisabledReason, EndpointChange};
use cuitty_webhooks_log::codec::decode_endpoint;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, Endpoint, GetEndpointRequest};
use harness::app::{PROJECT, TestApp, summary};
use harness::eventually::{eventually, is};
use harness::receiver::{Receiver, Reply};
use harness::roles::command;
use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};

const DISABLE_AFTER: Duration = Duration::from_secs(2);
/// The projector's name, which disabling is recorded under.
const KEEPER: &str = "keeper";

async fn app() -> TestApp {
    TestApp::builder()
        .processes(["api,dispatcher", "projector"])
        .set("projector.id", KEEPER)
        .set("projector.sweep_interval", "100ms")
        .set("projector.disable_after", "2s")
        .start()
        .await
}

/// An endpoint that takes `sent.to_<path>` and is retried every second.
async fn endpoint(app: &TestApp, receiver: &Receiver, path: &str) -> Endpoint {
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        event_types: vec![format!("sent.to_{}", &path[1..])],
        retry_schedule_seconds: vec![1; 10],
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap()
}

/// Delivers an event to the endpoint; the delivery's id.
async fn deliver_to(app: &TestApp, endpoint: &Endpoint) -> String {
    let accepted = app.deliver(&endpoint.event_types[0], &json!({})).await;
    accepted.deliveries[0].id.clone()
}

async fn get(app: &TestApp, id: &str) -> Endpoint {
    let request = GetEndpointRequest {
        endpoint_id: id.to_owned(),
    };
    app.endpoints().get_endpoint(request).await.unwrap().into_inner()
}

async fn disabled(app: &TestApp, id: &str) -> Endpoint {
    eventually("the endpoint is disabled", || async {
        let endpoint = get(app, id).await;
        is(endpoint.active, false).map(|_| endpoint)
    })
    .await
}

fn updated_at(endpoint: &Endpoint) -> DateTime<Utc> {
    let timestamp = endpoint.updated_at.expect("a time");
    DateTime::from_timestamp(timestamp.seconds, timestamp.nanos as u32).expect("in range")
}

#[tokio::test]
async fn an_endpoint_that_only_fails_is_disabled() {
    let app = app().await;
    let receiver = Receiver::start();
    receiver.script("/dead", [Reply::status(500)]);
    let endpoint = endpoint(&app, &receiver, "/dead").await;
    let delivery = deliver_to(&app, &endpoint).await;

    let after = disabled(&app, &endpoint.id).await;

    assert_eq!((&*after.disabled_reason, after.revision), ("failing", 2));
    let detail = app.ended(&delivery).await;
    assert_eq!(summary(&detail).failure_reason, "endpoint_disabled");
    let attempts = &detail.attempts;
    assert!(attempts.len() >= 3, "{attempts:?}");

    // Who did it is in the control stream.
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    let control = async_nats::jetstream::new(client)
        .get_stream("WEBHOOKS_CONTROL")
        .await
        .unwrap();
    let subject = format!("webhooks.endpoint.{PROJECT}.{}", endpoint.id);
    let last = control.get_last_raw_message_by_subject(&subject).await.unwrap();
    let record = decode_endpoint(last.payload).unwrap();
    assert_eq!(record.change, EndpointChange::Disabled(DisabledReason::Failing));
    assert_eq!(record.actor, Actor::system(KEEPER));
    let projector = &app.roles[1];
    assert_eq!(
        projector
            .metric("webhooks_failing_endpoints_disabled_total")
            .await as u64,
        1
    );
    assert_eq!(projector.output().matches("endpoint disabled").count(), 1);
}

#[tokio::test]
async fn one_that_succeeds_in_between_stays_active() {
    let app = app().await;
    let receiver = Receiver::start();
    let flaky = endpoint(&app, &receiver, "/flaky").await;
    let dead = endpoint(&app, &receiver, "/dead").await;
    receiver.script("/dead", [Reply::status(500)]);
    let replies = [500, 200].map(Reply::status);
    receiver.script("/flaky", replies.iter().cycle().take(8).cloned());

    // From the first failure to the last one it is longer than an endpoint may fail.
    for _ in 0..4 {
        let delivery = deliver_to(&app, &flaky).await;
        assert_eq!(summary(&app.ended(&delivery).await).attempt_count, 2);
    }
    let failed: Vec<_> = receiver
        .requests("/flaky")
        .iter()
        .map(|request| request.at)
        .step_by(2)
        .collect();
    assert_eq!(failed.len(), 4);
    assert!(failed[3] - failed[0] > DISABLE_AFTER, "{failed:?}");

    // Once this one is disabled, the other one has been looked at.
    deliver_to(&app, &dead).await;
    disabled(&app, &dead.id).await;
    let after = get(&app, &flaky.id).await;
    assert_eq!((after.active, after.revision), (true, 1));
}

#[tokio::test]
async fn one_that_is_enabled_again_gets_as_long_as_before() {
    let app = app().await;
    let receiver = Receiver::start();
    receiver.script("/dead", [Reply::status(500)]);
    let endpoint = endpoint(&app, &receiver, "/dead").await;
    deliver_to(&app, &endpoint).await;
    disabled(&app, &endpoint.id).await;

    let enabled = app.set_active(&endpoint.id, true).await;
    assert!(enabled.active);
    deliver_to(&app, &endpoint).await;

    let after = disabled(&app, &endpoint.id).await;
    assert_eq!((&*after.disabled_reason, after.revision), ("failing", 4));
    let lasted = updated_at(&after) - updated_at(&enabled);
    assert!(lasted >= TimeDelta::from_std(DISABLE_AFTER).unwrap(), "{lasted}");
}

/// Only the projector disables endpoints. While there is none, one that is gone is left alone, and nothing is forgotten.
#[tokio::test]
async fn one_that_is_gone_is_left_alone_until_a_projector_is_back_and_disables_it() {
    let mut app = app().await;
    let receiver = Receiver::start();
    receiver.script("/gone", [Reply::status(410)]);
    let endpoint = endpoint(&app, &receiver, "/gone").await;
    app.roles[1].kill9();
    let first = deliver_to(&app, &endpoint).await;
    receiver.received("/gone", 1).await;
    let dispatcher = &app.roles[0];
    eventually("the answer is recorded", || async {
        let output = dispatcher.output();
        if output.contains("delivery failed") {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    let second = deliver_to(&app, &endpoint).await;
    let after = get(&app, &endpoint.id).await;
    assert_eq!((after.active, after.revision), (true, 1));

    app.roles[1].start_again();
    let after = disabled(&app, &endpoint.id).await;
    assert_eq!((&*after.disabled_reason, after.revision), ("gone", 2));
    let reasons = [app.ended(&first).await, app.ended(&second).await];
    let reasons = reasons.each_ref().map(|detail| &*summary(detail).failure_reason);
    assert_eq!(reasons, ["gone", "endpoint_disabled"]);
    assert_eq!(receiver.count("/gone"), 1);
    let disabled = app.roles[1].metric("webhooks_disabled_endpoints_total").await;
    assert_eq!(disabled as u64, 1);
}

#[tokio::test]
async fn since_when_an_endpoint_fails_is_folded_and_verified() {
    let app = app().await;
    let receiver = Receiver::start();
    receiver.script("/dead", [Reply::status(500)]);
    let endpoint = endpoint(&app, &receiver, "/dead").await;
    let delivery = deliver_to(&app, &endpoint).await;
    app.ended(&delivery).await;

    for arguments in [
        ["projection", "verify"],
        ["projection", "rebuild"],
        ["projection", "verify"],
    ] {
        let ran = command(&arguments, &app.settings);
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    }
    let mut database = SqliteConnection::connect(app.history_url()).await.unwrap();
    let changed = database
        .execute("UPDATE endpoint_failures SET failures = 77")
        .await
        .unwrap();
    assert_eq!(changed.rows_affected(), 1);
    let verified = command(&["projection", "verify"], &app.settings);
    assert_eq!(verified.status.code(), Some(1));
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(
        said.contains(&format!("{}: differs in failures", endpoint.id)),
        "{said}"
    );
}
