//! The saved lanes: where each endpoint's lane is and how the endpoint fares, for whoever takes it over. Every process
//! keeps a copy of them.

mod record;
mod table;

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, instrument};

pub use self::record::{BlockedBy, HealthState, LaneHealth, LaneRecord};
pub use self::table::SavedLane;
use self::table::Table;
use crate::follow::{Follower, Kept};
use crate::topology::LANES_BUCKET;
use crate::{Log, LogError};

/// What stands before an endpoint's id in the subject of its entry. The bucket holds other entries, too.
const KEYS: &str = "$KV.WEBHOOKS_LANES.lane.";
/// Selects the entries of endpoints.
const FILTER: &str = "$KV.WEBHOOKS_LANES.lane.*";

/// All saved lanes. Clones share one copy, which is kept live until the last clone is dropped.
///
/// A lane has one owner at a time: whoever holds its partition. To take a partition over is to [`Lanes::catch_up`]; from
/// then on a lane that anybody else saves cannot be saved here before that was noticed.
#[derive(Clone)]
pub struct Lanes {
    log: Log,
    kept: Kept<Table>,
}

impl Lanes {
    /// Learns what is saved, and follows it until `stop` is cancelled. Returns when caught up; a log that cannot be read
    /// then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let follower = Follower::new(log, stream()).only(FILTER);
        let kept = Kept::start(Table::default(), follower, &stop).await?;
        kept.state().rely();
        info!(
            lanes = kept.state().len(),
            log.seq = kept.applied(),
            "saved lanes are known"
        );
        Ok(Self {
            log: log.clone(),
            kept,
        })
    }

    /// What is saved of an endpoint's lane, as far as is known here.
    pub fn get(&self, endpoint_id: EndpointId) -> Option<Arc<SavedLane>> {
        self.kept.state().get(endpoint_id)
    }

    /// Whether an endpoint's lane is saved as detached.
    pub fn is_detached(&self, endpoint_id: EndpointId) -> bool {
        self.get(endpoint_id).is_some_and(|saved| saved.record.detached)
    }

    /// Whether an endpoint's item at this sequence of the log waits in a lane that is saved as detached.
    pub fn waits(&self, endpoint_id: EndpointId, sequence: u64) -> bool {
        self.get(endpoint_id)
            .is_some_and(|saved| saved.record.detached && sequence > saved.record.floor)
    }

    /// The lanes of a partition that are saved as detached, in no order.
    pub fn detached(&self, partition: u16) -> Vec<Arc<SavedLane>> {
        self.kept.state().detached(partition)
    }

    /// Waits until all that the leader of the bucket's stream holds at the time of the call is known here. What is known
    /// then is what the next saves follow.
    ///
    /// [`LogError::Unavailable`] when that takes longer than `timeout`.
    #[instrument(name = "log.catch_up_lanes", level = "debug", skip_all)]
    pub async fn catch_up(&self, timeout: Duration) -> Result<(), LogError> {
        let deadline = Instant::now() + timeout;
        let late = || LogError::Unavailable("saved lanes are not known in time".into());
        let stream = stream();
        let leader = self.log.retried(|| self.log.leader_last(&stream, FILTER));
        let last = timeout_at(deadline, leader).await.map_err(|_| late())??;
        let sequence = last.map_or(0, |last| last.sequence);
        let left = deadline.saturating_duration_since(Instant::now());
        if !self.kept.wait_for(sequence, left).await {
            return Err(late());
        }
        self.kept.state().rely();
        Ok(())
    }

    /// Saves a lane and returns its revision; [`Lanes::get`] shows it at once. Follows the last save of the same lane that
    /// was made here, or was known at the last [`Lanes::catch_up`]. One save of a lane at a time.
    ///
    /// [`LogError::Conflict`] when somebody else has saved the lane since: `get` shows what, and the next save follows that.
    /// After [`LogError::Unavailable`] the lane may or may not be saved: repeat it with the same record.
    #[instrument(name = "log.save_lane", level = "debug", skip_all, fields(endpoint.id = %record.endpoint_id))]
    pub async fn save(&self, record: &LaneRecord) -> Result<u64, LogError> {
        let table = self.kept.state();
        let subject = subject_of(record.endpoint_id);
        let value = record.encode()?;
        let expected = table.relied_on(record.endpoint_id);
        let written = self.log.put_entry(&subject, value.clone(), Some(expected)).await;
        let revision = match written {
            Err(conflict @ LogError::Conflict { .. }) => {
                let stream = stream();
                let found = self
                    .log
                    .retried(|| self.log.leader_last(&stream, &subject))
                    .await?;
                match found {
                    // Stored by an earlier try, whose answer was lost.
                    Some(found) if found.payload == value => found.sequence,
                    found => {
                        table.lost(record.endpoint_id, found.as_ref());
                        return Err(conflict);
                    }
                }
            }
            written => written?,
        };
        table.saved(record.clone(), revision);
        Ok(revision)
    }

    /// Deletes what is saved of a lane, whoever saved it, with its history. Nothing is done about one that is not known
    /// here.
    #[instrument(name = "log.forget_lane", level = "debug", skip_all, fields(endpoint.id = %endpoint_id))]
    pub async fn forget(&self, endpoint_id: EndpointId) -> Result<(), LogError> {
        let table = self.kept.state();
        if table.get(endpoint_id).is_some() {
            let revision = self.log.purge_entry(&subject_of(endpoint_id)).await?;
            table.forgotten(endpoint_id, revision);
        }
        Ok(())
    }

    /// Whether the log is being followed; a loss counts only after 5 s.
    pub fn is_live(&self) -> bool {
        self.kept.is_live()
    }
}

fn subject_of(endpoint_id: EndpointId) -> String {
    format!("{KEYS}{endpoint_id}")
}

fn stream() -> String {
    format!("KV_{LANES_BUCKET}")
}
