//! What of a partition's work is known to be done. It outlives the work stream, and what the durable consumer knows: a
//! consumer that is made again starts where there is something to do, and what comes again although it was done is told.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ItemId;
use super::known::Known;

/// Shared by the work streams of a partition and their items.
#[derive(Debug, Default)]
pub(crate) struct Floor(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: Known,
    /// The consumer's number of the last delivery to us.
    delivery: u64,
    /// Counts the changes.
    version: u64,
    /// The version that is stored.
    stored: u64,
    /// The revision of what is stored; 0 for nothing.
    revision: u64,
}

/// What is to be stored.
#[derive(Debug)]
pub(super) struct Unstored {
    pub(super) known: Known,
    /// The revision that it follows.
    pub(super) revision: u64,
    version: u64,
}

impl Floor {
    /// The stream is the one made at `created`: forgets what is known of another one.
    pub(super) fn of_stream(&self, created: i128) {
        let mut inner = self.lock();
        if !inner.known.is_of_stream(created) {
            inner.known = Known::of_stream(created);
            inner.version += 1;
        }
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        inner.known = inner.known.forgotten();
        inner.version += 1;
    }

    /// There is such a message in the stream.
    pub(super) fn anchor_at(&self, id: ItemId) {
        self.lock().known.anchor_at(id);
    }

    /// `known` is stored under `revision`. It is taken over when another holder of the partition wrote it and saw as much.
    pub(super) fn learn(&self, known: Known, revision: u64) {
        let mut inner = self.lock();
        if revision != inner.revision && known.reaches(&inner.known) {
            inner.known = known;
        }
        inner.revision = revision;
    }

    /// A consumer was found: it delivered items up to `delivered`, numbered to `delivery`, and up to `done` they are done.
    pub(super) fn attached(&self, done: u64, delivered: u64, delivery: u64) {
        let mut inner = self.lock();
        inner.known.delivered(done, delivered);
        inner.delivery = delivery;
        inner.version += 1;
    }

    /// The consumer says that everything up to `done` is done.
    pub(super) fn acknowledged(&self, done: u64) {
        self.lock().known.acknowledged(done);
    }

    /// An item came to us as number `delivery` of the consumer's deliveries. Whether there is anything to do about it.
    pub(super) fn take(&self, id: ItemId, delivery: u64) -> bool {
        let mut inner = self.lock();
        // Whatever number is missing was on its way to somebody else, or got lost.
        let in_order = delivery == inner.delivery + 1;
        inner.delivery = delivery;
        inner.version += 1;
        inner.known.take(id, in_order)
    }

    /// An item needs no more work.
    pub(super) fn done(&self, id: ItemId) {
        let mut inner = self.lock();
        inner.known.done(id);
        inner.version += 1;
    }

    pub(super) fn known(&self) -> Known {
        self.lock().known.clone()
    }

    pub(super) fn has_changed(&self) -> bool {
        let inner = self.lock();
        inner.version != inner.stored && inner.known.anchor().is_some()
    }

    pub(super) fn unstored(&self) -> Unstored {
        let inner = self.lock();
        Unstored {
            known: inner.known.clone(),
            revision: inner.revision,
            version: inner.version,
        }
    }

    /// What [`Floor::unstored`] gave is stored under `revision`.
    pub(super) fn stored(&self, unstored: &Unstored, revision: u64) {
        let mut inner = self.lock();
        inner.stored = unstored.version;
        inner.revision = revision;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> ItemId {
        ItemId {
            sequence,
            stored_at: 1000 + i128::from(sequence),
        }
    }

    fn resume_at(floor: &Floor) -> u64 {
        floor.known().resume_at()
    }

    #[test]
    fn a_delivery_that_went_elsewhere_leaves_open_what_it_may_have_held() {
        let floor = Floor::default();
        floor.attached(0, 0, 0);
        for (sequence, delivery) in [(2, 1), (4, 2), (9, 4)] {
            assert!(floor.take(id(sequence), delivery));
            floor.done(id(sequence));
        }
        assert_eq!(resume_at(&floor), 5);
        floor.acknowledged(9);
        assert_eq!(resume_at(&floor), 10);
    }

    #[test]
    fn what_another_holder_stored_is_taken_over_unless_we_saw_more() {
        let (ours, theirs) = (Floor::default(), Floor::default());
        ours.take(id(5), 1);
        theirs.take(id(5), 1);
        theirs.done(id(5));
        ours.learn(theirs.known(), 7);
        assert_eq!(resume_at(&ours), 6);
        assert_eq!(ours.unstored().revision, 7);
        ours.take(id(6), 2);
        ours.learn(theirs.known(), 8);
        assert_eq!((resume_at(&ours), ours.unstored().revision), (6, 8));
    }

    #[test]
    fn only_changes_are_stored() {
        let floor = Floor::default();
        floor.attached(0, 0, 0);
        assert!(!floor.has_changed(), "nothing is known yet");
        floor.take(id(1), 1);
        assert!(floor.has_changed());
        let unstored = floor.unstored();
        floor.done(id(1));
        floor.stored(&unstored, 3);
        assert!(floor.has_changed(), "it changed while it was stored");
        floor.stored(&floor.unstored(), 4);
        assert!(!floor.has_changed());
        floor.of_stream(9);
        assert!(floor.known().anchor().is_none());
    }
}
