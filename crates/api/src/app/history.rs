//! The history as the API reads it: while it is known to be away, nobody waits for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cuitty_webhooks_history::{HistoryError, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::AppError;

/// How long a database that could not be reached is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one read may take to find out whether it can be reached again, while the others are refused.
const PROBE: Duration = Duration::from_secs(10);

/// Reads of the history. Accepting and delivering do not need it, so it may be opened late and lost at any time.
pub(crate) struct History {
    opened: watch::Receiver<Option<Store>>,
    outage: Mutex<Outage>,
}

/// Whether the last read could not reach the database, and until when the next one is refused unasked.
#[derive(Debug, Default)]
struct Outage(Option<Instant>);

impl Outage {
    /// Whether a read may try at `now`. During an outage one may at a time.
    fn admits(&mut self, now: Instant) -> bool {
        match self.0 {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.0 = Some(now + PROBE);
                true
            }
        }
    }

    fn tried(&mut self, reached: bool, now: Instant) {
        self.0 = (!reached).then_some(now + PAUSE);
    }
}

impl History {
    pub(crate) fn new(opened: watch::Receiver<Option<Store>>) -> Self {
        Self {
            opened,
            outage: Mutex::default(),
        }
    }

    /// The history, once it is open.
    pub(super) fn store(&self) -> Option<Store> {
        self.opened.borrow().clone()
    }

    /// What `question` finds. Refused at once while the history is not open or known to be away.
    pub(super) async fn read<T, F>(&self, question: impl FnOnce(Store) -> F) -> Result<T, AppError>
    where
        F: Future<Output = Result<T, HistoryError>>,
    {
        let store = self.store().ok_or(AppError::HistoryUnavailable(None))?;
        if !self.outage().admits(Instant::now()) {
            return Err(AppError::HistoryUnavailable(None));
        }
        let found = question(store).await;
        let reached = !matches!(found, Err(HistoryError::Unreachable(_)));
        self.outage().tried(reached, Instant::now());
        Ok(found?)
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_read_at_a_time_looks_whether_the_database_is_back() {
        let mut outage = Outage::default();
        let lost = Instant::now();
        assert!(outage.admits(lost) && outage.admits(lost));
        outage.tried(false, lost);
        let again = lost + PAUSE;
        assert!(!outage.admits(again - Duration::from_nanos(1)));
        assert!(outage.admits(again), "one asks");
        assert!(!outage.admits(again), "the others do not wait with it");
        // That one's caller went away, so nobody heard of it.
        assert!(outage.admits(again + PROBE));
        outage.tried(true, again + PROBE);
        assert!(outage.admits(again + PROBE) && outage.admits(again + PROBE));
    }

    #[tokio::test]
    async fn until_it_is_open_every_read_is_refused_unasked() {
        let (_opener, opened) = watch::channel(None);
        let refused = History::new(opened)
            .read(async |_| -> Result<(), HistoryError> { panic!("there is nothing to ask") })
            .await;
        assert!(
            matches!(refused, Err(AppError::HistoryUnavailable(None))),
            "{refused:?}"
        );
    }
}
