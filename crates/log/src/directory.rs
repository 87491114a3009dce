//! Every endpoint, folded from the control stream into memory and kept live: what the hot paths read instead of a store.

mod index;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use self::index::Index;
use crate::follow::{Followed, Follower};
use crate::metrics::names;
use crate::subjects::{self, Subject};
use crate::{CodecError, Log, LogError, codec, topology};

/// A directory that has been detached from the log for this long is not live any more.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// What the subjects of endpoints start with.
const ENDPOINT_PREFIX: &str = "webhooks.endpoint.";
/// Changes that a slow receiver of [`Directory::changes`] may be behind before it is told that it missed some.
const CHANGES: usize = 1024;

/// An endpoint as the log has it.
#[derive(Debug)]
pub struct Entry {
    /// Its whole state.
    pub endpoint: Endpoint,
    /// Sequence of its last change: what a writer expects to be the last of its subject.
    pub sequence: u64,
    /// The partition that its deliveries belong to.
    pub partition: u16,
}

/// All endpoints. Clones share one copy, which is kept live until the last clone is dropped.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
    _follower: Arc<DropGuard>,
}

struct Shared {
    /// Held for one lookup or one change, never across an await.
    index: RwLock<Index>,
    applied: watch::Sender<u64>,
    changes: broadcast::Sender<EndpointId>,
    /// Since when the log has not been followed; `None` while it is.
    detached: RwLock<Option<Instant>>,
}

impl Directory {
    /// Folds what the control stream holds, and follows it until `stop` is cancelled. Returns when caught up; a log that
    /// cannot be read then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            index: RwLock::default(),
            applied: watch::Sender::new(0),
            changes: broadcast::Sender::new(CHANGES),
            detached: RwLock::new(Some(Instant::now())),
        });
        let partitions = log.stored_partitions().await?;
        let follower = Follower::new(log, topology::CONTROL_STREAM);
        let mut fold = Fold {
            partitions,
            follower,
            shared: shared.clone(),
        };
        while !fold.step().await? {}
        info!(
            endpoints = shared.read().len(),
            log.seq = *shared.applied.borrow(),
            "endpoint directory is ready"
        );
        let stop = stop.child_token();
        tokio::spawn(fold.run(stop.clone()));
        Ok(Self {
            shared,
            _follower: Arc::new(stop.drop_guard()),
        })
    }

    /// An endpoint, deleted ones too.
    pub fn get(&self, id: EndpointId) -> Option<Arc<Entry>> {
        self.shared.read().get(id)
    }

    /// The project's endpoints that are not deleted, newest first; `None` when no event ever mentioned the project.
    pub fn project(&self, project_id: &ProjectId) -> Option<Vec<Arc<Entry>>> {
        self.shared.read().project(project_id)
    }

    /// The project's endpoints that take `event_type`, disabled ones too, oldest first; `None` when no event ever
    /// mentioned the project. Costs what it finds, not what the project has.
    pub fn matching(&self, project_id: &ProjectId, event_type: &EventType) -> Option<Vec<Arc<Entry>>> {
        self.shared.read().matching(project_id, event_type)
    }

    /// Sequence of the control stream up to which everything is folded in.
    pub fn applied(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Waits until the change at `sequence` is folded in, at most `timeout`; whether it is. A writer that waits for the
    /// sequence it was given reads its own write.
    pub async fn wait_for(&self, sequence: u64, timeout: Duration) -> bool {
        let mut applied = self.shared.applied.subscribe();
        let reached = applied.wait_for(|&applied| applied >= sequence);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    /// The ids of endpoints as they change, from now on, after the change can be seen here. A receiver that falls
    /// behind by more than 1,024 is told so.
    pub fn changes(&self) -> broadcast::Receiver<EndpointId> {
        self.shared.changes.subscribe()
    }

    /// Whether the log is being followed; a loss counts only after 5 s.
    pub fn is_live(&self) -> bool {
        let detached = *self
            .shared
            .detached
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        detached.is_none_or(|since| since.elapsed() < STALE_AFTER)
    }
}

impl Shared {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

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

/// The task that keeps the directory live.
struct Fold {
    partitions: u16,
    follower: Follower,
    shared: Arc<Shared>,
}

impl Fold {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => break,
                result = self.step() => result,
            };
            if let Err(error) = result {
                if self.shared.detach() {
                    metrics::counter!(names::REATTACHED, "use" => "directory").increment(1);
                    warn!(%error, "endpoint directory lost the log, attaching again");
                }
                debug!(%error, "endpoint directory is detached");
            }
        }
        self.shared.detach();
    }

    /// Folds the next message in; whether the directory has just caught up.
    async fn step(&mut self) -> Result<bool, LogError> {
        match self.follower.next().await? {
            Followed::Attached => {}
            Followed::Message {
                sequence, message, ..
            } => {
                self.fold(sequence, &message);
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
                warn!("the control stream is another one than before, folding it anew");
                // Dropped after the lock is let go.
                let _outdated = std::mem::take(&mut *self.shared.write());
                self.shared.applied.send_replace(0);
            }
        }
        Ok(false)
    }

    fn fold(&self, sequence: u64, message: &async_nats::Message) {
        let endpoint = match read(message) {
            Some(Ok(endpoint)) => endpoint,
            // Event types and API keys live in this stream too.
            None => return,
            Some(Err(error)) => {
                metrics::counter!(names::UNREADABLE).increment(1);
                error!(log.seq = sequence, %error, "cannot read an endpoint's change, leaving it out");
                return;
            }
        };
        let id = endpoint.id;
        let partition = subjects::partition_of(id, self.partitions);
        let endpoints = {
            let mut index = self.shared.write();
            if !index.apply(Entry {
                endpoint,
                sequence,
                partition,
            }) {
                return;
            }
            index.len()
        };
        metrics::gauge!(names::DIRECTORY_ENDPOINTS).set(endpoints as f64);
        // Nobody listening is fine.
        let _ = self.shared.changes.send(id);
    }
}

/// The endpoint that a message of the control stream holds; `None` when it holds something else.
fn read(message: &async_nats::Message) -> Option<Result<Endpoint, CodecError>> {
    if !message.subject.starts_with(ENDPOINT_PREFIX) {
        return None;
    }
    Some(decode(message))
}

fn decode(message: &async_nats::Message) -> Result<Endpoint, CodecError> {
    let subject: Subject = message.subject.parse()?;
    let endpoint = codec::decode_endpoint(message.payload.clone())?.endpoint;
    let expected = Subject::Endpoint {
        project_id: endpoint.project_id.clone(),
        endpoint_id: endpoint.id,
    };
    if subject != expected {
        return Err(CodecError::Invalid {
            field: "state.id",
            message: format!("belongs under {expected}"),
        });
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests;
