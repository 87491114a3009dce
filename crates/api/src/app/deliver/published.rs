//! A message that was published on NATS: accepted as any other, and once, however often it is delivered to us.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::MessageId;
use cuitty_webhooks_log::{IngestStream, Intent, LogError};
use tokio::sync::OwnedSemaphorePermit;
use tracing::field::Empty;

use super::{Accepted, Message, NewMessage, append};
use crate::app::{App, observed};
use crate::auth::Caller;
use crate::error::AppError;

/// Where a message stands in the stream that it was published to. Without an idempotency key, its ids derive from that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    /// By nats-server's clock.
    pub(crate) stored_at: DateTime<Utc>,
    /// Whether it was delivered before, so that the log may hold some of it.
    pub(crate) is_repeated: bool,
}

impl Place {
    fn message_id(&self) -> MessageId {
        // Nanoseconds in an i64 reach until 2262.
        let nanos = self.stored_at.timestamp_nanos_opt().unwrap_or(i64::MAX);
        MessageId::published(self.sequence, nanos)
    }
}

impl App {
    /// Attaches to what is published.
    pub(crate) async fn published(&self) -> Result<IngestStream, LogError> {
        self.log.ingest().await
    }

    /// How long a published message may stay without a word about it.
    pub(crate) fn ack_wait(&self) -> Duration {
        self.log.ack_wait()
    }

    /// Accepts a published message, once there is room for it. It is seen through, whether or not its result is waited for.
    pub(crate) async fn deliver_published(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        message: NewMessage,
        place: Place,
    ) -> Result<Accepted, AppError> {
        let permit = self.room().await?;
        let (app, caller) = (Arc::clone(self), Arc::clone(caller));
        self.begun(async move { app.take_published(&caller, message, place, permit).await })
            .await
    }

    #[tracing::instrument(
        name = "api.ingest_message",
        skip_all,
        fields(
            published.seq = place.sequence,
            project.id = Empty,
            event.type = Empty,
            message.id = Empty,
            log.seq = Empty
        )
    )]
    async fn take_published(
        &self,
        caller: &Caller,
        message: NewMessage,
        place: Place,
        permit: OwnedSemaphorePermit,
    ) -> Result<Accepted, AppError> {
        observed("ingest_message", async {
            if !message.idempotency_key.is_empty() {
                return self.take(caller, message, permit).await;
            }
            let message = self.vet_message(message.read(caller)?).await?;
            let intent = Intent {
                message_id: place.message_id(),
                ..self.intent(self.targets(&message)?)
            };
            let log_sequence = if place.is_repeated && self.is_past_recognition(place) {
                self.resume(&message, &intent, place).await?
            } else {
                append(&self.log, &message, &intent).await?
            };
            let accepted = Accepted::new(&intent, log_sequence);
            accepted.count();
            Ok(accepted)
        })
        .await
    }

    /// Whether the log may have forgotten the ids of what was stored when the message was first delivered. The other half of
    /// the time is for clocks that differ, and for the append.
    fn is_past_recognition(&self, place: Place) -> bool {
        let age = (self.now() - place.stored_at).to_std().unwrap_or(Duration::ZERO);
        age > self.log.duplicate_window() / 2
    }

    /// Appends what of the message is not in the log.
    async fn resume(&self, message: &Message, intent: &Intent, place: Place) -> Result<u64, AppError> {
        let keys = self.idempotency().await?;
        Ok(if intent.endpoint_ids.is_empty() {
            keys.resume_unmatched(&message.unmatched(intent), place.stored_at)
                .await?
        } else {
            keys.resume_requested(&message.requested(intent), place.stored_at)
                .await?
        })
    }
}
