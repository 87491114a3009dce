//! Where the history is and how it is connected to.

use std::fmt;
use std::time::Duration;

/// Configuration of a [`Store`](crate::Store).
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `sqlite:/path/file.db`, or `postgres://user:password@host:port/database` with libpq's parameters.
    pub url: String,
    /// Most connections that read at the same time, 1 or more. PostgreSQL's writer is one of them; SQLite's comes on top.
    pub max_connections: u32,
    /// How long to wait for a connection, and for a lock that somebody else holds.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may work on one statement. SQLite has no such limit.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:history.db".into(),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for StoreConfig {
    /// Leaves out what follows the URL's scheme, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.url.split(':').next().unwrap_or_default();
        f.debug_struct("StoreConfig")
            .field("url", &format_args!("{scheme}:…"))
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish()
    }
}
