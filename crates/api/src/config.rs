//! What can be configured of the API role.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use crate::auth::AdminKey;
use crate::tls::TlsConfig;

/// Settings of the API role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// An admin key beside those that are made: 16 to 256 visible ASCII characters. Only its SHA-256 is kept.
    pub admin_key: Option<AdminKey>,
    /// Connections served at the same time; more wait in the listener's backlog.
    pub max_connections: usize,
    /// HTTP/2 streams that one connection may have open at the same time.
    pub max_streams_per_connection: u32,
    /// Messages being accepted at the same time; more are refused with 503 and a retry hint.
    pub max_concurrent_accepts: usize,
    /// Calls a second that each key may make to this process, of any kind; more are refused with 429. 0 limits nothing.
    pub rate_limit_per_second: u32,
    /// Calls that a key may make at once, when it has made none for a while; 0 means as many as in a second.
    pub rate_limit_burst: u32,
    /// `DeliverStream` calls at the same time; a key that is bound to a project gets a quarter of them.
    pub max_deliver_streams: usize,
    /// `WatchDeliveries` and `Listen` calls at the same time; a key that is bound to a project gets a quarter of them.
    pub max_watchers: usize,
    /// Delivery events kept for watchers; one that falls behind by more is cut off.
    pub watch_buffer: usize,
    /// From a connection's first byte, or the end of its last call, until a whole request head is there.
    #[serde(with = "humantime_serde")]
    pub header_read_timeout: Duration,
    /// From a request's head until its answer's head; long streams count until their first message.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How often an idle HTTP/2 connection is pinged.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long the answer to such a ping may take.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// How long a read waits until its history has passed `min_log_sequence`.
    #[serde(with = "humantime_serde")]
    pub read_wait: Duration,
    /// How long the name of an endpoint's host may take to resolve when the endpoint is created or changed.
    #[serde(with = "humantime_serde")]
    pub resolve_timeout: Duration,
    /// DNS servers; empty means those of the system.
    pub nameservers: Vec<SocketAddr>,
    /// TLS of the listener.
    pub tls: TlsConfig,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            admin_key: None,
            max_connections: 4096,
            max_streams_per_connection: 1024,
            max_concurrent_accepts: 4096,
            rate_limit_per_second: 10_000,
            rate_limit_burst: 20_000,
            max_deliver_streams: 1024,
            max_watchers: 64,
            watch_buffer: 4096,
            header_read_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            read_wait: Duration::from_secs(5),
            resolve_timeout: Duration::from_secs(2),
            nameservers: Vec::new(),
            tls: TlsConfig::default(),
        }
    }
}
