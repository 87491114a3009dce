//! How to reach the log and how its streams are made.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::connect::parse_servers;
use crate::error::LogError;

/// Configuration of the log. What describes the streams takes effect with `ensure`; the rest when connecting.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Addresses of nats-server, separated by commas: `nats://host:4222,tls://host:4222`. The first may carry
    /// `user:password@` or `token@`, percent-encoded, which is used for all.
    pub url: String,
    /// Name of the connection, as nats-server's monitoring shows it.
    pub name: String,
    /// Credentials file (`.creds`: user JWT and key).
    pub credentials_file: Option<PathBuf>,
    /// PEM: the authorities that nats-server's certificate must be from; those of the system without it. Demands TLS.
    pub ca_file: Option<PathBuf>,
    /// PEM: the certificate that is shown to nats-server, then those between it and its authority. Demands TLS.
    pub cert_file: Option<PathBuf>,
    /// PEM: its private key.
    pub key_file: Option<PathBuf>,
    /// Refuse a connection that is not encrypted. An address of scheme `tls` does so, too.
    pub tls_required: bool,
    /// What the subjects of answers begin with: a user that may subscribe to nothing else reads nobody's answers but its own.
    pub inbox_prefix: String,
    /// Make and change streams at the start; if not, wait until somebody has made them.
    pub manage_topology: bool,
    /// How long a start waits for the first connection. Later ones are tried for ever.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long one operation may take, reconnecting and repeating included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Bytes of all appends that may be on their way into the log at the same time, 1 MiB or more; further ones wait. A
    /// quarter is kept for what is not a message to deliver.
    pub max_append_bytes: u32,
    /// Partitions of the work, 1 to 64. Fixed when the stream is made.
    pub partitions: u16,
    /// Copies of every stream: 1, or 3 or 5 in a cluster.
    pub replicas: usize,
    /// How long delivery facts are kept.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Compress stored messages with s2.
    pub compression: bool,
    /// How long an append repeated with the same id is recognised. Costs about 150 bytes of server memory per id.
    #[serde(with = "humantime_serde")]
    pub duplicate_window: Duration,
    /// How long a work item may stay without an acknowledgement or progress before it is delivered again.
    #[serde(with = "humantime_serde")]
    pub ack_wait: Duration,
    /// Most unacknowledged work items per partition.
    pub max_ack_pending: i64,
    /// How long idempotency keys are remembered.
    #[serde(with = "humantime_serde")]
    pub idempotency_ttl: Duration,
    /// How long a lease or a heartbeat lives without being renewed.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            name: "cuitty-webhooks".into(),
            credentials_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            tls_required: false,
            inbox_prefix: "_INBOX".into(),
            manage_topology: true,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            max_append_bytes: 32 << 20,
            partitions: 16,
            replicas: 1,
            max_age: Duration::from_hours(14 * 24),
            compression: true,
            duplicate_window: Duration::from_mins(2),
            ack_wait: Duration::from_secs(6),
            max_ack_pending: 20_000,
            idempotency_ttl: Duration::from_hours(24),
            lease_ttl: Duration::from_secs(5),
        }
    }
}

impl LogConfig {
    /// What is wrong with `url`, whatever nats-server may say; shows nothing of it.
    pub fn url_problem(&self) -> Option<String> {
        match parse_servers(&self.url) {
            Err(LogError::Config { message, .. }) => Some(message),
            _ => None,
        }
    }
}

/// Leaves the URL out: it may carry a password.
impl fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogConfig")
            .field("name", &self.name)
            .field("partitions", &self.partitions)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
