//! Bulk replays as REST asks for them and shows them.

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::replay::{Replay, ReplayProgress};
use serde::Serialize;
use utoipa::ToSchema;

/// Which deliveries to send again; every part that is given must hold. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = NewReplay)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read member by member")]
pub(in crate::rest) struct NewReplayBody {
    /// May be left out with a key that is bound to one project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    project_id: Option<String>,
    /// To this endpoint only.
    #[schema(pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    endpoint_id: Option<String>,
    /// How they ended. Left out, it is `failed`.
    status: Option<EndedStatus>,
    /// Failed for one of these reasons; empty means any.
    failure_reasons: Option<Vec<Reason>>,
    /// An event type, `budget.*`, or `*`.
    #[schema(
        pattern = r"^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$",
        max_length = 128
    )]
    event_type: Option<String>,
    /// Created at or after.
    since: Option<DateTime<Utc>>,
    /// Created before.
    until: Option<DateTime<Utc>>,
    /// Those that failed because the endpoint was disabled, from the last time on that it was.
    since_disabled: Option<bool>,
    /// Messages that no endpoint had subscribed to, too.
    include_unmatched: Option<bool>,
    /// 0 means as configured.
    #[schema(minimum = 0, maximum = 10_000)]
    rate_per_second: Option<u32>,
    /// Only count.
    dry_run: Option<bool>,
}

/// How a delivery ended.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what is read by its name")]
enum EndedStatus {
    Delivered,
    Failed,
}

/// Why a delivery failed.
#[derive(ToSchema)]
#[schema(as = FailureReason, rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what is read by its name")]
enum Reason {
    Exhausted,
    Gone,
    EndpointDisabled,
    EndpointDeleted,
    Expired,
    Cancelled,
    Aborted,
}

/// Where a bulk replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReplayState {
    Running,
    Done,
    Cancelled,
    Failed,
}

/// A bulk replay.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replay)]
pub(in crate::rest) struct ReplayBody {
    #[schema(example = "rpl_01h455vb4pex5vsknk084sn02q")]
    id: String,
    project_id: String,
    state: ReplayState,
    /// Deliveries and messages that were selected when it started.
    total: u64,
    /// What was requested again.
    replayed: u64,
    /// What was left out: its endpoint takes nothing now.
    skipped: u64,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// Why it failed.
    reason: Option<String>,
}

impl ReplayBody {
    pub(in crate::rest) fn new(replay: &Replay) -> Self {
        Self {
            id: replay.id.to_string(),
            project_id: replay.project_id().to_string(),
            state: match replay.progress {
                ReplayProgress::Running => ReplayState::Running,
                ReplayProgress::Completed => ReplayState::Done,
                ReplayProgress::Cancelled => ReplayState::Cancelled,
                ReplayProgress::Failed => ReplayState::Failed,
            },
            total: replay.total,
            replayed: replay.replayed,
            skipped: replay.skipped,
            started_at: replay.started_at,
            ended_at: replay.ended_at,
            reason: Some(replay.reason.clone()).filter(|reason| !reason.is_empty()),
        }
    }
}

/// What a bulk replay would be. Nothing was started.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayCount)]
pub(in crate::rest) struct CountBody {
    project_id: String,
    /// Always `dry_run`.
    #[schema(example = "dry_run")]
    state: &'static str,
    /// Deliveries and messages that are selected.
    total: u64,
}

impl CountBody {
    pub(in crate::rest) fn new(project_id: &ProjectId, total: u64) -> Self {
        Self {
            project_id: project_id.to_string(),
            state: "dry_run",
            total,
        }
    }
}
