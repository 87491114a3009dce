//! Figures for metrics.

use std::time::Duration;

use tokio::time::Instant;

use super::interface::Room;
use super::lane::{Lane, Place, Queued};
use super::{Held, Scheduler};

/// What the scheduler holds at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) in_flight: usize,
    pub(crate) lanes: usize,
    /// Lanes that read the log themselves.
    pub(crate) detached: usize,
    /// Lanes of active endpoints whose breaker is not closed.
    pub(crate) open: usize,
    /// What waits, all lanes together.
    pub(crate) queued: Room,
    /// How long the oldest delivery that waits in a lane has been due, by what holds it up.
    pub(crate) oldest: [Duration; HeldBy::ALL.len()],
    pub(crate) is_paused: bool,
    /// Items that came again while they were held or after they were settled, since the start.
    pub(crate) duplicates: u64,
    /// Pulled items that were left to their detached lanes, since the start.
    pub(crate) skipped: u64,
}

/// What a delivery that is due waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// A slot of this dispatcher: its endpoint could take it.
    Dispatcher,
    /// Its endpoint: one in flight, the rate limit, a pause that was asked for, or the one before it in order.
    Endpoint,
    /// The breaker of its endpoint.
    Breaker,
}

impl HeldBy {
    pub(crate) const ALL: [Self; 3] = [Self::Dispatcher, Self::Endpoint, Self::Breaker];

    /// As the metric's label says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Endpoint => "endpoint",
            Self::Breaker => "breaker",
        }
    }
}

impl<W> Scheduler<W> {
    /// Looks at every lane once.
    pub(crate) fn stats(&self, now: Instant) -> Stats {
        let mut stats = Stats {
            in_flight: self.in_flight,
            lanes: self.lanes.len(),
            queued: self.queued,
            is_paused: self.is_paused,
            duplicates: self.duplicates,
            skipped: self.skipped,
            ..Stats::default()
        };
        for lane in self.lanes.values() {
            let is_open = lane.settings.active && !lane.breaker.is_closed();
            stats.open += usize::from(is_open);
            stats.detached += usize::from(lane.is_detached());
            if let Some(head) = lane.head()
                && let Some(held) = self.held.get(&head.key)
            {
                let oldest = &mut stats.oldest[held_by(lane) as usize];
                *oldest = held.due_for(head, now).max(*oldest);
            }
        }
        stats
    }
}

impl<W> Held<W> {
    /// How long it has been due when it waits as `queued`.
    fn due_for(&self, queued: &Queued, now: Instant) -> Duration {
        let since = queued.not_before.max(Some(self.arrived)).unwrap_or(self.arrived);
        match now.checked_duration_since(since) {
            Some(here) => self.waited + here,
            None => Duration::ZERO,
        }
    }
}

fn held_by<W>(lane: &Lane<W>) -> HeldBy {
    match lane.place {
        Place::Ready { .. } => HeldBy::Dispatcher,
        _ if lane.settings.active && !lane.breaker.is_closed() => HeldBy::Breaker,
        Place::Idle | Place::Waiting(_) => HeldBy::Endpoint,
    }
}
