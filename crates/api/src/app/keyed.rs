//! Changes under an idempotency key: what is asked for is recorded, done, and recorded as done.
//!
//! The record holds the sequence of the state that the change led to, so a repetition is answered from the log and no answer
//! is kept, no secret among them. A change that is not recorded as done is carried out again: what it makes has ids that
//! derive from the record, and what it leads to has the record's time, so that it is made once. A refusal is not recorded:
//! whoever repeats it is heard anew.

use std::fmt::Debug;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::MessageId;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_log::{Claim, Idempotency, Intent, LogError, Record};
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
#[derive(Debug)]
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

/// A change that is to be made.
#[derive(Debug)]
pub(super) struct Work<'a> {
    keyed: &'a Keyed<'a>,
    pub(super) intent: Intent,
    /// Whether it was begun before.
    is_again: bool,
}

impl Work<'_> {
    pub(super) fn project_id(&self) -> &ProjectId {
        self.keyed.project_id
    }

    /// The time of the change. The first one to make it does so at the record's, which tells it from other changes; whoever
    /// comes later does it now.
    pub(super) fn at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        if self.is_again {
            now
        } else {
            self.intent.requested_at
        }
    }

    /// Whether a state that was reached at this time is what the change led to when it was begun.
    pub(super) fn has_led_to(&self, updated_at: DateTime<Utc>) -> bool {
        self.is_again && updated_at == self.intent.requested_at
    }

    pub(super) fn answer<T>(&self, value: T) -> Answer<T> {
        Answer {
            value,
            is_replayed: self.is_again,
        }
    }
}

/// Records that a change was made. It owns all that it takes, so that it goes on when the caller is gone.
struct Completion {
    keys: Idempotency,
    project_id: ProjectId,
    key: String,
    intent: Intent,
}

impl Completion {
    async fn record(&self, sequence: u64) {
        let (project_id, key) = (&self.project_id, &self.key);
        let completed = self.keys.complete(project_id, key, &self.intent, sequence);
        if let Err(error) = Box::pin(completed).await {
            // The change is in the log, where a repetition meets it.
            tracing::warn!(%error, "idempotency record not completed");
        }
    }
}

impl Keyed<'_> {
    /// The change, of which nothing is known to be done.
    pub(super) fn first(&self, intent: Intent) -> Work<'_> {
        Work {
            keyed: self,
            intent,
            is_again: false,
        }
    }

    /// The change, which somebody has begun.
    pub(super) fn again(&self, intent: Intent) -> Work<'_> {
        Work {
            keyed: self,
            intent,
            is_again: true,
        }
    }

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
            Ok(()) => Box::pin(self.claim(keyed)).await,
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

    /// Appends the change and records that it was made. Both go on when the caller is gone: what was appended without its
    /// record would be refused when it is repeated, or made again over what others have changed since.
    pub(super) async fn make(
        &self,
        work: &Work<'_>,
        append: impl Future<Output = Result<u64, LogError>> + Send + 'static,
    ) -> Result<Result<u64, LogError>, AppError> {
        let completion = self.completion(work).await?;
        self.see_through(async move {
            let appended = append.await;
            if let (Ok(sequence), Some(completion)) = (&appended, completion) {
                completion.record(*sequence).await;
            }
            Ok(appended)
        })
        .await
    }

    /// Records that there is nothing to change any more.
    pub(super) async fn record_done(&self, work: &Work<'_>, sequence: u64) -> Result<(), AppError> {
        if let Some(completion) = self.completion(work).await? {
            completion.record(sequence).await;
        }
        Ok(())
    }

    async fn completion(&self, work: &Work<'_>) -> Result<Option<Box<Completion>>, LogError> {
        let Work { keyed, intent, .. } = work;
        if keyed.key.is_empty() {
            return Ok(None);
        }
        // Boxed: the bucket is large.
        Ok(Some(Box::new(Completion {
            keys: self.idempotency().await?.clone(),
            project_id: keyed.project_id.clone(),
            key: keyed.key.to_owned(),
            intent: intent.clone(),
        })))
    }
}
