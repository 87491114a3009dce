//! What the bucket `WEBHOOKS_DISPATCHERS` holds, as far as this process knows: who is alive and which leases are held.
//!
//! The server removes an entry in silence when its time is over, so the roster counts along: from when it saw the entry
//! written. It may be wrong by the time a message takes; the server's compare-and-set has the last word.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

const MEMBER: &str = "member.";
const PARTITION: &str = "partition.";

/// The key of a member's heartbeat.
pub(super) fn member_key(id: &str) -> String {
    format!("{MEMBER}{id}")
}

/// The key of a partition's lease.
pub(super) fn partition_key(partition: u16) -> String {
    format!("{PARTITION}{partition}")
}

/// The member whose heartbeat has this key.
pub(super) fn member_of(key: &str) -> Option<&str> {
    key.strip_prefix(MEMBER)
}

/// A write to the bucket.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) key: String,
    /// `None` for a deletion.
    pub(super) value: Option<Vec<u8>>,
    /// When the server stored it, in nanoseconds by its clock.
    pub(super) stored_at: i128,
}

/// The known entries that have not run out.
pub(super) struct Roster {
    ttl: Duration,
    /// By id, until when each is alive.
    members: BTreeMap<String, Instant>,
    leases: BTreeMap<u16, SeenLease>,
    /// What came before the follower has caught up: only then its age is known.
    catching_up: Option<Vec<Written>>,
}

struct SeenLease {
    value: Vec<u8>,
    until: Instant,
}

impl Roster {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            members: BTreeMap::new(),
            leases: BTreeMap::new(),
            catching_up: Some(Vec::new()),
        }
    }

    /// Writes are not seen as they come any more: what comes next may be old.
    pub(super) fn detached(&mut self) {
        self.catching_up.get_or_insert_default();
    }

    /// Everything old has come. The newest of it was written just now, or else the rest looks younger than it is, which
    /// costs time and nothing else.
    pub(super) fn caught_up(&mut self, now: Instant) {
        let came = self.catching_up.take().unwrap_or_default();
        let newest = came
            .iter()
            .map(|written| written.stored_at)
            .max()
            .unwrap_or_default();
        for written in came {
            let age = u64::try_from(newest - written.stored_at).unwrap_or_default();
            let left = self.ttl.saturating_sub(Duration::from_nanos(age));
            self.apply(written, now + left);
        }
    }

    /// The bucket is another one than before.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.ttl);
    }

    pub(super) fn written(&mut self, written: Written, now: Instant) {
        match &mut self.catching_up {
            Some(came) => came.push(written),
            None => self.apply(written, now + self.ttl),
        }
    }

    fn apply(&mut self, written: Written, until: Instant) {
        if let Some(id) = member_of(&written.key) {
            match written.value {
                Some(_) => self.members.insert(id.to_owned(), until),
                None => self.members.remove(id),
            };
        } else if let Some(partition) = written
            .key
            .strip_prefix(PARTITION)
            .and_then(|text| text.parse().ok())
        {
            match written.value {
                Some(value) => self.leases.insert(partition, SeenLease { value, until }),
                None => self.leases.remove(&partition),
            };
        }
    }

    /// Drops what has run out.
    pub(super) fn expire(&mut self, now: Instant) {
        self.members.retain(|_, until| *until > now);
        self.leases.retain(|_, lease| lease.until > now);
    }

    /// The live members, in order.
    pub(super) fn members(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Whether `partition` can be taken by the writer of `value`: nobody holds it, or that writer does.
    pub(super) fn is_free(&self, partition: u16, value: &[u8]) -> bool {
        self.leases
            .get(&partition)
            .is_none_or(|lease| lease.value == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn written(key: &str, value: Option<&str>, stored_at_ms: i128) -> Written {
        let value = value.map(|value| value.as_bytes().to_vec());
        Written {
            key: key.into(),
            value,
            stored_at: stored_at_ms * 1_000_000,
        }
    }

    #[test]
    fn what_was_there_before_has_the_rest_of_its_time_only() {
        let now = Instant::now();
        let mut roster = Roster::new(TTL);
        roster.written(written("partition.3", Some("a t"), 1_000), now);
        roster.written(written("member.a", Some(""), 2_000), now);
        roster.written(written("member.b", Some(""), 5_000), now);
        assert_eq!(roster.members().count(), 0);
        roster.caught_up(now);
        assert_eq!(roster.members().collect::<Vec<_>>(), ["a", "b"]);
        assert!(!roster.is_free(3, b"b t") && roster.is_free(3, b"a t") && roster.is_free(4, b"b t"));
        roster.expire(now + Duration::from_secs(1));
        assert!(roster.is_free(3, b"b t"));
        assert_eq!(roster.members().collect::<Vec<_>>(), ["a", "b"]);
        roster.expire(now + Duration::from_secs(2));
        assert_eq!(roster.members().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn deletions_count_at_once_and_other_keys_not_at_all() {
        let now = Instant::now();
        let mut roster = Roster::new(TTL);
        roster.caught_up(now);
        for key in [
            "member.a.b",
            "partition.1",
            "projector",
            "partition.x",
            "partition.-1",
        ] {
            roster.written(written(key, Some("a t"), 0), now);
        }
        assert_eq!(roster.members().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(roster.leases.len(), 1);
        for key in ["member.a.b", "partition.1", "projector"] {
            roster.written(written(key, None, 0), now);
        }
        assert_eq!((roster.members().count(), roster.leases.len()), (0, 0));
    }
}
