//! What lanes need of the log beside attempts: their place saved, their backlog read, their past looked up. Each errand is
//! a task that ends with what the scheduler is to be told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::delivery::{Concluded, Conclusion, FailureReason};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_log::{BlockedBy, HealthState, LaneHealth, LaneRecord, Lanes, Log, LogError};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::items::item;
use crate::engine::Work;
use crate::metrics::Metrics;
use crate::scheduler::{Blocked, BreakerState, Event, Health, Known, LaneId, LaneState, Recovered, Room};

/// Reads of backlogs and of outcomes at the same time. nats-server looks through everything that lies between two items of
/// an endpoint: a thousand lanes that are taken over, all read at once, would have none of them answered in time.
const READS: usize = 4;
/// Pause between tries while the log is not available.
const PAUSE: Duration = Duration::from_millis(500);

/// Whose errand it is.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) lane: LaneId,
    pub(super) project_id: ProjectId,
    pub(super) partition: u16,
    /// Cancelled when the partition is somebody else's: what is not saved by then must not be.
    pub(super) tenure: CancellationToken,
}

/// Runs errands. Cheap to clone.
#[derive(Clone)]
pub(super) struct Errands {
    log: Log,
    lanes: Lanes,
    clock: Clock,
    dispatcher_id: String,
    metrics: Metrics,
    reads: Arc<Semaphore>,
}

impl Errands {
    pub(super) fn new(log: Log, lanes: Lanes, clock: Clock, dispatcher_id: String, metrics: Metrics) -> Self {
        Self {
            log,
            lanes,
            clock,
            dispatcher_id,
            metrics,
            reads: Arc::new(Semaphore::new(READS)),
        }
    }

    /// The saved lanes.
    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// What is saved of an endpoint's lane.
    pub(super) fn saved(&self, endpoint_id: EndpointId) -> Option<LaneState> {
        let saved = self.lanes.get(endpoint_id)?;
        Some(state_of(&saved.record, &self.times()))
    }

    /// Endpoints of a partition whose lanes are detached.
    pub(super) fn detached(&self, partition: u16) -> Vec<EndpointId> {
        let endpoint_of = |saved: Arc<cuitty_webhooks_log::SavedLane>| saved.record.endpoint_id;
        self.lanes
            .detached(partition)
            .into_iter()
            .map(endpoint_of)
            .collect()
    }

    /// Saves `state`, however long the log is away.
    pub(super) async fn save(self, owner: Owner, state: LaneState) -> Event<Work> {
        let lane = owner.lane;
        let record = self.record(&owner, &state);
        let before = self.lanes.get(lane.endpoint_id);
        let was_closed = before.is_none_or(|before| is_closed(before.record.health.state));
        loop {
            let Some(saved) = owner.tenure.run_until_cancelled(self.lanes.save(&record)).await else {
                return Event::Fenced { lane };
            };
            match saved {
                Ok(_) => {
                    if was_closed != is_closed(record.health.state) {
                        self.tell(&record);
                    }
                    return Event::Saved { lane };
                }
                Err(LogError::Conflict { .. }) => {
                    warn!(endpoint.id = %lane.endpoint_id, "lane was saved by somebody else");
                    return Event::Fenced { lane };
                }
                Err(error) => {
                    warn!(endpoint.id = %lane.endpoint_id, %error, "lane not saved, trying again");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads on in an endpoint's backlog.
    pub(super) async fn read(self, owner: Owner, from: u64, room: Room) -> Event<Work> {
        let Owner {
            lane,
            project_id,
            partition,
            ..
        } = owner;
        // Never closed.
        let _turn = self.reads.acquire().await;
        let read = self
            .log
            .read_work(&project_id, lane.endpoint_id, from, room.items, room.bytes)
            .await;
        match read {
            Ok(read) => {
                let times = self.times();
                let (mut end, mut at_tail) = (read.end, read.at_tail);
                let mut items = Vec::with_capacity(read.items.len());
                for (sequence, event) in read.items {
                    let Some(item) = item(Arc::new(Work::read(partition, sequence, event)), times) else {
                        // What lies behind it waits too, or it would be taken for done.
                        (end, at_tail) = (sequence - 1, false);
                        break;
                    };
                    items.push(item);
                }
                Event::Read {
                    lane,
                    items,
                    end,
                    at_tail,
                }
            }
            Err(error) => {
                debug!(endpoint.id = %lane.endpoint_id, %error, "backlog not read, trying again");
                Event::ReadFailed { lane }
            }
        }
    }

    /// Finds out where a lane is to go on, however long the log is away.
    pub(super) async fn recover(self, owner: Owner, state: Option<LaneState>) -> Event<Work> {
        let lane = owner.lane;
        loop {
            // Never closed.
            let turn = self.reads.acquire().await;
            if owner.tenure.is_cancelled() {
                return Event::Fenced { lane };
            }
            let recovered = self.try_recover(&owner, state.clone()).await;
            drop(turn);
            match recovered {
                Ok(recovered) => return Event::Recovered { lane, recovered },
                Err(error) => {
                    warn!(endpoint.id = %lane.endpoint_id, %error, "past of a lane not read, trying again");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_recover(&self, owner: &Owner, state: Option<LaneState>) -> Result<Recovered, LogError> {
        match state {
            Some(state) if state.detached => self.recover_at(owner, state).await,
            state => {
                let closed = Health {
                    breaker: BreakerState::Closed,
                    consecutive_failures: 0,
                };
                let health = state.map_or(closed, |state| state.health);
                self.recover_ordered(owner, health).await
            }
        }
    }

    /// Finds out what is done behind the place where a lane was saved.
    async fn recover_at(&self, owner: &Owner, state: LaneState) -> Result<Recovered, LogError> {
        let outcomes = self
            .log
            .outcomes_after(&owner.project_id, owner.lane.endpoint_id, state.outcomes_from)
            .await?;
        let times = self.times();
        let known = outcomes.of.into_iter().map(|(delivery_id, last)| {
            let next = last.next_attempt_at.map(|at| times.instant(at));
            let attempts = last.attempts;
            (delivery_id, Known { attempts, next })
        });
        Ok(Recovered {
            known: known.collect(),
            outcomes_to: outcomes.to.max(state.outcomes_from),
            state,
        })
    }

    /// Finds the place of an ordered endpoint's lane that is not saved: what comes to an end there does so in its turn, so
    /// the last outcome says what is done.
    async fn recover_ordered(&self, owner: &Owner, health: Health) -> Result<Recovered, LogError> {
        let (project_id, endpoint_id) = (&owner.project_id, owner.lane.endpoint_id);
        let last = self.log.last_outcome(project_id, endpoint_id).await?;
        if last.as_ref().is_some_and(|(_, last)| is_out_of_turn(last)) {
            let last = self.log.last_not_failed(project_id, endpoint_id).await?;
            let cursor = last.map_or(0, |(_, last)| done_by(&last));
            return self.recover_at(owner, place(cursor, cursor, health)).await;
        }
        let (mut cursor, mut known, mut outcomes_to) = (0, HashMap::new(), 0);
        if let Some((sequence, concluded)) = last {
            outcomes_to = sequence;
            cursor = done_by(&concluded);
            if let Conclusion::Retry { next_attempt_at } = concluded.conclusion {
                let last = Known {
                    attempts: concluded.attempt.as_ref().map_or(0, |attempt| attempt.number),
                    next: Some(self.times().instant(next_attempt_at)),
                };
                known.insert(concluded.delivery.delivery_id, last);
            }
        }
        Ok(Recovered {
            state: place(cursor, outcomes_to, health),
            known,
            outcomes_to,
        })
    }

    /// The breaker of an endpoint has opened or closed, and that is recorded.
    fn tell(&self, record: &LaneRecord) {
        let LaneHealth {
            state,
            consecutive_failures,
            ..
        } = record.health;
        let (endpoint_id, project_id) = (record.endpoint_id, &record.project_id);
        if is_closed(state) {
            self.metrics.breakers_closed.increment(1);
            info!(endpoint.id = %endpoint_id, project.id = %project_id, "breaker closed: the endpoint answers again");
        } else {
            self.metrics.breakers_opened.increment(1);
            info!(endpoint.id = %endpoint_id, project.id = %project_id, consecutive_failures, "breaker opened: the endpoint fails");
        }
    }

    fn record(&self, owner: &Owner, state: &LaneState) -> LaneRecord {
        let times = self.times();
        let endpoint_id = owner.lane.endpoint_id;
        let before = self.lanes.get(endpoint_id);
        let (health, probe, next_probe_at) = match state.health.breaker {
            BreakerState::Closed => (HealthState::Closed, 0, None),
            BreakerState::Open { until, probe } => (HealthState::Open, probe, Some(times.utc(until))),
            BreakerState::HalfOpen { probe } => (HealthState::HalfOpen, probe, None),
        };
        let since = before
            .map(|before| before.record.health.clone())
            .filter(|before| is_closed(before.state) == is_closed(health))
            .map_or(times.utc, |before| before.since);
        LaneRecord {
            endpoint_id,
            project_id: owner.project_id.clone(),
            partition: owner.partition,
            detached: state.detached,
            floor: state.floor,
            cursor: state.cursor,
            done: state.done.clone(),
            outcomes_from: state.outcomes_from,
            health: LaneHealth {
                state: health,
                since,
                consecutive_failures: state.health.consecutive_failures,
                probe,
                next_probe_at,
            },
            blocked_by: state.blocked.map(|blocked| BlockedBy {
                delivery_id: blocked.delivery_id,
                attempts: blocked.attempts,
                next_attempt_at: times.utc(blocked.until),
            }),
            dispatcher_id: self.dispatcher_id.clone(),
            saved_at: times.utc,
        }
    }

    fn times(&self) -> Times {
        Times {
            utc: (self.clock)(),
            instant: Instant::now(),
        }
    }
}

/// Whether a delivery was ended from outside, which may happen while others wait before it.
fn is_out_of_turn(outcome: &Concluded) -> bool {
    let cancelled = Conclusion::Failed {
        reason: FailureReason::Cancelled,
    };
    outcome.attempt.is_none() && outcome.conclusion == cancelled
}

/// Sequence up to which an ordered endpoint's items are done when this is the last outcome that came in its turn.
fn done_by(outcome: &Concluded) -> u64 {
    match outcome.conclusion {
        Conclusion::Retry { .. } => outcome.requested_sequence - 1,
        Conclusion::Succeeded | Conclusion::Failed { .. } => outcome.requested_sequence,
    }
}

/// A lane that reads on after `cursor`.
fn place(cursor: u64, outcomes_from: u64, health: Health) -> LaneState {
    LaneState {
        detached: true,
        floor: cursor,
        cursor,
        done: Vec::new(),
        outcomes_from,
        health,
        blocked: None,
    }
}

fn is_closed(state: HealthState) -> bool {
    state == HealthState::Closed
}

fn state_of(record: &LaneRecord, times: &Times) -> LaneState {
    let LaneHealth {
        state,
        consecutive_failures,
        probe,
        next_probe_at,
        ..
    } = record.health;
    let breaker = match (state, next_probe_at) {
        (HealthState::Closed, _) => BreakerState::Closed,
        (HealthState::Open, Some(at)) => BreakerState::Open {
            until: times.instant(at),
            probe,
        },
        (HealthState::Open | HealthState::HalfOpen, _) => BreakerState::HalfOpen { probe },
    };
    LaneState {
        detached: record.detached,
        floor: record.floor,
        cursor: record.cursor,
        done: record.done.clone(),
        outcomes_from: record.outcomes_from,
        health: Health {
            breaker,
            consecutive_failures,
        },
        blocked: record.blocked_by.as_ref().map(|blocked| Blocked {
            delivery_id: blocked.delivery_id,
            attempts: blocked.attempts,
            until: times.instant(blocked.next_attempt_at),
        }),
    }
}

/// One moment on both clocks, to turn times of the one into times of the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) utc: DateTime<Utc>,
    pub(super) instant: Instant,
}

impl Times {
    /// When that is on the monotonic clock; what has passed is now.
    pub(super) fn instant(&self, at: DateTime<Utc>) -> Instant {
        self.instant + (at - self.utc).to_std().unwrap_or_default()
    }

    /// How long ago that was; nothing when it is to come.
    pub(super) fn since(&self, at: DateTime<Utc>) -> Duration {
        (self.utc - at).to_std().unwrap_or_default()
    }

    /// When that is on the wall clock; what has passed is now.
    fn utc(&self, at: Instant) -> DateTime<Utc> {
        self.utc + at.saturating_duration_since(self.instant)
    }
}
