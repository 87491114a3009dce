//! The history is a projection: it can be thrown away and folded again, and comes out the same.

use std::time::Duration;

use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliveryDetail, ListDeliveriesRequest, PageRequest};
use harness::app::{Backend, PROJECT, TestApp};
use harness::eventually::{eventually, is};
use harness::receiver::{Receiver, Reply};
use harness::roles::command;
use serde_json::json;
use tokio::time::Instant;

/// Every delivery that the history lists, newest first, in pages of 7.
async fn listed(app: &TestApp) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = Some(PageRequest { limit: 7, cursor });
        let request = ListDeliveriesRequest {
            project_id: PROJECT.into(),
            page,
            ..Default::default()
        };
        let answer = app
            .deliveries()
            .list_deliveries(request)
            .await
            .unwrap()
            .into_inner();
        ids.extend(answer.deliveries.into_iter().map(|delivery| delivery.id));
        cursor = answer.next_cursor;
        if cursor.is_empty() {
            return ids;
        }
    }
}

async fn details(app: &TestApp, ids: &[String]) -> Vec<DeliveryDetail> {
    let mut details = Vec::new();
    for id in ids {
        details.push(app.delivery(id).await);
    }
    details
}

async fn rebuild_gives_the_same_rows(backend: Backend) {
    let app = TestApp::builder()
        .processes(["api,dispatcher", "projector"])
        .backend(backend)
        .start()
        .await;
    let receiver = Receiver::start();
    receiver.script("/flaky", [Reply::status(500).body("busy"), Reply::status(200)]);
    receiver.script("/fails", [Reply::status(400)]);
    for (path, schedule) in [("/flaky", vec![1]), ("/fails", vec![1]), ("/well", vec![])] {
        let url = receiver.url(path);
        let request = CreateEndpointRequest {
            url,
            retry_schedule_seconds: schedule,
            ..Default::default()
        };
        app.create_endpoint(request).await;
    }
    let mut accepted = Vec::new();
    for number in 0..10 {
        accepted.push(app.deliver("order.paid", &json!({ "number": number })).await);
    }
    for delivery in accepted.iter().flat_map(|accepted| &accepted.deliveries) {
        app.ended(&delivery.id).await;
    }
    let ids = listed(&app).await;
    assert_eq!(ids.len(), 30);
    let before = details(&app, &ids).await;

    let verified = command(&["projection", "verify"], &app.settings);
    assert!(verified.status.success(), "{verified:?}");
    let rebuilt = command(&["projection", "rebuild"], &app.settings);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let verified = command(&["projection", "verify"], &app.settings);
    assert!(verified.status.success(), "{verified:?}");

    eventually("the history is whole again", || async {
        is(listed(&app).await.len(), 30)
    })
    .await;
    assert_eq!(listed(&app).await, ids);
    assert_eq!(details(&app, &ids).await, before);

    // Goes on from where it is.
    let next = app.deliver("order.paid", &json!({"after": "the rebuild"})).await;
    for delivery in &next.deliveries {
        app.ended(&delivery.id).await;
    }
    assert_eq!(listed(&app).await.len(), 33);
}

#[tokio::test]
async fn rebuild_gives_the_same_rows_on_sqlite() {
    rebuild_gives_the_same_rows(Backend::Sqlite).await;
}

#[tokio::test]
async fn rebuild_gives_the_same_rows_on_postgresql() {
    rebuild_gives_the_same_rows(Backend::Postgres).await;
}

#[tokio::test]
async fn the_history_keeps_up_with_events_that_come_one_by_one() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let mut last = String::new();
    for number in 0..300 {
        last.clone_from(
            &app.deliver("order.paid", &json!({ "number": number }))
                .await
                .deliveries[0]
                .id,
        );
    }
    receiver.received("/hook", 300).await;
    let arrived = Instant::now();
    app.ended(&last).await;
    // A history that waits for more after each event would be 300 times 25 ms behind.
    let behind = arrived.elapsed();
    assert!(behind < Duration::from_secs(5), "{behind:?}");
}

#[tokio::test]
async fn verify_tells_a_row_that_was_changed_by_hand() {
    use sqlx::{Connection, Executor, PgConnection};
    let app = TestApp::builder().backend(Backend::Postgres).start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let accepted = app.deliver("order.paid", &json!({})).await;
    app.ended(&accepted.deliveries[0].id).await;

    let mut database = PgConnection::connect(app.history_url()).await.unwrap();
    let changed = database
        .execute("UPDATE deliveries SET attempt_count = 7")
        .await
        .unwrap();
    assert_eq!(changed.rows_affected(), 1);

    let verified = command(&["projection", "verify"], &app.settings);
    assert_eq!(verified.status.code(), Some(1));
    let said =
        String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
    assert!(said.contains(&accepted.deliveries[0].id), "{said}");
}

#[tokio::test]
async fn a_standby_takes_over_from_a_killed_projector() {
    let mut app = TestApp::builder()
        .processes(["api,dispatcher", "projector", "projector"])
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    for index in [1, 2] {
        app.roles[index].kill9();
        let accepted = app.deliver("order.paid", &json!({})).await;
        app.ended(&accepted.deliveries[0].id).await;
        app.roles[index].start_again();
        app.roles[index].ready().await;
    }
}

#[tokio::test]
async fn poison_events_are_set_aside_and_stop_nothing() {
    use sqlx::{Connection, Executor, PgConnection};
    let app = TestApp::builder()
        .processes(["api,dispatcher", "projector"])
        .backend(Backend::Postgres)
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    // One event that nobody can read, and one whose row the database refuses.
    let log = async_nats::jetstream::new(async_nats::connect(app.nats.url()).await.unwrap());
    log.publish("webhooks.outcome.acme.nobody.succeeded", "no event".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let mut database = PgConnection::connect(app.history_url()).await.unwrap();
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = 'check_violation'; END$$";
    database.execute(refuse).await.unwrap();
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON deliveries FOR EACH ROW
        WHEN (NEW.event_type = 'order.poison') EXECUTE FUNCTION refuse()";
    database.execute(trigger).await.unwrap();

    let before = app.deliver("order.paid", &json!({})).await;
    let poison = app.deliver("order.poison", &json!({})).await;
    let after = app.deliver("order.paid", &json!({})).await;

    for accepted in [&before, &after] {
        app.ended(&accepted.deliveries[0].id).await;
    }
    assert!(!listed(&app).await.contains(&poison.deliveries[0].id));
    let set_aside = app.roles[1]
        .metric("webhooks_projection_set_aside_events_total")
        .await;
    assert_eq!(set_aside as u64, 2);
    let verified = command(&["projection", "verify"], &app.settings);
    assert_eq!(verified.status.code(), Some(1));
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(
        said.contains(&format!("{}: missing in the history", poison.deliveries[0].id)),
        "{said}"
    );
}
