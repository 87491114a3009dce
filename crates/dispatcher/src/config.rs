//! The dispatcher's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cuitty_webhooks_domain::subject::SubjectPrefix;
use serde::{Deserialize, Deserializer, de};

use crate::scheduler::BreakerRules;

/// Configuration of a dispatcher.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DispatcherConfig {
    /// Names this process among the dispatchers, in leases and in attempts; must be unique. Empty means a random one.
    pub id: String,
    /// Attempts at the same time, 1 to 100,000. Each needs a file descriptor.
    pub max_in_flight: usize,
    /// How often an item that is held is reported as being worked on: 200 ms or more, and shorter than a third of
    /// `log.ack_wait`.
    #[serde(with = "humantime_serde")]
    pub progress_interval: Duration,
    /// How long a soft shutdown waits for the attempts in flight.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Bounds of what waits.
    pub lanes: LaneConfig,
    /// When an endpoint is left alone.
    pub breaker: BreakerConfig,
    /// The HTTP client.
    pub http: HttpConfig,
    /// What the subjects of NATS endpoints begin with. Not read here: it is part of the policy that is shared with the API.
    #[serde(deserialize_with = "prefix")]
    pub nats_prefix: SubjectPrefix,
}

impl Default for DispatcherConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            max_in_flight: 4096,
            progress_interval: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(30),
            lanes: LaneConfig::default(),
            breaker: BreakerConfig::default(),
            http: HttpConfig::default(),
            nats_prefix: SubjectPrefix::default(),
        }
    }
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SubjectPrefix, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

/// Bounds of what waits in memory. What does not fit waits in the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaneConfig {
    /// Deliveries that wait for one endpoint, 1 or more. When there are more, its lane detaches: it reads the log itself.
    pub max_items: usize,
    /// Their payloads, in bytes.
    pub max_bytes: usize,
    /// Deliveries that wait for all endpoints together; at least `max_items`. Lanes share half of it, each holding at most
    /// what the others leave free; the rest is for what waits to be acknowledged unread.
    pub total_items: usize,
    /// Their payloads, in bytes; at least `max_bytes`.
    pub total_bytes: usize,
    /// Deliveries that a detached lane reads ahead at most, 1 or more.
    pub window_items: usize,
    /// Their payloads, in bytes.
    pub window_bytes: usize,
    /// How often the cursor of a detached lane is saved while it moves, 100 ms or more.
    #[serde(with = "humantime_serde")]
    pub save_interval: Duration,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            max_items: 1024,
            max_bytes: 4 << 20,
            total_items: 8192,
            total_bytes: 32 << 20,
            window_items: 512,
            window_bytes: 2 << 20,
            save_interval: Duration::from_secs(1),
        }
    }
}

/// When the breaker of an endpoint opens, and how it probes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// It opens after so many failures in a row, 1 or more.
    pub consecutive_failures: u32,
    /// It opens when this share of the attempts of `window` failed, above 0 and at most 1.
    pub failure_ratio: f64,
    /// Attempts in `window` from which on the share counts, 1 or more.
    pub min_attempts: u32,
    /// How long attempts are counted.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Longest wait before a probe. Shorter waits come from the endpoint's retry schedule.
    #[serde(with = "humantime_serde")]
    pub max_probe_delay: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 10,
            failure_ratio: 0.8,
            min_attempts: 50,
            window: Duration::from_mins(1),
            max_probe_delay: Duration::from_mins(10),
        }
    }
}

impl BreakerConfig {
    pub(crate) fn rules(&self) -> BreakerRules {
        BreakerRules {
            consecutive_failures: self.consecutive_failures,
            failure_ratio: self.failure_ratio,
            min_attempts: self.min_attempts,
            window: self.window,
            max_probe_delay: self.max_probe_delay,
        }
    }
}

/// Configuration of the HTTP client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// How long resolving, connecting and the TLS handshake may take together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a connection is kept that nothing is sent on.
    #[serde(with = "humantime_serde")]
    pub pool_idle_timeout: Duration,
    /// Connections to one host that are kept while nothing is sent on them.
    pub pool_max_idle_per_host: usize,
    /// How much of a response's body is read and recorded, in bytes.
    pub response_body_bytes: usize,
    /// Certificates (PEM) that are trusted beside the public authorities.
    pub extra_ca_file: Option<PathBuf>,
    /// DNS servers; empty means those of the system.
    pub nameservers: Vec<SocketAddr>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(30),
            pool_max_idle_per_host: 256,
            response_body_bytes: 16 << 10,
            extra_ca_file: None,
            nameservers: Vec::new(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name below `dispatcher`.
    pub setting: &'static str,
    /// What it must be.
    pub message: &'static str,
}

impl DispatcherConfig {
    /// Everything that is wrong with it, at once.
    pub fn problems(&self) -> Vec<Problem> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        [
            (
                self.id.len() <= 64 && self.id.bytes().all(is_name),
                "id",
                "must be at most 64 letters, digits, `-` or `_`",
            ),
            (
                (1..=100_000).contains(&self.max_in_flight),
                "max_in_flight",
                "must be 1 to 100000",
            ),
            (
                self.progress_interval >= Duration::from_millis(200),
                "progress_interval",
                "must be 200 ms or more",
            ),
            (self.lanes.max_items >= 1, "lanes.max_items", "must be 1 or more"),
            (self.lanes.max_bytes >= 1, "lanes.max_bytes", "must be 1 or more"),
            (
                self.lanes.total_items >= self.lanes.max_items,
                "lanes.total_items",
                "must be at least lanes.max_items",
            ),
            (
                self.lanes.total_bytes >= self.lanes.max_bytes,
                "lanes.total_bytes",
                "must be at least lanes.max_bytes",
            ),
            (
                self.lanes.window_items >= 1 && self.lanes.window_bytes >= 1,
                "lanes.window_items",
                "must be 1 or more, as must lanes.window_bytes",
            ),
            (
                self.lanes.save_interval >= Duration::from_millis(100),
                "lanes.save_interval",
                "must be 100 ms or more",
            ),
            (
                self.breaker.consecutive_failures >= 1,
                "breaker.consecutive_failures",
                "must be 1 or more",
            ),
            (
                self.breaker.failure_ratio > 0.0 && self.breaker.failure_ratio <= 1.0,
                "breaker.failure_ratio",
                "must be above 0 and at most 1",
            ),
            (
                self.breaker.min_attempts >= 1,
                "breaker.min_attempts",
                "must be 1 or more",
            ),
            (
                self.breaker.window >= Duration::from_secs(1),
                "breaker.window",
                "must be 1 s or more",
            ),
            (
                self.breaker.max_probe_delay >= Duration::from_secs(1),
                "breaker.max_probe_delay",
                "must be 1 s or more",
            ),
            (
                !self.http.connect_timeout.is_zero(),
                "http.connect_timeout",
                "must be longer than 0",
            ),
            (
                self.http.response_body_bytes <= 256 << 10,
                "http.response_body_bytes",
                "must be at most 262144",
            ),
        ]
        .into_iter()
        .filter(|(fine, ..)| !fine)
        .map(|(_, setting, message)| Problem { setting, message })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_problem_is_listed() {
        assert_eq!(DispatcherConfig::default().problems(), []);
        let broken = DispatcherConfig {
            id: "a b".into(),
            max_in_flight: 0,
            progress_interval: Duration::from_millis(199),
            lanes: LaneConfig {
                max_items: 0,
                max_bytes: 0,
                window_items: 0,
                save_interval: Duration::from_millis(99),
                ..LaneConfig::default()
            },
            breaker: BreakerConfig {
                consecutive_failures: 0,
                failure_ratio: f64::NAN,
                min_attempts: 0,
                window: Duration::from_millis(999),
                max_probe_delay: Duration::ZERO,
            },
            ..DispatcherConfig::default()
        };
        let settings: Vec<_> = broken
            .problems()
            .into_iter()
            .map(|problem| problem.setting)
            .collect();
        assert_eq!(
            settings,
            [
                "id",
                "max_in_flight",
                "progress_interval",
                "lanes.max_items",
                "lanes.max_bytes",
                "lanes.window_items",
                "lanes.save_interval",
                "breaker.consecutive_failures",
                "breaker.failure_ratio",
                "breaker.min_attempts",
                "breaker.window",
                "breaker.max_probe_delay"
            ]
        );
        let too_little = DispatcherConfig {
            lanes: LaneConfig {
                total_items: 1023,
                total_bytes: (4 << 20) - 1,
                ..LaneConfig::default()
            },
            ..DispatcherConfig::default()
        };
        let settings = too_little.problems().into_iter().map(|problem| problem.setting);
        assert!(settings.eq(["lanes.total_items", "lanes.total_bytes"]));
    }
}
