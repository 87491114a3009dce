//! The API keys, folded from the control stream into memory and kept live: who is let in.

mod uses;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::api_key::{ApiKey, ApiKeyChange, KeyDigest};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::ids::ApiKeyId;
use cuitty_webhooks_domain::names::ProjectId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::uses::Uses;
use crate::follow::{Fold, Follower, Kept};
use crate::metrics::names;
use crate::subjects::{API_KEYS, Subject};
use crate::topology::{API_KEY_USES_BUCKET, CONTROL_STREAM};
use crate::{CodecError, Log, LogError, codec};

/// A key as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyEntry {
    /// Its whole state.
    pub key: ApiKey,
    /// Sequence of its last change: what a writer expects to be the last of its subject.
    pub sequence: u64,
}

/// All API keys, and when each was last used. Clones share one copy, which is kept live until the last clone is dropped.
#[derive(Clone)]
pub struct ApiKeys {
    log: Log,
    keys: Kept<Known>,
    uses: Kept<Uses>,
}

impl ApiKeys {
    /// Learns what the log holds, and follows it until `stop` is cancelled. Returns when caught up; a log that cannot be
    /// read then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let follower = Follower::new(log, CONTROL_STREAM).only(API_KEYS);
        let keys = Kept::start(Known::new(), follower, &stop).await?;
        let follower = Follower::new(log, format!("KV_{API_KEY_USES_BUCKET}"));
        let uses = Kept::start(Uses::default(), follower, &stop).await?;
        info!(
            keys = keys.state().read().by_id.len(),
            log.seq = keys.applied(),
            "API keys are known"
        );
        Ok(Self {
            log: log.clone(),
            keys,
            uses,
        })
    }

    /// A key, revoked ones too.
    pub fn get(&self, id: ApiKeyId) -> Option<Arc<ApiKeyEntry>> {
        self.keys.state().read().by_id.get(&id).cloned()
    }

    /// The key whose text has this digest, revoked ones too.
    pub fn find(&self, digest: &KeyDigest) -> Option<Arc<ApiKeyEntry>> {
        let known = self.keys.state().read();
        let id = known.by_digest.get(digest)?;
        known.by_id.get(id).cloned()
    }

    /// Whether a key was ever bound to the project.
    pub fn knows(&self, project_id: &ProjectId) -> bool {
        let known = self.keys.state().read();
        known
            .by_id
            .values()
            .any(|entry| entry.key.project_id.as_ref() == Some(project_id))
    }

    /// Every key, revoked ones too, in no order.
    pub fn all(&self) -> Vec<Arc<ApiKeyEntry>> {
        self.keys.state().read().by_id.values().cloned().collect()
    }

    /// Changes after every change of a key, when that can be seen here.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.keys.state().changes.subscribe()
    }

    /// Waits until the change at `sequence` is folded in, at most `timeout`; whether it is.
    pub async fn wait_for(&self, sequence: u64, timeout: Duration) -> bool {
        self.keys.wait_for(sequence, timeout).await
    }

    /// Whether the log is being followed; a loss counts only after 5 s.
    pub fn is_live(&self) -> bool {
        self.keys.is_live()
    }

    /// The beginning of the hour in which a key was last used, as far as is known here.
    pub fn last_used(&self, id: ApiKeyId) -> Option<DateTime<Utc>> {
        self.uses.state().get(id)
    }

    /// Notes that a key is used at `at`: whether that is the first time in its hour as far as is known here, and so to be
    /// saved. Reads memory only.
    pub fn note_use(&self, id: ApiKeyId, at: DateTime<Utc>) -> bool {
        self.uses.state().note(id, at)
    }

    /// Tells every process that a key was used at `at`.
    pub async fn save_use(&self, id: ApiKeyId, at: DateTime<Utc>) -> Result<(), LogError> {
        let (subject, value) = uses::entry(id, at)?;
        self.log.put_entry(&subject, value, None).await.map(drop)
    }
}

struct Known {
    /// Held for one lookup or one change, never across an await.
    keys: RwLock<Index>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Index {
    by_id: HashMap<ApiKeyId, Arc<ApiKeyEntry>>,
    by_digest: HashMap<KeyDigest, ApiKeyId>,
}

impl Known {
    fn new() -> Self {
        Self {
            keys: RwLock::default(),
            changes: watch::Sender::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the key that an unreadable change is of: it may have ended it.
    fn forget(&self, subject: &str) {
        let Ok(Subject::ApiKey { key_id }) = subject.parse() else {
            return;
        };
        let mut index = self.write();
        if let Some(entry) = index.by_id.remove(&key_id) {
            index.by_digest.remove(&entry.key.digest);
        }
    }
}

impl Fold for Known {
    const NAME: &'static str = "api_keys";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
        match decode(message) {
            Ok(key) => {
                let mut index = self.write();
                let known = index.by_id.get(&key.id).map_or(0, |entry| entry.sequence);
                if known >= sequence {
                    return;
                }
                index.by_digest.insert(key.digest, key.id);
                index.by_id.insert(key.id, ApiKeyEntry { key, sequence }.into());
            }
            Err(error) => {
                metrics::counter!(names::UNREADABLE).increment(1);
                error!(log.seq = sequence, %error, "cannot read an API key's change, the key is not let in");
                self.forget(&message.subject);
            }
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let outdated = std::mem::take(&mut *self.write());
        drop(outdated);
        self.changes.send_modify(|changes| *changes += 1);
    }
}

fn decode(message: &async_nats::Message) -> Result<ApiKey, CodecError> {
    let subject: Subject = message.subject.parse()?;
    let key = codec::decode_api_key_state(message.payload.clone())?;
    let expected = Subject::ApiKey { key_id: key.id };
    if subject != expected {
        return Err(CodecError::Invalid {
            field: "state.id",
            message: format!("belongs under {expected}"),
        });
    }
    Ok(key)
}

impl Log {
    /// Appends a change of an API key, made at `at`, with its state afterwards. `expected_last_sequence` is the sequence of
    /// the change before, 0 for none; [`LogError::Conflict`] when another change came first.
    pub async fn append_api_key(
        &self,
        change: ApiKeyChange,
        key: &ApiKey,
        actor: &Actor,
        at: DateTime<Utc>,
        expected_last_sequence: u64,
    ) -> Result<u64, LogError> {
        let body = codec::encode_api_key(change, key, actor, at);
        let subject = Subject::ApiKey { key_id: key.id };
        self.append_change(subject, key.id, body, expected_last_sequence)
            .await
    }
}
