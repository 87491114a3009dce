//! What the scheduler is told, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use tokio::time::Instant;

/// Bounds of a [`Scheduler`](super::Scheduler).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Attempts in flight, all lanes together.
    pub(crate) max_in_flight: usize,
    /// What waits in one lane.
    pub(crate) lane: Room,
    /// What waits in all lanes together.
    pub(crate) total: Room,
    /// How long an item stays in the log that a full lane gave back.
    pub(crate) overflow_delay: Duration,
    /// How often an item that is held is reported as being worked on.
    pub(crate) progress_interval: Duration,
    /// Settled items that are remembered, to recognise one that comes again.
    pub(crate) remembered: usize,
}

/// A number of items and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Room {
    pub(super) fn takes(self, other: Self) -> bool {
        other.items <= self.items && other.bytes <= self.bytes
    }

    pub(super) fn min(self, other: Self) -> Self {
        Self {
            items: self.items.min(other.items),
            bytes: self.bytes.min(other.bytes),
        }
    }

    pub(super) fn plus(self, bytes: usize) -> Self {
        Self {
            items: self.items + 1,
            bytes: self.bytes + bytes,
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            items: self.items.saturating_sub(other.items),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    pub(super) fn times(self, factor: usize) -> Self {
        Self {
            items: self.items.saturating_mul(factor),
            bytes: self.bytes.saturating_mul(factor),
        }
    }
}

/// An attempt. The log may deliver the work for it more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttemptKey {
    pub(crate) delivery_id: DeliveryId,
    /// 1 for the first.
    pub(crate) number: u32,
}

/// Work for one attempt.
#[derive(Debug)]
pub(crate) struct Item<W> {
    pub(crate) key: AttemptKey,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) partition: u16,
    /// What it costs to hold.
    pub(crate) bytes: usize,
    /// The cap of its endpoint at this moment, 1 or more.
    pub(crate) max_in_flight: u32,
    pub(crate) work: Arc<W>,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event<W> {
    /// The log delivered work.
    Arrived(Item<W>),
    /// An attempt that was started has ended; `settled` when its work item was acknowledged.
    Finished { key: AttemptKey, settled: bool },
    /// The lease of a partition is held until then.
    Leased { partition: u16, until: Instant },
    /// A partition is to be handed over: nothing more is started for it.
    Releasing { partition: u16 },
    /// The lease of a partition has gone to somebody else, or has expired.
    Lost { partition: u16 },
    /// An endpoint's cap is now this, 1 or more.
    Capped {
        endpoint_id: EndpointId,
        max_in_flight: u32,
    },
    /// Nothing more is started.
    Drain,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Command<W> {
    /// Start the attempt; tell when it has ended.
    Start {
        key: AttemptKey,
        work: Arc<W>,
        /// When the item arrived.
        arrived: Instant,
    },
    /// Give the item back to the log, which delivers it again after `delay`.
    Park { work: Arc<W>, delay: Duration },
    /// Acknowledge the item: its attempt was settled before.
    Settle { work: Arc<W> },
    /// Tell the log that the item is being worked on.
    Progress { work: Arc<W> },
    /// Pull no more of this partition for now.
    Pause { partition: u16 },
    /// Pull this partition again.
    Resume { partition: u16 },
    /// Give up a partition that was to be handed over. Nothing is in flight for it, or nothing that is worth waiting for.
    HandOver { partition: u16 },
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) in_flight: usize,
    pub(crate) lanes: usize,
    pub(crate) queued: Room,
    pub(crate) paused_partitions: usize,
    /// Items that came again while they were held, since the start.
    pub(crate) duplicates: u64,
}
