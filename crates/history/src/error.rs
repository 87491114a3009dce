//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;

use sqlx::migrate::MigrateError;

/// Why the history could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The database URL is wrong: correct the configuration.
    #[error("history.url: {0}")]
    BadUrl(String),
    /// The directory of the SQLite file does not exist: create it, or correct the configuration.
    #[error("history.url: directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// The database does not answer, refuses the log-in, is out of disk or memory, or every connection is in use: try
    /// again.
    #[error("the history database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// Another process holds a lock for longer than `acquire_timeout`: try again.
    #[error("the history database is locked by another process")]
    Locked(#[source] sqlx::Error),
    /// A statement ran for longer than `statement_timeout`: ask for less, or try again.
    #[error("the history database took too long to answer")]
    TimedOut(#[source] sqlx::Error),
    /// A newer version of this program has migrated the schema: run that version.
    #[error("the history has schema version {found}, this program knows versions up to {known}")]
    SchemaTooNew {
        /// Newest migration that the database has.
        found: i64,
        /// Newest migration that this program has.
        known: i64,
    },
    /// The schema has not been migrated yet: wait for the projector to do it.
    #[error("the history has schema version {found}, this program needs version {known}")]
    SchemaTooOld {
        /// Newest migration that the database has; 0 when it has none.
        found: i64,
        /// Newest migration that this program has.
        known: i64,
    },
    /// The schema is neither of an older nor of a newer version: somebody has changed it by hand.
    #[error("the history's schema cannot be migrated: {0}")]
    Migration(#[source] MigrateError),
    /// Another projector has moved the checkpoint: read it again and go on from there.
    #[error("the history is at log sequence {actual}, not {expected}")]
    CheckpointMoved {
        /// Where the caller thought the history was.
        expected: u64,
        /// Where it is.
        actual: u64,
    },
    /// A stored value is not one that this program writes.
    #[error("{column} of {table} holds a value that cannot be read")]
    Corrupt {
        /// Where the value stands.
        table: &'static str,
        /// Where in the table.
        column: &'static str,
    },
    /// The database refuses what a batch holds, such as a value that is too long: repeating it will not help, one of
    /// the batch's events is to blame.
    #[error("the history database refuses a value: {0}")]
    Refused(#[source] sqlx::Error),
    /// The database fails for a reason of its own, such as a damaged file or a missing permission: somebody must look.
    #[error("the history database fails: {0}")]
    Failed(#[source] sqlx::Error),
}

impl HistoryError {
    /// Whether the same call may succeed later without anybody changing anything but the database's own state.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Locked(_) | Self::TimedOut(_) | Self::SchemaTooOld { .. }
        )
    }
}

impl From<sqlx::Error> for HistoryError {
    fn from(error: sqlx::Error) -> Self {
        match Condition::of(&error) {
            Condition::Locked => Self::Locked(error),
            Condition::TimedOut => Self::TimedOut(error),
            Condition::Unreachable => Self::Unreachable(error),
            Condition::Misconfigured => Self::BadUrl(error.to_string()),
            Condition::Refused => Self::Refused(error),
            Condition::Other => Self::Failed(error),
        }
    }
}

impl From<MigrateError> for HistoryError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            other => Self::Migration(other),
        }
    }
}

/// What a driver's error stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Locked,
    TimedOut,
    Unreachable,
    Misconfigured,
    Refused,
    Other,
}

impl Condition {
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => error.code().map_or(Self::Other, |code| Self::of_code(&code)),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unreachable,
            sqlx::Error::Configuration(_) => Self::Misconfigured,
            sqlx::Error::Encode(_) => Self::Refused,
            _ => Self::Other,
        }
    }

    /// PostgreSQL's SQLSTATE has five characters; SQLite's code is a decimal number whose low byte is the primary code.
    fn of_code(code: &str) -> Self {
        if code.len() == 5 {
            return match (&code[..2], code) {
                // lock_not_available, deadlock_detected, serialization_failure
                (_, "55P03" | "40P01" | "40001") => Self::Locked,
                // query_canceled: the statement timeout
                (_, "57014") => Self::TimedOut,
                // connection exceptions, insufficient resources, operator intervention, invalid authorization,
                // invalid catalog name (no such database)
                ("08" | "53" | "57" | "28" | "3D", _) => Self::Unreachable,
                // data exception, integrity constraint violation, program limit exceeded
                ("22" | "23" | "54", _) => Self::Refused,
                _ => Self::Other,
            };
        }
        match code.parse::<u32>().map(|code| code & 0xff) {
            // SQLITE_BUSY, SQLITE_LOCKED
            Ok(5 | 6) => Self::Locked,
            // SQLITE_PERM, SQLITE_NOMEM, SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN, SQLITE_NOTADB
            Ok(3 | 7 | 8 | 10 | 13 | 14 | 26) => Self::Unreachable,
            // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH
            Ok(18..=20) => Self::Refused,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_conditions() {
        for (code, condition) in [
            ("55P03", Condition::Locked),
            ("57014", Condition::TimedOut),
            ("57P01", Condition::Unreachable),
            ("28P01", Condition::Unreachable),
            ("3D000", Condition::Unreachable),
            ("53100", Condition::Unreachable),
            ("22021", Condition::Refused),
            ("42P01", Condition::Other),
            ("5", Condition::Locked),
            ("517", Condition::Locked),
            ("26", Condition::Unreachable),
            ("14", Condition::Unreachable),
            ("13", Condition::Unreachable),
            ("1555", Condition::Refused),
            ("11", Condition::Other),
        ] {
            assert_eq!(Condition::of_code(code), condition, "{code}");
        }
    }
}
