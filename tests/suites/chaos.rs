//! Processes are killed with SIGKILL under load, and nothing that was acknowledged is lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliveryStatus, GetStatusRequest, ListDeliveriesRequest, PageRequest,
};
use harness::app::{Backend, PROJECT, TestApp, event};
use harness::eventually::{eventually, eventually_within, is};
use harness::receiver::{Receiver, Reply};
use harness::rest::RestClient;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const EVENTS: usize = 20_000;
const ENDPOINTS: usize = 50;
/// Events that wait for their acknowledgement at the same time.
const IN_FLIGHT: usize = 64;
/// Attempts that one dispatcher makes at the same time: what a kill may repeat.
const ATTEMPTS: usize = 256;
/// How long everything may take to arrive once it was accepted.
const PATIENCE: Duration = Duration::from_mins(3);
/// Places of the processes in [`TestApp::roles`].
const API: usize = 0;
const DISPATCHER: usize = 1;
const PROJECTOR: usize = 3;

/// The events that were acknowledged, by the path of their endpoint.
type Acknowledged = HashMap<String, HashSet<String>>;

struct Load {
    acknowledged: Arc<AtomicUsize>,
    workers: JoinSet<Vec<(String, String)>>,
}

fn path(endpoint: usize) -> String {
    format!("/endpoint/{endpoint}")
}

fn event_type(endpoint: usize) -> String {
    format!("load.endpoint{endpoint}")
}

async fn start(receiver: &Receiver) -> TestApp {
    let app = TestApp::builder()
        .processes(["api", "dispatcher", "dispatcher", "projector"])
        .backend(Backend::Postgres)
        .set("dispatcher.max_in_flight", ATTEMPTS)
        .start()
        .await;
    for endpoint in 0..ENDPOINTS {
        receiver.script(
            &path(endpoint),
            [Reply::status(200).after(Duration::from_millis(5))],
        );
        let request = CreateEndpointRequest {
            url: receiver.url(&path(endpoint)),
            event_types: vec![event_type(endpoint)],
            ..Default::default()
        };
        app.create_endpoint(request).await;
    }
    app
}

impl Load {
    /// Hands [`EVENTS`] events of 1 KiB over, each until it is acknowledged.
    fn start(app: &TestApp) -> Self {
        let payload = json!({ "pad": "x".repeat(1024 - 10) }).to_string();
        let next = Arc::new(AtomicUsize::new(0));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (mut client, payload) = (app.messages(), payload.clone());
            let (next, acknowledged) = (Arc::clone(&next), Arc::clone(&acknowledged));
            workers.spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= EVENTS {
                        return mine;
                    }
                    let endpoint = number % ENDPOINTS;
                    let accepted = loop {
                        match client
                            .deliver(event(&event_type(endpoint), payload.clone()))
                            .await
                        {
                            Ok(accepted) => break accepted.into_inner(),
                            // Not acknowledged: nothing is promised, the event is handed over again.
                            Err(_) => sleep(Duration::from_millis(50)).await,
                        }
                    };
                    assert_eq!(accepted.deliveries.len(), 1);
                    mine.push((path(endpoint), accepted.message_id));
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            acknowledged,
            workers,
        }
    }

    /// Waits until `percent` of the events are acknowledged.
    async fn reaches(&self, percent: usize) {
        eventually_within(PATIENCE, &format!("{percent} % are accepted"), || async {
            let acknowledged = self.acknowledged.load(Ordering::Relaxed);
            if acknowledged * 100 >= EVENTS * percent {
                Ok(())
            } else {
                Err(acknowledged)
            }
        })
        .await;
    }

    async fn finish(self) -> Acknowledged {
        let mut all = Acknowledged::new();
        for (path, id) in self.workers.join_all().await.into_iter().flatten() {
            all.entry(path).or_default().insert(id);
        }
        assert_eq!(all.values().map(HashSet::len).sum::<usize>(), EVENTS);
        all
    }
}

/// How many acknowledged events have not arrived.
fn missing(receiver: &Receiver, acknowledged: &Acknowledged) -> usize {
    let missing = acknowledged.iter().map(|(path, ids)| {
        let arrived = receiver.ids(path);
        ids.iter().filter(|id| !arrived.contains_key(*id)).count()
    });
    missing.sum()
}

/// Everything that was acknowledged arrives, and the history knows of every delivery that it was made.
async fn everything_arrives(app: &TestApp, receiver: &Receiver, acknowledged: &Acknowledged) {
    eventually_within(PATIENCE, "every acknowledged event arrives", || async {
        is(missing(receiver, acknowledged), 0)
    })
    .await;
    eventually_within(PATIENCE, "the history has caught up with the log", || async {
        let status = app
            .status()
            .get_status(GetStatusRequest {})
            .await
            .map_err(|status| status.to_string())?;
        is(
            status
                .into_inner()
                .components
                .map(|components| components.projection_lag),
            Some(0),
        )
    })
    .await;
    let page = |status: DeliveryStatus, limit, cursor| ListDeliveriesRequest {
        project_id: PROJECT.into(),
        status: status.into(),
        page: Some(PageRequest { limit, cursor }),
        ..Default::default()
    };
    eventually_within(PATIENCE, "nothing is pending", || async {
        let mut client = app.deliveries();
        let pending = client
            .list_deliveries(page(DeliveryStatus::Pending, 1, String::new()))
            .await;
        is(
            pending
                .map_err(|status| status.to_string())?
                .into_inner()
                .deliveries
                .len(),
            0,
        )
    })
    .await;
    let mut client = app.deliveries();
    let failed = client
        .list_deliveries(page(DeliveryStatus::Failed, 1, String::new()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(failed.deliveries, []);
    let (mut delivered, mut cursor) = (HashSet::new(), String::new());
    loop {
        let request = page(DeliveryStatus::Delivered, 200, cursor);
        let answer = client.list_deliveries(request).await.unwrap().into_inner();
        delivered.extend(answer.deliveries.into_iter().map(|delivery| delivery.message_id));
        cursor = answer.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    let unknown = acknowledged
        .values()
        .flatten()
        .filter(|id| !delivered.contains(*id))
        .count();
    assert_eq!(
        unknown, 0,
        "acknowledged events that the history does not have as delivered"
    );
}

#[tokio::test]
async fn killing_a_dispatcher_the_projector_and_the_api_loses_nothing() {
    let receiver = Receiver::counting();
    let mut app = start(&receiver).await;
    let load = Load::start(&app);

    load.reaches(15).await;
    app.roles[DISPATCHER].kill9();
    load.reaches(30).await;
    app.roles[DISPATCHER].start_again();
    load.reaches(40).await;
    app.roles[PROJECTOR].kill9();
    load.reaches(55).await;
    app.roles[PROJECTOR].start_again();
    load.reaches(70).await;
    app.roles[API].kill9();
    app.roles[API].start_again();
    let acknowledged = load.finish().await;

    everything_arrives(&app, &receiver, &acknowledged).await;
    let totals = receiver.totals();
    assert!(totals.duplicates() <= ATTEMPTS, "{totals:?}");
    println!("{} distinct, {} repeated", totals.distinct, totals.duplicates());
}

#[tokio::test]
async fn killing_nats_server_loses_nothing() {
    let receiver = Receiver::counting();
    let mut app = start(&receiver).await;
    let load = Load::start(&app);

    for percent in [25, 60] {
        load.reaches(percent).await;
        app.nats.kill9();
        let admin = RestClient::new(app.roles[DISPATCHER].admin_url(), None);
        eventually("the dispatcher notices", || async {
            is(admin.get("/readyz").await.status.as_u16(), 503)
        })
        .await;
        app.nats.restart().await;
    }
    let acknowledged = load.finish().await;

    everything_arrives(&app, &receiver, &acknowledged).await;
    let totals = receiver.totals();
    // Two dispatchers, two kills.
    assert!(totals.duplicates() <= 4 * ATTEMPTS, "{totals:?}");
    println!("{} distinct, {} repeated", totals.distinct, totals.duplicates());
}

#[tokio::test]
async fn a_killed_dispatchers_work_arrives_within_15_seconds() {
    let receiver = Receiver::start();
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher", "dispatcher"])
        .start()
        .await;
    let mut endpoints = Vec::new();
    for endpoint in 0..8 {
        // Slow enough that the kill meets attempts in flight and deliveries that wait.
        receiver.script(
            &path(endpoint),
            [Reply::status(200).after(Duration::from_millis(300))],
        );
        let request = CreateEndpointRequest {
            url: receiver.url(&path(endpoint)),
            max_in_flight: 8,
            ..Default::default()
        };
        endpoints.push(app.create_endpoint(request).await);
    }
    let mut expected = HashSet::new();
    for number in 0..40 {
        expected.insert(
            app.deliver("order.paid", &json!({ "number": number }))
                .await
                .message_id,
        );
    }
    eventually("attempts are in flight", || async {
        is(
            (0..8).all(|endpoint| receiver.peak_in_flight(&path(endpoint)) > 0),
            true,
        )
    })
    .await;

    app.roles[1].kill9();
    let killed = Instant::now();

    eventually("everything arrives", || async {
        let arrived = |endpoint| receiver.ids(&path(endpoint)).into_keys().collect::<HashSet<_>>();
        is(
            (0..8).filter(|&endpoint| arrived(endpoint) == expected).count(),
            8,
        )
    })
    .await;
    let last = receiver
        .totals()
        .last_at
        .unwrap()
        .saturating_duration_since(killed);
    assert!(last <= Duration::from_secs(15), "{last:?}");
    assert!(receiver.totals().duplicates() <= 8 * 8, "{:?}", receiver.totals());
}

#[tokio::test]
async fn sigterm_lets_what_is_in_flight_end_and_repeats_nothing() {
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(200).after(Duration::from_millis(400))]);
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher"])
        .start()
        .await;
    app.create_endpoint_at(receiver.url("/hook")).await;
    for number in 0..30 {
        app.deliver("order.paid", &json!({ "number": number })).await;
    }
    eventually("attempts are in flight", || async {
        is(receiver.peak_in_flight("/hook") > 0, true)
    })
    .await;

    assert!(app.roles[1].stop().await.success());
    app.roles[1].start_again();

    eventually("everything arrives", || async {
        is(receiver.ids("/hook").len(), 30)
    })
    .await;
    eventually("nothing is pending", || async {
        let request = ListDeliveriesRequest {
            project_id: PROJECT.into(),
            status: DeliveryStatus::Pending.into(),
            ..Default::default()
        };
        let pending = app
            .deliveries()
            .list_deliveries(request)
            .await
            .map_err(|status| status.to_string())?;
        is(pending.into_inner().deliveries.len(), 0)
    })
    .await;
    assert_eq!(receiver.requests("/hook").len(), 30);
}
