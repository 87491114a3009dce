//! How long, and how often, something is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep_until};

/// Pauses between tries: the first and the longest one, each made up to twice as long at random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is left of somebody's patience.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    pauses: ExponentialBackoff,
}

impl Patience {
    /// Lasts from now on.
    pub(crate) fn new(lasts: Duration) -> Self {
        Self {
            until: Instant::now() + lasts,
            pauses: pauses(),
        }
    }

    /// When to try again, at the earliest after `at_least`; `None` when there is no patience left for that.
    pub(crate) fn next_try(&mut self, at_least: Option<Duration>) -> Option<Instant> {
        let pause = self.pauses.next().unwrap_or(LONGEST_PAUSE);
        let at = Instant::now() + pause.max(at_least.unwrap_or_default());
        (at <= self.until).then_some(at)
    }

    /// Waits for the next try; false when there is no patience left for one.
    pub(crate) async fn pause(&mut self, at_least: Option<Duration>) -> bool {
        let Some(at) = self.next_try(at_least) else {
            return false;
        };
        sleep_until(at).await;
        true
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_patience_ends() {
        let started = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(10));
        let mut tries = 0;
        while patience.pause(None).await {
            tries += 1;
        }
        assert!(started.elapsed() <= Duration::from_secs(10));
        assert!(
            started.elapsed() > Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
        assert!((5..=12).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_pause_that_was_asked_for_is_kept_unless_it_is_too_long() {
        let started = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(10));
        assert!(patience.pause(Some(Duration::from_secs(3))).await);
        assert!(started.elapsed() >= Duration::from_secs(3));
        assert!(!patience.pause(Some(Duration::from_secs(8))).await);
        assert!(!Patience::new(Duration::ZERO).pause(None).await);
    }
}
