//! What somebody has to see to: deliveries that nothing happens to, endpoints that keep failing.

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::Delivery;
use sqlx::AssertSqlSafe;
use sqlx::types::Uuid;

use crate::database::{Database, on_reader, sequence_column};
use crate::error::HistoryError;
use crate::failures::{EndpointFailures, FAILURES_COLUMNS, StoredFailures};
use crate::rows::{DELIVERY_COLUMNS, StoredDelivery, convert};
use crate::store::Store;

/// What a pending delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The time of its next attempt.
    Timer,
    /// Its attempt, to start.
    Start,
}

impl Waiting {
    /// The time that such deliveries are ordered by, the condition for them, and the index that has them in order.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Timer => ("d.next_attempt_at", "TRUE", "deliveries_pending_by_due"),
            Self::Start => (
                "d.created_at",
                "d.next_attempt_at IS NULL",
                "deliveries_pending_by_time",
            ),
        }
    }

    fn position(self, delivery: &Delivery) -> Option<DateTime<Utc>> {
        match self {
            Self::Timer => delivery.next_attempt_at,
            Self::Start => Some(delivery.created_at),
        }
    }
}

/// Where a page begins: after a time and an id.
fn position(time: Option<DateTime<Utc>>, id: Option<Uuid>) -> (i64, Uuid) {
    let time = time.map_or(i64::MIN, |time| time.timestamp_micros());
    (time, id.unwrap_or_default())
}

/// Both functions give nothing unless the history has reached the log sequence that the caller asks for: what another
/// process is folding anew is not mistaken for what is.
impl Store {
    /// Pending deliveries, oldest first, at most `limit` (1 or more), those that follow `after`: whose next attempt was
    /// due before `before`, or which were requested before then and wait for an attempt to start.
    pub async fn pending(
        &self,
        waiting: Waiting,
        before: DateTime<Utc>,
        reached: u64,
        after: Option<&Delivery>,
        limit: u32,
    ) -> Result<Vec<Delivery>, HistoryError> {
        let (time, condition, index) = waiting.parts();
        let hint = match self.database() {
            Database::Sqlite { .. } => format!("INDEXED BY {index}"),
            Database::Postgres(_) => String::new(),
        };
        let sql = AssertSqlSafe(format!(
            "SELECT {DELIVERY_COLUMNS} FROM deliveries AS d {hint}
             WHERE d.status = 'pending' AND {condition} AND {time} < $1 AND ({time}, d.id) > ($2, $3)
                 AND (SELECT sequence FROM projection_checkpoint) >= $4
             ORDER BY {time}, d.id LIMIT $5"
        ));
        let (time, id) = position(
            after.and_then(|after| waiting.position(after)),
            after.map(|after| after.delivery.delivery_id.uuid()),
        );
        let rows: Vec<StoredDelivery> = on_reader!(self.database(), reader =>
            sqlx::query_as(sql)
                .bind(before.timestamp_micros())
                .bind(time)
                .bind(id)
                .bind(sequence_column(reached))
                .bind(i64::from(limit))
                .fetch_all(reader)
                .await?);
        convert(rows)
    }

    /// Endpoints that have been failing since before `before`, in order of that time, at most `limit` (1 or more), those
    /// that follow `after`.
    pub async fn failing_endpoints(
        &self,
        before: DateTime<Utc>,
        reached: u64,
        after: Option<&EndpointFailures>,
        limit: u32,
    ) -> Result<Vec<EndpointFailures>, HistoryError> {
        let sql = AssertSqlSafe(format!(
            "SELECT {FAILURES_COLUMNS} FROM endpoint_failures
             WHERE failing_since < $1 AND (failing_since, endpoint_id) > ($2, $3)
                 AND (SELECT sequence FROM projection_checkpoint) >= $4
             ORDER BY failing_since, endpoint_id LIMIT $5"
        ));
        let (time, id) = position(
            after.map(|after| after.failing_since),
            after.map(|after| after.endpoint_id.uuid()),
        );
        let rows: Vec<StoredFailures> = on_reader!(self.database(), reader =>
            sqlx::query_as(sql)
                .bind(before.timestamp_micros())
                .bind(time)
                .bind(id)
                .bind(sequence_column(reached))
                .bind(i64::from(limit))
                .fetch_all(reader)
                .await?);
        convert(rows)
    }
}
