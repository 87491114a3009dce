//! Callers that hand events over until each is acknowledged, and what they saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cuitty_webhooks_client::{Client, Publisher};
use cuitty_webhooks_proto::v1::DeliverRequest;
use harness::eventually::eventually_within;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ENDPOINTS, PATIENCE, PROJECT, event_type};

/// Events a second, all callers together; what an outage holds up is handed over as fast as it is taken.
const RATE: u32 = 250;
/// Callers of each API process, and of NATS: each has one event at a time.
const CALLERS_OF_AN_API: usize = 8;
const CALLERS_OF_NATS: usize = 8;
/// Between two tries of an event.
const PAUSE: Duration = Duration::from_millis(200);

/// The ways in.
pub(super) struct Doors {
    /// One for each API process, over gRPC.
    pub(super) apis: Vec<Client>,
    pub(super) module: Publisher,
}

/// An event that was acknowledged.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Its idempotency key, which its payload holds, too.
    pub(super) key: String,
    pub(super) at: Instant,
    /// From its first try.
    pub(super) waited: Duration,
    /// The delivery that the API has named; NATS names none.
    pub(super) delivery_id: Option<String>,
}

/// A load under way.
pub(super) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<Ran>,
}

struct Shared {
    name: &'static str,
    began: Instant,
    /// Events that there are at least, whenever it is told to end.
    least: usize,
    next: AtomicUsize,
    accepted: AtomicUsize,
    is_to_end: AtomicBool,
}

/// What came of a load.
pub(super) struct Ran {
    pub(super) name: &'static str,
    pub(super) began: Instant,
    /// In the order of the acknowledgements.
    pub(super) accepted: Vec<Accepted>,
    /// Calls that failed, by what was said.
    pub(super) failures: BTreeMap<String, usize>,
}

enum Door {
    Api(Box<Client>),
    Nats(Box<Publisher>),
}

impl Door {
    /// Hands an event over: the delivery that was made, where that is told.
    async fn hand_over(&self, event: DeliverRequest) -> Result<Option<String>, String> {
        match self {
            Self::Api(client) => {
                let answer = client.deliver(event).await;
                let mut accepted = answer.map_err(|error| format!("gRPC: {error}"))?;
                assert_eq!(accepted.deliveries.len(), 1, "{accepted:?}");
                Ok(accepted.deliveries.pop().map(|delivery| delivery.id))
            }
            Self::Nats(module) => {
                let published = module.publish(event).await;
                published.map_err(|error| format!("NATS: {error}"))?;
                Ok(None)
            }
        }
    }
}

impl Load {
    /// Begins; the name tells its events from those of other loads.
    pub(super) fn start(name: &'static str, doors: &Doors, least: usize) -> Self {
        let shared = Arc::new(Shared {
            name,
            began: Instant::now(),
            least,
            next: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            is_to_end: AtomicBool::new(false),
        });
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS_OF_AN_API {
            for client in &doors.apis {
                callers.spawn(Arc::clone(&shared).call(Door::Api(Box::new(client.clone()))));
            }
        }
        for _ in 0..CALLERS_OF_NATS {
            callers.spawn(Arc::clone(&shared).call(Door::Nats(Box::new(doors.module.clone()))));
        }
        Self { shared, callers }
    }

    /// Waits until so many more are acknowledged, and says how long that took.
    pub(super) async fn takes(&self, further: usize) -> Duration {
        let begin = Instant::now();
        let accepted = || self.shared.accepted.load(Ordering::Relaxed);
        let wanted = accepted() + further;
        eventually_within(PATIENCE, "events are accepted", || async {
            let now = accepted();
            if now >= wanted { Ok(()) } else { Err(now) }
        })
        .await;
        begin.elapsed()
    }

    /// Makes no further events, and waits until all of them are acknowledged.
    pub(super) async fn finish(self) -> Ran {
        self.shared.is_to_end.store(true, Ordering::Relaxed);
        let mut all = Ran::new(&self.shared);
        for ran in self.callers.join_all().await {
            all.accepted.extend(ran.accepted);
            for (failure, times) in ran.failures {
                *all.failures.entry(failure).or_default() += times;
            }
        }
        all.accepted.sort_by_key(|accepted| accepted.at);
        all
    }
}

impl Shared {
    async fn call(self: Arc<Self>, door: Door) -> Ran {
        let mut ran = Ran::new(&self);
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if self.is_to_end.load(Ordering::Relaxed) && number >= self.least {
                return ran;
            }
            sleep_until(self.began + Duration::from_secs(number as u64) / RATE).await;
            let key = format!("{}-{number}", self.name);
            let event = DeliverRequest {
                project_id: PROJECT.into(),
                event_type: event_type(number % ENDPOINTS),
                payload: json!({ "key": key, "pad": "x".repeat(900) }).to_string().into(),
                idempotency_key: key.clone(),
                ..Default::default()
            };
            let begin = Instant::now();
            let delivery_id = loop {
                match door.hand_over(event.clone()).await {
                    Ok(delivery_id) => break delivery_id,
                    Err(failure) => *ran.failures.entry(failure).or_default() += 1,
                }
                sleep(PAUSE).await;
            };
            ran.accepted.push(Accepted {
                key,
                at: Instant::now(),
                waited: begin.elapsed(),
                delivery_id,
            });
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Ran {
    fn new(shared: &Shared) -> Self {
        Self {
            name: shared.name,
            began: shared.began,
            accepted: Vec::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Calls that failed.
    pub(super) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// Calls, whatever came of them.
    pub(super) fn calls(&self) -> usize {
        self.accepted.len() + self.failed()
    }

    /// Until the last event was acknowledged.
    pub(super) fn took(&self) -> Duration {
        let last = self.accepted.last();
        last.map(|last| last.at - self.began).unwrap_or_default()
    }

    /// The longest time in which nothing was acknowledged.
    pub(super) fn longest_gap(&self) -> Duration {
        let times = std::iter::once(self.began).chain(self.accepted.iter().map(|accepted| accepted.at));
        let gaps = times.zip(&self.accepted).map(|(before, next)| next.at - before);
        gaps.max().unwrap_or_default()
    }

    /// The longest time from an event's first try until it was acknowledged.
    pub(super) fn longest_wait(&self) -> Duration {
        let waits = self.accepted.iter().map(|accepted| accepted.waited);
        waits.max().unwrap_or_default()
    }
}
