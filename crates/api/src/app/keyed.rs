//! Changes under an idempotency key: what is asked for is recorded, done, and recorded as done.
//!
//! The record holds the sequence of the state that the change led to, so a repetition is answered from the log and no answer
//! is kept, no secret among them. A change that is not recorded as done is carried out again: what it makes has ids that
//! derive from the record, so that it is made once. A refusal is not recorded: whoever repeats it is heard anew.

use std::fmt::Debug;
use std::time::Duration;

use cuitty_webhooks_domain::ids::MessageId;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_log::{Claim, Intent, Record};
use sha2::{Digest, Sha256};

use super::App;
use crate::error::AppError;

/// How long a repetition waits for the first request to be done, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOKS: Duration = Duration::from_millis(50);

/// On what terms a change is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// Empty means none.
    pub(crate) idempotency_key: String,
    /// Refuse unless what is changed is at one of these revisions; `None` means at any.
    pub(crate) revisions: Option<Vec<u64>>,
}

/// What a change led to.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// Whether the idempotency key had been used for the same change before.
    pub(crate) is_replayed: bool,
}

impl<T> Answer<T> {
    pub(crate) fn first(value: T) -> Self {
        Self {
            value,
            is_replayed: false,
        }
    }

    pub(crate) fn replayed(value: T) -> Self {
        Self {
            value,
            is_replayed: true,
        }
    }
}

/// A change as it is remembered.
pub(super) struct Keyed<'a> {
    pub(super) project_id: &'a ProjectId,
    /// Empty means that it is not.
    pub(super) key: &'a str,
    pub(super) fingerprint: [u8; 32],
}

/// Whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody has begun the change.
    First(Intent),
    /// It was begun; how far it came is not known.
    Again(Intent),
    /// It was made, and led to the state at this sequence.
    Done(Intent, u64),
}

/// Tells requests under one idempotency key apart, whatever they are about.
pub(super) fn fingerprint(kind: &str, request: &impl Debug) -> [u8; 32] {
    Sha256::digest(format!("{kind} {request:?}")).into()
}

impl Keyed<'_> {
    /// Refuses a key that stands for something else.
    fn turn(&self, record: Record) -> Result<Turn, AppError> {
        let Record { intent, log_sequence } = record;
        if intent.fingerprint != self.fingerprint {
            return Err(AppError::IdempotencyKeyReused);
        }
        Ok(match log_sequence {
            Some(sequence) => Turn::Done(intent, sequence),
            None => Turn::Again(intent),
        })
    }
}

impl App {
    /// The turn of a change that is new only if `checks` let it pass. What is remembered is not checked again: what was
    /// allowed when it was made may not be allowed any more, often because it was made.
    pub(super) async fn take_turn(
        &self,
        keyed: &Keyed<'_>,
        checks: impl Future<Output = Result<(), AppError>>,
    ) -> Result<Turn, AppError> {
        if let Some(turn) = self.recall(keyed).await? {
            return Ok(turn);
        }
        match checks.await {
            Ok(()) => self.claim(keyed).await,
            // It may have been made meanwhile.
            Err(refused) => self.recall(keyed).await?.ok_or(refused),
        }
    }

    /// What is remembered of a change; `None` when it is new.
    pub(super) async fn recall(&self, keyed: &Keyed<'_>) -> Result<Option<Turn>, AppError> {
        if keyed.key.is_empty() {
            return Ok(None);
        }
        let keys = self.idempotency().await?;
        let record = keys.recall(keyed.project_id, keyed.key).await?;
        record.map(|record| keyed.turn(record)).transpose()
    }

    /// The turn of a change that was checked.
    pub(super) async fn claim(&self, keyed: &Keyed<'_>) -> Result<Turn, AppError> {
        let requested_at = self.now();
        let intent = Intent {
            message_id: self.with_rng(|rng| MessageId::new(requested_at, rng)),
            endpoint_ids: Vec::new(),
            fingerprint: keyed.fingerprint,
            requested_at,
        };
        if keyed.key.is_empty() {
            return Ok(Turn::First(intent));
        }
        let keys = self.idempotency().await?;
        match keys.claim(keyed.project_id, keyed.key, &intent).await? {
            Claim::New => Ok(Turn::First(intent)),
            Claim::Existing { record, .. } => keyed.turn(record),
        }
    }

    /// Gives the one who began a change some time to be done with it. For a change that would show if it were made twice.
    pub(super) async fn settled(&self, keyed: &Keyed<'_>, turn: Turn) -> Result<Turn, AppError> {
        let looking = async {
            loop {
                tokio::time::sleep(LOOKS).await;
                match self.recall(keyed).await {
                    Ok(Some(Turn::Again(_)) | None) => {}
                    Ok(Some(turn)) => return Ok(turn),
                    Err(error) => return Err(error),
                }
            }
        };
        match turn {
            turn @ Turn::Again(_) => tokio::time::timeout(PATIENCE, looking).await.unwrap_or(Ok(turn)),
            turn => Ok(turn),
        }
    }

    /// Records that a change was made.
    pub(super) async fn record_done(&self, keyed: &Keyed<'_>, intent: &Intent, sequence: u64) {
        if keyed.key.is_empty() {
            return;
        }
        let recorded = async {
            let keys = self.idempotency().await?;
            keys.complete(keyed.project_id, keyed.key, intent, sequence).await
        };
        if let Err(error) = recorded.await {
            // The change is in the log, where a repetition meets it.
            tracing::warn!(%error, "idempotency record not completed");
        }
    }
}
