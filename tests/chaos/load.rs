//! An installation of separate processes under load, and what must be true of it in the end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliveryStatus, GetStatusRequest, ListDeliveriesRequest, PageRequest,
    StatusComponents,
};
use harness::app::{Backend, PROJECT, TestApp, event};
use harness::eventually::{eventually, eventually_within, is};
use harness::receiver::{Receiver, Reply};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub(crate) const EVENTS: usize = 20_000;
const ENDPOINTS: usize = 50;
/// Partitions of the log, as configured by default.
const PARTITIONS: usize = 16;
/// Events that wait for their acknowledgement at the same time.
const IN_FLIGHT: usize = 64;
/// How long the receiver takes for an answer: long enough that a kill meets attempts in flight.
const ANSWER: Duration = Duration::from_millis(100);
/// How long everything may take to arrive once it was accepted.
const PATIENCE: Duration = Duration::from_mins(3);
/// Places of the processes in [`TestApp::roles`].
pub(crate) const API: usize = 0;
pub(crate) const DISPATCHERS: [usize; 2] = [1, 2];
pub(crate) const PROJECTOR: usize = 3;

/// The events that were acknowledged, by the path of their endpoint.
pub(crate) type Acknowledged = HashMap<String, HashSet<String>>;

pub(crate) struct Load {
    acknowledged: Arc<AtomicUsize>,
    workers: JoinSet<Vec<(String, String)>>,
}

fn path(endpoint: usize) -> String {
    format!("/endpoint/{endpoint}")
}

fn event_type(endpoint: usize) -> String {
    format!("load.endpoint{endpoint}")
}

/// An api, two dispatchers, a projector, PostgreSQL, and [`ENDPOINTS`] endpoints at `receiver`.
pub(crate) async fn start(receiver: &Receiver) -> TestApp {
    let app = TestApp::builder()
        .processes(["api", "dispatcher", "dispatcher", "projector"])
        .backend(Backend::Postgres)
        .start()
        .await;
    for endpoint in 0..ENDPOINTS {
        receiver.script(&path(endpoint), [Reply::status(200).after(ANSWER)]);
        let request = CreateEndpointRequest {
            url: receiver.url(&path(endpoint)),
            event_types: vec![event_type(endpoint)],
            ..Default::default()
        };
        app.create_endpoint(request).await;
    }
    eventually("the partitions are dealt out", || async {
        let mut held = Vec::new();
        for index in DISPATCHERS {
            held.push(app.roles[index].metric("webhooks_membership_partitions").await as usize);
        }
        let all_held = held.iter().sum::<usize>() == PARTITIONS && !held.contains(&0);
        if all_held { Ok(()) } else { Err(held) }
    })
    .await;
    app
}

/// Both dispatchers are alive and have recorded attempts of their own, so that killing one is a loss.
pub(crate) async fn both_dispatchers_work(app: &TestApp) {
    eventually("both dispatchers are alive and deliver", || async {
        let mut succeeded = Vec::new();
        for index in DISPATCHERS {
            succeeded.push(app.roles[index].metric("webhooks_attempts_total").await > 0.0);
        }
        let dispatchers = components(app).await?.dispatchers;
        is((dispatchers, succeeded), (2, vec![true, true]))
    })
    .await;
}

/// The receiver has not answered some requests yet.
pub(crate) async fn attempts_are_in_flight(receiver: &Receiver) {
    eventually("attempts are in flight", || async {
        let in_flight = receiver.in_flight();
        if in_flight >= 16 { Ok(()) } else { Err(in_flight) }
    })
    .await;
}

async fn components(app: &TestApp) -> Result<StatusComponents, String> {
    let status = app.status().get_status(GetStatusRequest {}).await;
    let status = status.map_err(|status| status.to_string())?.into_inner();
    status.components.ok_or_else(|| "no components".into())
}

impl Load {
    /// Hands [`EVENTS`] events of 1 KiB over, each until it is acknowledged.
    pub(crate) fn start(app: &TestApp) -> Self {
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
    pub(crate) async fn reaches(&self, percent: usize) {
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

    pub(crate) async fn finish(self) -> Acknowledged {
        let mut all = Acknowledged::new();
        for (path, id) in self.workers.join_all().await.into_iter().flatten() {
            all.entry(path).or_default().insert(id);
        }
        assert_eq!(all.values().map(HashSet::len).sum::<usize>(), EVENTS);
        all
    }
}

/// How many acknowledged events have not arrived, at least.
fn missing(receiver: &Receiver, acknowledged: &Acknowledged) -> usize {
    let arrived = receiver.distinct_ids();
    if arrived < EVENTS {
        return EVENTS - arrived;
    }
    let missing = acknowledged.iter().map(|(path, ids)| {
        let arrived = receiver.ids(path);
        ids.iter().filter(|id| !arrived.contains_key(*id)).count()
    });
    missing.sum()
}

/// Everything that was acknowledged arrives, and the history knows of every delivery that it was made.
pub(crate) async fn everything_arrives(app: &TestApp, receiver: &Receiver, acknowledged: &Acknowledged) {
    eventually_within(PATIENCE, "every acknowledged event arrives", || async {
        is(missing(receiver, acknowledged), 0)
    })
    .await;
    eventually_within(PATIENCE, "the history has caught up with the log", || async {
        is(components(app).await?.projection_lag, Some(0))
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
