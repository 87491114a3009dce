//! A message as it comes in, checked, and the facts that it becomes.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, DeliveryRef, Origin, Requested, Unmatched};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};
use cuitty_webhooks_log::Intent;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::app::input::Violations;
use crate::auth::Caller;

const JSON: &str = "application/json";

/// A message as a caller gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewMessage {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) event_type: String,
    /// Kept byte for byte.
    pub(crate) payload: Bytes,
    /// Only to this endpoint; empty means to all that match.
    pub(crate) endpoint_id: String,
    /// Empty means none.
    pub(crate) idempotency_key: String,
    /// Empty means JSON.
    pub(crate) content_type: String,
    /// Well formed, or empty.
    pub(crate) traceparent: String,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

/// A message whose fields are well formed.
#[derive(Debug, Clone)]
pub(in crate::app) struct Message {
    pub(in crate::app) project_id: ProjectId,
    pub(in crate::app) event_type: EventType,
    pub(in crate::app) payload: Bytes,
    pub(super) endpoint_id: Option<EndpointId>,
    pub(in crate::app) idempotency_key: String,
    pub(super) content_type: String,
    pub(super) traceparent: String,
    pub(super) origin: Origin,
    /// What a synthetic event says instead of the usual; not part of what is asked for.
    pub(in crate::app) example: Option<Bytes>,
}

impl NewMessage {
    pub(super) fn read(self, caller: &Caller) -> Result<Message, Rejection> {
        if self.payload.len() > limits::PAYLOAD_BYTES {
            return Err(Rejection::PayloadTooLarge {
                actual: self.payload.len(),
                limit: limits::PAYLOAD_BYTES,
            });
        }
        let mut violations = Violations::after(self.faults);
        let project_id = violations.project(caller, &self.project_id);
        let event_type = violations.parse("event_type", &self.event_type);
        let endpoint_id = violations.parse_some("endpoint_id", &self.endpoint_id);
        violations.idempotency_key(&self.idempotency_key);
        let content_type = if self.content_type.is_empty() {
            JSON.to_owned()
        } else {
            self.content_type
        };
        if !is_media_type(&content_type) {
            let text = format!(
                "must be a media type of at most {} bytes",
                limits::CONTENT_TYPE_BYTES
            );
            violations.add("content_type", text);
        } else if is_json(&content_type)
            && let Err(error) = serde_json::from_slice::<&RawValue>(&self.payload)
        {
            violations.add("payload", format!("must be JSON: {error}"));
        }
        let message = project_id
            .zip(event_type)
            .map(|(project_id, event_type)| Message {
                project_id,
                event_type,
                payload: self.payload,
                endpoint_id,
                idempotency_key: self.idempotency_key,
                content_type,
                traceparent: self.traceparent,
                origin: Origin::Event,
                example: None,
            });
        violations.finish(message)
    }
}

impl Message {
    /// A synthetic event. It has no payload before it is [`requested`](Self::requested): what repeats it under the same key
    /// is the same request, at whatever time it comes.
    pub(super) fn test(
        project_id: ProjectId,
        endpoint_id: EndpointId,
        event_type: &str,
        idempotency_key: String,
    ) -> Result<Self, Rejection> {
        let mut violations = Violations::default();
        let event_type = violations.parse::<EventType>("event_type", event_type);
        violations.idempotency_key(&idempotency_key);
        Ok(Self {
            project_id,
            event_type: violations.finish(event_type)?,
            payload: Bytes::new(),
            endpoint_id: Some(endpoint_id),
            idempotency_key,
            content_type: JSON.to_owned(),
            traceparent: String::new(),
            origin: Origin::Test,
            example: None,
        })
    }

    /// Whether the payload is JSON.
    pub(in crate::app) fn is_json(&self) -> bool {
        is_json(&self.content_type)
    }

    /// One request per endpoint. The payload is shared, not copied.
    pub(super) fn requested(&self, intent: &Intent) -> Vec<Requested> {
        let &Intent {
            message_id,
            requested_at,
            ..
        } = intent;
        let payload = match self.origin {
            Origin::Test => {
                (self.example.clone()).unwrap_or_else(|| test_payload(&self.event_type, requested_at))
            }
            Origin::Event | Origin::Replay => self.payload.clone(),
        };
        let request_to = |&endpoint_id: &EndpointId| Requested {
            delivery: DeliveryRef {
                delivery_id: DeliveryId::derive(message_id, endpoint_id),
                message_id,
                project_id: self.project_id.clone(),
                endpoint_id,
                event_type: self.event_type.clone(),
            },
            content_type: self.content_type.clone(),
            payload: payload.clone(),
            requested_at,
            origin: self.origin,
            replay_of: None,
            traceparent: self.traceparent.clone(),
            deadline: requested_at + DEFAULT_DEADLINE,
        };
        intent.endpoint_ids.iter().map(request_to).collect()
    }

    pub(super) fn unmatched(&self, intent: &Intent) -> Unmatched {
        Unmatched {
            message_id: intent.message_id,
            project_id: self.project_id.clone(),
            event_type: self.event_type.clone(),
            content_type: self.content_type.clone(),
            payload: self.payload.clone(),
            requested_at: intent.requested_at,
            traceparent: self.traceparent.clone(),
        }
    }

    /// Tells requests under one idempotency key apart. Every part is preceded by its length.
    pub(in crate::app) fn fingerprint(&self) -> [u8; 32] {
        let endpoint_id = self.endpoint_id.map(|id| id.uuid().into_bytes());
        let parts: [&[u8]; 5] = [
            self.project_id.as_str().as_bytes(),
            self.event_type.as_str().as_bytes(),
            endpoint_id.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            self.content_type.as_bytes(),
            &self.payload,
        ];
        let hash = parts.iter().fold(Sha256::new(), |hash, part| {
            hash.chain_update((part.len() as u64).to_be_bytes())
                .chain_update(part)
        });
        hash.finalize().into()
    }
}

/// What a synthetic event says. An event type needs no escaping in JSON.
fn test_payload(event_type: &EventType, at: DateTime<Utc>) -> Bytes {
    let timestamp = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    format!(r#"{{"type":"{event_type}","timestamp":"{timestamp}","data":{{"test":true}}}}"#).into()
}

/// `type/subtype`, and parameters of visible ASCII: sent on as a header.
fn is_media_type(text: &str) -> bool {
    let is_token = |token: &str| {
        !token.is_empty()
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    text.len() <= limits::CONTENT_TYPE_BYTES
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && essence
            .split_once('/')
            .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// `application/json` or a `+json` type (RFC 6839, section 3.1).
fn is_json(media_type: &str) -> bool {
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == JSON || essence.ends_with("+json")
}

#[cfg(test)]
mod tests;
