//! Offers events to the API over several gRPC connections.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use cuitty_webhooks_proto::v1::DeliverRequest;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use futures_util::{TryStreamExt, stream};
use harness::grpc::{Authorized, authorized};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::event;
use crate::sink::histogram;

/// The project that everything belongs to.
pub(crate) const PROJECT: &str = "bench";

/// The event type that the endpoints of `group` take.
pub(crate) fn event_type(group: u32) -> String {
    format!("bench.group{group}")
}

/// What a load came to at the API.
#[derive(Debug)]
pub(crate) struct Offered {
    /// Events that the API acknowledged.
    pub(crate) accepted: u64,
    /// Events that it refused or did not answer.
    pub(crate) refused: u64,
    /// When the first event was to be handed over, on the run's clock.
    pub(crate) first: Duration,
    /// When the last acknowledgement came, on the run's clock.
    pub(crate) last: Duration,
    /// From the time an event was to be handed over until it was acknowledged, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Offers events. Every event has a number of its own over the whole run.
#[derive(Debug)]
pub(crate) struct Generator {
    clients: Vec<MessageServiceClient<Authorized>>,
    next: AtomicU32,
    /// Counts events to the groups, which take turns.
    turns: AtomicU32,
    epoch: Instant,
    groups: u32,
    payload: usize,
}

#[derive(Debug, Default)]
struct Tally {
    accepted: AtomicU64,
    refused: AtomicU64,
    last_nanos: AtomicU64,
}

impl Generator {
    /// Connects `connections` times to the API at `url`.
    pub(crate) async fn connect(
        url: &str,
        key: &str,
        connections: u32,
        epoch: Instant,
        groups: u32,
        payload: usize,
    ) -> anyhow::Result<Arc<Self>> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let channel = authorized(url, Some(key)).await.context("connect to the API")?;
            clients.push(MessageServiceClient::new(channel));
        }
        Ok(Arc::new(Self {
            clients,
            next: AtomicU32::new(0),
            turns: AtomicU32::new(0),
            epoch,
            groups,
            payload,
        }))
    }

    /// Open loop: `rate` events per second for `duration`, each at its own time whether or not the ones before it were
    /// answered. Latency counts from that time, so a stall of the API or of this generator is counted, not left out.
    pub(crate) async fn offer(self: &Arc<Self>, rate: u32, duration: Duration) -> Offered {
        let generator = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        // A thread of its own: the runtime's timers round up to a millisecond.
        let pacer = tokio::task::spawn_blocking(move || {
            let (tally, latency) = (Arc::new(Tally::default()), Arc::new(Mutex::new(histogram())));
            let first = generator.epoch.elapsed();
            let events = (f64::from(rate) * duration.as_secs_f64()) as u32;
            let mut tasks = JoinSet::new();
            for index in 0..events {
                let at = first + Duration::from_secs_f64(f64::from(index) / f64::from(rate));
                std::thread::sleep(at.saturating_sub(generator.epoch.elapsed()));
                let (generator, tally, latency) =
                    (Arc::clone(&generator), Arc::clone(&tally), Arc::clone(&latency));
                tasks.spawn_on(
                    async move { generator.hand_over(at, &tally, &latency).await },
                    &runtime,
                );
                while tasks.try_join_next().is_some() {}
            }
            (tasks, tally, latency, first)
        });
        let (tasks, tally, latency, first) = pacer.await.expect("the pacer does not panic");
        tasks.join_all().await;
        tally.offered(first, &latency)
    }

    /// Saturation: as many events as the API takes with `in_flight` of them waiting for their acknowledgement.
    pub(crate) async fn saturate(self: &Arc<Self>, in_flight: usize, duration: Duration) -> Offered {
        let (tally, latency) = (Arc::new(Tally::default()), Arc::new(Mutex::new(histogram())));
        let slots = Arc::new(Semaphore::new(in_flight));
        let first = self.epoch.elapsed();
        let mut tasks = JoinSet::new();
        while self.epoch.elapsed() < first + duration {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            let (generator, tally, latency) = (Arc::clone(self), Arc::clone(&tally), Arc::clone(&latency));
            tasks.spawn(async move {
                let at = generator.epoch.elapsed();
                generator.hand_over(at, &tally, &latency).await;
                drop(slot);
            });
            while tasks.try_join_next().is_some() {}
        }
        tasks.join_all().await;
        tally.offered(first, &latency)
    }

    /// Hands over `count` events of this type, `in_flight` at a time.
    pub(crate) async fn fill(&self, event_type: &str, count: u32, in_flight: usize) -> anyhow::Result<()> {
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(in_flight, |_| self.publish(event_type))
            .await
    }

    /// Hands over one event of this type.
    pub(crate) async fn publish(&self, event_type: &str) -> anyhow::Result<()> {
        let (mut client, request) = self.next(event_type.to_owned(), self.epoch.elapsed());
        client.deliver(request).await.context("hand an event over")?;
        Ok(())
    }

    /// The next event, and the connection that is to take it.
    fn next(&self, event_type: String, at: Duration) -> (MessageServiceClient<Authorized>, DeliverRequest) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let request = DeliverRequest {
            project_id: PROJECT.into(),
            event_type,
            payload: event::payload(number, at, self.payload),
            ..DeliverRequest::default()
        };
        (
            self.clients[number as usize % self.clients.len()].clone(),
            request,
        )
    }

    async fn hand_over(&self, at: Duration, tally: &Tally, latency: &Mutex<Histogram<u64>>) {
        let group = self.turns.fetch_add(1, Ordering::Relaxed) % self.groups;
        let (mut client, request) = self.next(event_type(group), at);
        match client.deliver(request).await {
            Ok(_) => {
                let now = self.epoch.elapsed();
                tally.accepted.fetch_add(1, Ordering::Relaxed);
                tally
                    .last_nanos
                    .fetch_max(now.as_nanos() as u64, Ordering::Relaxed);
                let micros = now.saturating_sub(at).as_micros() as u64;
                latency
                    .lock()
                    .expect("no panic while held")
                    .saturating_record(micros);
            }
            Err(_) => {
                tally.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Tally {
    fn offered(&self, first: Duration, latency: &Mutex<Histogram<u64>>) -> Offered {
        Offered {
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            first,
            last: Duration::from_nanos(self.last_nanos.load(Ordering::Relaxed)),
            latency: latency.lock().expect("no panic while held").clone(),
        }
    }
}
