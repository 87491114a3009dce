//! Where the log stood when attempts were due: nothing that was stored before can be about them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use cuitty_webhooks_log::{Log, LogError};

/// Seconds that have one answer.
const STEP: i64 = 5;
/// Seconds that the servers' clocks may be apart, of which one set the time and another one stored.
const SKEW: i64 = 5;
/// Answers that are remembered, the latest times'.
const REMEMBERED: usize = 1024;

/// Sequences by time.
pub(super) struct Since {
    log: Log,
    /// Sequence of the first message that was stored at a time or later, by the number of the step.
    known: Mutex<BTreeMap<i64, u64>>,
}

impl Since {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            known: Mutex::default(),
        }
    }

    /// A sequence up to which nothing is about an attempt that was due at `due_at`: nats-server fires no timer early. 0 when
    /// nothing was stored since then.
    pub(super) async fn before(&self, due_at: DateTime<Utc>) -> Result<u64, LogError> {
        let step = step_of(due_at);
        let known = self.known().get(&step).copied();
        if let Some(first) = known {
            return Ok(first.saturating_sub(1));
        }
        let Some(at) = DateTime::from_timestamp(step * STEP, 0) else {
            return Ok(0);
        };
        let Some(first) = self.log.first_since(at).await? else {
            return Ok(0);
        };
        let mut known = self.known();
        known.insert(step, first);
        if known.len() > REMEMBERED {
            known.pop_first();
        }
        Ok(first.saturating_sub(1))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step that begins [`SKEW`] seconds before `due_at`, or a little earlier.
fn step_of(due_at: DateTime<Utc>) -> i64 {
    (due_at.timestamp() - SKEW).div_euclid(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_begins_early_enough_and_not_long_before() {
        for second in 1_800_000_000..1_800_000_020 {
            let due_at = DateTime::from_timestamp(second, 999_999_999).unwrap();
            let early = second - step_of(due_at) * STEP;
            assert!((SKEW..SKEW + STEP).contains(&early), "{second}: {early}");
        }
    }
}
