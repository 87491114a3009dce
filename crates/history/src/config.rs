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

impl StoreConfig {
    /// Which files that the URL names cannot be read: each the end of a sentence that shows nothing else of the URL. A path
    /// with percent-encoded characters is left to the connection.
    pub fn file_problems(&self) -> Vec<String> {
        let parameters = match self.url.split_once('?') {
            Some((url, parameters)) if url.starts_with("postgres") => parameters,
            _ => return Vec::new(),
        };
        parameters
            .split('&')
            .filter_map(|parameter| parameter.split_once('='))
            .filter(|(name, path)| {
                matches!(*name, "sslrootcert" | "sslcert" | "sslkey") && !path.contains('%')
            })
            .filter_map(|(name, path)| {
                let pem = std::fs::read_to_string(path);
                let error = match pem {
                    Ok(pem) if pem.contains("-----BEGIN ") => return None,
                    Ok(_) => "it holds no PEM".to_owned(),
                    Err(error) => error.to_string(),
                };
                Some(format!(
                    "names a file in {name} that cannot be used: {path}: {error}"
                ))
            })
            .collect()
    }

    /// Whether a connection is refused unless the server shows a certificate for its name from a known authority. Nothing that
    /// needs it is said of SQLite.
    pub fn is_verified(&self) -> bool {
        !self.url.starts_with("postgres") || self.url.contains("sslmode=verify-full")
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
