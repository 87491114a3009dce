//! What was done lately: nats-server writes acknowledgements to its file about ten times a second, so one that is killed
//! forgets the last of them and delivers what they were about again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ItemId;

/// Items remembered per partition: a second and a half of all the work that one can carry.
const CAPACITY: usize = 16_384;

/// The last items of a partition that were done here.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stored_at: HashMap<u64, i128>,
    order: VecDeque<u64>,
}

impl Recent {
    pub(super) fn insert(&self, id: ItemId) {
        let mut inner = self.lock();
        if inner.stored_at.insert(id.sequence, id.stored_at).is_some() {
            return;
        }
        inner.order.push_back(id.sequence);
        if inner.order.len() > CAPACITY
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.stored_at.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, id: ItemId) -> bool {
        self.lock().stored_at.get(&id.sequence) == Some(&id.stored_at)
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
            stored_at: 7,
        }
    }

    #[test]
    fn the_last_items_are_known_and_older_ones_forgotten() {
        let recent = Recent::default();
        let last = CAPACITY as u64 + 10;
        for sequence in 1..=last {
            recent.insert(id(sequence));
            recent.insert(id(sequence));
        }
        let known: Vec<_> = (1..=last)
            .filter(|&sequence| recent.contains(id(sequence)))
            .collect();
        assert_eq!(known, (11..=last).collect::<Vec<_>>());
    }

    #[test]
    fn another_message_of_the_same_sequence_is_another_one() {
        let recent = Recent::default();
        recent.insert(id(1));
        assert!(!recent.contains(ItemId {
            sequence: 1,
            stored_at: 8
        }));
    }
}
