//! Facts about deliveries.

use bytes::Bytes;
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DeliveryEvent, DeliveryRef, Due, FailureReason, Origin, Requested, Unmatched,
};
use cuitty_webhooks_proto::events::v1 as stored;
use prost::Message;

use super::attempt::{decode_attempt, encode_attempt};
use super::fields::{enumerated, parse, parse_optional, required, time};
use crate::codec::CodecError;
use crate::subjects::{Kind, Outcome};

/// The stored form of a request, caused by `traceparent`.
pub fn encode_requested(event: &Requested, traceparent: &str) -> Bytes {
    let message = stored::Requested {
        delivery: Some(encode_ref(&event.delivery)),
        content_type: event.content_type.clone(),
        payload: event.payload.clone(),
        requested_at_us: event.requested_at.timestamp_micros(),
        origin: encode_origin(event.origin).into(),
        replay_of: event.replay_of.map(|id| id.to_string()).unwrap_or_default(),
        traceparent: traceparent.to_owned(),
        deadline_us: event.deadline.timestamp_micros(),
    };
    message.encode_to_vec().into()
}

/// The stored form of a due attempt, which is also the body of its timer.
pub fn encode_due(event: &Due) -> Bytes {
    let message = stored::Due {
        delivery: Some(encode_ref(&event.delivery)),
        requested_sequence: event.requested_sequence,
        attempt_number: event.attempt_number,
        due_at_us: event.due_at.timestamp_micros(),
    };
    message.encode_to_vec().into()
}

/// The stored form of an attempt's end. How it ended is told by the message's [`Kind`].
pub fn encode_concluded(event: &Concluded) -> Bytes {
    let (next_attempt_at_us, failure_reason) = match event.conclusion {
        Conclusion::Retry { next_attempt_at } => (
            Some(next_attempt_at.timestamp_micros()),
            stored::FailureReason::Unspecified,
        ),
        Conclusion::Succeeded => (None, stored::FailureReason::Unspecified),
        Conclusion::Failed { reason } => (None, encode_reason(reason)),
    };
    let message = stored::AttemptConcluded {
        delivery: Some(encode_ref(&event.delivery)),
        requested_sequence: event.requested_sequence,
        attempt: event.attempt.as_ref().map(encode_attempt),
        next_attempt_at_us,
        failure_reason: failure_reason.into(),
        concluded_at_us: event.at.timestamp_micros(),
    };
    message.encode_to_vec().into()
}

/// The stored form of a message that matched no endpoint, caused by `traceparent`.
pub fn encode_unmatched(event: &Unmatched, traceparent: &str) -> Bytes {
    let message = stored::Unmatched {
        message_id: event.message_id.to_string(),
        project_id: event.project_id.to_string(),
        event_type: event.event_type.to_string(),
        content_type: event.content_type.clone(),
        payload: event.payload.clone(),
        requested_at_us: event.requested_at.timestamp_micros(),
        traceparent: traceparent.to_owned(),
    };
    message.encode_to_vec().into()
}

/// Reads the stored form of a fact about a delivery.
pub fn decode_event(kind: Kind, body: Bytes) -> Result<DeliveryEvent, CodecError> {
    Ok(match kind {
        Kind::Requested => DeliveryEvent::Requested(decode_requested(body)?),
        Kind::Due => DeliveryEvent::Due(decode_due(body)?),
        Kind::Attempted | Kind::Succeeded | Kind::Failed => {
            DeliveryEvent::Concluded(Box::new(decode_concluded(kind, body)?))
        }
        Kind::Unmatched => DeliveryEvent::Unmatched(decode_unmatched(body)?),
        Kind::Endpoint | Kind::Replay | Kind::ApiKey | Kind::EventType | Kind::Project => {
            let message = format!("`{}` is not a fact about a delivery", kind.as_str());
            return Err(CodecError::Invalid {
                field: "kind",
                message,
            });
        }
    })
}

/// Reads the stored form of a request.
pub(crate) fn decode_requested(body: Bytes) -> Result<Requested, CodecError> {
    let message = stored::Requested::decode(body)?;
    Ok(Requested {
        delivery: decode_ref(message.delivery)?,
        content_type: message.content_type,
        payload: message.payload,
        requested_at: time("requested_at_us", message.requested_at_us)?,
        origin: enumerated("origin", message.origin, decode_origin)?,
        replay_of: parse_optional("replay_of", &message.replay_of)?,
        traceparent: message.traceparent,
        deadline: time("deadline_us", message.deadline_us)?,
    })
}

/// Reads the stored form of a due attempt.
pub(crate) fn decode_due(body: Bytes) -> Result<Due, CodecError> {
    let message = stored::Due::decode(body)?;
    Ok(Due {
        delivery: decode_ref(message.delivery)?,
        requested_sequence: message.requested_sequence,
        attempt_number: message.attempt_number,
        due_at: time("due_at_us", message.due_at_us)?,
    })
}

fn decode_concluded(kind: Kind, body: Bytes) -> Result<Concluded, CodecError> {
    let message = stored::AttemptConcluded::decode(body)?;
    let conclusion = match kind {
        Kind::Attempted => {
            let micros = required("next_attempt_at_us", message.next_attempt_at_us)?;
            Conclusion::Retry {
                next_attempt_at: time("next_attempt_at_us", micros)?,
            }
        }
        Kind::Succeeded => Conclusion::Succeeded,
        _ => Conclusion::Failed {
            reason: enumerated("failure_reason", message.failure_reason, decode_reason)?,
        },
    };
    let attempt = message.attempt.map(decode_attempt).transpose()?;
    if attempt.is_none() && !matches!(conclusion, Conclusion::Failed { .. }) {
        return Err(CodecError::Missing("attempt"));
    }
    Ok(Concluded {
        delivery: decode_ref(message.delivery)?,
        requested_sequence: message.requested_sequence,
        attempt,
        conclusion,
        at: time("concluded_at_us", message.concluded_at_us)?,
    })
}

fn decode_unmatched(body: Bytes) -> Result<Unmatched, CodecError> {
    let message = stored::Unmatched::decode(body)?;
    Ok(Unmatched {
        message_id: parse("message_id", &message.message_id)?,
        project_id: parse("project_id", &message.project_id)?,
        event_type: parse("event_type", &message.event_type)?,
        content_type: message.content_type,
        payload: message.payload,
        requested_at: time("requested_at_us", message.requested_at_us)?,
        traceparent: message.traceparent,
    })
}

/// How the end of an attempt is stored.
pub(crate) fn outcome_of(conclusion: &Conclusion) -> Outcome {
    match conclusion {
        Conclusion::Retry { .. } => Outcome::Attempted,
        Conclusion::Succeeded => Outcome::Succeeded,
        Conclusion::Failed { .. } => Outcome::Failed,
    }
}

fn encode_ref(delivery: &DeliveryRef) -> stored::DeliveryRef {
    stored::DeliveryRef {
        delivery_id: delivery.delivery_id.to_string(),
        message_id: delivery.message_id.to_string(),
        project_id: delivery.project_id.to_string(),
        endpoint_id: delivery.endpoint_id.to_string(),
        event_type: delivery.event_type.to_string(),
    }
}

fn decode_ref(delivery: Option<stored::DeliveryRef>) -> Result<DeliveryRef, CodecError> {
    let delivery = required("delivery", delivery)?;
    Ok(DeliveryRef {
        delivery_id: parse("delivery.delivery_id", &delivery.delivery_id)?,
        message_id: parse("delivery.message_id", &delivery.message_id)?,
        project_id: parse("delivery.project_id", &delivery.project_id)?,
        endpoint_id: parse("delivery.endpoint_id", &delivery.endpoint_id)?,
        event_type: parse("delivery.event_type", &delivery.event_type)?,
    })
}

fn encode_origin(origin: Origin) -> stored::Origin {
    match origin {
        Origin::Event => stored::Origin::Event,
        Origin::Test => stored::Origin::Test,
        Origin::Replay => stored::Origin::Replay,
    }
}

fn decode_origin(origin: stored::Origin) -> Option<Origin> {
    Some(match origin {
        stored::Origin::Unspecified => return None,
        stored::Origin::Event => Origin::Event,
        stored::Origin::Test => Origin::Test,
        stored::Origin::Replay => Origin::Replay,
    })
}

pub(super) fn encode_reason(reason: FailureReason) -> stored::FailureReason {
    match reason {
        FailureReason::Exhausted => stored::FailureReason::Exhausted,
        FailureReason::Gone => stored::FailureReason::Gone,
        FailureReason::EndpointDisabled => stored::FailureReason::EndpointDisabled,
        FailureReason::EndpointDeleted => stored::FailureReason::EndpointDeleted,
        FailureReason::Expired => stored::FailureReason::Expired,
        FailureReason::Cancelled => stored::FailureReason::Cancelled,
        FailureReason::Aborted => stored::FailureReason::Aborted,
    }
}

pub(super) fn decode_reason(reason: stored::FailureReason) -> Option<FailureReason> {
    Some(match reason {
        stored::FailureReason::Unspecified => return None,
        stored::FailureReason::Exhausted => FailureReason::Exhausted,
        stored::FailureReason::Gone => FailureReason::Gone,
        stored::FailureReason::EndpointDisabled => FailureReason::EndpointDisabled,
        stored::FailureReason::EndpointDeleted => FailureReason::EndpointDeleted,
        stored::FailureReason::Expired => FailureReason::Expired,
        stored::FailureReason::Cancelled => FailureReason::Cancelled,
        stored::FailureReason::Aborted => FailureReason::Aborted,
    })
}
