//! Disables an endpoint that asks for it: by answering 410, or by a header.

use std::time::Duration;

use cuitty_webhooks_domain::endpoint::{Actor, DisabledReason, Endpoint, EndpointCommand, decide, evolve};
use cuitty_webhooks_log::LogError;
use tracing::{debug, info, warn};

use super::{Engine, until_available};

/// How often the endpoint is read again when somebody else changes it at the same time.
const TRIES: u32 = 5;
/// How long the other change is waited for each time.
const PATIENCE: Duration = Duration::from_secs(1);

impl Engine {
    /// Disables an endpoint whose answer asked for it, unless it has been changed since: the answer was to what `called` was.
    pub(super) async fn disable_gone(&self, called: &Endpoint) {
        for _ in 0..TRIES {
            let Some(entry) = self.directory.get(called.id) else {
                return;
            };
            if entry.endpoint.revision != called.revision {
                debug!(endpoint.id = %called.id, "endpoint asked to be disabled but has been changed since");
                return;
            }
            let now = (self.clock)();
            let command = EndpointCommand::Disable(DisabledReason::Gone);
            // `None`: disabled already. Refused: deleted.
            let Ok(Some(change)) = decide(&entry.endpoint, command, now) else {
                return;
            };
            let disabled = evolve(entry.endpoint.clone(), &change, now);
            let actor = Actor::system(self.dispatcher_id.as_str());
            let appended = until_available(|| {
                self.log
                    .append_endpoint(&change, &disabled, &actor, entry.sequence)
            })
            .await;
            match appended {
                Ok(_) => {
                    self.metrics.disabled.increment(1);
                    info!(endpoint.id = %called.id, "endpoint disabled: its answer asked for it");
                    return;
                }
                Err(LogError::Conflict { .. }) => {
                    self.directory.wait_for(entry.sequence + 1, PATIENCE).await;
                }
                Err(error) => {
                    warn!(endpoint.id = %called.id, %error, "endpoint that asked for it is not disabled");
                    return;
                }
            }
        }
        warn!(endpoint.id = %called.id, "endpoint that asked for it is not disabled: it keeps changing");
    }
}
