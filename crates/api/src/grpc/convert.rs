//! Between the domain's types and the messages of `cuitty.webhooks.v1`.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{Attempt, Header, Timing};
use cuitty_webhooks_domain::delivery::{Conclusion, Delivery, DeliveryEvent, DeliveryStatus, FailureReason};
use cuitty_webhooks_domain::endpoint::{DisabledReason, Endpoint, EndpointDraft, EndpointKind};
use cuitty_webhooks_domain::ids::InvalidId;
use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_domain::replay::Replay;
use cuitty_webhooks_domain::signing::{
    InvalidScheme, PublicKey, SignatureCheck, SignatureScheme, Unverifiable,
};
use cuitty_webhooks_history::{AttemptRow, DeliveryDetail};
use cuitty_webhooks_proto::v1;
use prost_types::Timestamp;

use crate::app::{EndpointHealth, PageInput, Watched};

/// The id in a field that must hold one.
pub(super) fn id<T: FromStr<Err = InvalidId>>(field: &str, text: &str) -> Result<T, Rejection> {
    text.parse()
        .map_err(|error: InvalidId| Rejection::field(field, error.to_string()))
}

pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: at.timestamp(),
        nanos: at.timestamp_subsec_nanos() as i32,
    }
}

/// A time that a caller gave.
pub(super) fn time(field: &str, at: Option<Timestamp>) -> Result<Option<DateTime<Utc>>, Rejection> {
    at.map(|at| {
        u32::try_from(at.nanos)
            .ok()
            .and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos))
            .ok_or_else(|| Rejection::field(field, "must be a time of the years 1 to 9999"))
    })
    .transpose()
}

pub(super) fn page(page: Option<v1::PageRequest>) -> PageInput {
    let v1::PageRequest { limit, cursor } = page.unwrap_or_default();
    PageInput {
        limit: Some(limit).filter(|&limit| limit > 0),
        cursor,
        faults: Vec::new(),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn headers(headers: &[Header]) -> Vec<v1::Header> {
    headers
        .iter()
        .map(|header| v1::Header {
            name: header.name.clone(),
            value: header.value.clone(),
        })
        .collect()
}

fn kind(kind: EndpointKind) -> v1::EndpointKind {
    match kind {
        EndpointKind::Http => v1::EndpointKind::Http,
        EndpointKind::Slack => v1::EndpointKind::Slack,
        EndpointKind::Nats => v1::EndpointKind::Nats,
    }
}

/// The kind that a caller gave; unspecified means what the URL looks like.
pub(super) fn read_kind(kind: i32) -> Result<Option<EndpointKind>, Rejection> {
    match v1::EndpointKind::try_from(kind) {
        Ok(v1::EndpointKind::Unspecified) => Ok(None),
        Ok(v1::EndpointKind::Http) => Ok(Some(EndpointKind::Http)),
        Ok(v1::EndpointKind::Slack) => Ok(Some(EndpointKind::Slack)),
        Ok(v1::EndpointKind::Nats) => Ok(Some(EndpointKind::Nats)),
        Err(_) => Err(Rejection::field("kind", "must be a known kind")),
    }
}

fn scheme(scheme: SignatureScheme) -> v1::SignatureScheme {
    match scheme {
        SignatureScheme::HmacSha256 => v1::SignatureScheme::HmacSha256,
        SignatureScheme::Ed25519 => v1::SignatureScheme::Ed25519,
    }
}

/// The signature scheme that a caller asked for, if any.
pub(super) fn read_scheme(scheme: i32) -> Result<Option<SignatureScheme>, Rejection> {
    match v1::SignatureScheme::try_from(scheme) {
        Ok(v1::SignatureScheme::Unspecified) => Ok(None),
        Ok(v1::SignatureScheme::HmacSha256) => Ok(Some(SignatureScheme::HmacSha256)),
        Ok(v1::SignatureScheme::Ed25519) => Ok(Some(SignatureScheme::Ed25519)),
        Err(_) => Err(Rejection::field("signature_scheme", InvalidScheme.to_string())),
    }
}

pub(super) fn public_key(key: Option<PublicKey>) -> String {
    key.map(|key| key.to_string()).unwrap_or_default()
}

/// An endpoint as callers see it: its secrets without their values, and only those that still sign at `now`.
pub(super) fn endpoint(endpoint: &Endpoint, health: EndpointHealth, now: DateTime<Utc>) -> v1::Endpoint {
    let settings = &endpoint.settings;
    let secret = |secret: &cuitty_webhooks_domain::endpoint::Secret| v1::SecretInfo {
        id: secret.id.to_string(),
        created_at: Some(timestamp(secret.created_at)),
        expires_at: secret.expires_at.map(timestamp),
        scheme: scheme(secret.sealed.scheme()).into(),
        public_key: public_key(secret.sealed.public_key),
    };
    v1::Endpoint {
        id: endpoint.id.to_string(),
        project_id: endpoint.project_id.to_string(),
        kind: kind(settings.kind).into(),
        url: settings.url.clone(),
        event_types: settings.event_types.iter().map(ToString::to_string).collect(),
        description: settings.description.clone(),
        active: endpoint.is_active(),
        disabled_reason: endpoint
            .disabled_reason
            .map(DisabledReason::as_str)
            .unwrap_or_default()
            .to_owned(),
        headers: headers(&settings.headers),
        signature_header: settings.signature_header.clone().unwrap_or_default(),
        timeout_ms: settings.timeout.as_millis() as u32,
        max_in_flight: settings.max_in_flight,
        rate_limit_per_second: settings.rate_limit_per_second.unwrap_or_default(),
        ordered: settings.ordered,
        retry_schedule_seconds: settings.retry_schedule_seconds.clone(),
        envelope: settings.envelope,
        secrets: endpoint.live_secrets(now).map(secret).collect(),
        created_at: Some(timestamp(endpoint.created_at)),
        updated_at: Some(timestamp(endpoint.updated_at)),
        revision: endpoint.revision,
        signature_scheme: scheme(endpoint.signature_scheme()).into(),
        health: Some(v1::EndpointHealth {
            state: health.state.as_str().to_owned(),
            breaker: health.breaker.as_str().to_owned(),
            since: health.since.map(timestamp),
            consecutive_failures: health.consecutive_failures,
            next_probe_at: health.next_probe_at.map(timestamp),
            waiting: health.waiting,
        }),
        blocked_by: health.blocked_by.map(|blocked| v1::BlockedBy {
            delivery_id: blocked.delivery_id.to_string(),
            attempts: blocked.attempts,
            next_attempt_at: Some(timestamp(blocked.next_attempt_at)),
        }),
    }
}

fn pairs(headers: Vec<v1::Header>) -> Vec<(String, String)> {
    headers
        .into_iter()
        .map(|header| (header.name, header.value))
        .collect()
}

/// The settings of a new endpoint; 0 stands for a default.
pub(super) fn new_draft(request: v1::CreateEndpointRequest) -> Result<EndpointDraft, Rejection> {
    let default = EndpointDraft::default();
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    Ok(EndpointDraft {
        kind: read_kind(request.kind)?,
        url: request.url,
        event_types: request.event_types,
        description: request.description,
        headers: pairs(request.headers),
        signature_header: request.signature_header,
        timeout_ms: or(request.timeout_ms, default.timeout_ms),
        max_in_flight: or(request.max_in_flight, default.max_in_flight),
        rate_limit_per_second: request.rate_limit_per_second,
        ordered: request.ordered,
        retry_schedule_seconds: request.retry_schedule_seconds,
        envelope: request.envelope,
    })
}

/// The new values of an update, as they stand. A kind that is not known is left out.
pub(super) fn update_draft(endpoint: v1::Endpoint) -> EndpointDraft {
    EndpointDraft {
        kind: read_kind(endpoint.kind).unwrap_or_default(),
        url: endpoint.url,
        event_types: endpoint.event_types,
        description: endpoint.description,
        headers: pairs(endpoint.headers),
        signature_header: endpoint.signature_header,
        timeout_ms: endpoint.timeout_ms,
        max_in_flight: endpoint.max_in_flight,
        rate_limit_per_second: endpoint.rate_limit_per_second,
        ordered: endpoint.ordered,
        retry_schedule_seconds: endpoint.retry_schedule_seconds,
        envelope: endpoint.envelope,
    }
}

/// The status that a caller asks for; unspecified leaves it open.
pub(super) fn read_status(status: i32) -> Result<Option<DeliveryStatus>, Rejection> {
    match v1::DeliveryStatus::try_from(status) {
        Ok(v1::DeliveryStatus::Unspecified) => Ok(None),
        Ok(v1::DeliveryStatus::Pending) => Ok(Some(DeliveryStatus::Pending)),
        Ok(v1::DeliveryStatus::Delivered) => Ok(Some(DeliveryStatus::Delivered)),
        Ok(v1::DeliveryStatus::Failed) => Ok(Some(DeliveryStatus::Failed)),
        Err(_) => Err(Rejection::field("status", "must be pending, delivered or failed")),
    }
}

fn status(status: DeliveryStatus) -> v1::DeliveryStatus {
    match status {
        DeliveryStatus::Pending => v1::DeliveryStatus::Pending,
        DeliveryStatus::Delivered => v1::DeliveryStatus::Delivered,
        DeliveryStatus::Failed => v1::DeliveryStatus::Failed,
    }
}

pub(super) fn delivery(state: &Delivery) -> v1::Delivery {
    let names = &state.delivery;
    v1::Delivery {
        id: names.delivery_id.to_string(),
        project_id: names.project_id.to_string(),
        endpoint_id: names.endpoint_id.to_string(),
        message_id: names.message_id.to_string(),
        event_type: names.event_type.to_string(),
        status: status(state.status).into(),
        failure_reason: state
            .failure_reason
            .map(FailureReason::as_str)
            .unwrap_or_default()
            .to_owned(),
        origin: state.origin.as_str().to_owned(),
        replay_of: state.replay_of.map(|id| id.to_string()).unwrap_or_default(),
        attempt_count: state.attempt_count,
        next_attempt_at: state.next_attempt_at.map(timestamp),
        created_at: Some(timestamp(state.created_at)),
        completed_at: state.completed_at.map(timestamp),
        response_status: state.response_status.map(u32::from).unwrap_or_default(),
    }
}

/// `checks` are those of the attempts' signatures, for each attempt in turn; none when they were not asked for.
pub(super) fn delivery_detail(detail: &DeliveryDetail, checks: &[Vec<SignatureCheck>]) -> v1::DeliveryDetail {
    let row = |(index, row): (usize, &AttemptRow)| v1::Attempt {
        signature_checks: checks
            .get(index)
            .map(|checks| checks.iter().map(signature_check).collect())
            .unwrap_or_default(),
        ..attempt(&row.attempt, row.next_attempt_at)
    };
    v1::DeliveryDetail {
        delivery: Some(delivery(&detail.delivery)),
        payload: detail.payload.clone(),
        content_type: detail.content_type.clone(),
        attempts: detail.attempts.iter().enumerate().map(row).collect(),
    }
}

fn signature_check(check: &SignatureCheck) -> v1::SignatureCheck {
    v1::SignatureCheck {
        secret_id: check.secret_id.to_string(),
        scheme: check
            .scheme
            .map(SignatureScheme::as_str)
            .unwrap_or_default()
            .to_owned(),
        header: check.header.clone(),
        valid: check.valid.ok(),
        reason: check
            .valid
            .err()
            .map(Unverifiable::as_str)
            .unwrap_or_default()
            .to_owned(),
    }
}

fn attempt(attempt: &Attempt, next_attempt_at: Option<DateTime<Utc>>) -> v1::Attempt {
    v1::Attempt {
        number: attempt.number,
        started_at: Some(timestamp(attempt.started_at)),
        duration_ms: millis(attempt.duration),
        outcome: if attempt.succeeded() {
            "succeeded"
        } else {
            "failed"
        }
        .to_owned(),
        request: Some(v1::AttemptRequest {
            url: attempt.request.url.clone(),
            headers: headers(&attempt.request.headers),
            signed_with: attempt
                .request
                .signed_with
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
        response: attempt.response.as_ref().map(|response| v1::AttemptResponse {
            status: response.status.into(),
            headers: headers(&response.headers),
            body: response.body.clone(),
            body_truncated: response.body_truncated,
        }),
        error: attempt.error.as_ref().map(|error| v1::AttemptError {
            class: error.class.as_str().to_owned(),
            message: error.message.clone(),
        }),
        timing: Some(timing(attempt.timing)),
        remote_address: attempt
            .remote_address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        endpoint_revision: attempt.endpoint_revision,
        trace_id: attempt.trace_id.clone(),
        next_attempt_at: next_attempt_at.map(timestamp),
        dispatcher_id: attempt.dispatcher_id.clone(),
        signature_checks: Vec::new(),
    }
}

fn timing(timing: Timing) -> v1::Timing {
    v1::Timing {
        queue_ms: millis(timing.queue),
        dns_ms: timing.dns.map(millis),
        connect_ms: timing.connect.map(millis),
        tls_ms: timing.tls.map(millis),
        first_byte_ms: timing.first_byte.map(millis),
    }
}

pub(super) fn replay(replay: &Replay) -> v1::Replay {
    v1::Replay {
        id: replay.id.to_string(),
        state: replay.progress.as_str().to_owned(),
        total: replay.total,
        replayed: replay.replayed,
        skipped: replay.skipped,
        started_at: Some(timestamp(replay.started_at)),
        ended_at: replay.ended_at.map(timestamp),
        reason: replay.reason.clone(),
        project_id: replay.project_id().to_string(),
    }
}

/// A delivery event as watchers see it; `None` for kinds that they are not shown.
pub(super) fn delivery_event(watched: &Watched) -> Option<v1::DeliveryEvent> {
    let (names, kind, at, concluded) = match &watched.event {
        DeliveryEvent::Requested(requested) => {
            (&requested.delivery, "requested", requested.requested_at, None)
        }
        DeliveryEvent::Concluded(concluded) => {
            let kind = match concluded.conclusion {
                Conclusion::Retry { .. } => "attempted",
                Conclusion::Succeeded => "succeeded",
                Conclusion::Failed { .. } => "failed",
            };
            (&concluded.delivery, kind, concluded.at, Some(concluded))
        }
        DeliveryEvent::Due(_) | DeliveryEvent::Unmatched(_) => return None,
    };
    let (next_attempt_at, failure_reason) = match concluded.map(|concluded| concluded.conclusion) {
        Some(Conclusion::Retry { next_attempt_at }) => (Some(next_attempt_at), None),
        Some(Conclusion::Failed { reason }) => (None, Some(reason)),
        Some(Conclusion::Succeeded) | None => (None, None),
    };
    Some(v1::DeliveryEvent {
        log_sequence: watched.sequence,
        kind: kind.to_owned(),
        delivery_id: names.delivery_id.to_string(),
        message_id: names.message_id.to_string(),
        project_id: names.project_id.to_string(),
        endpoint_id: names.endpoint_id.to_string(),
        event_type: names.event_type.to_string(),
        at: Some(timestamp(at)),
        attempt: concluded
            .and_then(|concluded| concluded.attempt.as_ref())
            .map(|ended| attempt(ended, next_attempt_at)),
        next_attempt_at: next_attempt_at.map(timestamp),
        failure_reason: failure_reason
            .map(FailureReason::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

#[cfg(test)]
mod tests;
