//! How many bytes may be on their way into the log at the same time.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::error::LogError;
use crate::metrics::names;

/// What a message costs beside its payload: subject, headers, ids, and what waits for its acknowledgement.
const OVERHEAD: usize = 1024;
/// The part of the budget that accepting messages leaves to everything else, as one in this many.
const RESERVE: u32 = 4;

/// The bytes of all appends that are under way. Messages from callers have a share of their own, so that however many
/// they are, what dispatchers append and what endpoints change never waits behind them.
///
/// Nobody may wait for room while holding some: then whoever has room goes on, and gives it back.
#[derive(Debug)]
pub(crate) struct Budget {
    /// For messages that are accepted.
    pub(crate) accepted: Share,
    /// For everything else: outcomes, timers, changes of endpoints.
    pub(crate) others: Share,
}

/// A part of the budget, given out in the order of asking.
#[derive(Debug)]
pub(crate) struct Share {
    room: Semaphore,
    bytes: u32,
}

/// Room for one message, given back when dropped.
pub(crate) type Room<'a> = SemaphorePermit<'a>;

impl Budget {
    /// `bytes` in all.
    pub(crate) fn new(bytes: u32) -> Self {
        let others = bytes / RESERVE;
        Self {
            accepted: Share::new(bytes - others),
            others: Share::new(others),
        }
    }
}

impl Share {
    fn new(bytes: u32) -> Self {
        Self {
            room: Semaphore::new(bytes as usize),
            bytes,
        }
    }

    /// Room for a message with this payload, if there is some and nobody waits for it.
    pub(crate) fn try_take(&self, payload: usize) -> Option<Room<'_>> {
        self.room.try_acquire_many(self.weight(payload)).ok()
    }

    /// Waits for room for a message with this payload, behind whoever waits already. Call it without holding any.
    pub(crate) async fn take(&self, payload: usize, deadline: Instant) -> Result<Room<'_>, LogError> {
        if let Some(room) = self.try_take(payload) {
            return Ok(room);
        }
        metrics::counter!(names::APPEND_WAITS).increment(1);
        match timeout_at(deadline, self.room.acquire_many(self.weight(payload))).await {
            Ok(room) => room.map_err(LogError::unavailable),
            Err(_) => Err(LogError::Unavailable(
                "too many appends before this one are not acknowledged".into(),
            )),
        }
    }

    /// A message larger than the share takes all of it.
    fn weight(&self, payload: usize) -> u32 {
        u32::try_from(payload.saturating_add(OVERHEAD)).map_or(self.bytes, |weight| weight.min(self.bytes))
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.bytes as usize - self.room.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_larger_than_the_share_takes_all_of_it() {
        let share = Share::new(4096);
        for payload in [4096, usize::MAX] {
            let room = share.try_take(payload);
            assert_eq!((room.is_some(), share.taken()), (true, 4096));
        }
        assert_eq!(share.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_first_gets_room_first() {
        let share = Share::new(4 * 1024);
        let held = share.try_take(2 * 1024);
        let soon = Instant::now() + Duration::from_secs(1);
        let mut large = std::pin::pin!(share.take(2 * 1024, soon));
        assert!(futures_util::poll!(&mut large).is_pending());
        assert!(share.try_take(0).is_none(), "a small one overtook");
        drop(held);
        assert!(large.await.is_ok());
        let _held = share.try_take(3 * 1024);
        let late = share.take(0, soon).await;
        assert!(matches!(late, Err(LogError::Unavailable(_))), "{late:?}");
        assert_eq!(Instant::now(), soon);
    }
}
