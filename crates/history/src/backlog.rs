//! What has not ended yet, at a glance.

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;

use crate::database::{Database, on_reader};
use crate::error::HistoryError;
use crate::store::Store;

/// How far deliveries are counted, so that the question costs milliseconds however many there are.
pub const COUNTED: u64 = 100_000;

/// The deliveries that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many, up to [`COUNTED`].
    pub pending: u64,
    /// How many of them wait for the time of their next attempt, up to [`COUNTED`].
    pub retries: u64,
    /// When the oldest of them was requested.
    pub oldest: Option<DateTime<Utc>>,
}

/// Connections to the database that are used for reading; with PostgreSQL for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// In use.
    pub used: u32,
    /// Open and not in use.
    pub idle: u32,
    /// That may be open at most.
    pub limit: u32,
}

impl Store {
    /// The backlog at `now`.
    pub async fn backlog(&self, now: DateTime<Utc>) -> Result<Backlog, HistoryError> {
        let hint = |index: &str| match self.database() {
            Database::Sqlite { .. } => format!("INDEXED BY {index}"),
            Database::Postgres(_) => String::new(),
        };
        let (by_time, by_due) = (
            hint("deliveries_pending_by_time"),
            hint("deliveries_pending_by_due"),
        );
        let sql = AssertSqlSafe(format!(
            "SELECT
                 (SELECT count(*) FROM
                     (SELECT 1 FROM deliveries {by_time} WHERE status = 'pending' LIMIT $1) AS counted),
                 (SELECT count(*) FROM
                     (SELECT 1 FROM deliveries {by_due} WHERE status = 'pending' AND next_attempt_at > $2 LIMIT $1)
                     AS counted),
                 (SELECT created_at FROM deliveries {by_time} WHERE status = 'pending'
                     ORDER BY created_at, id LIMIT 1)"
        ));
        let (pending, retries, oldest): (i64, i64, Option<i64>) = on_reader!(self.database(), reader =>
            sqlx::query_as(sql)
                .bind(COUNTED as i64)
                .bind(now.timestamp_micros())
                .fetch_one(reader)
                .await?);
        Ok(Backlog {
            pending: pending as u64,
            retries: retries as u64,
            oldest: oldest.and_then(DateTime::from_timestamp_micros),
        })
    }

    /// How the connections are used at this moment.
    pub fn pool(&self) -> Pool {
        on_reader!(self.database(), pool => {
            let idle = pool.num_idle() as u32;
            Pool {
                used: pool.size().saturating_sub(idle),
                idle,
                limit: pool.options().get_max_connections(),
            }
        })
    }
}
