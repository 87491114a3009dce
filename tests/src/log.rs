//! The log itself, read as any module may read it.

use std::time::Duration;

use cuitty_webhooks_log::{Log, LogConfig, PartitionLag, StoredEvent};

/// How long the log may take to give out the next batch.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that is stored in the log at `url` now, in order.
///
/// # Panics
/// When it cannot be read.
pub async fn stored(url: &str) -> Vec<StoredEvent> {
    stored_in(&connect(url).await).await
}

/// Everything that is stored in this log now, in order.
///
/// # Panics
/// When it cannot be read.
pub async fn stored_in(log: &Log) -> Vec<StoredEvent> {
    let (_, last) = log.bounds().await.expect("ask the log for its bounds");
    let mut reader = log.read(1);
    let mut events: Vec<StoredEvent> = Vec::new();
    while events.last().map_or(0, |event| event.sequence) < last {
        let batch = reader.next_batch(1000, PATIENCE).await.expect("read the log");
        assert!(
            !batch.is_empty(),
            "the log ends at {last} and gives out nothing more"
        );
        events.extend(batch);
    }
    events
}

/// How much work of each partition is not pulled, and how much not acknowledged.
///
/// # Panics
/// When nats-server does not say.
pub async fn lag(url: &str) -> Vec<PartitionLag> {
    connect(url).await.consumer_lag().await.expect("ask for the lag")
}

/// A connection to the log at `url`, with the default settings.
///
/// # Panics
/// When it cannot be made.
pub async fn connect(url: &str) -> Log {
    let config = LogConfig {
        url: url.to_owned(),
        ..LogConfig::default()
    };
    Log::connect(config).await.expect("connect to the log")
}
