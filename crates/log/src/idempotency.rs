//! Idempotency keys: what a request with a key was answered, remembered for a day.

mod reopen;
mod resume;

use std::sync::Arc;

use async_nats::jetstream::kv::{CreateErrorKind, Store};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::{EndpointId, MessageId};
use cuitty_webhooks_domain::names::ProjectId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::Log;
use crate::codec::CodecError;
use crate::error::LogError;
use crate::topology::IDEMPOTENCY_BUCKET;

/// What a request with a key is about to do. Whoever repeats the request does exactly this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Id of the message; of a request that delivers none, its own: what it makes has ids that derive from it.
    pub message_id: MessageId,
    /// Where it goes; empty when nothing matched.
    pub endpoint_ids: Vec<EndpointId>,
    /// SHA-256 of the request, to tell a repeated request from another one under the same key.
    pub fingerprint: [u8; 32],
    /// When it was accepted; kept to the microsecond.
    pub requested_at: DateTime<Utc>,
}

/// What is remembered under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the first request was about to do.
    pub intent: Intent,
    /// Highest log sequence of the message, once all of it is stored, or sequence of the state that a change led to;
    /// `None` when that is not known.
    pub log_sequence: Option<u64>,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The key was free: the intent is recorded, carry it out.
    New,
    /// The key was used before.
    Existing {
        /// What is remembered.
        record: Record,
        /// When it was written, by nats-server's clock. Nothing of a record that is not complete was appended earlier.
        recorded_at: DateTime<Utc>,
    },
}

/// The bucket of idempotency keys, and the way to carry out what is recorded there. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency {
    log: Log,
    store: Store,
    /// Searches of the log that may run at the same time.
    searches: Arc<Semaphore>,
}

impl Log {
    /// The idempotency keys.
    pub async fn idempotency(&self) -> Result<Idempotency, LogError> {
        let store = self.retried(|| self.bucket(IDEMPOTENCY_BUCKET)).await?;
        Ok(Idempotency {
            log: self.clone(),
            store,
            searches: Arc::new(Semaphore::new(resume::SEARCHES)),
        })
    }
}

impl Idempotency {
    /// Records `intent` under `key` unless the key is taken. `intent.message_id` must be of this claim alone: by it, a claim
    /// that was stored while its answer was lost knows itself when it is repeated, and is new.
    pub async fn claim(&self, project_id: &ProjectId, key: &str, intent: &Intent) -> Result<Claim, LogError> {
        let key = entry_key(project_id, key);
        let record = Record {
            intent: intent.clone(),
            log_sequence: None,
        }
        .encode()?;
        let claim = self.log.retried(|| self.claim_once(&key, &record)).await?;
        Ok(match claim {
            Claim::Existing { record, .. } if record.intent.message_id == intent.message_id => Claim::New,
            claim => claim,
        })
    }

    /// What is remembered under `key`; `None` while it is free. Claims nothing.
    pub async fn recall(&self, project_id: &ProjectId, key: &str) -> Result<Option<Record>, LogError> {
        let key = entry_key(project_id, key);
        let get = || async { self.store.get(&key).await.map_err(LogError::unavailable) };
        let found = self.log.retried(get).await?;
        Ok(found.map(|bytes| Record::decode(&bytes)).transpose()?)
    }

    async fn claim_once(&self, key: &str, record: &Bytes) -> Result<Claim, LogError> {
        match self.store.create(key, record.clone()).await {
            Ok(_) => return Ok(Claim::New),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(LogError::unavailable(error)),
        }
        match self.store.entry(key).await.map_err(LogError::unavailable)? {
            Some(found) => Ok(Claim::Existing {
                record: Record::decode(&found.value)?,
                recorded_at: time_of(found.created.unix_timestamp_nanos()),
            }),
            None => Err(LogError::Unavailable(
                "an idempotency key expired while it was read".into(),
            )),
        }
    }

    /// Records that `intent` was carried out, up to `log_sequence`.
    pub async fn complete(
        &self,
        project_id: &ProjectId,
        key: &str,
        intent: &Intent,
        log_sequence: u64,
    ) -> Result<(), LogError> {
        let key = entry_key(project_id, key);
        let record = Record {
            intent: intent.clone(),
            log_sequence: Some(log_sequence),
        }
        .encode()?;
        let put = || async {
            self.store
                .put(&key, record.clone())
                .await
                .map_err(LogError::unavailable)
        };
        self.log.retried(put).await.map(drop)
    }
}

/// Nanoseconds in an i64 reach until 2262.
fn time_of(nanos: i128) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// Keys are the caller's and may hold anything, the bucket's may not.
fn entry_key(project_id: &ProjectId, key: &str) -> String {
    format!(
        "{project_id}.{:x}",
        Bytes::copy_from_slice(&Sha256::digest(key.as_bytes()))
    )
}

/// A record as it is stored. Additive only, as the events are.
#[derive(Serialize, Deserialize)]
struct Stored {
    message_id: String,
    endpoint_ids: Vec<String>,
    fingerprint: Vec<u8>,
    requested_at_us: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_sequence: Option<u64>,
}

impl Record {
    fn encode(&self) -> Result<Bytes, LogError> {
        let stored = Stored {
            message_id: self.intent.message_id.to_string(),
            endpoint_ids: self.intent.endpoint_ids.iter().map(ToString::to_string).collect(),
            fingerprint: self.intent.fingerprint.into(),
            requested_at_us: self.intent.requested_at.timestamp_micros(),
            log_sequence: self.log_sequence,
        };
        serde_json::to_vec(&stored)
            .map(Bytes::from)
            .map_err(LogError::protocol)
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let invalid = |field, message: String| CodecError::Invalid { field, message };
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|error| invalid("record", error.to_string()))?;
        let intent = Intent {
            message_id: stored
                .message_id
                .parse()
                .map_err(|_| invalid("message_id", "is no message id".into()))?,
            endpoint_ids: stored
                .endpoint_ids
                .iter()
                .map(|id| {
                    id.parse()
                        .map_err(|_| invalid("endpoint_ids", "holds no endpoint id".into()))
                })
                .collect::<Result<_, _>>()?,
            fingerprint: stored
                .fingerprint
                .try_into()
                .map_err(|_| invalid("fingerprint", "is not 32 bytes".into()))?,
            requested_at: DateTime::from_timestamp_micros(stored.requested_at_us)
                .ok_or_else(|| invalid("requested_at_us", "is out of range".into()))?,
        };
        Ok(Self {
            intent,
            log_sequence: stored.log_sequence,
        })
    }
}
