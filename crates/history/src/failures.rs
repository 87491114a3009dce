//! Endpoints that fail: since when no attempt has succeeded.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::Concluded;
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::ProjectId;
use sqlx::types::Uuid;

use crate::error::HistoryError;
use crate::rows::time;

/// An endpoint whose last attempt failed. One whose last attempt succeeded has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFailures {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its project.
    pub project_id: ProjectId,
    /// When the first attempt after the last success failed.
    pub failing_since: DateTime<Utc>,
    /// When the last one did.
    pub last_failure_at: DateTime<Utc>,
    /// How many did, 1 or more.
    pub failures: u64,
}

/// Columns of [`StoredFailures`].
pub(crate) const FAILURES_COLUMNS: &str = "endpoint_id, project_id, failing_since, last_failure_at, failures";

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct StoredFailures {
    endpoint_id: Uuid,
    project_id: String,
    failing_since: i64,
    last_failure_at: i64,
    failures: i64,
}

impl TryFrom<StoredFailures> for EndpointFailures {
    type Error = HistoryError;

    fn try_from(row: StoredFailures) -> Result<Self, HistoryError> {
        let corrupt = |column| HistoryError::Corrupt {
            table: "endpoint_failures",
            column,
        };
        Ok(Self {
            endpoint_id: EndpointId::from_uuid(row.endpoint_id),
            project_id: row.project_id.parse().map_err(|_| corrupt("project_id"))?,
            failing_since: time(row.failing_since).ok_or(corrupt("failing_since"))?,
            last_failure_at: time(row.last_failure_at).ok_or(corrupt("last_failure_at"))?,
            failures: u64::try_from(row.failures).map_err(|_| corrupt("failures"))?,
        })
    }
}

/// A count as both databases store it.
pub(crate) fn count_column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What a batch says about endpoints, folded without knowing their rows: what it finds is added to them.
#[derive(Debug, Default)]
pub(crate) struct FailureFold(BTreeMap<EndpointId, Seen>);

/// What a batch says about one endpoint.
#[derive(Debug, Default)]
struct Seen {
    /// Whether an attempt succeeded.
    success: bool,
    /// The failures after the last success.
    failures: Option<EndpointFailures>,
}

impl FailureFold {
    /// Folds the end of an attempt in; what ended without an attempt says nothing about the endpoint.
    pub(crate) fn concluded(&mut self, event: &Concluded) {
        let Some(attempt) = &event.attempt else { return };
        let endpoint_id = event.delivery.endpoint_id;
        let seen = self.0.entry(endpoint_id).or_default();
        if attempt.succeeded() {
            *seen = Seen {
                success: true,
                failures: None,
            };
            return;
        }
        let failures = seen.failures.get_or_insert_with(|| EndpointFailures {
            endpoint_id,
            project_id: event.delivery.project_id.clone(),
            failing_since: event.at,
            last_failure_at: event.at,
            failures: 0,
        });
        failures.last_failure_at = failures.last_failure_at.max(event.at);
        failures.failures += 1;
    }

    /// The endpoints whose rows are outdated, and then the failures that are added to the rows.
    pub(crate) fn finish(self) -> (Vec<EndpointId>, Vec<EndpointFailures>) {
        let (mut outdated, mut failures) = (Vec::new(), Vec::new());
        for (endpoint_id, seen) in self.0 {
            outdated.extend(seen.success.then_some(endpoint_id));
            failures.extend(seen.failures);
        }
        (outdated, failures)
    }
}
