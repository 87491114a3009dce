//! Which partitions this dispatcher works on: heartbeats, partition leases, and who should hold which.
//!
//! Every live dispatcher writes a heartbeat; hashing shares the partitions out evenly to the live ones;
//! a lease per partition makes sure that one does. A partition whose owner should be another is handed over when the
//! dispatcher has finished with it; one whose owner died is taken when its lease has run out.

mod keeper;
mod planner;
mod rendezvous;
mod roster;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::keeper::{Command, Keeper};
use crate::lease::Leases;
use crate::{Log, LogError};

/// What a member is told about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipEvent {
    /// It is this member's: start working on it.
    Acquired {
        /// The partition.
        partition: u16,
        /// Higher than that of everybody who held the partition before.
        epoch: u64,
    },
    /// Another member should have it: finish what is in flight, then call [`Membership::released`].
    Release {
        /// The partition.
        partition: u16,
    },
    /// It is not this member's any more: start nothing more for it.
    Lost {
        /// The partition.
        partition: u16,
    },
}

/// This process as one of the dispatchers.
///
/// Dropped without [`Membership::leave`] it leaves like a process that was killed: the others wait for its leases to run
/// out.
pub struct Membership {
    events: mpsc::UnboundedReceiver<MembershipEvent>,
    commands: mpsc::UnboundedSender<Command>,
    holdings: Holdings,
    _keeper: DropGuard,
}

/// Until when each partition is held. Clones share it; reading it takes no lock.
#[derive(Clone)]
pub struct Holdings {
    base: Instant,
    /// By partition, microseconds after `base`; 0 when it is not held.
    until: Arc<[AtomicU64]>,
}

impl Membership {
    /// Joins the dispatchers as `dispatcher_id` (letters, digits and `-_=./`, unique), and takes part until `stop` is
    /// cancelled: then it does nothing more, and what it holds runs out.
    pub async fn join(log: &Log, dispatcher_id: &str, stop: CancellationToken) -> Result<Self, LogError> {
        let stop = stop.child_token();
        let partitions = log.at_start(|| log.stored_partitions()).await?;
        let holdings = Holdings::new(partitions);
        let (event_tx, events) = mpsc::unbounded_channel();
        let (commands, command_rx) = mpsc::unbounded_channel();
        let join = || Keeper::join(log, dispatcher_id, partitions, holdings.clone(), event_tx.clone());
        let keeper = log.at_start(join).await?;
        tokio::spawn(keeper.run(command_rx, stop.clone()));
        Ok(Self {
            events,
            commands,
            holdings,
            _keeper: stop.drop_guard(),
        })
    }

    /// The next thing to know. Cancel safe. Never comes back once this member has stopped.
    pub async fn next(&mut self) -> MembershipEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// The dispatcher has nothing in flight for `partition` any more, as [`MembershipEvent::Release`] asked: whoever
    /// should have it may take it. Does nothing unless asked.
    pub fn released(&self, partition: u16) {
        // A keeper that has stopped holds nothing to release.
        let _ = self.commands.send(Command::Released(partition));
    }

    /// Stops being a member without giving anything up yet: each partition held is asked for by
    /// [`MembershipEvent::Release`], and the others take it once it is released.
    pub fn retire(&self) {
        let _ = self.commands.send(Command::Retire);
    }

    /// Until when attempts may be started for `partition`; `None` when it is not held. May have passed.
    pub fn held_until(&self, partition: u16) -> Option<Instant> {
        self.holdings.held_until(partition)
    }

    /// The same for those who have no hold of the membership itself.
    pub fn holdings(&self) -> Holdings {
        self.holdings.clone()
    }

    /// Leaves: gives up every partition, finished with or not, and the heartbeat, so that the others need not wait.
    pub async fn leave(self) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() {
            let _ = is_done.await;
        }
    }
}

impl Holdings {
    fn new(partitions: u16) -> Self {
        Self {
            base: Instant::now(),
            until: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Until when attempts may be started for `partition`; `None` when it is not held. May have passed.
    pub fn held_until(&self, partition: u16) -> Option<Instant> {
        let micros = self.until.get(usize::from(partition))?.load(Ordering::Acquire);
        (micros > 0).then(|| self.base + Duration::from_micros(micros))
    }

    /// Whether attempts may be started for `partition` at `now`.
    pub fn holds(&self, partition: u16, now: Instant) -> bool {
        self.held_until(partition).is_some_and(|until| now < until)
    }

    fn set(&self, partition: u16, until: Option<Instant>) {
        if let Some(slot) = self.until.get(usize::from(partition)) {
            let micros = until.map_or(0, |until| {
                until.saturating_duration_since(self.base).as_micros() as u64
            });
            slot.store(micros, Ordering::Release);
        }
    }
}

impl Log {
    /// Ids of the dispatchers whose heartbeat is fresh, in order.
    pub async fn live_dispatchers(&self) -> Result<Vec<String>, LogError> {
        let keys = Leases::new(self).live_keys(&roster::member_key(">")).await?;
        Ok(keys
            .iter()
            .filter_map(|key| roster::member_of(key))
            .map(str::to_owned)
            .collect())
    }
}

#[cfg(test)]
mod tests;
