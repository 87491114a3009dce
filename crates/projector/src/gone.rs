//! Disabling the endpoints whose answers asked for it: with 410, by a header, or as their kind does.
//!
//! A dispatcher records such an answer and leaves the endpoint alone for a while; it may change no endpoint itself. The active
//! projector meets the record in the log, and disables the endpoint before it commits the batch that holds the record. So a
//! crash in between loses nothing: the next one meets it again, and finds the endpoint changed.

use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_domain::endpoint::{Actor, DisabledReason, EndpointCommand, decide, evolve};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::{Log, LogError};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::config::ProjectorConfig;
use crate::metrics;

/// How often the endpoint is read again when somebody else changes it at the same time, or when it is not as new here as where
/// it was called.
const TRIES: u32 = 5;
/// How long the other change is waited for each time.
const PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint asked to be disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    endpoint_id: EndpointId,
    /// What it was when it was called.
    revision: u64,
}

impl Asked {
    /// Whether the event says so.
    pub(crate) fn from_event(event: &DeliveryEvent) -> Option<Self> {
        let DeliveryEvent::Concluded(concluded) = event else {
            return None;
        };
        let attempt = concluded.attempt.as_ref()?;
        concluded.asks_to_disable().then_some(Self {
            endpoint_id: concluded.delivery.endpoint_id,
            revision: attempt.endpoint_revision,
        })
    }
}

/// The parts that disabling needs.
pub(crate) struct Disabler<'a> {
    pub(crate) config: &'a ProjectorConfig,
    pub(crate) log: &'a Log,
    pub(crate) directory: &'a Directory,
    pub(crate) clock: Clock,
}

impl Disabler<'_> {
    /// Disables those that have not been changed since. Waits for a log that is away; what it refuses is left to the next
    /// answer that asks for it.
    pub(crate) async fn disable(&self, asked: &[Asked]) {
        let mut backoff = Backoff::new(self.config.max_backoff);
        for &asked in asked {
            while let Err(error) = self.disable_one(asked).await {
                warn!(endpoint.id = %asked.endpoint_id, %error, "endpoint that asked for it is not disabled");
                if !error.is_transient() {
                    break;
                }
                ::metrics::counter!(metrics::RETRIES).increment(1);
                backoff.pause().await;
            }
        }
    }

    async fn disable_one(
        &self,
        Asked {
            endpoint_id,
            revision,
        }: Asked,
    ) -> Result<(), LogError> {
        for _ in 0..TRIES {
            let applied = self.directory.applied();
            let known = self.directory.get(endpoint_id);
            let Some(entry) = known.filter(|entry| entry.endpoint.revision >= revision) else {
                self.directory.wait_for(applied + 1, PATIENCE).await;
                continue;
            };
            if entry.endpoint.revision > revision {
                debug!(endpoint.id = %endpoint_id, "endpoint asked to be disabled but has been changed since");
                return Ok(());
            }
            let now = (self.clock)();
            let command = EndpointCommand::Disable(DisabledReason::Gone);
            // `None`: disabled already. Refused: deleted.
            let Ok(Some(change)) = decide(&entry.endpoint, command, now) else {
                return Ok(());
            };
            let disabled = evolve(entry.endpoint.clone(), &change, now);
            let actor = Actor::system(self.config.id.as_str());
            let appended = self
                .log
                .append_endpoint(&change, &disabled, &actor, entry.sequence)
                .await;
            match appended {
                Ok(sequence) => {
                    ::metrics::counter!(metrics::GONE_DISABLED).increment(1);
                    info!(endpoint.id = %endpoint_id, "endpoint disabled: its answer asked for it");
                    // The next record may be of the same endpoint.
                    self.directory.wait_for(sequence, PATIENCE).await;
                    return Ok(());
                }
                Err(LogError::Conflict { .. }) => {
                    self.directory.wait_for(entry.sequence + 1, PATIENCE).await;
                }
                Err(error) => return Err(error),
            }
        }
        warn!(endpoint.id = %endpoint_id, "endpoint that asked for it is not disabled: it keeps changing, or is not known here");
        Ok(())
    }
}
