//! A bounded memory of attempts that were settled.

use std::collections::{HashSet, VecDeque};

use super::AttemptKey;

#[derive(Debug)]
pub(super) struct Recent {
    capacity: usize,
    known: HashSet<AttemptKey>,
    /// Oldest first.
    order: VecDeque<AttemptKey>,
}

impl Recent {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn contains(&self, key: &AttemptKey) -> bool {
        self.known.contains(key)
    }

    pub(super) fn insert(&mut self, key: AttemptKey) {
        if !self.known.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
