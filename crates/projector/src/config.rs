use std::time::Duration;

use serde::Deserialize;

/// How the projector batches and retries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Names this process in the lease; must be unique.
    pub id: String,
    /// Most events of one transaction: 1 to 50,000.
    pub batch_events: usize,
    /// A transaction takes no further events once it holds this many payload bytes: at least 1.
    pub batch_bytes: usize,
    /// How long a batch stays open for more events after its first one. It bounds what an idle system adds to the
    /// time until an event is visible, and is what makes batches large under load.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Longest pause between two tries while the log or the database cannot be reached; the first one is 100 ms.
    #[serde(with = "humantime_serde")]
    pub max_backoff: Duration,
    /// How often the active projector looks for lost retries and failing endpoints: more than 0.
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
    /// How long after its time an attempt that has not come counts as lost: more than 0.
    #[serde(with = "humantime_serde")]
    pub sweep_after: Duration,
    /// How long all attempts of an endpoint must have failed until it is disabled; 0 for never.
    #[serde(with = "humantime_serde")]
    pub disable_after: Duration,
    /// How bulk replays are carried out.
    pub replay: ReplayConfig,
}

/// How bulk replays are carried out, each of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayConfig {
    /// Deliveries per second, unless the replay has a rate of its own: 1 to 10,000.
    pub rate: u32,
    /// No more are requested while so many of its own are pending: 1 to 10,000.
    pub max_outstanding: usize,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            rate: 200,
            max_outstanding: 256,
        }
    }
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            batch_events: 4096,
            batch_bytes: 8 << 20,
            linger: Duration::from_millis(25),
            max_backoff: Duration::from_secs(5),
            sweep_interval: Duration::from_secs(30),
            sweep_after: Duration::from_mins(5),
            disable_after: Duration::from_hours(5 * 24),
            replay: ReplayConfig::default(),
        }
    }
}
