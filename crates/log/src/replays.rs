//! The bulk replays, folded from the control stream into memory and kept live: what is running, and how far it is.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::ids::{EndpointId, ReplayId};
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::replay::{Replay, ReplayChange};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, instrument};

use crate::follow::{Fold, Follower, Kept};
use crate::metrics::names;
use crate::subjects::{REPLAYS, Subject};
use crate::topology::CONTROL_STREAM;
use crate::{CodecError, Log, LogError, codec};

/// A replay as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayEntry {
    /// Its whole state.
    pub replay: Replay,
    /// Sequence of its last change: what a writer expects to be the last of its subject.
    pub sequence: u64,
}

/// All bulk replays. Clones share one copy, which is kept live until the last clone is dropped.
#[derive(Clone)]
pub struct Replays {
    kept: Kept<Known>,
}

struct Known {
    /// Held for one lookup or one change, never across an await.
    replays: RwLock<HashMap<ReplayId, Arc<ReplayEntry>>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

impl Replays {
    /// Learns what the control stream holds, and follows it until `stop` is cancelled. Returns when caught up; a log that
    /// cannot be read then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let known = Known {
            replays: RwLock::default(),
            changes: watch::Sender::new(0),
        };
        let follower = Follower::new(log, CONTROL_STREAM).only(REPLAYS);
        let kept = Kept::start(known, follower, &stop).await?;
        info!(
            replays = kept.state().read().len(),
            log.seq = kept.applied(),
            "bulk replays are known"
        );
        Ok(Self { kept })
    }

    /// A replay, ended ones too.
    pub fn get(&self, id: ReplayId) -> Option<Arc<ReplayEntry>> {
        self.kept.state().read().get(&id).cloned()
    }

    /// The replays that are running, in no order; all, or those of one project.
    pub fn running(&self, project_id: Option<&ProjectId>) -> Vec<Arc<ReplayEntry>> {
        let replays = self.kept.state().read();
        let is_meant = |entry: &&Arc<ReplayEntry>| {
            let replay = &entry.replay;
            replay.is_running() && project_id.is_none_or(|project_id| project_id == replay.project_id())
        };
        replays.values().filter(is_meant).cloned().collect()
    }

    /// Changes after every change of a replay, when that can be seen here.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.kept.state().changes.subscribe()
    }

    /// Waits until the change at `sequence` is folded in, at most `timeout`; whether it is.
    pub async fn wait_for(&self, sequence: u64, timeout: Duration) -> bool {
        self.kept.wait_for(sequence, timeout).await
    }
}

impl Known {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<ReplayId, Arc<ReplayEntry>>> {
        self.replays.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ReplayId, Arc<ReplayEntry>>> {
        self.replays.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fold for Known {
    const NAME: &'static str = "replays";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
        let replay = match decode(message) {
            Ok(replay) => replay,
            Err(error) => {
                metrics::counter!(names::UNREADABLE).increment(1);
                error!(log.seq = sequence, %error, "cannot read a replay's change, leaving it out");
                return;
            }
        };
        {
            let mut replays = self.write();
            let known = replays.get(&replay.id).map_or(0, |entry| entry.sequence);
            if known >= sequence {
                return;
            }
            replays.insert(replay.id, ReplayEntry { replay, sequence }.into());
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let _outdated = std::mem::take(&mut *self.write());
    }
}

fn decode(message: &async_nats::Message) -> Result<Replay, CodecError> {
    let subject: Subject = message.subject.parse()?;
    let replay = codec::decode_replay(message.payload.clone())?.replay;
    let expected = subject_of(&replay);
    if subject != expected {
        return Err(CodecError::Invalid {
            field: "state.id",
            message: format!("belongs under {expected}"),
        });
    }
    Ok(replay)
}

fn subject_of(replay: &Replay) -> Subject {
    Subject::Replay {
        project_id: replay.project_id().clone(),
        replay_id: replay.id,
    }
}

impl Log {
    /// Appends a change of a replay, made at `at`, with its state afterwards. `expected_last_sequence` is the sequence of
    /// the change before, 0 for none; [`LogError::Conflict`] when another change came first.
    pub async fn append_replay(
        &self,
        change: &ReplayChange,
        replay: &Replay,
        actor: &Actor,
        at: DateTime<Utc>,
        expected_last_sequence: u64,
    ) -> Result<u64, LogError> {
        let body = codec::encode_replay(change, replay, actor, at);
        self.append_change(subject_of(replay), replay.id, body, expected_last_sequence)
            .await
    }

    /// When the endpoint was last disabled, whether or not it was enabled since; `None` when it never was. Reads its whole
    /// history of changes, one by one.
    #[instrument(name = "log.last_disabled", level = "debug", skip_all, fields(endpoint.id = %endpoint_id))]
    pub async fn last_disabled(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
    ) -> Result<Option<DateTime<Utc>>, LogError> {
        let subject = Subject::Endpoint {
            project_id: project_id.clone(),
            endpoint_id,
        };
        let (mut sequence, mut was_active, mut disabled_at) = (0, true, None);
        while let Some(message) = self
            .next_message(CONTROL_STREAM, &subject.to_string(), sequence + 1)
            .await?
        {
            sequence = message.sequence;
            let endpoint = codec::decode_endpoint(message.payload)?.endpoint;
            if was_active && !endpoint.is_active() {
                disabled_at = Some(endpoint.updated_at);
            }
            was_active = endpoint.is_active();
        }
        Ok(disabled_at)
    }
}
