//! Copying an SQLite history while it is in use.

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::config::StoreConfig;
use crate::database::{CHECKPOINT, Database, stored_sequence};
use crate::error::HistoryError;
use crate::store::Store;

impl StoreConfig {
    /// The file of the history; `None` when it is in PostgreSQL.
    pub fn sqlite_file(&self) -> Result<Option<PathBuf>, HistoryError> {
        if !self.url.starts_with("sqlite:") {
            return Ok(None);
        }
        let options: SqliteConnectOptions = self.url.parse()?;
        Ok(Some(options.get_filename().to_owned()))
    }
}

impl Store {
    /// Writes the history as of one moment into a new SQLite file; readers and the projector go on meanwhile. Returns the
    /// log sequence that the copy has reached.
    ///
    /// Fails with `BadUrl` when the history is in PostgreSQL.
    pub async fn copy_to(&self, path: &Path) -> Result<u64, HistoryError> {
        let Database::Sqlite { writer, .. } = self.database() else {
            return Err(HistoryError::BadUrl(
                "must name an SQLite file to be copied".into(),
            ));
        };
        let target = path.to_string_lossy().into_owned();
        sqlx::query("VACUUM INTO ?1").bind(target).execute(writer).await?;
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut copy = options.connect().await?;
        let sequence = sqlx::query_scalar(CHECKPOINT).fetch_one(&mut copy).await?;
        copy.close().await?;
        stored_sequence(sequence)
    }
}
