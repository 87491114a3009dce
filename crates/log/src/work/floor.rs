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
    /// Whether numbers are missing whose items are not known: they were on their way to somebody else, or got lost.
    has_missed: bool,
    /// Counts the changes.
    version: u64,
    /// The version that is stored.
    stored: u64,
    /// The revision of what is stored; 0 for nothing.
    revision: u64,
}

/// Which of the consumer's deliveries brought an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    /// The consumer numbers them one after the other, those of the same item included.
    pub(super) number: u64,
    /// Whether it is the item's first.
    pub(super) is_first: bool,
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

    /// An item came to us. Whether there is anything to do about it.
    pub(super) fn take(&self, id: ItemId, delivery: Delivery) -> bool {
        let mut inner = self.lock();
        inner.has_missed |= delivery.number != inner.delivery + 1;
        inner.delivery = delivery.number;
        inner.version += 1;
        let is_next = delivery.is_first && inner.known.is_beyond(id);
        let in_order = !inner.has_missed;
        let is_open = inner.known.take(id, in_order);
        // First deliveries come in the order of the log: what is missing lies before this one. One that comes again says nothing.
        inner.has_missed &= !is_next;
        is_open
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
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn id(sequence: u64) -> ItemId {
        ItemId {
            sequence,
            stored_at: 1000 + i128::from(sequence),
        }
    }

    fn first(number: u64) -> Delivery {
        let is_first = true;
        Delivery { number, is_first }
    }

    fn again(number: u64) -> Delivery {
        let is_first = false;
        Delivery { number, is_first }
    }

    fn resume_at(floor: &Floor) -> u64 {
        floor.known().resume_at()
    }

    #[test]
    fn a_delivery_that_went_elsewhere_leaves_open_what_it_may_have_held() {
        let floor = Floor::default();
        floor.attached(0, 0, 0);
        for (sequence, number) in [(2, 1), (4, 2), (9, 4)] {
            assert!(floor.take(id(sequence), first(number)));
            floor.done(id(sequence));
        }
        assert_eq!(resume_at(&floor), 5);
        floor.acknowledged(9);
        assert_eq!(resume_at(&floor), 10);
    }

    #[test]
    fn a_gap_is_not_forgotten_when_what_shows_it_comes_once_more() {
        // 2 is lost on its way, and 1 comes again before anything new does.
        let floor = Floor::default();
        floor.attached(0, 0, 0);
        assert!(floor.take(id(1), first(1)));
        assert!(floor.take(id(1), again(3)));
        assert!(floor.take(id(3), first(4)));
        assert!(floor.take(id(2), again(5)));
        // 4 and 5 are lost, and 4 comes again before anything new does.
        assert!(floor.take(id(4), again(8)));
        assert!(floor.take(id(6), first(9)));
        assert!(floor.take(id(5), again(10)));
    }

    /// What happens to a partition.
    #[derive(Debug, Clone)]
    enum Step {
        /// An item is stored so far behind the last one, others' being in between, and delivered: to us, or it gets lost.
        New { behind: u64, arrives: bool },
        /// One of those that are not done is delivered once more.
        Again { index: usize, arrives: bool },
        /// One that came to us is done.
        Done(usize),
        /// We attach anew.
        Attached,
        /// The consumer says where its floor is.
        Acknowledged,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1u64..4, prop::bool::weighted(0.7)).prop_map(|(behind, arrives)| Step::New { behind, arrives }),
            4 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(index, arrives)| Step::Again { index, arrives }),
            3 => any::<usize>().prop_map(Step::Done),
            1 => Just(Step::Attached),
            1 => Just(Step::Acknowledged),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever is lost and whatever comes again, in which order: what is not done is taken when it comes.
        #[test]
        fn what_is_not_done_is_never_refused(steps in steps()) {
            let floor = Floor::default();
            floor.attached(0, 0, 0);
            let (mut last, mut number) = (0, 0);
            // Items that are not done, and whether they came to us.
            let mut open = BTreeMap::new();
            for step in steps {
                let done_to = open.keys().next().map_or(last, |first| first - 1);
                match step {
                    Step::New { behind, arrives } => {
                        last += behind;
                        number += 1;
                        open.insert(last, arrives);
                        prop_assert!(!arrives || floor.take(id(last), first(number)), "{}", last);
                    }
                    Step::Again { index, arrives } if !open.is_empty() => {
                        let sequence = *open.keys().nth(index % open.len()).unwrap();
                        number += 1;
                        prop_assert!(!arrives || floor.take(id(sequence), again(number)), "{} again", sequence);
                        *open.get_mut(&sequence).unwrap() |= arrives;
                    }
                    Step::Done(index) => {
                        let taken: BTreeSet<u64> = open.iter().filter(|(_, taken)| **taken).map(|(sequence, _)| *sequence).collect();
                        if let Some(sequence) = taken.iter().nth(index % taken.len().max(1)) {
                            floor.done(id(*sequence));
                            open.remove(sequence);
                        }
                    }
                    Step::Attached => floor.attached(done_to, last, number),
                    Step::Acknowledged => floor.acknowledged(done_to),
                    Step::Again { .. } => {}
                }
                let first = open.keys().next().copied();
                prop_assert!(resume_at(&floor) <= first.unwrap_or(last + 1));
            }
        }
    }

    #[test]
    fn what_another_holder_stored_is_taken_over_unless_we_saw_more() {
        let (ours, theirs) = (Floor::default(), Floor::default());
        ours.take(id(5), first(1));
        theirs.take(id(5), first(1));
        theirs.done(id(5));
        ours.learn(theirs.known(), 7);
        assert_eq!(resume_at(&ours), 6);
        assert_eq!(ours.unstored().revision, 7);
        ours.take(id(6), first(2));
        ours.learn(theirs.known(), 8);
        assert_eq!((resume_at(&ours), ours.unstored().revision), (6, 8));
    }

    #[test]
    fn only_changes_are_stored() {
        let floor = Floor::default();
        floor.attached(0, 0, 0);
        assert!(!floor.has_changed(), "nothing is known yet");
        floor.take(id(1), first(1));
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
