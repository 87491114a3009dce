//! The door to the history.

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::delivery::Delivery;
use cuitty_webhooks_domain::ids::DeliveryId;
use sqlx::AssertSqlSafe;
use sqlx::types::Uuid;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::instrument;

use crate::apply::{AppliedStats, Batch};
use crate::config::StoreConfig;
use crate::cursor::Cursor;
use crate::database::{Database, on_reader, stored_sequence};
use crate::error::HistoryError;
use crate::filter::{DeliveryFilter, IndexChoice, Page};
use crate::migrate::Schema;
use crate::rows::{
    ATTEMPT_COLUMNS, DELIVERY_COLUMNS, DeliveryDetail, StoredAttempt, StoredDelivery, StoredDetail, convert,
};
use crate::snapshot::Snapshot;
use crate::{postgres, sqlite};

/// How often the checkpoint is read while somebody waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long a checkpoint counts that was read: another process may have emptied the history since.
const FRESH: Duration = Duration::from_secs(1);

const LATEST_REQUEST: &str =
    "SELECT id, requested_sequence FROM deliveries ORDER BY created_at DESC, id DESC LIMIT 1";

/// The delivery history. Clones share connections.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: Database,
    checkpoint: watch::Sender<Seen>,
    /// Held by the one waiter that reads the checkpoint for all.
    polling: Mutex<()>,
}

/// The checkpoint as this process has last seen it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    checkpoint: u64,
    at: Instant,
}

impl Seen {
    fn is_fresh(self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < FRESH
    }

    fn has_reached(self, sequence: u64, now: Instant) -> bool {
        self.checkpoint >= sequence && self.is_fresh(now)
    }
}

impl Store {
    /// Connects and migrates the schema to this program's version; an SQLite file is created when it does not exist.
    ///
    /// Fails with `BadUrl`, `NoDirectory`, `Unreachable`, `Locked`, `SchemaTooNew` or `Migration`.
    pub async fn open(config: &StoreConfig) -> Result<Self, HistoryError> {
        Self::connect(config, Schema::Migrate).await
    }

    /// Connects to a history that somebody else creates and migrates.
    ///
    /// Fails as [`Store::open`] does, and with `SchemaTooOld` until the other has migrated.
    pub async fn open_existing(config: &StoreConfig) -> Result<Self, HistoryError> {
        Self::connect(config, Schema::Require).await
    }

    async fn connect(config: &StoreConfig, schema: Schema) -> Result<Self, HistoryError> {
        let database = Database::connect(config, schema).await?;
        let at = Instant::now();
        let checkpoint = database.checkpoint().await?;
        Ok(Self {
            shared: Arc::new(Shared {
                database,
                checkpoint: watch::Sender::new(Seen { checkpoint, at }),
                polling: Mutex::default(),
            }),
        })
    }

    /// The log sequence that the rows have reached; 0 at the beginning.
    pub async fn checkpoint(&self) -> Result<u64, HistoryError> {
        // As old as the question: the answer may have been on its way for a while.
        let at = Instant::now();
        let checkpoint = self.shared.database.checkpoint().await?;
        self.shared.checkpoint.send_replace(Seen { checkpoint, at });
        Ok(checkpoint)
    }

    /// Waits until the rows have reached `sequence` of the log; `false` when they have not within `timeout`.
    ///
    /// However many wait, one at a time reads the checkpoint; a batch that this process applies wakes them at once.
    ///
    /// Fails with `Unreachable` when the database cannot be asked, or has not answered by then.
    pub async fn wait_for(&self, sequence: u64, timeout: Duration) -> Result<bool, HistoryError> {
        let mut checkpoint = self.shared.checkpoint.subscribe();
        let seen = async {
            // The sender lives as long as `self`.
            checkpoint
                .wait_for(|seen| seen.has_reached(sequence, Instant::now()))
                .await
                .is_ok()
        };
        let polled = async {
            let _turn = self.shared.polling.lock().await;
            while self.checkpoint().await? < sequence {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Ok(true)
        };
        let reached = async {
            tokio::select! {
                biased;
                reached = seen => Ok(reached),
                reached = polled => reached,
            }
        };
        if let Ok(reached) = tokio::time::timeout(timeout, reached).await {
            return reached;
        }
        if self.shared.checkpoint.borrow().is_fresh(Instant::now()) {
            Ok(false)
        } else {
            Err(HistoryError::Unreachable(sqlx::Error::PoolTimedOut))
        }
    }

    /// Writes the batch's rows and its checkpoint in one transaction; when this fails, or the future is dropped before
    /// it ends, either all of them are written or none.
    ///
    /// Facts that the history knows already change nothing, and facts about deliveries that it does not know, because
    /// their request is older than the log, are left out: see [`AppliedStats::orphaned`].
    ///
    /// Fails with `CheckpointMoved` when the history is not at the batch's `expected_checkpoint`.
    #[instrument(
        name = "history.apply",
        level = "debug",
        skip_all,
        fields(otel.kind = "client", db.system.name = self.system(), db.operation.name = "apply", db.operation.batch.size = batch.events.len())
    )]
    pub async fn apply(&self, batch: &Batch) -> Result<AppliedStats, HistoryError> {
        let stats = match &self.shared.database {
            Database::Sqlite { writer, .. } => sqlite::apply(writer, batch).await?,
            Database::Postgres(pool) => postgres::apply(pool, batch).await?,
        };
        self.arrived_at(batch.checkpoint);
        Ok(stats)
    }

    /// Deliveries, newest first, at most `limit` (1 or more), from `cursor` on.
    #[instrument(
        name = "history.list_deliveries",
        level = "debug",
        skip_all,
        fields(otel.kind = "client", db.system.name = self.system(), db.operation.name = "list_deliveries")
    )]
    pub async fn list_deliveries(
        &self,
        filter: &DeliveryFilter,
        limit: u32,
        cursor: Option<Cursor>,
    ) -> Result<Page, HistoryError> {
        // One more tells whether there is a next page.
        let rows = i64::from(limit) + 1;
        let choice = self.index_choice();
        let rows: Vec<StoredDelivery> = on_reader!(&self.shared.database, reader =>
            filter.query("", choice, rows, cursor).build_query_as().fetch_all(reader).await?);
        let mut deliveries: Vec<Delivery> = convert(rows)?;
        let has_more = deliveries.len() > limit as usize;
        deliveries.truncate(limit as usize);
        let next = deliveries
            .last()
            .filter(|_| has_more)
            .map(|last| Cursor::after(last.delivery.delivery_id, last.created_at));
        Ok(Page { deliveries, next })
    }

    /// The database's plan for a list, one line per step: which index it reads, and whether it sorts.
    pub async fn explain_list(
        &self,
        filter: &DeliveryFilter,
        limit: u32,
        cursor: Option<Cursor>,
    ) -> Result<Vec<String>, HistoryError> {
        let rows = i64::from(limit) + 1;
        let choice = self.index_choice();
        match &self.shared.database {
            Database::Sqlite { readers, .. } => {
                let mut query = filter.query("EXPLAIN QUERY PLAN ", choice, rows, cursor);
                let steps: Vec<(i64, i64, i64, String)> = query.build_query_as().fetch_all(readers).await?;
                Ok(steps.into_iter().map(|(.., detail)| detail).collect())
            }
            Database::Postgres(pool) => {
                let mut query = filter.query("EXPLAIN (COSTS OFF) ", choice, rows, cursor);
                Ok(query.build_query_scalar().fetch_all(pool).await?)
            }
        }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.shared.database
    }

    /// As the semantic conventions of OpenTelemetry call it.
    fn system(&self) -> &'static str {
        match self.shared.database {
            Database::Sqlite { .. } => "sqlite",
            Database::Postgres(_) => "postgresql",
        }
    }

    fn index_choice(&self) -> IndexChoice {
        match self.shared.database {
            Database::Sqlite { .. } => IndexChoice::Named,
            Database::Postgres(_) => IndexChoice::Planner,
        }
    }

    /// A delivery with its payload and every attempt.
    #[instrument(
        name = "history.get_delivery",
        level = "debug",
        skip_all,
        fields(otel.kind = "client", db.system.name = self.system(), db.operation.name = "get_delivery")
    )]
    pub async fn get_delivery(&self, id: DeliveryId) -> Result<Option<DeliveryDetail>, HistoryError> {
        let delivery = AssertSqlSafe(format!(
            "SELECT {DELIVERY_COLUMNS}, m.content_type, m.payload
             FROM deliveries AS d JOIN messages AS m ON m.id = d.message_id WHERE d.id = $1"
        ));
        let row: Option<StoredDetail> = on_reader!(&self.shared.database, reader =>
            sqlx::query_as(delivery).bind(id.uuid()).fetch_optional(reader).await?);
        let Some(row) = row else { return Ok(None) };
        // A batch that is applied between the two reads may add an attempt that the delivery does not count yet.
        let attempts = AssertSqlSafe(format!(
            "SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE delivery_id = $1 ORDER BY number"
        ));
        let rows: Vec<StoredAttempt> = on_reader!(&self.shared.database, reader =>
            sqlx::query_as(attempts).bind(id.uuid()).fetch_all(reader).await?);
        Ok(Some(DeliveryDetail {
            attempts: convert(rows)?,
            ..row.try_into()?
        }))
    }

    /// The delivery that was created last, and the log sequence of its request; `None` when there is none.
    pub async fn latest_request(&self) -> Result<Option<(DeliveryId, u64)>, HistoryError> {
        let row: Option<(Uuid, i64)> = on_reader!(&self.shared.database, reader =>
            sqlx::query_as(LATEST_REQUEST).fetch_optional(reader).await?);
        row.map(|(id, sequence)| Ok((DeliveryId::from_uuid(id), stored_sequence(sequence)?)))
            .transpose()
    }

    /// Everything as of now.
    pub async fn snapshot(&self) -> Result<Snapshot, HistoryError> {
        Snapshot::open(&self.shared.database).await
    }

    /// Empties the history and sets its checkpoint to 0, in one transaction. A projector that is at work is told by
    /// `CheckpointMoved` and starts at the beginning of the log.
    pub async fn reset(&self) -> Result<(), HistoryError> {
        match &self.shared.database {
            Database::Sqlite { writer, .. } => sqlite::reset(writer).await?,
            Database::Postgres(pool) => postgres::reset(pool).await?,
        }
        self.arrived_at(0);
        Ok(())
    }

    /// Whether the database answers and holds the history's schema.
    pub async fn ping(&self) -> Result<(), HistoryError> {
        self.shared.database.checkpoint().await.map(drop)
    }

    fn arrived_at(&self, checkpoint: u64) {
        let at = Instant::now();
        self.shared.checkpoint.send_replace(Seen { checkpoint, at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_counts_for_a_second_after_it_was_seen() {
        let at = Instant::now();
        let seen = Seen { checkpoint: 7, at };
        let last = at + FRESH - Duration::from_nanos(1);
        assert!(seen.has_reached(7, at) && seen.has_reached(7, last));
        assert!(!seen.has_reached(8, at));
        assert!(!seen.has_reached(7, at + FRESH));
    }
}
