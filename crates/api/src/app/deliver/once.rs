//! Accepting under an idempotency key: what is to be done is recorded, done, and recorded as done.
//!
//! A repeated request finds the record and carries out what is left of it, wherever the first one ended.

use cuitty_webhooks_log::{Claim, Idempotency, Intent, Log, Record};
use tokio::sync::OwnedSemaphorePermit;

use super::message::Message;
use super::{Accepted, append};
use crate::error::AppError;

/// A message to accept once. It owns all that it takes, so that it goes on when its caller is gone.
pub(super) struct Once {
    pub(super) log: Log,
    pub(super) keys: Idempotency,
    pub(super) message: Message,
    /// What is done if the key is free.
    pub(super) intent: Intent,
    /// Its place among the messages being accepted.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Once {
    pub(super) async fn run(self) -> Result<Accepted, AppError> {
        let Self {
            log,
            keys,
            message,
            intent,
            permit: _permit,
        } = self;
        let (project_id, key) = (&message.project_id, &message.idempotency_key);
        let (intent, recorded_at) = match keys.claim(project_id, key, &intent).await? {
            Claim::New => (intent, None),
            Claim::Existing { record, .. } if record.intent.fingerprint != intent.fingerprint => {
                return Err(AppError::IdempotencyKeyReused);
            }
            Claim::Existing {
                record:
                    Record {
                        intent: first,
                        log_sequence: Some(sequence),
                    },
                ..
            } => {
                return Ok(Accepted {
                    duplicate: true,
                    ..Accepted::new(&first, sequence)
                });
            }
            Claim::Existing { record, recorded_at } => (record.intent, Some(recorded_at)),
        };
        let log_sequence = match recorded_at {
            None => append(&log, &message, &intent).await?,
            Some(at) if intent.endpoint_ids.is_empty() => {
                keys.resume_unmatched(&message.unmatched(&intent), at).await?
            }
            Some(at) => keys.resume_requested(&message.requested(&intent), at).await?,
        };
        if let Err(error) = keys.complete(project_id, key, &intent, log_sequence).await {
            // The message is in the log, where a repetition would find it.
            tracing::warn!(%error, message.id = %intent.message_id, "idempotency record not completed");
        }
        Ok(Accepted {
            duplicate: recorded_at.is_some(),
            ..Accepted::new(&intent, log_sequence)
        })
    }
}
