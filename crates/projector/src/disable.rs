//! Disabling endpoints that have been failing for too long.

use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_domain::endpoint::{
    Actor, DisabledReason, Endpoint, EndpointChange, EndpointCommand, decide, evolve,
};
use cuitty_webhooks_history::EndpointFailures;
use cuitty_webhooks_log::LogError;
use tracing::{debug, info};

use crate::error::ProjectorError;
use crate::metrics;
use crate::upkeep::{PAGE, Upkeep};

impl Upkeep<'_> {
    /// Disables the endpoints that have been failing for too long in a history that has reached `reached`.
    pub(crate) async fn disable_failing(self, reached: u64) -> Result<(), ProjectorError> {
        if self.config.disable_after.is_zero() {
            return Ok(());
        }
        let before = (self.clock)() - self.config.disable_after;
        let mut last: Option<EndpointFailures> = None;
        loop {
            let page = self
                .store
                .failing_endpoints(before, reached, last.as_ref(), PAGE)
                .await?;
            for failures in &page {
                self.disable_if_failing(failures).await?;
            }
            last = page.last().cloned();
            if page.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    async fn disable_if_failing(self, failures: &EndpointFailures) -> Result<(), ProjectorError> {
        let Some(entry) = self.directory.get(failures.endpoint_id) else {
            return Ok(());
        };
        let now = (self.clock)();
        let after = TimeDelta::from_std(self.config.disable_after).unwrap_or(TimeDelta::MAX);
        let Some(change) = disabling(&entry.endpoint, failures, after, now) else {
            return Ok(());
        };
        let disabled = evolve(entry.endpoint.clone(), &change, now);
        let actor = Actor::system(self.config.id.as_str());
        let appended = self
            .log
            .append_endpoint(&change, &disabled, &actor, entry.sequence)
            .await;
        match appended {
            Ok(_) => {
                ::metrics::counter!(metrics::FAILING_DISABLED).increment(1);
                info!(
                    endpoint.id = %failures.endpoint_id,
                    failing_since = %failures.failing_since,
                    failures = failures.failures,
                    "endpoint disabled: all its attempts have failed for too long"
                );
                Ok(())
            }
            // Somebody has changed it at this moment: the next round sees what it is then.
            Err(LogError::Conflict { .. }) => {
                debug!(endpoint.id = %failures.endpoint_id, "failing endpoint is being changed");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The change that disables the endpoint, when it failed throughout `after`: from its first to its last failure, for where
/// nothing is attempted nothing fails. A time before the endpoint was last enabled or otherwise changed does not count:
/// whoever did so may have mended it.
fn disabling(
    endpoint: &Endpoint,
    failures: &EndpointFailures,
    after: TimeDelta,
    now: DateTime<Utc>,
) -> Option<EndpointChange> {
    let since = failures.failing_since.max(endpoint.updated_at);
    if failures.last_failure_at - since < after {
        return None;
    }
    // `None`: disabled already. Refused: deleted.
    decide(endpoint, EndpointCommand::Disable(DisabledReason::Failing), now)
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::tests::{at, endpoint};

    /// What becomes of `endpoint`, which failed from one time to another, when 100 s are too long.
    fn decided(endpoint: &Endpoint, from: i64, to: i64) -> Option<EndpointChange> {
        let failures = EndpointFailures {
            endpoint_id: endpoint.id,
            project_id: endpoint.project_id.clone(),
            failing_since: at(from),
            last_failure_at: at(to),
            failures: 2,
        };
        disabling(endpoint, &failures, TimeDelta::seconds(100), at(100_000))
    }

    fn after(endpoint: Endpoint, command: EndpointCommand, seconds: i64) -> Endpoint {
        let change = decide(&endpoint, command, at(seconds)).unwrap().unwrap();
        evolve(endpoint, &change, at(seconds))
    }

    const DISABLED: Option<EndpointChange> = Some(EndpointChange::Disabled(DisabledReason::Failing));
    const DISABLE: EndpointCommand = EndpointCommand::Disable(DisabledReason::Manual);

    #[test]
    fn an_endpoint_is_disabled_once_it_has_failed_throughout() {
        assert_eq!(decided(&endpoint(), 1000, 1099), None);
        assert_eq!(decided(&endpoint(), 1000, 1100), DISABLED);
        assert_eq!(
            decided(&endpoint(), 1000, 1000),
            None,
            "one failure, however long ago"
        );
    }

    #[test]
    fn one_that_is_not_active_or_deleted_is_left_alone() {
        let inactive = after(endpoint(), DISABLE, 500);
        assert_eq!(decided(&inactive, 1000, 9000), None);
        let deleted = after(endpoint(), EndpointCommand::Delete, 500);
        assert_eq!(decided(&deleted, 1000, 9000), None);
    }

    #[test]
    fn enabling_or_changing_it_begins_anew() {
        let enabled = after(after(endpoint(), DISABLE, 500), EndpointCommand::Enable, 2000);
        let mut settings = Box::new(endpoint().settings);
        settings.url = "https://example.com/mended".into();
        let update = EndpointCommand::Update {
            settings,
            active: None,
            expected_revision: None,
        };
        for endpoint in [enabled, after(endpoint(), update, 2000)] {
            assert_eq!(decided(&endpoint, 1000, 2099), None);
            assert_eq!(decided(&endpoint, 1000, 2100), DISABLED);
        }
    }
}
