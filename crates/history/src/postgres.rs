//! PostgreSQL: connections and writes.

use std::collections::{HashMap, HashSet};

use cuitty_webhooks_domain::delivery::{Delivery, FailureReason};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};

use crate::apply::{AppliedStats, Batch, Known};
use crate::config::StoreConfig;
use crate::database::{CHECKPOINT, Database, first_connection, sequence_column, stored_sequence};
use crate::detail::Detail;
use crate::error::HistoryError;
use crate::failures::{EndpointFailures, count_column};
use crate::fold::{self, Changes, NewAttempt, NewMessage};
use crate::migrate::{self, Schema};
use crate::rows::{DELIVERY_COLUMNS, StoredDelivery, micros, storable};

/// Bytes of payload that one statement carries, roughly; PostgreSQL refuses a message of 1 GiB.
const STATEMENT_BYTES: usize = 16 * 1024 * 1024;

pub(crate) async fn connect(config: &StoreConfig, schema: Schema) -> Result<Database, HistoryError> {
    let options: PgConnectOptions = config.url.parse()?;
    let options = options
        .application_name("cuitty-webhooks")
        .options([("lock_timeout", config.acquire_timeout.as_millis())])
        // A plan that was made while the tables were small would be kept when they have grown.
        .options([("plan_cache_mode", "force_custom_plan")]);
    // Nobody would make the tables again that a crash of the server lost.
    let migrating = options.clone().options([("synchronous_commit", "on")]);
    let mut first = first_connection(migrating.connect(), config.acquire_timeout).await?;
    migrate::postgres(&mut first, schema).await?;
    first.close().await?;

    let pool = PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        .connect_lazy_with(
            options
                .options([("statement_timeout", config.statement_timeout.as_millis())])
                // What a crash of the server loses, the projector reads from the log again: rows and checkpoint go
                // together.
                .options([("synchronous_commit", "off")]),
        );
    Ok(Database::Postgres(pool))
}

pub(crate) async fn apply(pool: &PgPool, batch: &Batch) -> Result<AppliedStats, HistoryError> {
    let mut known = Known::Referenced;
    loop {
        if let Some(stats) = try_apply(pool, batch, known).await? {
            return Ok(stats);
        }
        known = Known::All;
    }
}

/// `None`, with nothing written, when the batch requests a delivery that exists and not all known ones were read.
async fn try_apply(pool: &PgPool, batch: &Batch, known: Known) -> Result<Option<AppliedStats>, HistoryError> {
    let mut transaction = pool.begin().await?;
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

/// Moves the checkpoint, and by its row's lock keeps every other writer out until the transaction ends.
async fn advance(connection: &mut PgConnection, batch: &Batch) -> Result<(), HistoryError> {
    let moved = sqlx::query(
        "UPDATE projection_checkpoint
         SET sequence = $1, updated_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
         WHERE sequence = $2",
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
    connection: &mut PgConnection,
    ids: HashSet<DeliveryId>,
) -> Result<HashMap<DeliveryId, Delivery>, HistoryError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = ids.into_iter().map(DeliveryId::uuid).collect();
    let rows: Vec<StoredDelivery> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {DELIVERY_COLUMNS} FROM deliveries AS d WHERE d.id = ANY ($1)"
    )))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| Delivery::try_from(row).map(|delivery| (delivery.delivery.delivery_id, delivery)))
        .collect()
}

/// How many rows were new.
async fn insert_deliveries(connection: &mut PgConnection, rows: &[Delivery]) -> Result<u64, HistoryError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let done = sqlx::query(
        "INSERT INTO deliveries (id, message_id, project_id, endpoint_id, event_type, requested_sequence, origin,
             replay_of, status, failure_reason, attempt_count, next_attempt_at, created_at, completed_at,
             response_status)
         SELECT * FROM UNNEST ($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::bigint[], $7::text[],
             $8::uuid[], $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
             $15::integer[])
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(column(rows, |row| row.delivery.delivery_id.uuid()))
    .bind(column(rows, |row| row.delivery.message_id.uuid()))
    .bind(column(rows, |row| row.delivery.project_id.as_str()))
    .bind(column(rows, |row| row.delivery.endpoint_id.uuid()))
    .bind(column(rows, |row| row.delivery.event_type.as_str()))
    .bind(column(rows, |row| sequence_column(row.requested_sequence)))
    .bind(column(rows, |row| row.origin.as_str()))
    .bind(column(rows, |row| row.replay_of.map(DeliveryId::uuid)))
    .bind(column(rows, |row| row.status.as_str()))
    .bind(column(rows, |row| row.failure_reason.map(FailureReason::as_str)))
    .bind(column(rows, |row| i64::from(row.attempt_count)))
    .bind(column(rows, |row| row.next_attempt_at.map(|at| at.timestamp_micros())))
    .bind(column(rows, |row| row.created_at.timestamp_micros()))
    .bind(column(rows, |row| row.completed_at.map(|at| at.timestamp_micros())))
    .bind(column(rows, |row| row.response_status.map(i32::from)))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn write_others(connection: &mut PgConnection, changes: &Changes<'_>) -> Result<(), HistoryError> {
    for rows in by_weight(&changes.messages, |row| row.payload.len()) {
        insert_messages(connection, rows).await?;
    }
    for rows in by_weight(&changes.attempts, attempt_bytes) {
        insert_attempts(connection, rows).await?;
    }
    update_deliveries(connection, &changes.updated).await?;
    if !changes.unmatched.is_empty() {
        sqlx::query(
            "INSERT INTO unmatched_messages (message_id, created_at)
             SELECT * FROM UNNEST ($1::uuid[], $2::bigint[])
             ON CONFLICT (message_id) DO NOTHING",
        )
        .bind(column(&changes.unmatched, |row| row.message_id.uuid()))
        .bind(column(&changes.unmatched, |row| {
            row.requested_at.timestamp_micros()
        }))
        .execute(&mut *connection)
        .await?;
    }
    write_failures(connection, &changes.recovered, &changes.failures).await
}

async fn write_failures(
    connection: &mut PgConnection,
    recovered: &[EndpointId],
    failures: &[EndpointFailures],
) -> Result<(), HistoryError> {
    if !recovered.is_empty() {
        sqlx::query("DELETE FROM endpoint_failures WHERE endpoint_id = ANY ($1)")
            .bind(column(recovered, |id| id.uuid()))
            .execute(&mut *connection)
            .await?;
    }
    if !failures.is_empty() {
        sqlx::query(
            "INSERT INTO endpoint_failures AS f (endpoint_id, project_id, failing_since, last_failure_at, failures)
             SELECT * FROM UNNEST ($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
             ON CONFLICT (endpoint_id) DO UPDATE
             SET last_failure_at = GREATEST (f.last_failure_at, excluded.last_failure_at),
                 failures = f.failures + excluded.failures",
        )
        .bind(column(failures, |row| row.endpoint_id.uuid()))
        .bind(column(failures, |row| row.project_id.as_str()))
        .bind(column(failures, |row| row.failing_since.timestamp_micros()))
        .bind(column(failures, |row| row.last_failure_at.timestamp_micros()))
        .bind(column(failures, |row| count_column(row.failures)))
        .execute(connection)
        .await?;
    }
    Ok(())
}

async fn insert_messages(connection: &mut PgConnection, rows: &[NewMessage<'_>]) -> Result<(), HistoryError> {
    sqlx::query(
        "INSERT INTO messages (id, project_id, event_type, content_type, payload)
         SELECT * FROM UNNEST ($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[])
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(column(rows, |row| row.id.uuid()))
    .bind(column(rows, |row| row.project_id.as_str()))
    .bind(column(rows, |row| row.event_type.as_str()))
    .bind(column(rows, |row| storable(row.content_type)))
    .bind(column(rows, |row| row.payload))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_attempts(connection: &mut PgConnection, rows: &[NewAttempt<'_>]) -> Result<(), HistoryError> {
    sqlx::query(
        "INSERT INTO attempts (delivery_id, number, started_at, duration_us, response_status, error_class,
             next_attempt_at, detail, response_body)
         SELECT * FROM UNNEST ($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[],
             $7::bigint[], $8::text[], $9::bytea[])
         ON CONFLICT (delivery_id, number) DO NOTHING",
    )
    .bind(column(rows, |row| row.delivery_id.uuid()))
    .bind(column(rows, |row| i64::from(row.attempt.number)))
    .bind(column(rows, |row| row.attempt.started_at.timestamp_micros()))
    .bind(column(rows, |row| micros(row.attempt.duration)))
    .bind(column(rows, |row| row.attempt.response.as_ref().map(|response| i32::from(response.status))))
    .bind(column(rows, |row| row.attempt.error.as_ref().map(|error| error.class.as_str())))
    .bind(column(rows, |row| row.next_attempt_at.map(|at| at.timestamp_micros())))
    .bind(column(rows, |row| Detail::of(row.attempt).to_json()))
    .bind(column(rows, |row| row.attempt.response.as_ref().map(|response| &response.body[..])))
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_deliveries(connection: &mut PgConnection, rows: &[Delivery]) -> Result<(), HistoryError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE deliveries AS d
         SET status = new.status, failure_reason = new.failure_reason, attempt_count = new.attempt_count,
             next_attempt_at = new.next_attempt_at, completed_at = new.completed_at,
             response_status = new.response_status
         FROM UNNEST ($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[])
             AS new (id, status, failure_reason, attempt_count, next_attempt_at, completed_at, response_status)
         WHERE d.id = new.id",
    )
    .bind(column(rows, |row| row.delivery.delivery_id.uuid()))
    .bind(column(rows, |row| row.status.as_str()))
    .bind(column(rows, |row| row.failure_reason.map(FailureReason::as_str)))
    .bind(column(rows, |row| i64::from(row.attempt_count)))
    .bind(column(rows, |row| row.next_attempt_at.map(|at| at.timestamp_micros())))
    .bind(column(rows, |row| row.completed_at.map(|at| at.timestamp_micros())))
    .bind(column(rows, |row| row.response_status.map(i32::from)))
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn reset(pool: &PgPool) -> Result<(), HistoryError> {
    let mut transaction = pool.begin().await?;
    // First the row that every writer takes first, so that none waits for the other crosswise.
    sqlx::query("UPDATE projection_checkpoint SET sequence = 0, updated_at = 0")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("TRUNCATE messages, unmatched_messages, deliveries, attempts, endpoint_failures")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

fn column<'r, Row, T>(rows: &'r [Row], value: impl Fn(&'r Row) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Splits rows into runs of about [`STATEMENT_BYTES`], each at least one row long.
fn by_weight<T>(rows: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut total = 0;
        let fitting = rest
            .iter()
            .take_while(|row| {
                total += bytes(row);
                total <= STATEMENT_BYTES
            })
            .count();
        let (run, tail) = rest.split_at(fitting.max(1));
        rest = tail;
        Some(run)
    })
}

fn attempt_bytes(row: &NewAttempt<'_>) -> usize {
    row.attempt
        .response
        .as_ref()
        .map_or(0, |response| response.body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_every_row_once_and_stay_small() {
        let sizes = [1, STATEMENT_BYTES - 1, 1, 2 * STATEMENT_BYTES, 5, 5];
        let runs: Vec<_> = by_weight(&sizes, |&size| size).collect();
        assert_eq!(runs, [&sizes[..2], &sizes[2..3], &sizes[3..4], &sizes[4..]]);
        assert_eq!(by_weight(&[0_usize; 0], |&size| size).count(), 0);
    }
}
