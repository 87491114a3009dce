//! The history's database is away: events are accepted and delivered all the same, reads are refused, and what happened
//! meanwhile is in the history once the database is back.

use std::time::Duration;

use cuitty_webhooks_proto::v1::{
    DeliverResponse, DeliveryStatus, GetDeliveryRequest, GetStatusRequest, ListDeliveriesRequest,
    StatusComponents,
};
use futures_util::future::join_all;
use harness::app::{PROJECT, TestApp, summary};
use harness::eventually::{eventually, is};
use harness::grpc::{Refusal, refused};
use harness::postgres::{Durability, PostgresCluster};
use harness::receiver::Receiver;
use harness::roles::{RoleProcess, Settings};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// What is quick: a call that waits for nobody.
const AT_ONCE: Duration = Duration::from_secs(1);
const API: usize = 0;
const DISPATCHER: usize = 1;
const PROJECTOR: usize = 2;

/// Every read of the history that an accepted event could be asked for with, each refused for the same reason.
async fn reads_are_refused(app: &TestApp, accepted: &DeliverResponse) {
    let mut client = app.deliveries();
    for min_log_sequence in [0, accepted.log_sequence] {
        let get = GetDeliveryRequest {
            delivery_id: accepted.deliveries[0].id.clone(),
            min_log_sequence,
            ..Default::default()
        };
        let list = ListDeliveriesRequest {
            project_id: PROJECT.into(),
            min_log_sequence,
            ..Default::default()
        };
        let refusals = [
            refused(client.get_delivery(get).await),
            refused(client.list_deliveries(list).await),
        ];
        assert_eq!(refusals, [unavailable(), unavailable()]);
    }
}

fn unavailable() -> Refusal {
    Refusal {
        code: Code::Unavailable,
        reason: "HISTORY_UNAVAILABLE".into(),
        fields: [].into(),
    }
}

async fn status(app: &TestApp) -> (String, StatusComponents) {
    let status = app.status().get_status(GetStatusRequest {}).await.unwrap();
    let status = status.into_inner();
    (status.status, status.components.unwrap())
}

/// The service says that it is degraded, and not how far behind a history is that nobody can ask.
async fn status_is_honest(app: &TestApp) {
    let (word, components) = status(app).await;
    assert_eq!(word, "degraded");
    let expected = StatusComponents {
        log: "ok".into(),
        history: "down".into(),
        dispatchers: 1,
        projection_lag: None,
    };
    assert_eq!(components, expected);
    let rest = app.rest().get("/api/webhooks/status").await.json();
    assert_eq!(
        rest["components"],
        json!({"log": "ok", "history": "down", "dispatchers": 1, "projection_lag": null})
    );
}

/// The API says that it can be used, and that its history is down.
async fn api_stays_ready(app: &TestApp) {
    let (ready, body) = app.roles[API].readiness().await;
    assert_eq!((ready, &body["history"]), (200, &json!("down")), "{body}");
    let mut health = HealthClient::new(app.channel(None));
    for service in ["", "cuitty.webhooks.v1.MessageService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

async fn projector_is_not_ready(projector: &RoleProcess) {
    eventually("the projector says that it cannot work", || async {
        let (ready, body) = projector.readiness().await;
        is((ready, body["history"].clone()), (503, json!("down")))
    })
    .await;
}

/// Everything that was accepted is in the history as delivered, and the service says that all is well.
async fn history_catches_up(app: &TestApp, accepted: &[DeliverResponse]) {
    for delivery in accepted.iter().flat_map(|accepted| &accepted.deliveries) {
        let detail = app.ended(&delivery.id).await;
        assert_eq!(summary(&detail).status(), DeliveryStatus::Delivered);
    }
    eventually("the service is well", || async {
        let (word, components) = status(app).await;
        is((word, components.projection_lag), ("ok".into(), Some(0)))
    })
    .await;
    for process in &app.roles {
        process.ready().await;
    }
}

#[tokio::test]
async fn the_service_starts_accepts_and_delivers_while_the_database_is_down() {
    let mut postgres = PostgresCluster::start(Durability::None).await;
    let history = postgres.database().await;
    postgres.crash();
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher"])
        .history_at(&history)
        .start()
        .await;
    app.roles.push(RoleProcess::spawn("projector", &app.settings));
    let receiver = Receiver::start();

    app.create_endpoint_at(receiver.url("/hook")).await;
    let accepted = app.deliver("order.paid", &json!({"order": 1})).await;
    let arrived = receiver.received("/hook", 1).await;
    assert_eq!(arrived[0].headers["webhook-id"], *accepted.message_id);

    let asked = Instant::now();
    reads_are_refused(&app, &accepted).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    status_is_honest(&app).await;
    eventually("the API has tried to open the history", || async {
        is(
            app.roles[API].readiness().await.1["history"].clone(),
            json!("down"),
        )
    })
    .await;
    api_stays_ready(&app).await;
    projector_is_not_ready(&app.roles[PROJECTOR]).await;
    let (ready, body) = app.roles[DISPATCHER].readiness().await;
    assert_eq!((ready, &body["dispatcher"]), (200, &json!("joined")), "{body}");
    assert_eq!(body["history"], Value::Null, "a dispatcher has no history");

    postgres.restart().await;
    history_catches_up(&app, &[accepted]).await;
    assert_eq!(receiver.requests("/hook").len(), 1);
}

#[tokio::test]
async fn a_database_that_dies_stops_reads_and_nothing_else() {
    let mut postgres = PostgresCluster::start(Durability::None).await;
    let app = TestApp::builder()
        .processes(["api", "dispatcher", "projector"])
        .history_at(&postgres.database().await)
        .set("history.acquire_timeout", "2s")
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let mut accepted = vec![app.deliver("order.paid", &json!({"order": 1})).await];
    history_catches_up(&app, &accepted).await;

    postgres.crash();
    for order in 2..=20 {
        let asked = Instant::now();
        accepted.push(app.deliver("order.paid", &json!({ "order": order })).await);
        assert!(asked.elapsed() < AT_ONCE, "order {order}: {:?}", asked.elapsed());
    }
    receiver.received("/hook", 20).await;

    // The first one finds it out, within `history.acquire_timeout`; the others are told.
    let asked = Instant::now();
    reads_are_refused(&app, &accepted[0]).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let asked = Instant::now();
    let reads = (0..20).map(|_| reads_are_refused(&app, &accepted[0]));
    join_all(reads).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    eventually("the status of a second ago is forgotten", || async {
        is(status(&app).await.1.history, "down".to_owned())
    })
    .await;
    status_is_honest(&app).await;
    api_stays_ready(&app).await;
    projector_is_not_ready(&app.roles[PROJECTOR]).await;

    postgres.restart().await;
    history_catches_up(&app, &accepted).await;
    assert_eq!(receiver.requests("/hook").len(), 20);
}

#[tokio::test]
async fn a_history_of_a_newer_version_does_not_keep_an_api_from_accepting() {
    let dir = tempfile::tempdir().unwrap();
    let history = format!("sqlite:{}", dir.path().join("history.db").display());
    let nats = harness::nats::NatsServer::start().await;
    drop(RoleProcess::start("projector", &Settings::new(&nats.url(), &history)).await);
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99999, 'from the future', TRUE, x'00', 0)";
    SqliteConnection::connect(&history)
        .await
        .unwrap()
        .execute(newer)
        .await
        .unwrap();

    let app = TestApp::builder()
        .processes(["api", "dispatcher"])
        .history_at(&history)
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let accepted = app.deliver("order.paid", &json!({})).await;
    receiver.received("/hook", 1).await;

    reads_are_refused(&app, &accepted).await;
    eventually("the API says why", || async {
        is(app.roles[API].output().contains("99999"), true)
    })
    .await;
    api_stays_ready(&app).await;
}
