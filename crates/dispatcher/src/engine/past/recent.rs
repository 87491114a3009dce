//! The outcomes of all endpoints since not long ago.

use std::collections::HashMap;

use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_log::{Log, LogError, Progress};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::FRESH;

/// How far back it reaches, in sequences of the log: what a busy installation stores in minutes. Less than half of them are
/// outcomes, so that what is read takes some ten megabytes.
const SPAN: u64 = 1_000_000;
/// How far back what was read before may reach, to be read on from: a log that grows must not have all of it read again.
const KEPT: u64 = SPAN + SPAN / 2;

/// Read once for all the work of a takeover, and on from there.
pub(super) struct Recent {
    log: Log,
    read: Mutex<Option<Read>>,
}

struct Read {
    /// It holds every outcome after this sequence, up to `to`.
    after: u64,
    to: u64,
    at: Instant,
    of: HashMap<DeliveryId, Progress>,
}

/// What is to be read before a question can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Everything since: what was read before is too long ago, if there is anything.
    Anew,
    /// What lies before and behind that which was read before.
    On,
    /// Too much has been stored since.
    Nothing,
}

impl Recent {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            read: Mutex::default(),
        }
    }

    /// How far a delivery has come by what was stored after `sequence`; `None` when that is too long ago to be told.
    pub(super) async fn progress(
        &self,
        delivery_id: DeliveryId,
        sequence: u64,
    ) -> Result<Option<Progress>, LogError> {
        let mut slot = self.read.lock().await;
        let now = Instant::now();
        let fresh = slot.as_ref().filter(|read| now < read.at + FRESH);
        if fresh.is_none_or(|read| sequence < read.after) {
            // What is fresh tells well enough where the log ends.
            let last = match fresh {
                Some(read) => read.to,
                None => self.log.bounds().await?.1,
            };
            let known_after = slot.as_ref().map(|read| read.after);
            *slot = match plan(sequence, last, known_after) {
                Plan::Nothing => return Ok(None),
                Plan::Anew => Some(self.read(sequence, now).await?),
                // Taken: given up half-way, it starts anew.
                Plan::On => self.read_on(slot.take(), sequence, now).await?,
            };
        }
        let progress = slot.as_ref().and_then(|read| read.of.get(&delivery_id));
        Ok(Some(progress.copied().unwrap_or_default()))
    }

    async fn read(&self, after: u64, at: Instant) -> Result<Read, LogError> {
        let read = self.log.progress(after, None).await?;
        Ok(Read {
            after,
            to: read.to,
            at,
            of: read.of,
        })
    }

    async fn read_on(&self, known: Option<Read>, after: u64, at: Instant) -> Result<Option<Read>, LogError> {
        let Some(mut known) = known else {
            return Ok(None);
        };
        if after < known.after {
            let before = self.log.progress(after, Some(known.after)).await?;
            known.take_in(before.of);
            known.after = after;
        }
        let since = self.log.progress(known.to, None).await?;
        known.take_in(since.of);
        (known.to, known.at) = (since.to, at);
        Ok(Some(known))
    }
}

impl Read {
    fn take_in(&mut self, other: HashMap<DeliveryId, Progress>) {
        for (delivery_id, progress) in other {
            self.of.entry(delivery_id).or_default().join(progress);
        }
    }
}

/// What to read for a question about `sequence` in a log that ends at `last`, of which everything after `known_after` was
/// read before.
fn plan(sequence: u64, last: u64, known_after: Option<u64>) -> Plan {
    if sequence < last.saturating_sub(SPAN) {
        Plan::Nothing
    } else if known_after.is_some_and(|known| known >= last.saturating_sub(KEPT)) {
        Plan::On
    } else {
        Plan::Anew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_read_on_and_never_reaches_back_too_far() {
        const LAST: u64 = 10 * SPAN;
        const HORIZON: u64 = LAST - SPAN;
        for (sequence, known, expected) in [
            (LAST - 5, None, Plan::Anew),
            (HORIZON, None, Plan::Anew),
            (HORIZON - 1, None, Plan::Nothing),
            (HORIZON - 1, Some(LAST - 1), Plan::Nothing),
            (LAST - 5, Some(LAST - 9), Plan::On),
            (LAST - 9, Some(LAST - 5), Plan::On),
            // A log that grows must not have all of it read again.
            (LAST - 5, Some(HORIZON - 1), Plan::On),
            (LAST - 5, Some(LAST - KEPT), Plan::On),
            // Reading on from there would keep more and more.
            (LAST - 5, Some(LAST - KEPT - 1), Plan::Anew),
        ] {
            assert_eq!(plan(sequence, LAST, known), expected, "{sequence} {known:?}");
        }
        assert_eq!(plan(3, 9, None), Plan::Anew);
    }
}
