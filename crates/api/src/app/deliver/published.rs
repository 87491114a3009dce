//! A message that was published on NATS: accepted as any other, and once, however often it is delivered to us.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_log::subjects::{API_KEYS, ENDPOINTS, EVENT_TYPES, PROJECTS};
use cuitty_webhooks_log::{IngestStream, LogError, trace};
use tracing::field::Empty;

use super::{Accepted, NewMessage};
use crate::app::{App, observed};
use crate::auth::Caller;
use crate::error::AppError;

/// How long what this process knows of the control stream may take to catch up with it.
const CATCHING_UP: Duration = Duration::from_secs(2);

/// Where a message stands in the stream that it was published to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    /// By nats-server's clock.
    pub(crate) stored_at: DateTime<Utc>,
}

impl Place {
    /// The idempotency key of a message that was given none. The time tells streams apart that were made one after the other.
    fn key(&self) -> String {
        format!(
            "published {} {}",
            self.sequence,
            self.stored_at.timestamp_micros()
        )
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
        mut message: NewMessage,
        place: Place,
    ) -> Result<Accepted, AppError> {
        if message.idempotency_key.is_empty() {
            message.idempotency_key = place.key();
        }
        let (app, caller) = (Arc::clone(self), Arc::clone(caller));
        self.begun(async move {
            match app.take_published(&caller, message.clone(), place).await {
                // Whoever is refused here is not heard again: what they rely on may have been made a moment ago, by a process
                // whose changes this one has not read yet.
                Err(refusal) if rests_on_changes(&refusal) => {
                    app.catch_up().await?;
                    app.take_published(&caller, message, place).await
                }
                answered => answered,
            }
        })
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
    ) -> Result<Accepted, AppError> {
        let (_turn, permit) = self.room().await?;
        let call = trace::task_span();
        observed("ingest_message", self.take(caller, message, permit, &call)).await
    }

    /// Waits until this process has read every change of the control stream that was made before.
    async fn catch_up(&self) -> Result<(), LogError> {
        let (endpoints, event_types, projects, api_keys) = tokio::try_join!(
            self.log.last_change(ENDPOINTS),
            self.log.last_change(EVENT_TYPES),
            self.log.last_change(PROJECTS),
            self.log.last_change(API_KEYS),
        )?;
        let (endpoints, event_types, api_keys) = tokio::join!(
            self.directory.wait_for(endpoints, CATCHING_UP),
            self.event_types.wait_for(event_types.max(projects), CATCHING_UP),
            self.api_keys.wait_for(api_keys, CATCHING_UP),
        );
        if endpoints && event_types && api_keys {
            Ok(())
        } else {
            Err(LogError::Unavailable("what was changed is not read yet".into()))
        }
    }
}

/// Whether a message might be taken by who knows of a later change: of endpoints, keys, event types or their schemas.
fn rests_on_changes(refusal: &AppError) -> bool {
    matches!(
        refusal,
        AppError::EventTypeUnknown { .. }
            | AppError::EventTypeArchived(_)
            | AppError::Rejected(Rejection::NotFound { .. } | Rejection::Invalid(_))
    )
}
