//! The schema's version: brought up to this program's, or compared with it.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::error::HistoryError;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// What to do about a schema that is older than this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schema {
    /// Migrate it.
    Migrate,
    /// Refuse it: somebody else migrates it.
    Require,
}

/// Readies the schema of an SQLite file.
pub(crate) async fn sqlite(connection: &mut SqliteConnection, schema: Schema) -> Result<(), HistoryError> {
    let found = sqlite_version(connection).await?;
    if is_current(&SQLITE, found, schema)? {
        return Ok(());
    }
    // SQLite's driver takes no lock of its own, so two processes might migrate at once.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    SQLITE.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(())
}

/// Readies the schema of a PostgreSQL database. The driver holds an advisory lock while it migrates.
pub(crate) async fn postgres(connection: &mut PgConnection, schema: Schema) -> Result<(), HistoryError> {
    let found = postgres_version(connection).await?;
    if !is_current(&POSTGRES, found, schema)? {
        POSTGRES.run_direct(None, connection, false).await?;
    }
    Ok(())
}

async fn sqlite_version(connection: &mut SqliteConnection) -> Result<i64, HistoryError> {
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')")
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        return Ok(0);
    }
    Ok(sqlx::query_scalar(VERSION).fetch_one(connection).await?)
}

async fn postgres_version(connection: &mut PgConnection) -> Result<i64, HistoryError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(0);
    }
    Ok(sqlx::query_scalar(VERSION).fetch_one(connection).await?)
}

const VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations";

/// Whether nothing is to be done.
fn is_current(migrator: &Migrator, found: i64, schema: Schema) -> Result<bool, HistoryError> {
    let known = migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    if found > known {
        return Err(HistoryError::SchemaTooNew { found, known });
    }
    if found < known && schema == Schema::Require {
        return Err(HistoryError::SchemaTooOld { found, known });
    }
    Ok(found == known)
}
