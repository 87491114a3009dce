//! A state in memory that is kept as a stream says.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{Followed, Follower};
use crate::LogError;
use crate::connect::START_PATIENCE;
use crate::metrics::names;

/// A state that has been detached from the log for this long is not live any more.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// A state that messages are folded into, each subject's in order.
pub(crate) trait Fold: Send + Sync + 'static {
    /// What it is called in texts and metrics.
    const NAME: &'static str;

    /// Takes the next message in. Of every subject the last one comes, of those before perhaps some; after
    /// [`Fold::clear`] from the start.
    fn fold(&self, sequence: u64, message: &jetstream::Message);

    /// Forgets everything: the stream is another one than before.
    fn clear(&self);
}

/// A state with the task that folds a stream into it. Clones share both; the task ends with the last of them.
pub(crate) struct Kept<S> {
    shared: Arc<Shared<S>>,
    task: Arc<DropGuard>,
}

impl<S> Clone for Kept<S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            task: self.task.clone(),
        }
    }
}

struct Shared<S> {
    state: S,
    /// Sequence up to which everything is folded in.
    applied: watch::Sender<u64>,
    /// Since when the log has not been followed; `None` while it is.
    detached: RwLock<Option<Instant>>,
}

impl<S: Fold> Kept<S> {
    /// Folds what `follower` finds into `state` until `stop` is cancelled. Returns when caught up; a log that cannot be
    /// read for [`START_PATIENCE`] then is an error, later it is waited for.
    pub(crate) async fn start(
        state: S,
        follower: Follower,
        stop: &CancellationToken,
    ) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            state,
            applied: watch::Sender::new(0),
            detached: RwLock::new(Some(Instant::now())),
        });
        let mut keeper = Keeper {
            follower,
            shared: shared.clone(),
        };
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match keeper.step().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    debug!(of = S::NAME, %error, "the log cannot be read yet");
                }
                Err(error) => return Err(error),
            }
        }
        let stop = stop.child_token();
        tokio::spawn(keeper.run(stop.clone()));
        Ok(Self {
            shared,
            task: Arc::new(stop.drop_guard()),
        })
    }

    pub(crate) fn state(&self) -> &S {
        &self.shared.state
    }

    /// Sequence up to which everything is folded in.
    pub(crate) fn applied(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Waits until everything up to `sequence` is folded in, at most `timeout`; whether it is.
    pub(crate) async fn wait_for(&self, sequence: u64, timeout: Duration) -> bool {
        let mut applied = self.shared.applied.subscribe();
        let reached = applied.wait_for(|&applied| applied >= sequence);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    /// Waits until `holds`, which is asked again whenever more is folded in.
    pub(crate) async fn wait_until(&self, holds: impl Fn() -> bool) {
        let mut applied = self.shared.applied.subscribe();
        // Only ends early when nothing is folded in any more.
        let _ = applied.wait_for(|_| holds()).await;
    }

    /// Whether the log is being followed; a loss counts only after 5 s.
    pub(crate) fn is_live(&self) -> bool {
        self.age().is_none_or(|age| age < STALE_AFTER)
    }

    /// Since when the log has not been followed; `None` while it is.
    pub(crate) fn age(&self) -> Option<Duration> {
        let detached = *self
            .shared
            .detached
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        detached.map(|since| since.elapsed())
    }
}

impl<S> Shared<S> {
    /// Everything up to `sequence` is folded in.
    fn advance(&self, sequence: u64) {
        self.applied.send_if_modified(|applied| {
            let is_news = *applied < sequence;
            *applied = sequence.max(*applied);
            is_news
        });
    }

    /// The log is not followed from now on; whether it was until now.
    fn detach(&self) -> bool {
        let mut detached = self.detached.write().unwrap_or_else(PoisonError::into_inner);
        let was_attached = detached.is_none();
        detached.get_or_insert_with(Instant::now);
        was_attached
    }

    fn attach(&self) {
        *self.detached.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The task.
struct Keeper<S> {
    follower: Follower,
    shared: Arc<Shared<S>>,
}

impl<S: Fold> Keeper<S> {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => break,
                result = self.step() => result,
            };
            if let Err(error) = result {
                if self.shared.detach() {
                    metrics::counter!(names::REATTACHED, "use" => S::NAME).increment(1);
                    warn!(of = S::NAME, %error, "lost the log, attaching again");
                }
                debug!(of = S::NAME, %error, "detached from the log");
            }
        }
        self.shared.detach();
    }

    /// Folds the next message in; whether the state has just caught up.
    async fn step(&mut self) -> Result<bool, LogError> {
        match self.follower.next().await? {
            Followed::Attached => {}
            Followed::Message {
                sequence, message, ..
            } => {
                self.shared.state.fold(sequence, &message);
                // While the first messages come, later ones than this may still be missing below it.
                if self.follower.is_complete() {
                    self.shared.advance(sequence);
                }
            }
            Followed::CaughtUp { sequence } => {
                self.shared.advance(sequence);
                self.shared.attach();
                return Ok(true);
            }
            Followed::Restarted => {
                warn!(
                    of = S::NAME,
                    "the stream is another one than before, folding it anew"
                );
                self.shared.state.clear();
                self.shared.applied.send_replace(0);
            }
        }
        Ok(false)
    }
}
