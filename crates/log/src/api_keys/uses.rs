//! When each key was last used, to the hour.
//!
//! A bucket of its own: the control stream is kept for ever and holds what somebody did, and the history is a fold of the
//! other stream that an API only reads. At most one write per key, hour and process.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_nats::jetstream;
use bytes::Bytes;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use cuitty_webhooks_domain::ids::ApiKeyId;
use serde::{Deserialize, Serialize};
use tracing::error;

use crate::LogError;
use crate::entries::KV_OPERATION;
use crate::follow::Fold;
use crate::metrics::names;

/// What stands before a key's id in the subject of its entry.
const ENTRIES: &str = "$KV.WEBHOOKS_API_KEY_USES.";

/// The copy.
#[derive(Default)]
pub(super) struct Uses {
    /// Held for one lookup or one change, never across an await.
    hours: RwLock<HashMap<ApiKeyId, DateTime<Utc>>>,
}

impl Uses {
    pub(super) fn get(&self, id: ApiKeyId) -> Option<DateTime<Utc>> {
        self.read().get(&id).copied()
    }

    /// Whether the hour of `at` is later than what was noted before; then it is noted.
    pub(super) fn note(&self, id: ApiKeyId, at: DateTime<Utc>) -> bool {
        let hour = hour_of(at);
        let is_later = |hours: &HashMap<_, _>| hours.get(&id).is_none_or(|&noted| noted < hour);
        // Nearly always the answer is no, for which readers need not wait for one another.
        if !is_later(&self.read()) {
            return false;
        }
        let mut hours = self.write();
        let is_news = is_later(&hours);
        if is_news {
            hours.insert(id, hour);
        }
        is_news
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<ApiKeyId, DateTime<Utc>>> {
        self.hours.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ApiKeyId, DateTime<Utc>>> {
        self.hours.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fold for Uses {
    const NAME: &'static str = "api_key_uses";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
        let is_deleted = message
            .headers
            .as_ref()
            .is_some_and(|headers| headers.get(KV_OPERATION).is_some());
        let id = message
            .subject
            .strip_prefix(ENTRIES)
            .and_then(|id| id.parse().ok());
        match (id, decode(&message.payload)) {
            (Some(id), _) if is_deleted => {
                self.write().remove(&id);
            }
            (Some(id), Some(at)) => {
                self.note(id, at);
            }
            _ => {
                metrics::counter!(names::UNREADABLE).increment(1);
                error!(
                    log.seq = sequence,
                    "cannot read when an API key was used, leaving it out"
                );
            }
        }
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let _outdated = std::mem::take(&mut *self.write());
    }
}

/// The beginning of the hour.
fn hour_of(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

/// An entry's value. Additive only, as the events are.
#[derive(Serialize, Deserialize)]
struct Stored {
    used_at_us: i64,
}

/// The subject and the value that say that a key was used at `at`.
pub(super) fn entry(id: ApiKeyId, at: DateTime<Utc>) -> Result<(String, Bytes), LogError> {
    let stored = Stored {
        used_at_us: hour_of(at).timestamp_micros(),
    };
    let value = serde_json::to_vec(&stored).map_err(LogError::protocol)?;
    Ok((format!("{ENTRIES}{id}"), value.into()))
}

fn decode(value: &[u8]) -> Option<DateTime<Utc>> {
    let stored: Stored = serde_json::from_slice(value).ok()?;
    DateTime::from_timestamp_micros(stored.used_at_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_noted_once_an_hour() {
        let (uses, id): (_, ApiKeyId) = (Uses::default(), "key_01h455vb4pex5vsknk084sn02q".parse().unwrap());
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(uses.get(id), None);
        for (used, is_news) in [
            ("2026-11-22T10:59:59.999999Z", true),
            ("2026-11-22T10:00:00Z", false),
            ("2026-11-22T09:59:59Z", false),
            ("2026-11-22T11:00:00Z", true),
            ("2026-11-22T11:59:59Z", false),
        ] {
            assert_eq!(uses.note(id, at(used)), is_news, "{used}");
        }
        assert_eq!(uses.get(id), Some(at("2026-11-22T11:00:00Z")));
    }
}
