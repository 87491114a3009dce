//! SQLite: connections and writes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cuitty_webhooks_domain::delivery::{Delivery, FailureReason};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool};
use tokio::time::{Instant, sleep};

use crate::apply::{AppliedStats, Batch, Known};
use crate::config::StoreConfig;
use crate::database::{CHECKPOINT, Database, first_connection, sequence_column, stored_sequence};
use crate::detail::Detail;
use crate::error::HistoryError;
use crate::failures::{EndpointFailures, count_column};
use crate::fold::{self, Changes};
use crate::migrate::{self, Schema};
use crate::rows::{DELIVERY_COLUMNS, StoredDelivery, micros, storable};

/// Rows of one statement: a power of two. Each statement is a trip to the connection's thread and back, and SQLite takes
/// at most 32,766 values in one.
const MAX_ROWS: usize = 256;

/// Between two tries to open a file whose lock was not waited for.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How much longer than for a lock is waited for a connection.
const LOCK_GRACE: Duration = Duration::from_secs(1);

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

pub(crate) async fn connect(config: &StoreConfig, schema: Schema) -> Result<Database, HistoryError> {
    let options: SqliteConnectOptions = config.url.parse()?;
    let is_memory = config.url.contains(":memory:") || config.url.contains("mode=memory");
    if is_memory || options.get_filename().as_os_str().is_empty() {
        return Err(HistoryError::BadUrl(
            "must name a file, as in `sqlite:/path/history.db`".into(),
        ));
    }
    if let Some(directory) = options.get_filename().parent()
        && !directory.as_os_str().is_empty()
        && !directory.is_dir()
    {
        return Err(HistoryError::NoDirectory(directory.to_owned()));
    }
    let options = options
        .create_if_missing(schema == Schema::Migrate)
        .busy_timeout(config.acquire_timeout)
        .journal_mode(SqliteJournalMode::Wal)
        // Without a sync per commit, losing power loses the last commits, rows and checkpoint alike; the projector reads
        // them from the log again.
        .synchronous(SqliteSynchronous::Normal);

    let writing = options
        .clone()
        // Pages, negative: KiB.
        .pragma("cache_size", "-32768")
        // Pages. Indexes change the same pages over and over: the longer until they are copied, the fewer copies.
        .pragma("wal_autocheckpoint", "8192")
        // Bytes that the write-ahead log may keep on disk once a long reader has let it grow.
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging();
    // A lock that somebody else holds shall be told as such: it is waited for first.
    let patience = config.acquire_timeout + LOCK_GRACE;
    let deadline = Instant::now() + patience;
    loop {
        match open(&writing, patience, schema).await {
            // Where several turn the write-ahead log of a new file on, SQLite tells of the lock at once.
            Err(HistoryError::Locked(_)) if Instant::now() < deadline => sleep(LOCK_PAUSE).await,
            opened => break opened?,
        }
    }

    let pool = || {
        SqlitePoolOptions::new()
            .acquire_timeout(config.acquire_timeout)
            // A connection to a file does not break by itself.
            .test_before_acquire(false)
    };
    Ok(Database::Sqlite {
        writer: pool().max_connections(1).connect_lazy_with(writing),
        readers: pool()
            .max_connections(config.max_connections)
            .connect_lazy_with(options.pragma("query_only", "on")),
    })
}

/// Makes the file if it is missing, and readies its schema.
async fn open(
    options: &SqliteConnectOptions,
    patience: Duration,
    schema: Schema,
) -> Result<(), HistoryError> {
    let mut first = first_connection(options.connect(), patience).await?;
    migrate::sqlite(&mut first, schema).await?;
    first.close().await?;
    Ok(())
}

pub(crate) async fn apply(writer: &SqlitePool, batch: &Batch) -> Result<AppliedStats, HistoryError> {
    let mut known = Known::Referenced;
    loop {
        if let Some(stats) = try_apply(writer, batch, known).await? {
            return Ok(stats);
        }
        known = Known::All;
    }
}

/// `None`, with nothing written, when the batch requests a delivery that exists and not all known ones were read.
async fn try_apply(
    writer: &SqlitePool,
    batch: &Batch,
    known: Known,
) -> Result<Option<AppliedStats>, HistoryError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    advance(&mut transaction, batch).await?;
    let deliveries = load(&mut transaction, known.ids(&batch.events)).await?;
    let changes = fold::fold(batch, deliveries);
    let created = insert_deliveries(&mut transaction, &changes.created).await?;
    if known == Known::Referenced && created < changes.created.len() as u64 {
        transaction.rollback().await?;
        return Ok(None);
    }
    write_others(&mut transaction, &changes).await?;
    transaction.commit().await?;
    Ok(Some(changes.stats()))
}

async fn advance(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), HistoryError> {
    let moved = sqlx::query(
        "UPDATE projection_checkpoint
         SET sequence = ?1, updated_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER)
         WHERE sequence = ?2",
    )
    .bind(sequence_column(batch.checkpoint))
    .bind(sequence_column(batch.expected_checkpoint))
    .execute(&mut *connection)
    .await?;
    if moved.rows_affected() == 0 {
        let actual = stored_sequence(sqlx::query_scalar(CHECKPOINT).fetch_one(connection).await?)?;
        return Err(HistoryError::CheckpointMoved {
            expected: batch.expected_checkpoint,
            actual,
        });
    }
    Ok(())
}

async fn load(
    connection: &mut SqliteConnection,
    ids: HashSet<DeliveryId>,
) -> Result<HashMap<DeliveryId, Delivery>, HistoryError> {
    let ids: Vec<Uuid> = ids.into_iter().map(DeliveryId::uuid).collect();
    let mut deliveries = HashMap::with_capacity(ids.len());
    for run in runs(&ids) {
        let places = repeated("?", run.len());
        let mut query = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {DELIVERY_COLUMNS} FROM deliveries AS d WHERE d.id IN ({places})"
        )));
        for id in run {
            query = query.bind(*id);
        }
        let rows: Vec<StoredDelivery> = query.fetch_all(&mut *connection).await?;
        for row in rows {
            let delivery = Delivery::try_from(row)?;
            deliveries.insert(delivery.delivery.delivery_id, delivery);
        }
    }
    Ok(deliveries)
}

/// How many rows were new.
async fn insert_deliveries(
    connection: &mut SqliteConnection,
    rows: &[Delivery],
) -> Result<u64, HistoryError> {
    let insert = Statement {
        head: "INSERT INTO deliveries (id, message_id, project_id, endpoint_id, event_type, requested_sequence,
                   origin, replay_of, status, failure_reason, attempt_count, next_attempt_at, created_at, completed_at,
                   response_status)
               VALUES ",
        columns: 15,
        tail: " ON CONFLICT DO NOTHING",
    };
    insert
        .execute(connection, rows, |query, row| {
            query
                .bind(row.delivery.delivery_id.uuid())
                .bind(row.delivery.message_id.uuid())
                .bind(row.delivery.project_id.as_str())
                .bind(row.delivery.endpoint_id.uuid())
                .bind(row.delivery.event_type.as_str())
                .bind(sequence_column(row.requested_sequence))
                .bind(row.origin.as_str())
                .bind(row.replay_of.map(DeliveryId::uuid))
                .bind(row.status.as_str())
                .bind(row.failure_reason.map(FailureReason::as_str))
                .bind(i64::from(row.attempt_count))
                .bind(row.next_attempt_at.map(|at| at.timestamp_micros()))
                .bind(row.created_at.timestamp_micros())
                .bind(row.completed_at.map(|at| at.timestamp_micros()))
                .bind(row.response_status.map(i32::from))
        })
        .await
}

async fn write_others(connection: &mut SqliteConnection, changes: &Changes<'_>) -> Result<(), HistoryError> {
    let messages = Statement {
        head: "INSERT INTO messages (id, project_id, event_type, content_type, payload) VALUES ",
        columns: 5,
        tail: " ON CONFLICT DO NOTHING",
    };
    messages
        .execute(connection, &changes.messages, |query, row| {
            query
                .bind(row.id.uuid())
                .bind(row.project_id.as_str())
                .bind(row.event_type.as_str())
                .bind(storable(row.content_type))
                .bind(row.payload)
        })
        .await?;
    let attempts = Statement {
        head:
            "INSERT INTO attempts (delivery_id, number, started_at, duration_us, response_status, error_class,
                   next_attempt_at, detail, response_body)
               VALUES ",
        columns: 9,
        tail: " ON CONFLICT DO NOTHING",
    };
    attempts
        .execute(connection, &changes.attempts, |query, row| {
            let response = row.attempt.response.as_ref();
            query
                .bind(row.delivery_id.uuid())
                .bind(i64::from(row.attempt.number))
                .bind(row.attempt.started_at.timestamp_micros())
                .bind(micros(row.attempt.duration))
                .bind(response.map(|response| i32::from(response.status)))
                .bind(row.attempt.error.as_ref().map(|error| error.class.as_str()))
                .bind(row.next_attempt_at.map(|at| at.timestamp_micros()))
                .bind(Detail::of(row.attempt).to_json())
                .bind(response.map(|response| &response.body[..]))
        })
        .await?;
    let updates = Statement {
        head: "UPDATE deliveries
               SET status = new.column2, failure_reason = new.column3, attempt_count = new.column4,
                   next_attempt_at = new.column5, completed_at = new.column6, response_status = new.column7
               FROM (VALUES ",
        columns: 7,
        tail: ") AS new WHERE deliveries.id = new.column1",
    };
    updates
        .execute(connection, &changes.updated, |query, row| {
            query
                .bind(row.delivery.delivery_id.uuid())
                .bind(row.status.as_str())
                .bind(row.failure_reason.map(FailureReason::as_str))
                .bind(i64::from(row.attempt_count))
                .bind(row.next_attempt_at.map(|at| at.timestamp_micros()))
                .bind(row.completed_at.map(|at| at.timestamp_micros()))
                .bind(row.response_status.map(i32::from))
        })
        .await?;
    let unmatched = Statement {
        head: "INSERT INTO unmatched_messages (message_id, created_at) VALUES ",
        columns: 2,
        tail: " ON CONFLICT DO NOTHING",
    };
    unmatched
        .execute(connection, &changes.unmatched, |query, row| {
            query
                .bind(row.message_id.uuid())
                .bind(row.requested_at.timestamp_micros())
        })
        .await?;
    write_failures(connection, &changes.recovered, &changes.failures).await
}

async fn write_failures(
    connection: &mut SqliteConnection,
    recovered: &[EndpointId],
    failures: &[EndpointFailures],
) -> Result<(), HistoryError> {
    let forget = Statement {
        head: "DELETE FROM endpoint_failures WHERE endpoint_id IN (VALUES ",
        columns: 1,
        tail: ")",
    };
    forget
        .execute(connection, recovered, |query, id| query.bind(id.uuid()))
        .await?;
    let add = Statement {
        head:
            "INSERT INTO endpoint_failures (endpoint_id, project_id, failing_since, last_failure_at, failures)
               VALUES ",
        columns: 5,
        tail: " ON CONFLICT (endpoint_id) DO UPDATE
               SET last_failure_at = max(last_failure_at, excluded.last_failure_at),
                   failures = failures + excluded.failures",
    };
    add.execute(connection, failures, |query, row| {
        query
            .bind(row.endpoint_id.uuid())
            .bind(row.project_id.as_str())
            .bind(row.failing_since.timestamp_micros())
            .bind(row.last_failure_at.timestamp_micros())
            .bind(count_column(row.failures))
    })
    .await?;
    Ok(())
}

pub(crate) async fn reset(writer: &SqlitePool) -> Result<(), HistoryError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    for statement in [
        "UPDATE projection_checkpoint SET sequence = 0, updated_at = 0",
        "DELETE FROM messages",
        "DELETE FROM unmatched_messages",
        "DELETE FROM deliveries",
        "DELETE FROM attempts",
        "DELETE FROM endpoint_failures",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// A statement around a list of rows.
struct Statement {
    head: &'static str,
    columns: usize,
    tail: &'static str,
}

impl Statement {
    /// Runs the statement for all rows; returns how many rows of the table it changed.
    async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl for<'q> Fn(Bound<'q>, &T) -> Bound<'q>,
    ) -> Result<u64, HistoryError> {
        let row = format!("({})", repeated("?", self.columns));
        let mut changed = 0;
        for run in runs(rows) {
            let sql = [self.head, &repeated(&row, run.len()), self.tail].concat();
            let query = run.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
            changed += query.execute(&mut *connection).await?.rows_affected();
        }
        Ok(changed)
    }
}

fn repeated(item: &str, count: usize) -> String {
    let mut list = String::with_capacity((item.len() + 1) * count);
    for index in 0..count {
        if index > 0 {
            list.push(',');
        }
        list.push_str(item);
    }
    list
}

/// Splits rows into runs whose lengths are powers of two, so that few different statements are ever prepared.
fn runs<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let length = 1 << rest.len().min(MAX_ROWS).checked_ilog2()?;
        let (run, tail) = rest.split_at(length);
        rest = tail;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_hold_every_row_once_and_in_order(rows in proptest::collection::vec(0u16.., 0..2000)) {
            let split: Vec<_> = runs(&rows).collect();
            prop_assert_eq!(&split.concat(), &rows);
            prop_assert!(split.iter().all(|run| run.len().is_power_of_two() && run.len() <= MAX_ROWS));
        }
    }
}
