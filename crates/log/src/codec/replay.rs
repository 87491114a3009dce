//! Changes of bulk replays.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::DeliveryStatus;
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::replay::{
    Replay, ReplayChange, ReplayCursor, ReplayFilter, ReplayProgress, Selection,
};
use cuitty_webhooks_proto::events::v1 as stored;
use prost::Message;
use stored::replay_changed::Change;
use stored::replay_cursor::Position;

use super::delivery::{decode_reason, encode_reason};
use super::fields::{enumerated, parse, parse_optional, required, time};
use crate::codec::CodecError;

/// A change of a bulk replay as it is stored: what changed, who did it and when, and the whole new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRecord {
    /// What changed.
    pub change: ReplayChange,
    /// Who did it.
    pub actor: Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// The replay after the change.
    pub replay: Replay,
}

/// The stored form of a change that was made at `at`.
pub fn encode_replay(change: &ReplayChange, replay: &Replay, actor: &Actor, at: DateTime<Utc>) -> Bytes {
    let change = match change {
        ReplayChange::Started => Change::Started(stored::ReplayStarted {}),
        &ReplayChange::Advanced {
            cursor,
            replayed,
            skipped,
        } => Change::Advanced(stored::ReplayAdvanced {
            cursor: Some(encode_cursor(cursor)),
            replayed,
            skipped,
        }),
        ReplayChange::Completed => Change::Completed(stored::ReplayCompleted {}),
        ReplayChange::Cancelled => Change::Cancelled(stored::ReplayCancelled {}),
        ReplayChange::Failed { reason } => Change::Failed(stored::ReplayFailed {
            reason: reason.clone(),
        }),
    };
    let message = stored::ReplayChanged {
        change: Some(change),
        actor: Some(stored::Actor {
            id: actor.id.clone(),
            process: actor.process.clone(),
        }),
        at_us: at.timestamp_micros(),
        state: Some(encode_state(replay)),
    };
    message.encode_to_vec().into()
}

/// Reads the stored form of a change.
pub fn decode_replay(body: Bytes) -> Result<ReplayRecord, CodecError> {
    let message = stored::ReplayChanged::decode(body)?;
    let actor = required("actor", message.actor)?;
    let change = match required("change", message.change)? {
        Change::Started(_) => ReplayChange::Started,
        Change::Advanced(advanced) => ReplayChange::Advanced {
            cursor: decode_cursor(required("change.advanced.cursor", advanced.cursor)?)?,
            replayed: advanced.replayed,
            skipped: advanced.skipped,
        },
        Change::Completed(_) => ReplayChange::Completed,
        Change::Cancelled(_) => ReplayChange::Cancelled,
        Change::Failed(failed) => ReplayChange::Failed {
            reason: failed.reason,
        },
    };
    Ok(ReplayRecord {
        change,
        actor: Actor {
            id: actor.id,
            process: actor.process,
        },
        at: time("at_us", message.at_us)?,
        replay: decode_state(required("state", message.state)?)?,
    })
}

fn encode_state(replay: &Replay) -> stored::ReplayState {
    let selection = &replay.selection;
    let filter = &selection.filter;
    let micros = |at: DateTime<Utc>| at.timestamp_micros();
    stored::ReplayState {
        id: replay.id.to_string(),
        project_id: filter.project_id.to_string(),
        endpoint_id: filter.endpoint_id.map(|id| id.to_string()).unwrap_or_default(),
        status: encode_status(filter.status).into(),
        failure_reasons: filter
            .failure_reasons
            .iter()
            .map(|&reason| encode_reason(reason).into())
            .collect(),
        event_type: filter
            .event_types
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        since_us: filter.since.map(micros),
        until_us: filter.until.map(micros),
        since_disabled: filter.since_disabled,
        disabled_at_us: selection.disabled_at.map(micros),
        include_unmatched: filter.include_unmatched,
        through_sequence: selection.through_sequence,
        rate_per_second: replay.rate_per_second.unwrap_or_default(),
        total: replay.total,
        cursor: replay.cursor.map(encode_cursor),
        replayed: replay.replayed,
        skipped: replay.skipped,
        progress: encode_progress(replay.progress).into(),
        reason: replay.reason.clone(),
        started_at_us: micros(replay.started_at),
        ended_at_us: replay.ended_at.map(micros),
    }
}

fn decode_state(state: stored::ReplayState) -> Result<Replay, CodecError> {
    let optional_time = |field, micros: Option<i64>| micros.map(|micros| time(field, micros)).transpose();
    let started_at = time("state.started_at_us", state.started_at_us)?;
    let filter = ReplayFilter {
        project_id: parse("state.project_id", &state.project_id)?,
        endpoint_id: parse_optional("state.endpoint_id", &state.endpoint_id)?,
        status: enumerated("state.status", state.status, decode_status)?,
        failure_reasons: state
            .failure_reasons
            .into_iter()
            .map(|reason| enumerated("state.failure_reasons", reason, decode_reason))
            .collect::<Result<_, _>>()?,
        event_types: parse_optional("state.event_type", &state.event_type)?,
        since: optional_time("state.since_us", state.since_us)?,
        until: optional_time("state.until_us", state.until_us)?,
        since_disabled: state.since_disabled,
        include_unmatched: state.include_unmatched,
    };
    Ok(Replay {
        id: parse("state.id", &state.id)?,
        selection: Selection {
            filter,
            disabled_at: optional_time("state.disabled_at_us", state.disabled_at_us)?,
            through_sequence: state.through_sequence,
            before: started_at,
        },
        rate_per_second: Some(state.rate_per_second).filter(|&rate| rate > 0),
        total: state.total,
        cursor: state.cursor.map(decode_cursor).transpose()?,
        replayed: state.replayed,
        skipped: state.skipped,
        progress: enumerated("state.progress", state.progress, decode_progress)?,
        reason: state.reason,
        started_at,
        ended_at: optional_time("state.ended_at_us", state.ended_at_us)?,
    })
}

fn encode_cursor(cursor: ReplayCursor) -> stored::ReplayCursor {
    let position = match cursor {
        ReplayCursor::Delivery { created_at, id } => Position::Delivery(stored::ReplayedDelivery {
            created_at_us: created_at.timestamp_micros(),
            delivery_id: id.to_string(),
        }),
        ReplayCursor::Unmatched(id) => Position::MessageId(id.map(|id| id.to_string()).unwrap_or_default()),
    };
    stored::ReplayCursor {
        position: Some(position),
    }
}

fn decode_cursor(cursor: stored::ReplayCursor) -> Result<ReplayCursor, CodecError> {
    Ok(match required("cursor.position", cursor.position)? {
        Position::Delivery(delivery) => ReplayCursor::Delivery {
            created_at: time("cursor.delivery.created_at_us", delivery.created_at_us)?,
            id: parse("cursor.delivery.delivery_id", &delivery.delivery_id)?,
        },
        Position::MessageId(id) => ReplayCursor::Unmatched(parse_optional("cursor.message_id", &id)?),
    })
}

/// A replay of what is pending is refused before it is stored.
fn encode_status(status: DeliveryStatus) -> stored::ReplayedStatus {
    match status {
        DeliveryStatus::Pending => stored::ReplayedStatus::Unspecified,
        DeliveryStatus::Delivered => stored::ReplayedStatus::Delivered,
        DeliveryStatus::Failed => stored::ReplayedStatus::Failed,
    }
}

fn decode_status(status: stored::ReplayedStatus) -> Option<DeliveryStatus> {
    Some(match status {
        stored::ReplayedStatus::Unspecified => return None,
        stored::ReplayedStatus::Delivered => DeliveryStatus::Delivered,
        stored::ReplayedStatus::Failed => DeliveryStatus::Failed,
    })
}

fn encode_progress(progress: ReplayProgress) -> stored::ReplayProgress {
    match progress {
        ReplayProgress::Running => stored::ReplayProgress::Running,
        ReplayProgress::Completed => stored::ReplayProgress::Completed,
        ReplayProgress::Cancelled => stored::ReplayProgress::Cancelled,
        ReplayProgress::Failed => stored::ReplayProgress::Failed,
    }
}

fn decode_progress(progress: stored::ReplayProgress) -> Option<ReplayProgress> {
    Some(match progress {
        stored::ReplayProgress::Unspecified => return None,
        stored::ReplayProgress::Running => ReplayProgress::Running,
        stored::ReplayProgress::Completed => ReplayProgress::Completed,
        stored::ReplayProgress::Cancelled => ReplayProgress::Cancelled,
        stored::ReplayProgress::Failed => ReplayProgress::Failed,
    })
}
