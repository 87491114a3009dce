//! Every endpoint, folded from the control stream into memory and kept live: what the hot paths read instead of a store.

mod index;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::jetstream;
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::index::Index;
use crate::follow::{Fold, Follower, Kept};
use crate::metrics::names;
use crate::subjects::{self, Subject};
use crate::{CodecError, Log, LogError, codec, topology};

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
    kept: Kept<Endpoints>,
}

struct Endpoints {
    partitions: u16,
    /// Held for one lookup or one change, never across an await.
    index: RwLock<Index>,
    changes: broadcast::Sender<EndpointId>,
}

impl Directory {
    /// Folds what the control stream holds, and follows it until `stop` is cancelled. Returns when caught up; a log that
    /// cannot be read then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let endpoints = Endpoints {
            partitions: log.stored_partitions().await?,
            index: RwLock::default(),
            changes: broadcast::Sender::new(CHANGES),
        };
        let follower = Follower::new(log, topology::CONTROL_STREAM);
        let kept = Kept::start(endpoints, follower, &stop).await?;
        info!(
            endpoints = kept.state().read().len(),
            log.seq = kept.applied(),
            "endpoint directory is ready"
        );
        Ok(Self { kept })
    }

    /// An endpoint, deleted ones too.
    pub fn get(&self, id: EndpointId) -> Option<Arc<Entry>> {
        self.kept.state().read().get(id)
    }

    /// The project's endpoints that are not deleted, newest first; `None` when no event ever mentioned the project.
    pub fn project(&self, project_id: &ProjectId) -> Option<Vec<Arc<Entry>>> {
        self.kept.state().read().project(project_id)
    }

    /// The project's endpoints that take `event_type`, disabled ones too, oldest first; `None` when no event ever
    /// mentioned the project. Costs what it finds, not what the project has.
    pub fn matching(&self, project_id: &ProjectId, event_type: &EventType) -> Option<Vec<Arc<Entry>>> {
        self.kept.state().read().matching(project_id, event_type)
    }

    /// Sequence of the control stream up to which everything is folded in.
    pub fn applied(&self) -> u64 {
        self.kept.applied()
    }

    /// Waits until the change at `sequence` is folded in, at most `timeout`; whether it is. A writer that waits for the
    /// sequence it was given reads its own write.
    pub async fn wait_for(&self, sequence: u64, timeout: Duration) -> bool {
        self.kept.wait_for(sequence, timeout).await
    }

    /// The ids of endpoints as they change, from now on, after the change can be seen here. A receiver that falls
    /// behind by more than 1,024 is told so.
    pub fn changes(&self) -> broadcast::Receiver<EndpointId> {
        self.kept.state().changes.subscribe()
    }

    /// Whether the log is being followed; a loss counts only after 5 s.
    pub fn is_live(&self) -> bool {
        self.kept.is_live()
    }

    /// How long ago this was last known to be as the log has it; zero while it is.
    pub fn age(&self) -> Duration {
        self.kept.age().unwrap_or_default()
    }
}

impl Endpoints {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fold for Endpoints {
    const NAME: &'static str = "directory";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
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
            let mut index = self.write();
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
        let _ = self.changes.send(id);
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let _outdated = std::mem::take(&mut *self.write());
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
    let endpoint = codec::decode_endpoint_state(message.payload.clone())?;
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
