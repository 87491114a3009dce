//! What a detached lane knows of its place in the log.

use std::collections::{BTreeSet, HashMap};

use cuitty_webhooks_domain::ids::DeliveryId;

use super::interface::{Known, LaneState, Recovered};

/// The place of a lane that reads the log itself: what it has read, and what of that is done.
///
/// ```text
///   floor        cursor            read_to            skipped_to
///     │  all done  │  done or open    │   not read yet    │
/// ```
#[derive(Debug)]
pub(super) struct Backlog {
    /// What the partition's consumer delivers from above here is left to the lane.
    floor: u64,
    /// Everything of the endpoint up to here was read.
    read_to: u64,
    /// Read and not done.
    open: BTreeSet<u64>,
    /// Done above the cursor.
    done: BTreeSet<u64>,
    /// Highest sequence that was left to the lane.
    skipped_to: u64,
    /// Outcomes that the log had when the lane was taken over, until what they are of is read.
    known: HashMap<DeliveryId, Known>,
    /// Sequences after which and up to which these outcomes stand.
    known_between: (u64, u64),
}

impl Backlog {
    /// Of a lane that detaches: everything up to `cursor` is done, or held as pulled.
    pub(super) fn new(cursor: u64) -> Self {
        Self {
            floor: cursor,
            read_to: cursor,
            open: BTreeSet::new(),
            done: BTreeSet::new(),
            skipped_to: 0,
            known: HashMap::new(),
            known_between: (0, 0),
        }
    }

    /// Of a lane that was taken over.
    pub(super) fn recovered(recovered: Recovered) -> Self {
        let Recovered {
            state,
            mut known,
            outcomes_to,
            ..
        } = recovered;
        if let Some(blocked) = state.blocked {
            let next = Some(blocked.until);
            let attempts = blocked.attempts;
            known
                .entry(blocked.delivery_id)
                .or_insert(Known { attempts, next });
        }
        Self {
            floor: state.floor,
            done: state.done.into_iter().collect(),
            known,
            known_between: (state.outcomes_from, outcomes_to),
            ..Self::new(state.cursor)
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Everything of the endpoint up to here is done.
    pub(super) fn cursor(&self) -> u64 {
        self.open.first().map_or(self.read_to, |first| first - 1)
    }

    /// Where the next read begins.
    pub(super) fn next(&self) -> u64 {
        self.read_to + 1
    }

    /// Leaves a pulled item to the lane.
    pub(super) fn skip(&mut self, sequence: u64) {
        self.skipped_to = self.skipped_to.max(sequence);
    }

    /// An item was read; `false` when it is done already.
    pub(super) fn read(&mut self, sequence: u64) -> bool {
        if self.done.contains(&sequence) {
            return false;
        }
        self.open.insert(sequence)
    }

    /// Whether it was read and is not done.
    pub(super) fn is_open(&self, sequence: u64) -> bool {
        self.open.contains(&sequence)
    }

    /// What the log had of a delivery when the lane was taken over.
    pub(super) fn known(&self, delivery_id: DeliveryId) -> Option<Known> {
        self.known.get(&delivery_id).copied()
    }

    /// The read came up to `end`; whether there is nothing beyond it that the lane must read.
    pub(super) fn read_up_to(&mut self, end: u64, at_tail: bool) -> bool {
        self.read_to = self.read_to.max(end);
        if self.read_to >= self.known_between.1 {
            self.known.clear();
        }
        self.prune();
        at_tail && self.skipped_to <= self.read_to
    }

    /// An item of the lane, read or pulled, needs no more work.
    pub(super) fn finished(&mut self, sequence: u64) {
        self.open.remove(&sequence);
        self.done.insert(sequence);
        self.prune();
    }

    /// Whether everything that was read is done.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Fills the place in.
    pub(super) fn save(&self, state: &mut LaneState) {
        if !self.known.is_empty() {
            // The next owner must find them too.
            state.outcomes_from = state.outcomes_from.min(self.known_between.0);
        }
        state.floor = self.floor;
        state.cursor = self.cursor();
        state.done = self.done.iter().copied().collect();
    }

    fn prune(&mut self) {
        let cursor = self.cursor();
        if self.done.first().is_some_and(|&first| first <= cursor) {
            self.done = self.done.split_off(&(cursor + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The cursor never passes something that is not done, and moves on when it is.
        #[test]
        fn the_cursor_is_right(count in 1u64..40, order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40)) {
            let mut backlog = Backlog::new(100);
            let mut open: Vec<u64> = (1..=count).map(|step| 100 + 3 * step).collect();
            for &sequence in &open {
                prop_assert!(backlog.read(sequence));
            }
            prop_assert!(!backlog.read_up_to(100 + 3 * count, false));
            for index in order {
                if open.is_empty() {
                    break;
                }
                let sequence = open.remove(index.index(open.len()));
                backlog.finished(sequence);
                let expected = open.first().map_or(100 + 3 * count, |first| first - 1);
                prop_assert_eq!(backlog.cursor(), expected);
                prop_assert!(backlog.done.iter().all(|&done| done > expected && !open.contains(&done)));
            }
            prop_assert_eq!(backlog.is_done(), open.is_empty());
        }
    }

    #[test]
    fn the_tail_is_reached_when_nothing_was_left_beyond_it() {
        let mut backlog = Backlog::new(10);
        backlog.skip(20);
        assert!(!backlog.read_up_to(15, true));
        backlog.skip(18);
        assert!(backlog.read_up_to(20, true));
        assert!(!backlog.read_up_to(21, false));
    }
}
