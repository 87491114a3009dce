//! Each role logs in on NATS as its own user, with the permissions of the deployment's `accounts.conf`: they are enough for all
//! that it does, and for nothing that is another's.

mod denied;

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use cuitty_webhooks_client::Publisher;
use cuitty_webhooks_proto::v1::{
    CancelDeliveryRequest, CreateEndpointRequest, DeliverRequest, DeliveryStatus, Endpoint, GetReplayRequest,
    GetStatusRequest, ReplayDeliveryRequest, RotateSecretRequest, StartReplayRequest, WatchDeliveriesRequest,
};
use futures_util::StreamExt;
use harness::app::{PROJECT, TestApp, event, summary};
use harness::eventually::{eventually, is};
use harness::nats::{NatsServer, inbox_of};
use harness::receiver::{Receiver, Reply};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::listen::Listen;

/// The project of the module `budgets`.
const MODULE: &str = "budgets";
/// Who publishes for it.
const MODULE_USER: &str = "module-budgets";
const SOON: Duration = Duration::from_secs(20);

/// Somebody who is logged in, and what nats-server refuses.
struct User {
    client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
}

impl User {
    async fn log_in(nats: &NatsServer, user: &str) -> Self {
        let (tell, refusals) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_user_and_password(user.into(), user.into())
            .custom_inbox_prefix(inbox_of(user))
            .event_callback(move |event| {
                let tell = tell.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _ = tell.send(error.to_string());
                    }
                }
            })
            .connect(nats.url())
            .await
            .unwrap();
        Self { client, refusals }
    }

    /// What nats-server says next of what was tried.
    async fn refusal(&mut self, tried: &str) -> String {
        self.client.flush().await.unwrap();
        let refusal = timeout(SOON, self.refusals.recv()).await;
        refusal
            .unwrap_or_else(|_| panic!("{tried} is not refused"))
            .unwrap()
    }

    async fn may_not_publish(&mut self, subject: &str) {
        self.client
            .publish(subject.to_owned(), "{}".into())
            .await
            .unwrap();
        let refusal = self.refusal(subject).await;
        assert!(
            refusal.contains("Publish") && refusal.contains(&format!("\"{subject}\"")),
            "{subject}: {refusal}"
        );
    }

    async fn may_not_subscribe(&mut self, subject: &str) {
        let subscribed = self.client.subscribe(subject.to_owned()).await.unwrap();
        let refusal = self.refusal(subject).await;
        assert!(
            refusal.contains("Subscription") && refusal.contains(&format!("\"{subject}\"")),
            "{subject}: {refusal}"
        );
        drop(subscribed);
    }

    /// Publishes an event as a module does, and waits for the stream's word.
    async fn publish_event(&self, subject: &str, payload: &str) {
        let stream = async_nats::jetstream::new(self.client.clone());
        let sent = stream
            .publish(subject.to_owned(), payload.to_owned().into())
            .await;
        sent.unwrap().await.unwrap();
    }
}

async fn installation() -> TestApp {
    TestApp::builder()
        .accounts()
        .processes([
            "api",
            "ingest",
            "dispatcher",
            "dispatcher",
            "projector",
            "projector",
        ])
        .set("log.lease_ttl", "3s")
        .set("log.partitions", 2)
        .set("projector.sweep_interval", "200ms")
        .set("dispatcher.breaker.consecutive_failures", 3)
        .start()
        .await
}

/// An endpoint that takes `<path>.sent`, and retries after these seconds.
async fn endpoint(
    app: &TestApp,
    receiver: &Receiver,
    path: &str,
    retries: &[u32],
    ordered: bool,
) -> Endpoint {
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        event_types: vec![format!("{}.sent", &path[1..])],
        retry_schedule_seconds: retries.to_vec(),
        ordered,
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap()
}

/// Delivers an event to it; the delivery's id.
async fn deliver(app: &TestApp, endpoint: &Endpoint) -> String {
    let accepted = app.deliver(&endpoint.event_types[0], &json!({})).await;
    accepted.deliveries[0].id.clone()
}

/// How a delivery ended, and after how many attempts.
async fn outcome(app: &TestApp, id: &str) -> (DeliveryStatus, String, u32) {
    let detail = app.ended(id).await;
    let delivery = summary(&detail);
    (
        delivery.status(),
        delivery.failure_reason.clone(),
        delivery.attempt_count,
    )
}

fn delivered(attempts: u32) -> (DeliveryStatus, String, u32) {
    (DeliveryStatus::Delivered, String::new(), attempts)
}

#[expect(
    clippy::too_many_lines,
    reason = "one installation is led through all that it does, in order"
)]
#[tokio::test]
async fn every_role_may_do_all_that_it_does() {
    let mut app = installation().await;
    let receiver = Receiver::start();

    // Managing, and delivering at the first attempt and at the second.
    let event_type = json!({"project_id": PROJECT, "name": "order.paid", "description": "somebody paid"});
    let created = app
        .rest()
        .post("/manage/v1/webhooks/event-types", &event_type)
        .await;
    assert_eq!(created.status, 201);
    let key = app.create_key(PROJECT, &["deliver"]).await.secret;
    let caller = app.rest().with_key(Some(&key));
    let untaken = json!({"event_type": "nobody.takes_it", "payload": {}});
    assert_eq!(caller.post("/api/webhooks/deliver", &untaken).await.status, 202);
    let plain = endpoint(&app, &receiver, "/plain", &[1], false).await;
    let mut watch = {
        let request = WatchDeliveriesRequest {
            project_id: PROJECT.into(),
            ..Default::default()
        };
        app.deliveries()
            .watch_deliveries(request)
            .await
            .unwrap()
            .into_inner()
    };
    assert_eq!(outcome(&app, &deliver(&app, &plain).await).await, delivered(1));
    assert!(timeout(SOON, watch.next()).await.unwrap().unwrap().is_ok());
    let flaky = endpoint(&app, &receiver, "/flaky", &[1], false).await;
    receiver.script("/flaky", [Reply::status(500), Reply::status(200)]);
    let retried = deliver(&app, &flaky).await;
    assert_eq!(outcome(&app, &retried).await, delivered(2));
    app.status().get_status(GetStatusRequest {}).await.unwrap();

    // Under an idempotency key, whoever repeats it.
    let keyed = DeliverRequest {
        idempotency_key: "once".into(),
        ..event("plain.sent", "{}")
    };
    let first = app.messages().deliver(keyed.clone()).await.unwrap().into_inner();
    let again = app.messages().deliver(keyed).await.unwrap().into_inner();
    assert_eq!((first.message_id, true), (again.message_id, again.duplicate));

    // An endpoint that is gone is disabled.
    let gone = endpoint(&app, &receiver, "/gone", &[1], false).await;
    receiver.script("/gone", [Reply::status(410)]);
    let failed = |reason: &str, attempts| (DeliveryStatus::Failed, reason.to_owned(), attempts);
    assert_eq!(
        outcome(&app, &deliver(&app, &gone).await).await,
        failed("gone", 1)
    );
    assert_eq!(
        outcome(&app, &deliver(&app, &gone).await).await,
        failed("endpoint_disabled", 0)
    );

    // A dead one detaches, and goes on in order.
    let dead = endpoint(&app, &receiver, "/dead", &[1; 20], true).await;
    receiver.script("/dead", [Reply::status(500)]);
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(deliver(&app, &dead).await);
    }
    eventually("its lane detaches", || async {
        let lanes = [&app.roles[2], &app.roles[3]].map(|role| role.metric("webhooks_detached_lanes"));
        let detached: f64 = futures_util::future::join_all(lanes).await.iter().sum();
        is(detached as usize, 1)
    })
    .await;
    receiver.script("/dead", [Reply::status(200)]);
    for id in &waiting {
        assert_eq!(outcome(&app, id).await.0, DeliveryStatus::Delivered);
    }

    // Over NATS, where nobody subscribes.
    let request = CreateEndpointRequest {
        url: format!("nats:cuitty.notifications.{PROJECT}.unheard"),
        event_types: vec!["unheard.of".into()],
        retry_schedule_seconds: vec![600],
        ..Default::default()
    };
    app.create_endpoint(request).await;
    let unheard = app.deliver("unheard.of", &json!({})).await.deliveries[0]
        .id
        .clone();
    eventually("it is recorded that nobody listens", || async {
        is(app.delivery(&unheard).await.attempts.len(), 1)
    })
    .await;

    // Listening, and leaving.
    let (listen, _) = Listen::start(&app, &["--event-types", "listened.*"]).await;
    let heard = app.deliver("listened.to", &json!({})).await.deliveries[0]
        .id
        .clone();
    assert_eq!(outcome(&app, &heard).await, delivered(1));
    drop(listen);

    // Cancelling while a timer waits.
    let slow = endpoint(&app, &receiver, "/slow", &[600], false).await;
    receiver.script("/slow", [Reply::status(500)]);
    let cancelled = deliver(&app, &slow).await;
    eventually("its first attempt", || async {
        is(app.delivery(&cancelled).await.attempts.len(), 1)
    })
    .await;
    let request = CancelDeliveryRequest {
        delivery_id: cancelled.clone(),
    };
    app.deliveries().cancel_delivery(request).await.unwrap();
    assert_eq!(outcome(&app, &cancelled).await, failed("cancelled", 1));

    // Replaying one, and all of an endpoint.
    let request = ReplayDeliveryRequest {
        delivery_id: retried.clone(),
        ..Default::default()
    };
    let replayed = app
        .deliveries()
        .replay_delivery(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(outcome(&app, &replayed.id).await, delivered(1));
    let request = StartReplayRequest {
        project_id: PROJECT.into(),
        endpoint_id: plain.id.clone(),
        status: DeliveryStatus::Delivered.into(),
        ..Default::default()
    };
    let replay = app.deliveries().start_replay(request).await.unwrap().into_inner();
    eventually("the replay ends", || async {
        let replay_id = replay.id.clone();
        let found = app.deliveries().get_replay(GetReplayRequest { replay_id }).await;
        is(
            found.map(|found| found.into_inner().state).unwrap_or_default(),
            "done".to_owned(),
        )
    })
    .await;

    let request = RotateSecretRequest {
        endpoint_id: plain.id.clone(),
        ..Default::default()
    };
    app.endpoints().rotate_secret(request).await.unwrap();

    // What a module publishes, taken and refused.
    let request = CreateEndpointRequest {
        project_id: MODULE.into(),
        url: receiver.url("/module"),
        ..Default::default()
    };
    app.endpoints().create_endpoint(request).await.unwrap();
    let module = User::log_in(&app.nats, MODULE_USER).await;
    // It hears what happens in its project, and what its endpoints of kind `nats` are sent.
    let mut facts = Vec::new();
    for subject in [
        "webhooks.work.*.budgets.*.requested",
        "webhooks.outcome.budgets.>",
        "webhooks.ingest.rejected.budgets",
        "cuitty.notifications.budgets.>",
    ] {
        facts.push(module.client.subscribe(subject).await.unwrap());
    }
    module.client.flush().await.unwrap();
    let request = CreateEndpointRequest {
        project_id: MODULE.into(),
        url: format!("nats:cuitty.notifications.{MODULE}.spending"),
        ..Default::default()
    };
    app.endpoints().create_endpoint(request).await.unwrap();
    let subject = format!("cuitty.events.{MODULE}.budget.exceeded");
    let publisher = Publisher::connect(&app.nats.url_of(MODULE_USER)).await.unwrap();
    let spent = DeliverRequest {
        project_id: MODULE.into(),
        ..event("budget.exceeded", "{\"spent\": 7}")
    };
    publisher.publish(spent).await.unwrap();
    receiver.received("/module", 1).await;
    module.publish_event(&subject, "not JSON").await;
    eventually("it is rejected", || async {
        is(
            app.roles[1].metric("webhooks_ingest_rejected_total").await as u64,
            1,
        )
    })
    .await;
    // One event for two endpoints; the rejected one for nobody.
    for (facts, count) in facts.iter_mut().zip([2, 2, 1, 1]) {
        for _ in 0..count {
            let heard = timeout(SOON, facts.next()).await.expect("it is told");
            assert!(heard.unwrap().subject.contains(MODULE));
        }
    }

    // Every process is killed once, the active projector first.
    let active = eventually("a projector is active", || async {
        for index in [4, 5] {
            if app.roles[index].metric("webhooks_projector_active_count").await > 0.0 {
                return Ok(index);
            }
        }
        Err("none")
    })
    .await;
    let others = [0, 1, 2, 3, 9 - active];
    for index in std::iter::once(active).chain(others) {
        app.roles[index].start_again();
        app.roles[index].ready().await;
        assert_eq!(
            outcome(&app, &deliver(&app, &plain).await).await,
            delivered(1),
            "{index}"
        );
        module.publish_event(&subject, "{}").await;
    }
    receiver.received("/module", 7).await;
    // Who was cut off looks where each of its readers is.
    app.nats.restart().await;
    for role in &app.roles {
        role.ready().await;
    }
    assert_eq!(outcome(&app, &deliver(&app, &plain).await).await, delivered(1));
    for role in &mut app.roles {
        assert!(role.stop().await.success());
    }

    let refused: Vec<_> = app
        .nats
        .output()
        .lines()
        .filter(|line| line.contains("Violation"))
        .map(str::to_owned)
        .collect();
    assert_eq!(refused, [""; 0]);
    for role in &app.roles {
        assert!(!role.output().contains("permission denied"), "{}", role.output());
    }
}
