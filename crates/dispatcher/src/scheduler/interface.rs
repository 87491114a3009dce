//! What the scheduler is told, and what it answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_domain::retry::Pressure;
use tokio::time::Instant;

use super::breaker::BreakerRules;

/// Bounds of a [`Scheduler`](super::Scheduler).
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Attempts in flight, all lanes together.
    pub(crate) max_in_flight: usize,
    /// What waits in one lane.
    pub(crate) lane: Room,
    /// What waits in all lanes together.
    pub(crate) total: Room,
    /// What a detached lane reads ahead.
    pub(crate) window: Room,
    /// How often an item that is held is reported as being worked on.
    pub(crate) progress_interval: Duration,
    /// How often the cursor of a detached lane is saved while it moves.
    pub(crate) save_interval: Duration,
    /// Settled items that are remembered, to recognise one that comes again.
    pub(crate) remembered: usize,
    /// When a lane's breaker opens, and how it probes.
    pub(crate) breaker: BreakerRules,
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

    /// One in `parts`, rounded up.
    pub(super) fn part(self, parts: usize) -> Self {
        Self {
            items: self.items.div_ceil(parts),
            bytes: self.bytes.div_ceil(parts),
        }
    }

    /// Three in four.
    pub(super) fn most(self) -> Self {
        Self {
            items: self.items - self.items / 4,
            bytes: self.bytes - self.bytes / 4,
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
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// What it costs to hold.
    pub(crate) bytes: usize,
    /// From when on it is ended without an attempt.
    pub(crate) deadline: Instant,
    /// How long it had been due when it came here.
    pub(crate) waited: Duration,
    pub(crate) work: Arc<W>,
}

/// How an endpoint is configured at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaneSettings {
    /// Attempts at the same time, 1 or more.
    pub(crate) max_in_flight: u32,
    /// Attempts per second, 1 or more; `None` means as many as can be.
    pub(crate) rate: Option<u32>,
    /// Whether deliveries are made strictly in log order, one at a time.
    pub(crate) ordered: bool,
    /// Whether deliveries are attempted; if not, each ends as soon as it is looked at.
    pub(crate) active: bool,
    /// Waits before the 1st, 2nd, … probe of an open breaker; the last one repeats. Never empty.
    pub(crate) probe_delays: Arc<[Duration]>,
}

/// What is kept of a lane beside the log, so that its next owner goes on where this one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaneState {
    /// Whether it reads the log itself.
    pub(crate) detached: bool,
    /// Of what the partition's consumer delivers, what lies above this is read by the lane itself: up to `cursor` when
    /// it is not detached any more, all of it while it is.
    pub(crate) floor: u64,
    /// Everything of its endpoint after `floor` and up to here is done.
    pub(crate) cursor: u64,
    /// Done above `cursor`, in order.
    pub(crate) done: Vec<u64>,
    /// Outcomes stored after this sequence may be missing from `cursor` and `done`.
    pub(crate) outcomes_from: u64,
    /// How its endpoint is doing.
    pub(crate) health: Health,
    /// What an ordered lane waits for.
    pub(crate) blocked: Option<Blocked>,
}

/// How an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) breaker: BreakerState,
    /// Failures since the last success.
    pub(crate) consecutive_failures: u32,
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// Letting through.
    Closed,
    /// Stopped until then, when the probe of this number (1 or more) may start.
    Open { until: Instant, probe: u32 },
    /// The probe of this number is in flight, or waits for something to probe with.
    HalfOpen { probe: u32 },
}

/// The delivery that holds up an ordered lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) delivery_id: DeliveryId,
    /// Attempts made so far.
    pub(crate) attempts: u32,
    /// When the next one is due.
    pub(crate) until: Instant,
}

/// What the log says of a delivery that a lane is about to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Highest attempt that is recorded; 0 when it ended without one.
    pub(crate) attempts: u32,
    /// When the next one is due; `None` when the delivery has ended.
    pub(crate) next: Option<Instant>,
}

/// A lane, told from an earlier one of the same endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) life: u64,
}

/// What a lane needs to go on where another owner was.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// `detached`, whatever was saved.
    pub(crate) state: LaneState,
    /// The deliveries that have outcomes after `state.outcomes_from`.
    pub(crate) known: HashMap<DeliveryId, Known>,
    /// Sequence of the last one of them; `state.outcomes_from` when there is none.
    pub(crate) outcomes_to: u64,
}

/// What became of an attempt that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The log has the outcome, and the item, if it was pulled, was acknowledged.
    Recorded {
        /// Where the outcome is stored; `None` when it had been stored before.
        outcome: Option<u64>,
        /// What it says of the endpoint.
        sign: Sign,
    },
    /// Of an ordered endpoint: the attempt failed, and the next one is due then. Not acknowledged.
    Blocked {
        outcome: Option<u64>,
        sign: Sign,
        until: Instant,
    },
    /// No attempt was made, or its outcome could not be recorded: again after this time.
    NotNow(Duration),
}

/// What the end of an attempt says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The delivery ended without an attempt.
    Silent,
    /// The attempt succeeded.
    Success,
    /// It failed in a way that is no matter of load, such as a 4xx status.
    Refusal,
    /// It failed in a way that may be a matter of load.
    Failure,
    /// The endpoint asked for less, for at least so long.
    Throttle(Duration),
    /// The endpoint asked to be disabled, which others see to.
    Gone,
}

impl From<Pressure> for Sign {
    fn from(pressure: Pressure) -> Self {
        match pressure {
            Pressure::Success => Self::Success,
            Pressure::Refusal => Self::Refusal,
            Pressure::Failure => Self::Failure,
            Pressure::Throttle(least) => Self::Throttle(least),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event<W> {
    /// An endpoint is about to get work here, or may have some: what is known of its lane. Told before anything else of
    /// an endpoint that has no lane yet.
    Lane {
        endpoint_id: EndpointId,
        partition: u16,
        settings: LaneSettings,
        /// What was saved of it; `None` when nothing ever was.
        state: Option<LaneState>,
    },
    /// The partition's consumer delivered work; `first` unless it had been delivered before.
    Pulled {
        endpoint_id: EndpointId,
        item: Item<W>,
        first: bool,
    },
    /// A [`Command::Read`] was carried out: what it found, up to sequence `end`. `at_tail` when the endpoint has nothing
    /// beyond that.
    Read {
        lane: LaneId,
        items: Vec<Item<W>>,
        end: u64,
        at_tail: bool,
    },
    /// A [`Command::Read`] or [`Command::Recover`] could not be carried out.
    ReadFailed { lane: LaneId },
    /// A [`Command::Recover`] was carried out.
    Recovered { lane: LaneId, recovered: Recovered },
    /// A [`Command::Save`] was carried out.
    Saved { lane: LaneId },
    /// Somebody else saved the lane: it is theirs.
    Fenced { lane: LaneId },
    /// An attempt that was started has ended.
    Ended { key: AttemptKey, ended: Ended },
    /// The lease of a partition is held until then.
    Leased { partition: u16, until: Instant },
    /// A partition is to be handed over: nothing more is started for it.
    Releasing { partition: u16 },
    /// The lease of a partition has gone to somebody else, or has expired.
    Lost { partition: u16 },
    /// An endpoint is configured anew; with `probe`, in a way that may have mended it.
    Changed {
        endpoint_id: EndpointId,
        settings: LaneSettings,
        probe: bool,
    },
    /// A delivery was cancelled.
    Cancelled {
        endpoint_id: EndpointId,
        delivery_id: DeliveryId,
    },
    /// Nothing more is started.
    Drain,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Command<W> {
    /// Make the attempt, or end the delivery without one if it must not be made; tell when it has ended.
    Start {
        key: AttemptKey,
        work: Arc<W>,
        /// When the item arrived.
        arrived: Instant,
        /// Whether the log is to be asked first if the attempt was made already.
        verify: bool,
        /// Whether a request may be made. If not, the delivery is over as far as is known here, and no limit of its
        /// endpoint's was heeded: one that is not over after all has [`Ended::NotNow`].
        may_send: bool,
    },
    /// Give the pulled item back to the log, which delivers it again after `delay`.
    Park { work: Arc<W>, delay: Duration },
    /// Acknowledge the pulled item: it is settled, or its lane reads it itself.
    Settle { work: Arc<W> },
    /// Tell the log that the pulled item is being worked on.
    Progress { work: Arc<W> },
    /// Find out what of an endpoint's work is done.
    Recover { lane: LaneId, state: Option<LaneState> },
    /// Read the endpoint's work from this sequence on.
    Read { lane: LaneId, from: u64, room: Room },
    /// Save the lane, for its next owner and for everybody who asks how its endpoint is doing.
    Save { lane: LaneId, state: LaneState },
    /// Pull nothing for now.
    Pause,
    /// Pull again.
    Resume,
    /// Give up a partition that was to be handed over. Nothing is in flight for it, or nothing that is worth waiting for.
    HandOver { partition: u16 },
}
