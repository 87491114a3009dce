//! Shows how far this dispatcher is behind with each partition that it holds.

use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_log::membership::Holdings;
use cuitty_webhooks_log::{Log, LogError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use crate::metrics::PartitionGauges;

/// How often it is looked: one request per partition held, and one more for those that are behind.
const INTERVAL: Duration = Duration::from_secs(10);

/// A task that looks until this is dropped.
pub(super) struct LagWatch {
    _stop: DropGuard,
}

impl LagWatch {
    pub(super) fn start(log: Log, holdings: Holdings, clock: Clock) -> Self {
        let stop = CancellationToken::new();
        let watching = Watching {
            gauges: PartitionGauges::new(log.partitions()),
            log,
            holdings,
            clock,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(watching.run()));
        Self {
            _stop: stop.drop_guard(),
        }
    }
}

struct Watching {
    log: Log,
    holdings: Holdings,
    clock: Clock,
    gauges: PartitionGauges,
}

impl Watching {
    async fn run(self) {
        loop {
            let mut oldest = Duration::ZERO;
            for partition in 0..self.log.partitions() {
                match self.look_at(partition).await {
                    Ok(age) => oldest = oldest.max(age),
                    // What was seen last stands until there is an answer.
                    Err(error) => debug!(partition, %error, "lag of a partition not read"),
                }
            }
            self.gauges.oldest(oldest);
            sleep(INTERVAL).await;
        }
    }

    /// Shows the lag of a partition: how long the oldest item has waited that was not pulled.
    async fn look_at(&self, partition: u16) -> Result<Duration, LogError> {
        if !self.holdings.holds(partition, Instant::now()) {
            self.gauges.lag(partition, 0, 0);
            return Ok(Duration::ZERO);
        }
        let Some(backlog) = self.log.partition_backlog(partition).await? else {
            return Ok(Duration::ZERO);
        };
        self.gauges
            .lag(partition, backlog.lag.pending, backlog.lag.in_flight);
        let age = backlog.waiting_since.map(|since| (self.clock)() - since);
        Ok(age.and_then(|age| age.to_std().ok()).unwrap_or_default())
    }
}
