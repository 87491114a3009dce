//! The event log of Cuitty Webhooks on NATS JetStream: the queue, the truth, and what the history is folded from.
//!
//! Its place in the flow: `api` appends requests, `dispatcher` pulls its partitions' work and appends outcomes,
//! `projector` reads everything in order. None of them sees a subject, a stream or an encoded byte; all of that is
//! here, once ([`subjects`], [`topology`], [`codec`]).
//!
//! Start at [`Log`]. Every operation outlives a restart of nats-server: connections are made again for ever, an append
//! is repeated under the same id until its deadline, readers and work streams go on where they were.
//!
//! Beside the log stand [`Log::notify`] and [`Log::listen`]: other subjects over the same connection.

mod api_keys;
mod append;
mod backlog;
pub mod backup;
mod cancellations;
pub mod codec;
mod config;
mod connect;
mod consume;
mod denial;
pub mod directory;
mod entries;
mod error;
mod event_types;
mod follow;
mod idempotency;
mod ingest;
mod lag;
mod lanes;
pub mod lease;
mod listen;
pub mod membership;
pub mod metrics;
mod notify;
mod outcomes;
mod pages;
pub mod pem;
mod progress;
mod read;
mod replays;
mod scan;
mod storage;
pub mod subjects;
mod timer;
mod tls;
pub mod topology;
pub mod trace;
mod work;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, kv};
use tokio::sync::watch;
use tokio::time::Instant;

pub use crate::api_keys::{ApiKeyEntry, ApiKeys};
pub use crate::append::Appended;
use crate::append::Budget;
pub use crate::backlog::WorkRead;
pub use crate::cancellations::Cancellations;
pub use crate::codec::CodecError;
pub use crate::config::LogConfig;
use crate::denial::Denials;
pub use crate::error::LogError;
pub use crate::event_types::{EventTypeEntry, EventTypes, ProjectEntry};
pub use crate::idempotency::{Claim, Idempotency, Intent, Record};
pub use crate::ingest::{IngestStream, Published, Refusal};
pub use crate::lag::{PartitionBacklog, PartitionLag};
pub use crate::lanes::{BlockedBy, HealthState, LaneHealth, LaneRecord, Lanes, SavedLane};
pub use crate::listen::{AnswerTo, Listener, Notified};
use crate::metrics::Metrics;
pub use crate::notify::{Notification, NotifyError};
pub use crate::outcomes::{LastOutcome, Outcomes};
pub use crate::progress::{Progress, ProgressRead};
pub use crate::read::{EventBody, EventReader, StoredEvent};
pub use crate::replays::{ReplayEntry, Replays};
pub use crate::storage::{Storage, StreamStorage};
pub use crate::tls::Problem;
pub use crate::topology::{StreamState, StreamStatus, Topology};
use crate::work::Floor;
pub use crate::work::{Acker, WorkEvent, WorkItem, WorkStream};

/// A connection to the log. Clones share it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    config: LogConfig,
    client: async_nats::Client,
    jetstream: jetstream::Context,
    /// Counts the connections that were made, so that whoever waits for an answer knows when it is lost.
    connects: watch::Receiver<u64>,
    /// What nats-server does not let this process do.
    denials: Arc<Denials>,
    budget: Budget,
    metrics: Metrics,
    /// As the stream's metadata say; 0 until they were read.
    partitions: AtomicU16,
    /// What is known to be done, by partition.
    floors: [Floor; topology::MAX_PARTITIONS as usize],
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Partitions of the stream: what its metadata say once [`Log::ensure`] or [`Log::check`] has read them, until then
    /// what the configuration says.
    pub fn partitions(&self) -> u16 {
        match self.inner.partitions.load(Ordering::Relaxed) {
            0 => self.inner.config.partitions,
            partitions => partitions,
        }
    }

    /// Whether there is a connection at this moment.
    pub fn is_connected(&self) -> bool {
        self.inner.client.connection_state() == State::Connected
    }

    /// One round trip through JetStream, for readiness: how long it took.
    pub async fn ping(&self) -> Result<Duration, LogError> {
        let started = Instant::now();
        self.inner
            .jetstream
            .query_account()
            .await
            .map_err(LogError::unavailable)?;
        Ok(started.elapsed())
    }

    pub(crate) fn config(&self) -> &LogConfig {
        &self.inner.config
    }

    pub(crate) fn client(&self) -> &async_nats::Client {
        &self.inner.client
    }

    pub(crate) fn jetstream(&self) -> &jetstream::Context {
        &self.inner.jetstream
    }

    /// Counts the connections made; changes when answers to what was sent before are lost.
    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.inner.connects.clone()
    }

    /// Why there is no answer to what was published on `subject`, which may be that it was not allowed.
    pub(crate) fn why_unanswered(&self, subject: &str, otherwise: &str) -> LogError {
        LogError::Unavailable(self.inner.denials.why(subject, otherwise))
    }

    /// The bytes that may be on their way into the log.
    pub(crate) fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What of `partition`'s work is known to be done.
    pub(crate) fn floor(&self, partition: u16) -> &Floor {
        &self.inner.floors[usize::from(partition) % self.inner.floors.len()]
    }

    /// A key-value bucket of the topology, named without the prefix `KV_`.
    pub(crate) async fn bucket(&self, name: &str) -> Result<kv::Store, LogError> {
        self.insist(|| self.jetstream().get_key_value(name))
            .await
            .ok_or_else(|| {
                self.why_unanswered(&format!("$JS.API.STREAM.INFO.KV_{name}"), "no answer in time")
            })?
            .map_err(LogError::bucket(name))
    }
}
