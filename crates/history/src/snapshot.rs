//! The whole history as of one moment.

use std::collections::HashMap;

use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Postgres, Sqlite, Transaction};

use crate::database::{CHECKPOINT, Database, stored_sequence};
use crate::error::HistoryError;
use crate::failures::{EndpointFailures, FAILURES_COLUMNS, StoredFailures};
use crate::rows::{
    ATTEMPT_COLUMNS, AttemptRow, DELIVERY_COLUMNS, DeliveryDetail, StoredAttempt, StoredDetail,
    StoredUnmatched, UnmatchedMessage, convert,
};

/// The whole history as of one moment, however much is written meanwhile. Holds one connection until it is dropped.
///
/// On SQLite the write-ahead log grows while a snapshot is open; on PostgreSQL a [`reset`](crate::Store::reset) that
/// comes between makes it appear empty.
#[derive(Debug)]
pub struct Snapshot {
    reader: Reader,
    checkpoint: u64,
    /// Where the next chunk of deliveries begins; `None` when all have been given out.
    next_delivery: Option<Uuid>,
    next_unmatched: Option<Uuid>,
    next_failures: Option<Uuid>,
}

#[derive(Debug)]
enum Reader {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// Evaluates an expression with the transaction's connection, whichever database it leads to.
macro_rules! on_connection {
    ($reader:expr, $connection:ident => $body:expr) => {
        match $reader {
            Reader::Sqlite(transaction) => {
                let $connection = &mut **transaction;
                $body
            }
            Reader::Postgres(transaction) => {
                let $connection = &mut **transaction;
                $body
            }
        }
    };
}

impl Snapshot {
    pub(crate) async fn open(database: &Database) -> Result<Self, HistoryError> {
        let mut reader = match database {
            Database::Sqlite { readers, .. } => Reader::Sqlite(readers.begin().await?),
            Database::Postgres(pool) => Reader::Postgres(
                pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    .await?,
            ),
        };
        // The first read fixes the moment, on both databases.
        let sequence: i64 = on_connection!(&mut reader, connection => sqlx::query_scalar(CHECKPOINT).fetch_one(connection).await?);
        Ok(Self {
            reader,
            checkpoint: stored_sequence(sequence)?,
            next_delivery: Some(Uuid::nil()),
            next_unmatched: Some(Uuid::nil()),
            next_failures: Some(Uuid::nil()),
        })
    }

    /// The log sequence that the rows have reached.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// The next `limit` (1 or more) deliveries in order of their ids; none when all have been given out.
    pub async fn next_chunk(&mut self, limit: u32) -> Result<Vec<DeliveryDetail>, HistoryError> {
        let Some(first) = self.next_delivery else {
            return Ok(Vec::new());
        };
        let deliveries = AssertSqlSafe(format!(
            "SELECT {DELIVERY_COLUMNS}, m.content_type, m.payload
             FROM deliveries AS d JOIN messages AS m ON m.id = d.message_id
             WHERE d.id >= $1 ORDER BY d.id LIMIT $2"
        ));
        let rows: Vec<StoredDetail> = on_connection!(&mut self.reader, connection =>
            sqlx::query_as(deliveries).bind(first).bind(i64::from(limit)).fetch_all(connection).await?);
        let mut details: Vec<DeliveryDetail> = convert(rows)?;
        let last = details
            .last()
            .map(|detail| detail.delivery.delivery.delivery_id.uuid());
        self.next_delivery = last.and_then(after);
        if let Some(last) = last {
            self.attach_attempts(&mut details, first, last).await?;
        }
        Ok(details)
    }

    async fn attach_attempts(
        &mut self,
        details: &mut [DeliveryDetail],
        first: Uuid,
        last: Uuid,
    ) -> Result<(), HistoryError> {
        let attempts = AssertSqlSafe(format!(
            "SELECT {ATTEMPT_COLUMNS} FROM attempts
             WHERE delivery_id >= $1 AND delivery_id <= $2 ORDER BY delivery_id, number"
        ));
        let rows: Vec<StoredAttempt> = on_connection!(&mut self.reader, connection =>
            sqlx::query_as(attempts).bind(first).bind(last).fetch_all(connection).await?);
        let mut by_delivery: HashMap<Uuid, Vec<AttemptRow>> = HashMap::new();
        for row in rows {
            by_delivery
                .entry(row.delivery_id)
                .or_default()
                .push(row.try_into()?);
        }
        for detail in details {
            let id = detail.delivery.delivery.delivery_id.uuid();
            detail.attempts = by_delivery.remove(&id).unwrap_or_default();
        }
        Ok(())
    }

    /// The next `limit` (1 or more) unmatched messages in order of their ids; none when all have been given out.
    pub async fn next_unmatched_chunk(&mut self, limit: u32) -> Result<Vec<UnmatchedMessage>, HistoryError> {
        let Some(first) = self.next_unmatched else {
            return Ok(Vec::new());
        };
        let messages =
            "SELECT u.message_id, m.project_id, m.event_type, m.content_type, m.payload, u.created_at
                        FROM unmatched_messages AS u JOIN messages AS m ON m.id = u.message_id
                        WHERE u.message_id >= $1 ORDER BY u.message_id LIMIT $2";
        let rows: Vec<StoredUnmatched> = on_connection!(&mut self.reader, connection =>
            sqlx::query_as(messages).bind(first).bind(i64::from(limit)).fetch_all(connection).await?);
        let messages: Vec<UnmatchedMessage> = convert(rows)?;
        self.next_unmatched = messages
            .last()
            .and_then(|message| after(message.message_id.uuid()));
        Ok(messages)
    }

    /// The next `limit` (1 or more) endpoints that fail in order of their ids; none when all have been given out.
    pub async fn next_failures_chunk(&mut self, limit: u32) -> Result<Vec<EndpointFailures>, HistoryError> {
        let Some(first) = self.next_failures else {
            return Ok(Vec::new());
        };
        let failures = AssertSqlSafe(format!(
            "SELECT {FAILURES_COLUMNS} FROM endpoint_failures
             WHERE endpoint_id >= $1 ORDER BY endpoint_id LIMIT $2"
        ));
        let rows: Vec<StoredFailures> = on_connection!(&mut self.reader, connection =>
            sqlx::query_as(failures).bind(first).bind(i64::from(limit)).fetch_all(connection).await?);
        let failures: Vec<EndpointFailures> = convert(rows)?;
        self.next_failures = failures.last().and_then(|row| after(row.endpoint_id.uuid()));
        Ok(failures)
    }
}

/// The id that follows; none after the greatest.
fn after(id: Uuid) -> Option<Uuid> {
    id.as_u128().checked_add(1).map(Uuid::from_u128)
}
