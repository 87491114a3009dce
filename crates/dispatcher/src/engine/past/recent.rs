//! The outcomes of all endpoints since not long ago.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_log::{Log, LogError, Progress};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::FRESH;

/// How far back it reaches, in sequences of the log: what a busy installation stores in half a minute, and read within a
/// second or two.
const SPAN: u64 = 250_000;

/// Read once for all the work of a takeover, and on from there.
pub(super) struct Recent {
    log: Log,
    read: Mutex<Option<Read>>,
    /// The lowest sequence that is asked for: whoever reads does so for all that wait.
    lowest: AtomicU64,
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
    /// Everything after this sequence: what was read before is too long ago, if there is anything.
    Anew(u64),
    /// What comes between this sequence and what was read before, if anything does, and what has been stored since.
    On(u64),
    /// Too much has been stored since.
    Nothing,
}

impl Recent {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            read: Mutex::default(),
            lowest: AtomicU64::new(u64::MAX),
        }
    }

    /// How far a delivery has come that was requested at `sequence`; `None` when that is too long ago to be told.
    pub(super) async fn progress(
        &self,
        delivery_id: DeliveryId,
        sequence: u64,
    ) -> Result<Option<Progress>, LogError> {
        self.lowest.fetch_min(sequence, Ordering::Relaxed);
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
            let lowest = self.lowest.swap(u64::MAX, Ordering::Relaxed);
            // Taken: given up half-way, it starts anew.
            *slot = match plan(sequence, lowest, last, known_after) {
                Plan::Nothing => return Ok(None),
                Plan::Anew(after) => Some(self.read(after, now).await?),
                Plan::On(after) => self.read_on(slot.take(), after, now).await?,
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

/// What to read for a question about `sequence`, and for others down to `lowest`, in a log that ends at `last`, of which
/// everything after `known_after` was read before.
fn plan(sequence: u64, lowest: u64, last: u64, known_after: Option<u64>) -> Plan {
    let horizon = last.saturating_sub(SPAN);
    if sequence < horizon {
        return Plan::Nothing;
    }
    let after = lowest.min(sequence).max(horizon);
    if known_after.is_some_and(|known| known >= horizon) {
        Plan::On(after)
    } else {
        Plan::Anew(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_reaches_back_to_all_that_wait_and_never_beyond_the_span() {
        const LAST: u64 = 10 * SPAN;
        const HORIZON: u64 = LAST - SPAN;
        for (sequence, lowest, known, expected) in [
            (LAST - 5, u64::MAX, None, Plan::Anew(LAST - 5)),
            (LAST - 5, LAST - 9, None, Plan::Anew(LAST - 9)),
            // Somebody else asks for what is too long ago.
            (LAST - 5, 7, None, Plan::Anew(HORIZON)),
            (HORIZON, u64::MAX, None, Plan::Anew(HORIZON)),
            (HORIZON - 1, u64::MAX, None, Plan::Nothing),
            (HORIZON - 1, u64::MAX, Some(LAST - 1), Plan::Nothing),
            (LAST - 5, u64::MAX, Some(LAST - 9), Plan::On(LAST - 5)),
            (LAST - 5, u64::MAX, Some(HORIZON), Plan::On(LAST - 5)),
            // Reading on from there would keep more and more.
            (LAST - 5, u64::MAX, Some(HORIZON - 1), Plan::Anew(LAST - 5)),
        ] {
            assert_eq!(
                plan(sequence, lowest, LAST, known),
                expected,
                "{sequence} {lowest} {known:?}"
            );
        }
        assert_eq!(plan(3, 3, 9, None), Plan::Anew(3));
    }
}
