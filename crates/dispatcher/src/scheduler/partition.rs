//! What the scheduler knows of one partition.

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Until when its lease is known to be held; `None` while nothing may be started.
    pub(super) leased_until: Option<Instant>,
    /// When it is given up at the latest; `None` unless it is to be handed over.
    pub(super) release_by: Option<Instant>,
    pub(super) in_flight: usize,
    /// Lanes that it is paused for.
    pub(super) crowded: usize,
}

impl Partition {
    pub(super) fn is_leased(&self) -> bool {
        self.leased_until.is_some()
    }

    /// When it needs to be looked at.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.leased_until.or(self.release_by)
    }

    /// Whether there is nothing left to know of it.
    pub(super) fn is_forgotten(&self) -> bool {
        self.leased_until.is_none() && self.release_by.is_none() && self.in_flight == 0 && self.crowded == 0
    }
}
