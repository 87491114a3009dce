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
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            batch_events: 4096,
            batch_bytes: 8 << 20,
            linger: Duration::from_millis(25),
            max_backoff: Duration::from_secs(5),
        }
    }
}
