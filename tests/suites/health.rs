//! Health: what an endpoint shows of its breaker, its backlog and what holds it up.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, Endpoint, EndpointHealth, GetEndpointRequest};
use harness::app::{Builder, PROJECT, TestApp};
use harness::eventually::{eventually, is};
use harness::local::CLOCK;
use harness::receiver::{Receiver, Reply};
use harness::traffic::{hand_over, numbered};
use serde_json::Value;

/// Failures in a row that open a breaker.
const FAILURES: u32 = 3;
/// Seconds between the retries and probes of an endpoint.
const PROBE: u32 = 2;
const DISPATCHER: usize = 1;

fn installation() -> Builder {
    TestApp::builder()
        .processes(["api,projector", "dispatcher"])
        .set("log.partitions", 1)
        .set("dispatcher.breaker.consecutive_failures", FAILURES)
}

async fn endpoint(app: &TestApp, receiver: &Receiver, path: &str, ordered: bool) -> String {
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        retry_schedule_seconds: vec![PROBE; 20],
        ordered,
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap().id
}

async fn get(app: &TestApp, id: &str) -> Endpoint {
    let request = GetEndpointRequest {
        endpoint_id: id.to_owned(),
    };
    app.endpoints().get_endpoint(request).await.unwrap().into_inner()
}

/// The endpoint's health, once its state is this one.
async fn health(app: &TestApp, id: &str, state: &str) -> EndpointHealth {
    eventually(&format!("{id} is {state}"), || async {
        let health = get(app, id).await.health.expect("a health");
        is(health.state.clone(), state.to_owned()).map(|_| health)
    })
    .await
}

fn time(timestamp: Option<prost_types::Timestamp>) -> DateTime<Utc> {
    let timestamp = timestamp.expect("a time");
    DateTime::from_timestamp(timestamp.seconds, timestamp.nanos as u32).expect("in range")
}

/// The endpoint as REST lists it.
async fn listed(app: &TestApp, id: &str) -> Value {
    let path = format!("/api/webhooks/endpoints?project_id={PROJECT}");
    let list = app.rest().get(&path).await.json();
    let endpoints = list["data"].as_array().expect("a list");
    let found = endpoints.iter().find(|endpoint| endpoint["id"] == id);
    found.expect("it is listed").clone()
}

/// Lines of the dispatcher's log that say `what` of the endpoint.
fn said(app: &TestApp, what: &str, id: &str) -> usize {
    let output = app.roles[DISPATCHER].output();
    output
        .lines()
        .filter(|line| line.contains(what) && line.contains(id))
        .count()
}

#[tokio::test]
async fn an_endpoint_shows_that_its_breaker_opened_and_closed_again() {
    let app = installation().start().await;
    let receiver = Receiver::start();
    receiver.script("/dead", [Reply::status(500)]);
    let id = endpoint(&app, &receiver, "/dead", false).await;
    let fresh = get(&app, &id).await;
    let expected = EndpointHealth {
        state: "healthy".into(),
        breaker: "closed".into(),
        ..Default::default()
    };
    assert_eq!((fresh.health, fresh.blocked_by), (Some(expected), None));

    let before = CLOCK();
    hand_over(&app, &id, 20).await;
    let failing = health(&app, &id, "failing").await;
    assert!(["open", "half_open"].contains(&failing.breaker.as_str()));
    assert!(failing.waiting && failing.consecutive_failures >= FAILURES);
    let since = time(failing.since);
    assert!(before - Duration::from_secs(1) <= since && since <= CLOCK());
    if failing.breaker == "open" {
        assert!(time(failing.next_probe_at) > since);
    }
    let rest = listed(&app, &id).await;
    assert_eq!(rest["health"]["state"], "failing");
    assert_eq!(rest["health"]["waiting"], true);
    assert_eq!(rest["blocked_by"], Value::Null);

    // Probes that fail count, and change nothing about since when it has been failing.
    let later = eventually("a probe has failed", || async {
        let later = health(&app, &id, "failing").await;
        if later.consecutive_failures > failing.consecutive_failures {
            Ok(later)
        } else {
            Err(later.consecutive_failures)
        }
    })
    .await;
    assert_eq!(later.since, failing.since);

    receiver.script("/dead", [Reply::status(200)]);
    let healthy = health(&app, &id, "healthy").await;
    assert_eq!(
        (
            healthy.breaker.as_str(),
            healthy.waiting,
            healthy.consecutive_failures,
            healthy.next_probe_at
        ),
        ("closed", false, 0, None)
    );
    assert!(time(healthy.since) > since);
    assert_eq!(listed(&app, &id).await["health"]["state"], "healthy");
    assert_eq!(
        (
            said(&app, "breaker opened", &id),
            said(&app, "breaker closed", &id)
        ),
        (1, 1)
    );
    let changes = app.roles[DISPATCHER]
        .metric("webhooks_breaker_changes_total")
        .await;
    assert_eq!(changes as u64, 2, "one opened, one closed");
}

#[tokio::test]
async fn an_ordered_endpoint_names_what_holds_it_up() {
    let app = installation()
        .set("dispatcher.breaker.consecutive_failures", 100)
        .start()
        .await;
    let receiver = Receiver::start();
    receiver.script("/ordered", [Reply::status(500)]);
    let id = endpoint(&app, &receiver, "/ordered", true).await;
    let (mut ids, before) = (Vec::new(), CLOCK());
    for number in 0..3 {
        let accepted = app.messages().deliver(numbered(&id, number)).await.unwrap();
        ids.push(accepted.into_inner().deliveries.remove(0).id);
    }
    let blocked_by = async |attempts: u32| {
        eventually(&format!("the head was attempted {attempts} times"), || async {
            let blocked = get(&app, &id).await.blocked_by.ok_or("nothing")?;
            if blocked.attempts >= attempts {
                Ok(blocked)
            } else {
                Err("fewer attempts")
            }
        })
        .await
    };

    let first = blocked_by(1).await;
    assert_eq!(first.delivery_id, ids[0]);
    assert!(time(first.next_attempt_at) > before);
    assert_eq!(health(&app, &id, "degraded").await.breaker, "closed");
    let second = blocked_by(2).await;
    assert_eq!(second.delivery_id, ids[0]);
    assert!(time(second.next_attempt_at) > time(first.next_attempt_at));
    let rest = listed(&app, &id).await;
    assert_eq!(rest["blocked_by"]["delivery_id"], ids[0]);

    receiver.script("/ordered", [Reply::status(200)]);
    for delivery in &ids {
        app.ended(delivery).await;
    }
    eventually("nothing holds it up", || async {
        let endpoint = get(&app, &id).await;
        let state = endpoint.health.expect("a health").state;
        is((endpoint.blocked_by, state), (None, "healthy".to_owned()))
    })
    .await;
}
