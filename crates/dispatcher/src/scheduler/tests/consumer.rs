//! The durable consumer of one partition: first-time items in the order of the log, with a bound of unacknowledged ones.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::log::{Log, partition};

/// When an item comes again that nobody said a word about.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(6);
/// Items that may be unacknowledged.
const MAX_ACK_PENDING: usize = 16;

/// An item that was delivered and is not acknowledged.
#[derive(Debug)]
pub(super) struct Pending {
    /// When it comes again.
    again: Instant,
    /// Whether it was given back.
    is_parked: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Consumer {
    partition: u16,
    /// Delivered for the first time up to here.
    delivered_to: u64,
    pub(super) pending: BTreeMap<u64, Pending>,
}

/// A delivery of an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    pub(super) sequence: u64,
    pub(super) first: bool,
    /// Whether it comes because nobody said a word about it.
    pub(super) is_overdue: bool,
}

impl Consumer {
    pub(super) fn new(partition: u16) -> Self {
        Self {
            partition,
            delivered_to: 0,
            pending: BTreeMap::new(),
        }
    }

    /// The next item for whoever pulls.
    pub(super) fn next(&mut self, log: &Log, now: Instant) -> Option<Delivered> {
        if let Some((&sequence, pending)) = self.pending.iter_mut().find(|(_, pending)| pending.again <= now)
        {
            pending.again = now + ACK_WAIT;
            let is_overdue = !std::mem::replace(&mut pending.is_parked, false);
            return Some(Delivered {
                sequence,
                first: false,
                is_overdue,
            });
        }
        if self.pending.len() >= MAX_ACK_PENDING {
            return None;
        }
        while self.delivered_to < log.end() {
            self.delivered_to += 1;
            let sequence = self.delivered_to;
            if log
                .work(sequence)
                .is_some_and(|(endpoint, _)| partition(endpoint) == self.partition)
            {
                self.pending.insert(
                    sequence,
                    Pending {
                        again: now + ACK_WAIT,
                        is_parked: false,
                    },
                );
                return Some(Delivered {
                    sequence,
                    first: true,
                    is_overdue: false,
                });
            }
        }
        None
    }

    /// When the next item comes again that is not due yet.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        self.pending
            .values()
            .map(|pending| pending.again)
            .filter(|&again| again > now)
            .min()
    }

    /// Whether everything is delivered and acknowledged.
    pub(super) fn is_idle(&self, log: &Log) -> bool {
        let is_mine = |sequence| {
            log.work(sequence)
                .is_some_and(|(of, _)| partition(of) == self.partition)
        };
        self.pending.is_empty() && !(self.delivered_to + 1..=log.end()).any(is_mine)
    }

    pub(super) fn ack(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
    }

    pub(super) fn nak(&mut self, sequence: u64, again: Instant) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            (pending.again, pending.is_parked) = (again, true);
        }
    }

    pub(super) fn progress(&mut self, sequence: u64, now: Instant) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            (pending.again, pending.is_parked) = (now + ACK_WAIT, false);
        }
    }
}
