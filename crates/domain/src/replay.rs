//! Bulk replays: what is selected, and the aggregate that tells how far a replay is: pure `decide` and `evolve`.
//!
//! A replay looks at what it selects in one order, page by page: deliveries by time of creation and id, then unmatched
//! messages by id. It never sees what was requested after it started, its own deliveries among that, and so it ends.

use chrono::{DateTime, Utc};

use crate::delivery::{DeliveryStatus, FailureReason};
use crate::ids::{DeliveryId, EndpointId, MessageId, ReplayId};
use crate::limits;
use crate::names::{EventTypePattern, ProjectId};
use crate::rejection::{FieldViolation, Rejection, Resource};

/// What somebody asks to be sent again; every part that is given must hold. See [`ReplayFilter::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Of this project.
    pub project_id: ProjectId,
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Ended like this: delivered or failed.
    pub status: DeliveryStatus,
    /// Failed for one of these reasons; empty means any.
    pub failure_reasons: Vec<FailureReason>,
    /// Of these event types.
    pub event_types: Option<EventTypePattern>,
    /// Created at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Created before this time.
    pub until: Option<DateTime<Utc>>,
    /// Failed because the endpoint was disabled, from the last time on that it was.
    pub since_disabled: bool,
    /// Messages that matched no endpoint, too.
    pub include_unmatched: bool,
}

impl ReplayFilter {
    /// Everything of a project that has failed.
    pub fn failed(project_id: ProjectId) -> Self {
        Self {
            project_id,
            endpoint_id: None,
            status: DeliveryStatus::Failed,
            failure_reasons: Vec::new(),
            event_types: None,
            since: None,
            until: None,
            since_disabled: false,
            include_unmatched: false,
        }
    }

    /// Everything about the parts that does not fit together.
    pub fn violations(&self) -> Vec<FieldViolation> {
        let failed = self.status == DeliveryStatus::Failed;
        let is_empty_time = self
            .since
            .zip(self.until)
            .is_some_and(|(since, until)| since >= until);
        [
            (
                self.status == DeliveryStatus::Pending,
                "status",
                "must be delivered or failed: what is pending is still being sent",
            ),
            (
                !failed && !self.failure_reasons.is_empty(),
                "failure_reasons",
                "must be empty unless failed deliveries are meant",
            ),
            (is_empty_time, "until", "must be later than since"),
            (
                self.since_disabled && self.endpoint_id.is_none(),
                "since_disabled",
                "needs an endpoint_id",
            ),
            (
                self.since_disabled && (!failed || !self.failure_reasons.is_empty()),
                "since_disabled",
                "already means deliveries that failed for endpoint_disabled: leave status and failure_reasons out",
            ),
        ]
        .into_iter()
        .filter(|(wrong, ..)| *wrong)
        .map(|(_, field, message)| FieldViolation::new(field, message))
        .collect()
    }
}

/// Exactly which deliveries and messages a replay looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// What was asked for.
    pub filter: ReplayFilter,
    /// When the endpoint was last disabled; `Some` when [`ReplayFilter::since_disabled`] asks for that.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Only deliveries requested up to this sequence of the log.
    pub through_sequence: u64,
    /// Only unmatched messages accepted before this time.
    pub before: DateTime<Utc>,
}

/// What a replay has looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayCursor {
    /// A delivery.
    Delivery {
        /// When it was created.
        created_at: DateTime<Utc>,
        /// The delivery.
        id: DeliveryId,
    },
    /// All deliveries, and of the unmatched messages this one; `None` before the first.
    Unmatched(Option<MessageId>),
}

/// Where a replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplayProgress {
    /// It goes on.
    Running,
    /// It has looked at everything.
    Completed,
    /// Somebody cancelled it.
    Cancelled,
    /// It could not go on.
    Failed,
}

impl ReplayProgress {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// A replay's whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// What it looks at.
    pub selection: Selection,
    /// Deliveries per second, 1 to 10,000; `None` means as configured.
    pub rate_per_second: Option<u32>,
    /// Deliveries and messages that were selected when it started.
    pub total: u64,
    /// What it has looked at last.
    pub cursor: Option<ReplayCursor>,
    /// What was requested again.
    pub replayed: u64,
    /// What was left out: its endpoint takes nothing now.
    pub skipped: u64,
    /// Where it stands.
    pub progress: ReplayProgress,
    /// Why it failed; empty unless it has.
    pub reason: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Replay {
    /// As it was when it started.
    #[must_use]
    pub fn as_started(&self) -> Self {
        Self {
            cursor: None,
            replayed: 0,
            skipped: 0,
            progress: ReplayProgress::Running,
            reason: String::new(),
            ended_at: None,
            ..self.clone()
        }
    }

    /// The project whose replay it is.
    pub fn project_id(&self) -> &ProjectId {
        &self.selection.filter.project_id
    }

    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.progress == ReplayProgress::Running
    }

    fn conflict(&self, message: String) -> Rejection {
        Rejection::Conflict {
            resource: Resource::Replay,
            id: self.id.to_string(),
            message,
        }
    }
}

/// What somebody wants of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayCommand {
    /// Record that a page was looked at.
    Advance {
        /// The last of the page.
        cursor: ReplayCursor,
        /// What of it was requested again.
        replayed: u64,
        /// What of it was left out.
        skipped: u64,
    },
    /// Record that there is nothing more.
    Complete,
    /// Stop.
    Cancel,
    /// Give up.
    Fail {
        /// Why, for a person.
        reason: String,
    },
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayChange {
    /// It came to be.
    Started,
    /// A page was looked at.
    Advanced {
        /// The last of the page.
        cursor: ReplayCursor,
        /// What of it was requested again.
        replayed: u64,
        /// What of it was left out.
        skipped: u64,
    },
    /// It has looked at everything.
    Completed,
    /// It was stopped.
    Cancelled,
    /// It could not go on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Starts a replay of `total` deliveries and messages. `rate_per_second` of `None` means as configured.
pub fn start(
    id: ReplayId,
    selection: Selection,
    rate_per_second: Option<u32>,
    total: u64,
    now: DateTime<Utc>,
) -> Result<(ReplayChange, Replay), Rejection> {
    let mut violations = selection.filter.violations();
    if rate_per_second.is_some_and(|rate| !(1..=limits::REPLAY_RATE).contains(&rate)) {
        let message = format!(
            "must be 1 to {}, or 0 for the configured one",
            limits::REPLAY_RATE
        );
        violations.push(FieldViolation::new("rate_per_second", message));
    }
    if !violations.is_empty() {
        return Err(Rejection::Invalid(violations));
    }
    let replay = Replay {
        id,
        selection,
        rate_per_second,
        total,
        cursor: None,
        replayed: 0,
        skipped: 0,
        progress: ReplayProgress::Running,
        reason: String::new(),
        started_at: now,
        ended_at: None,
    };
    Ok((ReplayChange::Started, replay))
}

/// Decides what `command` changes about `replay`; `None` when it is so already.
///
/// A page that was under way when the replay was cancelled is still recorded: its deliveries are requested.
pub fn decide(replay: &Replay, command: ReplayCommand) -> Result<Option<ReplayChange>, Rejection> {
    use ReplayProgress::{Cancelled, Completed, Failed, Running};
    let ended = || Err(replay.conflict(format!("is {}", replay.progress.as_str())));
    Ok(Some(match (replay.progress, command) {
        (
            Running | Cancelled,
            ReplayCommand::Advance {
                cursor,
                replayed,
                skipped,
            },
        ) => ReplayChange::Advanced {
            cursor,
            replayed,
            skipped,
        },
        (Running, ReplayCommand::Complete) => ReplayChange::Completed,
        (Running, ReplayCommand::Cancel) => ReplayChange::Cancelled,
        (Running, ReplayCommand::Fail { reason }) => ReplayChange::Failed { reason },
        (Cancelled, ReplayCommand::Cancel)
        | (Completed, ReplayCommand::Complete)
        | (Failed, ReplayCommand::Fail { .. }) => return Ok(None),
        _ => return ended(),
    }))
}

/// The replay after `change`, which was made at `now`.
pub fn evolve(replay: Replay, change: &ReplayChange, now: DateTime<Utc>) -> Replay {
    let ended = |progress, reason: &str| Replay {
        progress,
        reason: reason.to_owned(),
        ended_at: Some(now),
        ..replay.clone()
    };
    match change {
        ReplayChange::Started => replay,
        ReplayChange::Advanced {
            cursor,
            replayed,
            skipped,
        } => Replay {
            cursor: Some(*cursor),
            replayed: replay.replayed + replayed,
            skipped: replay.skipped + skipped,
            ..replay
        },
        ReplayChange::Completed => ended(ReplayProgress::Completed, ""),
        ReplayChange::Cancelled => ended(ReplayProgress::Cancelled, ""),
        ReplayChange::Failed { reason } => ended(ReplayProgress::Failed, reason),
    }
}

#[cfg(test)]
mod tests;
