//! Which items of a partition are done, as far as is known: never more than is true.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ItemId;
use crate::codec::CodecError;

/// Most ranges that are stored, so that it fits into one message; the rest then counts as not done.
const MAX_STORED: usize = 50_000;

/// Which items are done. All of it is about one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// When the stream was made, in nanoseconds since the Unix epoch.
    stream: i128,
    /// Every item up to here is done unless it lies in `open`.
    seen: u64,
    /// Ranges that may hold items that are not done, by their first sequence, each with its last one.
    open: BTreeMap<u64, u64>,
    /// The last item that was seen by somebody who knew when it was stored.
    anchor: Option<ItemId>,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Stored {
    stream: i64,
    seen: u64,
    anchor: u64,
    anchor_stored_at: i64,
    /// For each range of `open`: how far it lies behind the end of the one before, and behind that its own end.
    open: Vec<(u64, u64)>,
}

impl Known {
    /// Nothing is known of the stream made at `created`.
    pub(super) fn of_stream(created: i128) -> Self {
        Self {
            stream: created,
            ..Self::default()
        }
    }

    /// Nothing is known of the same stream.
    pub(super) fn forgotten(&self) -> Self {
        Self::of_stream(self.stream)
    }

    pub(super) fn is_of_stream(&self, created: i128) -> bool {
        self.stream == created
    }

    /// The stream was restored, and counts as made at `created`.
    pub(super) fn moved_to(&mut self, created: i128) {
        self.stream = created;
    }

    /// The log tells of its items, one after the other, whether they are done. Whether this one was not known to be.
    pub(super) fn told(&mut self, id: ItemId, done: bool) -> bool {
        let sequence = id.sequence;
        if sequence <= self.seen {
            let is_news = done && self.is_open(sequence);
            if done {
                self.done(id);
            }
            return is_news;
        }
        if !done {
            match self.open.last_entry() {
                Some(mut last) if *last.get() == self.seen => *last.get_mut() = sequence,
                _ => drop(self.open.insert(sequence, sequence)),
            }
        }
        (self.seen, self.anchor) = (sequence, Some(id));
        done
    }

    /// Whether it is about the same stream as `other` and tells of no fewer items.
    pub(super) fn reaches(&self, other: &Self) -> bool {
        self.stream == other.stream && self.seen >= other.seen
    }

    /// Whether nothing behind it was seen, nor it.
    pub(super) fn is_beyond(&self, id: ItemId) -> bool {
        id.sequence > self.seen
    }

    /// The first sequence that may hold something to do.
    pub(super) fn resume_at(&self) -> u64 {
        self.open
            .first_key_value()
            .map_or(self.seen + 1, |(&first, _)| first)
    }

    /// A message that must be in the stream, or have been removed by its age, for all this to be true of it.
    pub(super) fn anchor(&self) -> Option<ItemId> {
        self.anchor
    }

    /// Sets the anchor unless there is one.
    pub(super) fn anchor_at(&mut self, id: ItemId) {
        self.anchor.get_or_insert(id);
    }

    /// A consumer delivered items up to `delivered`; up to `done` they are done, about the others nothing is known.
    pub(super) fn delivered(&mut self, done: u64, delivered: u64) {
        if delivered > self.seen {
            self.open.insert(self.seen + 1, delivered);
            self.seen = delivered;
        }
        self.acknowledged(done);
    }

    /// Everything up to `done` is done.
    pub(super) fn acknowledged(&mut self, done: u64) {
        let later = self.open.split_off(&done.saturating_add(1));
        if let Some((_, &last)) = self.open.last_key_value()
            && last > done
        {
            self.open = BTreeMap::from([(done + 1, last)]);
            self.open.extend(later);
        } else {
            self.open = later;
        }
    }

    /// An item was delivered, `in_order` when no other one was since the last. Whether it may not be done.
    pub(super) fn take(&mut self, id: ItemId, in_order: bool) -> bool {
        let sequence = id.sequence;
        if sequence > self.seen {
            if !in_order && sequence > self.seen + 1 {
                self.open.insert(self.seen + 1, sequence - 1);
            }
            self.open.insert(sequence, sequence);
            (self.seen, self.anchor) = (sequence, Some(id));
            return true;
        }
        match self.anchor {
            Some(anchor) if sequence <= anchor.sequence && id.stored_at <= anchor.stored_at => {
                return self.is_open(sequence);
            }
            Some(anchor) if sequence <= anchor.sequence => {}
            _ if self.is_open(sequence) => {
                self.anchor = Some(id);
                return true;
            }
            _ => {}
        }
        // The stream is another one, or lost its last messages and took new ones.
        self.open = BTreeMap::from([(1, self.seen)]);
        self.anchor = Some(id);
        true
    }

    /// An item is done.
    pub(super) fn done(&mut self, id: ItemId) {
        let sequence = id.sequence;
        if id.stored_at < self.stream || !self.is_open(sequence) {
            return;
        }
        if let Some((&first, last)) = self.open.range_mut(..=sequence).next_back() {
            let last = std::mem::replace(last, sequence - 1);
            if first == sequence {
                self.open.remove(&first);
            }
            if last > sequence {
                self.open.insert(sequence + 1, last);
            }
        }
    }

    fn is_open(&self, sequence: u64) -> bool {
        let before = self.open.range(..=sequence).next_back();
        before.is_some_and(|(_, &last)| sequence <= last)
    }

    /// The stored form; `None` while there is no anchor to believe it by.
    pub(super) fn encode(&self) -> Option<Bytes> {
        let nanos = |nanos: i128| i64::try_from(nanos).ok();
        let anchor = self.anchor?;
        let mut open = Vec::with_capacity(self.open.len().min(MAX_STORED));
        let mut end = 0;
        for (index, (&first, &last)) in self.open.iter().enumerate() {
            let last = if index + 1 < MAX_STORED { last } else { self.seen };
            open.push((first - end, last - first));
            end = last;
            if end == self.seen {
                break;
            }
        }
        let stored = Stored {
            stream: nanos(self.stream)?,
            seen: self.seen,
            anchor: anchor.sequence,
            anchor_stored_at: nanos(anchor.stored_at)?,
            open,
        };
        serde_json::to_vec(&stored).ok().map(Bytes::from)
    }

    pub(super) fn decode(text: &[u8]) -> Result<Self, CodecError> {
        let invalid = |message| CodecError::Invalid {
            field: "floor",
            message,
        };
        let stored: Stored = serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
        let mut open = BTreeMap::new();
        let mut end = 0u64;
        for (distance, length) in stored.open {
            let first = end.checked_add(distance);
            let last = first.and_then(|first| first.checked_add(length));
            let (Some(first), Some(last)) = (first, last) else {
                return Err(invalid("has sequences that cannot be".into()));
            };
            open.insert(first, last);
            end = last;
        }
        Ok(Self {
            stream: stored.stream.into(),
            seen: stored.seen,
            open,
            anchor: Some(ItemId {
                sequence: stored.anchor,
                stored_at: stored.anchor_stored_at.into(),
            }),
        })
    }
}

#[cfg(test)]
mod tests;
