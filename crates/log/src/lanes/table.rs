//! The copy of the saved lanes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use cuitty_webhooks_domain::ids::EndpointId;
use tracing::error;

use super::{KEYS, LaneRecord};
use crate::codec::CodecError;
use crate::entries::KV_OPERATION;
use crate::follow::Fold;
use crate::metrics::names;

/// A lane as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedLane {
    /// What is saved.
    pub record: LaneRecord,
    /// Its revision; later ones of the same lane are higher.
    pub revision: u64,
}

/// All that is known, by endpoint.
#[derive(Default)]
pub(super) struct Table {
    /// Held for one lookup or one change, never across an await.
    slots: RwLock<HashMap<EndpointId, Slot>>,
}

#[derive(Default)]
struct Slot {
    /// The last revision, a deletion included.
    revision: u64,
    /// What the next save follows: the last revision that whoever saves here has taken into account.
    relied_on: u64,
    /// `None` when it is deleted or cannot be read.
    saved: Option<Arc<SavedLane>>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    pub(super) fn get(&self, endpoint_id: EndpointId) -> Option<Arc<SavedLane>> {
        self.read().get(&endpoint_id)?.saved.clone()
    }

    pub(super) fn detached(&self, partition: u16) -> Vec<Arc<SavedLane>> {
        let is_wanted =
            |saved: &&Arc<SavedLane>| saved.record.detached && saved.record.partition == partition;
        let slots = self.read();
        let saved = slots.values().filter_map(|slot| slot.saved.as_ref());
        saved.filter(is_wanted).cloned().collect()
    }

    /// What the next save of a lane follows; 0 for nothing.
    pub(super) fn relied_on(&self, endpoint_id: EndpointId) -> u64 {
        self.read().get(&endpoint_id).map_or(0, |slot| slot.relied_on)
    }

    /// From now on saves follow what is known.
    pub(super) fn rely(&self) {
        for slot in self.write().values_mut() {
            slot.relied_on = slot.revision;
        }
    }

    /// `record` was saved here.
    pub(super) fn saved(&self, record: LaneRecord, revision: u64) {
        self.own(record.endpoint_id, revision, Some(record));
    }

    /// A lane was deleted here.
    pub(super) fn forgotten(&self, endpoint_id: EndpointId, revision: u64) {
        self.own(endpoint_id, revision, None);
    }

    /// Somebody else was faster: `found` is the last message about the lane. Whoever saves here is told.
    pub(super) fn lost(&self, endpoint_id: EndpointId, found: Option<&StreamMessage>) {
        match found {
            Some(found) => {
                let record = read(endpoint_id, found.sequence, Some(&found.headers), &found.payload);
                self.own(endpoint_id, found.sequence, record);
            }
            // The bucket was made anew.
            None => {
                self.write().remove(&endpoint_id);
            }
        }
    }

    fn own(&self, endpoint_id: EndpointId, revision: u64, record: Option<LaneRecord>) {
        let mut slots = self.write();
        let slot = slots.entry(endpoint_id).or_default();
        slot.learn(revision, record);
        slot.relied_on = slot.relied_on.max(revision);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<EndpointId, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<EndpointId, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Messages also tell what was learned from an answer before them: what is older is no news.
    fn learn(&mut self, revision: u64, record: Option<LaneRecord>) {
        if revision > self.revision {
            self.revision = revision;
            self.saved = record.map(|record| Arc::new(SavedLane { record, revision }));
        }
    }
}

impl Fold for Table {
    const NAME: &'static str = "lanes";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
        let Some(endpoint_id) = message.subject.strip_prefix(KEYS).and_then(|id| id.parse().ok()) else {
            metrics::counter!(names::UNREADABLE).increment(1);
            error!(
                log.seq = sequence,
                "a saved lane is of no endpoint, leaving it out"
            );
            return;
        };
        let record = read(endpoint_id, sequence, message.headers.as_ref(), &message.payload);
        let mut slots = self.write();
        slots.entry(endpoint_id).or_default().learn(sequence, record);
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let _outdated = std::mem::take(&mut *self.write());
    }
}

/// The lane that an entry holds; `None` when it is deleted, or cannot be read: a lane whose state is lost starts anew, and
/// its next save repairs the entry.
fn read(
    endpoint_id: EndpointId,
    revision: u64,
    headers: Option<&HeaderMap>,
    value: &[u8],
) -> Option<LaneRecord> {
    if headers.is_some_and(|headers| headers.get(KV_OPERATION).is_some()) {
        return None;
    }
    let decoded = LaneRecord::decode(value).and_then(|record| {
        if record.endpoint_id == endpoint_id {
            return Ok(record);
        }
        Err(CodecError::Invalid {
            field: "endpoint_id",
            message: format!("belongs to {}", record.endpoint_id),
        })
    });
    decoded
        .inspect_err(|error| {
            metrics::counter!(names::UNREADABLE).increment(1);
            error!(endpoint.id = %endpoint_id, log.seq = revision, %error, "cannot read a saved lane, going on without it");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cursor: u64) -> LaneRecord {
        let text = r#"{"endpoint_id":"ep_01jd75c1g094s8avcpkyatawp7","project_id":"acme","partition":3,
            "health":{"state":"closed","since":"2026-11-21T10:00:00Z"},"saved_at":"2026-11-21T10:00:00Z"}"#;
        let record = LaneRecord::decode(text.as_bytes()).unwrap();
        LaneRecord { cursor, ..record }
    }

    #[test]
    fn what_is_older_never_takes_the_place_of_what_is_newer() {
        let mut slot = Slot::default();
        slot.learn(5, Some(record(50)));
        slot.learn(3, Some(record(30)));
        slot.learn(4, None);
        assert_eq!(slot.saved.as_ref().unwrap().record.cursor, 50);
        slot.learn(7, None);
        slot.learn(6, Some(record(60)));
        assert_eq!((slot.revision, slot.saved), (7, None));
    }
}
