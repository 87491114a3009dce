//! The log of a simulated world: work and outcomes in one order, timers, and what is saved of lanes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use tokio::time::Instant;

use super::super::*;

pub(super) const PARTITIONS: u16 = 2;

/// They are needed all the time.
static ENDPOINTS: LazyLock<Vec<EndpointId>> = LazyLock::new(|| {
    (0..10)
        .map(|number| format!("ep_{number:026}").parse().unwrap())
        .collect()
});

/// The endpoint of this number, 0 to 9.
pub(super) fn endpoint(number: u8) -> EndpointId {
    ENDPOINTS[usize::from(number)]
}

/// The number of an endpoint.
pub(super) fn number(endpoint: EndpointId) -> u8 {
    endpoint.uuid().as_u128().try_into().unwrap()
}

pub(super) fn partition(endpoint: u8) -> u16 {
    u16::from(endpoint) % PARTITIONS
}

/// A work item, as it came to a dispatcher.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) sequence: u64,
    /// Whether the partition's consumer delivered it.
    pub(super) pulled: bool,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) endpoint: u8,
    /// Of its request.
    pub(super) sequence: u64,
    pub(super) bytes: usize,
    pub(super) deadline: Instant,
    pub(super) is_cancelled: bool,
    pub(super) is_ended: bool,
    /// The attempts that are recorded, with the time of the next one; `None` when this one ended the delivery.
    pub(super) outcomes: BTreeMap<u32, Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Work {
        endpoint: u8,
        key: AttemptKey,
    },
    Outcome {
        endpoint: u8,
        key: AttemptKey,
        next: Option<Instant>,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Sequences are 1 and up.
    entries: Vec<Entry>,
    pub(super) deliveries: HashMap<DeliveryId, Delivery>,
    /// In the order of their requests.
    pub(super) order: Vec<DeliveryId>,
    pub(super) timers: BTreeMap<AttemptKey, Instant>,
    /// By endpoint, with the revision.
    pub(super) lanes: BTreeMap<u8, (u64, LaneState)>,
    revisions: u64,
}

impl Log {
    pub(super) fn end(&self) -> u64 {
        self.entries.len() as u64
    }

    fn append(&mut self, entry: Entry) -> u64 {
        self.entries.push(entry);
        self.end()
    }

    pub(super) fn request(&mut self, endpoint: u8, bytes: usize, deadline: Instant) {
        let delivery_id: DeliveryId = format!("dlv_{:026}", self.order.len()).parse().unwrap();
        let key = AttemptKey {
            delivery_id,
            number: 1,
        };
        let sequence = self.append(Entry::Work { endpoint, key });
        self.order.push(delivery_id);
        self.deliveries.insert(
            delivery_id,
            Delivery {
                endpoint,
                sequence,
                bytes,
                deadline,
                is_cancelled: false,
                is_ended: false,
                outcomes: BTreeMap::new(),
            },
        );
    }

    /// A timer has fired.
    pub(super) fn due(&mut self, key: AttemptKey) {
        let endpoint = self.deliveries[&key.delivery_id].endpoint;
        self.append(Entry::Work { endpoint, key });
    }

    /// The endpoint and the attempt that the item at `sequence` is for; `None` when no work is there.
    pub(super) fn work(&self, sequence: u64) -> Option<(u8, AttemptKey)> {
        match *self.entries.get(sequence as usize - 1)? {
            Entry::Work { endpoint, key } => Some((endpoint, key)),
            Entry::Outcome { .. } => None,
        }
    }

    pub(super) fn item(&self, sequence: u64, pulled: bool) -> Item<Work> {
        let (_, key) = self.work(sequence).unwrap();
        let delivery = &self.deliveries[&key.delivery_id];
        Item {
            key,
            sequence,
            bytes: delivery.bytes,
            deadline: delivery.deadline,
            waited: Duration::ZERO,
            work: Arc::new(Work { sequence, pulled }),
        }
    }

    /// Stores what an attempt came to, `number` 0 when there was none; `None` when its outcome was stored before. One that
    /// ends the delivery is stored after one that does not.
    pub(super) fn record(&mut self, key: AttemptKey, next: Option<Instant>) -> Option<u64> {
        let delivery = self.deliveries.get_mut(&key.delivery_id).unwrap();
        if delivery.outcomes.contains_key(&key.number) && (next.is_some() || delivery.is_ended) {
            return None;
        }
        delivery.outcomes.insert(key.number, next);
        delivery.is_ended |= next.is_none();
        if delivery.is_ended {
            let later = AttemptKey {
                number: key.number + 1,
                ..key
            };
            self.timers.remove(&later);
        }
        let endpoint = delivery.endpoint;
        Some(self.append(Entry::Outcome { endpoint, key, next }))
    }

    /// Whether the attempt needs not be made any more.
    pub(super) fn is_made(&self, key: AttemptKey) -> bool {
        let delivery = &self.deliveries[&key.delivery_id];
        delivery.is_ended || delivery.outcomes.range(key.number..).next().is_some()
    }

    /// The endpoint's items from a sequence on, by a server that has the log up to `visible` only; at least one if there is
    /// one, however large.
    pub(super) fn read(&self, endpoint: u8, from: u64, visible: u64, room: Room) -> (Vec<Item<Work>>, bool) {
        let (mut items, mut taken) = (Vec::new(), Room::default());
        for sequence in from..=visible {
            if self.work(sequence).is_none_or(|(of, _)| of != endpoint) {
                continue;
            }
            let item = self.item(sequence, false);
            if !items.is_empty() && !room.takes(taken.plus(item.bytes)) {
                return (items, true);
            }
            taken = taken.plus(item.bytes);
            items.push(item);
        }
        (items, false)
    }

    /// Whether the endpoint has no work after `sequence`.
    pub(super) fn is_tail(&self, endpoint: u8, sequence: u64) -> bool {
        !(sequence + 1..=self.end()).any(|sequence| self.work(sequence).is_some_and(|(of, _)| of == endpoint))
    }

    /// What a dispatcher finds out that takes a lane over.
    pub(super) fn recover(&self, endpoint: u8, state: Option<LaneState>) -> Recovered {
        let outcomes = |from: u64| {
            (from + 1..=self.end()).filter_map(move |sequence| match self.entries[sequence as usize - 1] {
                Entry::Outcome {
                    endpoint: of,
                    key,
                    next,
                } if of == endpoint => Some((sequence, key, next)),
                _ => None,
            })
        };
        let mut known: HashMap<DeliveryId, Known> = HashMap::new();
        if let Some(state) = state.clone().filter(|state| state.detached) {
            let mut outcomes_to = state.outcomes_from;
            for (sequence, key, next) in outcomes(state.outcomes_from) {
                outcomes_to = sequence;
                let ended = known
                    .get(&key.delivery_id)
                    .is_some_and(|known| known.next.is_none());
                let attempts = known.get(&key.delivery_id).map_or(0, |known| known.attempts);
                if key.number >= attempts {
                    let next = next.filter(|_| !ended);
                    known.insert(
                        key.delivery_id,
                        Known {
                            attempts: key.number,
                            next,
                        },
                    );
                }
                if next.is_none() {
                    known.entry(key.delivery_id).and_modify(|known| known.next = None);
                }
            }
            return Recovered {
                state,
                known,
                outcomes_to,
            };
        }
        let last = outcomes(0).next_back();
        let mut cursor = 0;
        if let Some((_, key, next)) = last {
            cursor = self.deliveries[&key.delivery_id].sequence - u64::from(next.is_some());
            if next.is_some() {
                known.insert(
                    key.delivery_id,
                    Known {
                        attempts: key.number,
                        next,
                    },
                );
            }
        }
        let outcomes_to = last.map_or(0, |(sequence, ..)| sequence);
        let health = state.map_or(
            Health {
                breaker: BreakerState::Closed,
                consecutive_failures: 0,
            },
            |state| state.health,
        );
        Recovered {
            state: LaneState {
                detached: true,
                floor: cursor,
                cursor,
                done: Vec::new(),
                outcomes_from: outcomes_to,
                health,
                blocked: None,
            },
            known,
            outcomes_to,
        }
    }

    /// Saves a lane, unless somebody else did after `revision` (0: never); the new revision.
    pub(super) fn save(&mut self, endpoint: u8, revision: u64, state: LaneState) -> Option<u64> {
        if self.lanes.get(&endpoint).map_or(0, |(revision, _)| *revision) != revision {
            return None;
        }
        self.revisions += 1;
        self.lanes.insert(endpoint, (self.revisions, state));
        Some(self.revisions)
    }

    /// Where the work for an attempt stands. A timer that is set twice leaves it twice.
    pub(super) fn places(&self, key: AttemptKey) -> impl Iterator<Item = u64> {
        (1..=self.end()).filter(move |&sequence| self.work(sequence).is_some_and(|(_, of)| of == key))
    }
}
