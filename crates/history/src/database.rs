//! The two backends behind one connection, and the reads that are the same on both.

use std::time::Duration;

use sqlx::{PgPool, SqlitePool};

use crate::config::StoreConfig;
use crate::error::HistoryError;
use crate::migrate::Schema;
use crate::{postgres, sqlite};

/// Connections to the history.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite {
        /// One connection: SQLite has one writer at a time anyway.
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

/// Evaluates an expression with the connections that read, whichever database they lead to.
macro_rules! on_reader {
    ($database:expr, $reader:ident => $body:expr) => {
        match $database {
            $crate::database::Database::Sqlite { readers: $reader, .. } => $body,
            $crate::database::Database::Postgres($reader) => $body,
        }
    };
}
pub(crate) use on_reader;

impl Database {
    pub(crate) async fn connect(config: &StoreConfig, schema: Schema) -> Result<Self, HistoryError> {
        if config.max_connections == 0 {
            return Err(HistoryError::BadUrl("max_connections must be 1 or more".into()));
        }
        match config.url.split(':').next() {
            Some("sqlite") => sqlite::connect(config, schema).await,
            Some("postgres" | "postgresql") => postgres::connect(config, schema).await,
            _ => Err(HistoryError::BadUrl(
                "must begin with `sqlite:` or `postgres:`".into(),
            )),
        }
    }

    pub(crate) async fn checkpoint(&self) -> Result<u64, HistoryError> {
        let sequence: i64 =
            on_reader!(self, reader => sqlx::query_scalar(CHECKPOINT).fetch_one(reader).await?);
        stored_sequence(sequence)
    }
}

pub(crate) const CHECKPOINT: &str = "SELECT sequence FROM projection_checkpoint";

/// A log sequence as both databases store it. The log counts to 2⁶³ at most.
pub(crate) fn sequence_column(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// A log sequence as the checkpoint holds it.
pub(crate) fn stored_sequence(sequence: i64) -> Result<u64, HistoryError> {
    u64::try_from(sequence).map_err(|_| HistoryError::Corrupt {
        table: "projection_checkpoint",
        column: "sequence",
    })
}

/// A first connection, which tells what is wrong; a pool would try until its time is up and tell nothing.
pub(crate) async fn first_connection<C>(
    connect: impl Future<Output = Result<C, sqlx::Error>>,
    timeout: Duration,
) -> Result<C, HistoryError> {
    match tokio::time::timeout(timeout, connect).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(HistoryError::Unreachable(sqlx::Error::PoolTimedOut)),
    }
}
