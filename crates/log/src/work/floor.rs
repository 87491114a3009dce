//! Up to where a partition's work is known to be done, for the case that its durable consumer is lost: the next one
//! starts there, so that nothing is left out and as little as possible is done again.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared between a work stream and its items.
#[derive(Debug, Default)]
pub(super) struct Floor(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether a consumer was ever found or delivered anything.
    known: bool,
    /// Everything up to here was done when the consumer was attached.
    base: u64,
    /// Up to here, items may have been delivered before the consumer was attached, to us or to another worker.
    carried_to: u64,
    /// How many of those were not done, and were not done by us since.
    carried: u64,
    /// Taken by us and not done.
    taken: BTreeSet<u64>,
    /// Highest sequence taken by us.
    highest: u64,
}

impl Floor {
    /// A consumer was found: everything up to `done` is, and of what was delivered, up to `delivered`, `pending` items
    /// are not.
    pub(super) fn attached(&self, done: u64, delivered: u64, pending: u64) {
        let mut inner = self.lock();
        inner.known = true;
        inner.base = done;
        inner.carried_to = delivered;
        inner.carried = pending;
    }

    /// An item was delivered to us.
    pub(super) fn taken(&self, sequence: u64) {
        let mut inner = self.lock();
        inner.known = true;
        inner.taken.insert(sequence);
        inner.highest = inner.highest.max(sequence);
    }

    /// An item needs no more work.
    pub(super) fn done(&self, sequence: u64) {
        let mut inner = self.lock();
        if inner.taken.remove(&sequence) && sequence <= inner.carried_to {
            inner.carried = inner.carried.saturating_sub(1);
        }
    }

    /// The first sequence that may not be done; `None` when nothing is known.
    pub(super) fn resume_at(&self) -> Option<u64> {
        let inner = self.lock();
        if !inner.known {
            return None;
        }
        if inner.carried > 0 {
            return Some(inner.base + 1);
        }
        let seen = inner.highest.max(inner.carried_to).max(inner.base);
        Some(inner.taken.first().copied().unwrap_or(seen + 1))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_known_of_a_consumer_that_never_was() {
        assert_eq!(Floor::default().resume_at(), None);
    }

    #[test]
    fn what_another_worker_left_is_not_skipped() {
        let floor = Floor::default();
        floor.attached(10, 20, 2);
        floor.taken(21);
        floor.done(21);
        assert_eq!(floor.resume_at(), Some(11));
        for sequence in [12, 15] {
            floor.taken(sequence);
            floor.done(sequence);
        }
        assert_eq!(floor.resume_at(), Some(22));
    }

    #[test]
    fn a_repeated_word_counts_once() {
        let floor = Floor::default();
        floor.attached(0, 2, 2);
        floor.taken(1);
        floor.done(1);
        floor.done(1);
        assert_eq!(floor.resume_at(), Some(1));
    }

    proptest! {
        /// Of 20 items some are done, some held, some not delivered yet: the next consumer starts at or before the first
        /// that is not done.
        #[test]
        fn nothing_that_is_not_done_is_skipped(done in proptest::collection::vec(any::<bool>(), 1..20), delivered in 0usize..20) {
            let floor = Floor::default();
            let delivered = delivered.min(done.len());
            for sequence in 1..=delivered as u64 {
                floor.taken(sequence);
            }
            for (index, _) in done[..delivered].iter().enumerate().filter(|(_, done)| **done) {
                floor.done(index as u64 + 1);
            }
            let first_open = done[..delivered].iter().position(|done| !done).unwrap_or(delivered) as u64 + 1;
            prop_assert_eq!(floor.resume_at(), (delivered > 0).then_some(first_open));
        }
    }
}
