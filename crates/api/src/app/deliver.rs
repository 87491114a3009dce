//! Accepting: a message comes in, a delivery per matching endpoint is in the log before the answer goes out.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{
    DEFAULT_DEADLINE, Delivery, DeliveryRef, Origin, Requested, Unmatched,
};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_log::{Claim, Intent, Record};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tracing::Span;
use tracing::field::{Empty, display};

use super::input::Violations;
use super::{App, observed, unknown_endpoint, unknown_project};
use crate::auth::{Caller, Scope};
use crate::error::AppError;
use crate::metrics as names;

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
}

/// What the log has stored of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) message_id: MessageId,
    /// None when no endpoint matched.
    pub(crate) deliveries: Vec<(DeliveryId, EndpointId)>,
    /// Highest of the message's.
    pub(crate) log_sequence: u64,
    /// Whether the idempotency key had been used for the same request before.
    pub(crate) duplicate: bool,
}

/// A message whose fields are well formed.
#[derive(Debug)]
struct Message {
    project_id: ProjectId,
    event_type: EventType,
    payload: Bytes,
    endpoint_id: Option<EndpointId>,
    idempotency_key: String,
    content_type: String,
    traceparent: String,
    origin: Origin,
}

impl App {
    /// Accepts a message. Once this has answered, nothing but the log is needed for its deliveries to be made.
    #[tracing::instrument(
        name = "api.deliver_message",
        skip_all,
        fields(project.id = Empty, event.type = Empty, message.id = Empty, log.seq = Empty)
    )]
    pub(crate) async fn deliver(&self, caller: &Caller, message: NewMessage) -> Result<Accepted, AppError> {
        observed("deliver_message", async {
            caller.require(Scope::Deliver)?;
            let _permit = self.accepts.try_acquire().map_err(|_| AppError::Overloaded)?;
            let message = message.read(caller)?;
            caller.require_project(&message.project_id)?;
            let span = Span::current();
            span.record("project.id", message.project_id.as_str());
            span.record("event.type", message.event_type.as_str());
            let accepted = self.accept(&message).await?;
            span.record("message.id", display(accepted.message_id));
            span.record("log.seq", accepted.log_sequence);
            Ok(accepted)
        })
        .await
    }

    /// Sends a synthetic event to one endpoint, whatever its event types.
    #[tracing::instrument(name = "api.send_test_event", skip_all, fields(endpoint.id = %endpoint_id))]
    pub(crate) async fn send_test_event(
        &self,
        caller: &Caller,
        endpoint_id: EndpointId,
        event_type: &str,
    ) -> Result<Delivery, AppError> {
        observed("send_test_event", async {
            caller.require(Scope::Manage)?;
            let _permit = self.accepts.try_acquire().map_err(|_| AppError::Overloaded)?;
            let endpoint = self.endpoint(caller, endpoint_id)?;
            let mut violations = Violations::default();
            let event_type = violations.parse::<EventType>("event_type", event_type);
            let event_type = violations.finish(event_type)?;
            let payload = format!(
                r#"{{"type":"{event_type}","timestamp":"{}","data":{{"test":true}}}}"#,
                self.now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
            );
            let message = Message {
                project_id: endpoint.endpoint.project_id.clone(),
                event_type,
                payload: payload.into(),
                endpoint_id: Some(endpoint_id),
                idempotency_key: String::new(),
                content_type: JSON.to_owned(),
                traceparent: String::new(),
                origin: Origin::Test,
            };
            let (message_id, now) = self.new_message();
            let requested = message.requested(message_id, &[endpoint_id], now);
            let sequences = self.log.append_requested(&requested).await?;
            match (requested.first(), sequences.first()) {
                (Some(requested), Some(&sequence)) => Ok(Delivery::requested(requested, sequence)),
                _ => Err(AppError::internal("the log answered without a sequence")),
            }
        })
        .await
    }

    async fn accept(&self, message: &Message) -> Result<Accepted, AppError> {
        let endpoint_ids = self.targets(message)?;
        let (message_id, requested_at) = self.new_message();
        let intent = Intent {
            message_id,
            endpoint_ids,
            fingerprint: [0; 32],
            requested_at,
        };
        let accepted = if message.idempotency_key.is_empty() {
            self.append(message, intent).await?
        } else {
            self.accept_once(
                message,
                Intent {
                    fingerprint: message.fingerprint(),
                    ..intent
                },
            )
            .await?
        };
        let outcome = match &accepted {
            Accepted { duplicate: true, .. } => "duplicate",
            Accepted { deliveries, .. } if deliveries.is_empty() => "unmatched",
            _ => "accepted",
        };
        metrics::counter!(names::MESSAGES, "outcome" => outcome).increment(1);
        if !accepted.duplicate {
            metrics::counter!(names::DELIVERIES).increment(accepted.deliveries.len() as u64);
        }
        Ok(accepted)
    }

    /// Where the message goes.
    fn targets(&self, message: &Message) -> Result<Vec<EndpointId>, AppError> {
        let project = &message.project_id;
        if let Some(id) = message.endpoint_id {
            let known = self.directory.get(id);
            if known.is_some_and(|e| e.endpoint.deleted_at.is_none() && e.endpoint.project_id == *project) {
                return Ok(vec![id]);
            }
            self.directory
                .project(project)
                .ok_or_else(|| unknown_project(project))?;
            return Err(unknown_endpoint(id));
        }
        let matching = self
            .directory
            .matching(project, &message.event_type)
            .ok_or_else(|| unknown_project(project))?;
        if matching.len() > limits::FAN_OUT {
            let text = format!(
                "matches {} endpoints, at most {} are delivered to",
                matching.len(),
                limits::FAN_OUT
            );
            return Err(Rejection::field("event_type", text).into());
        }
        Ok(matching.iter().map(|entry| entry.endpoint.id).collect())
    }

    /// Accepts under an idempotency key. The intent is stored before anything is appended, so a repeated request appends
    /// the very same facts, wherever the first one ended.
    async fn accept_once(&self, message: &Message, intent: Intent) -> Result<Accepted, AppError> {
        let idempotency = self
            .idempotency
            .get_or_try_init(|| self.log.idempotency())
            .await?;
        let (project_id, key) = (&message.project_id, &message.idempotency_key);
        let (intent, duplicate) = match idempotency.claim(project_id, key, &intent).await? {
            Claim::New => (intent, false),
            Claim::Existing(Record { intent: first, .. }) if first.fingerprint != intent.fingerprint => {
                return Err(AppError::IdempotencyKeyReused);
            }
            Claim::Existing(Record {
                intent: first,
                log_sequence: Some(sequence),
            }) => {
                return Ok(Accepted {
                    duplicate: true,
                    ..Accepted::new(&first, sequence)
                });
            }
            Claim::Existing(Record {
                intent: first,
                log_sequence: None,
            }) => (first, true),
        };
        let accepted = self.append(message, intent.clone()).await?;
        if let Err(error) = idempotency
            .complete(project_id, key, &intent, accepted.log_sequence)
            .await
        {
            // The message is in the log, and a repetition would append the same facts again.
            tracing::warn!(%error, message.id = %accepted.message_id, "idempotency record not completed");
        }
        Ok(Accepted {
            duplicate,
            ..accepted
        })
    }

    async fn append(&self, message: &Message, intent: Intent) -> Result<Accepted, AppError> {
        let Intent {
            message_id,
            ref endpoint_ids,
            requested_at,
            ..
        } = intent;
        let log_sequence = if endpoint_ids.is_empty() {
            self.log
                .append_unmatched(&message.unmatched(message_id, requested_at))
                .await?
        } else {
            let requested = message.requested(message_id, endpoint_ids, requested_at);
            self.log
                .append_requested(&requested)
                .await?
                .into_iter()
                .max()
                .unwrap_or_default()
        };
        Ok(Accepted::new(&intent, log_sequence))
    }

    fn new_message(&self) -> (MessageId, DateTime<Utc>) {
        let now = self.now();
        (self.with_rng(|rng| MessageId::new(now, rng)), now)
    }
}

impl Accepted {
    fn new(intent: &Intent, log_sequence: u64) -> Self {
        let message_id = intent.message_id;
        let delivery = |&endpoint_id: &EndpointId| (DeliveryId::derive(message_id, endpoint_id), endpoint_id);
        let deliveries = intent.endpoint_ids.iter().map(delivery).collect();
        Self {
            message_id,
            deliveries,
            log_sequence,
            duplicate: false,
        }
    }
}

impl NewMessage {
    fn read(self, caller: &Caller) -> Result<Message, Rejection> {
        if self.payload.len() > limits::PAYLOAD_BYTES {
            return Err(Rejection::PayloadTooLarge {
                actual: self.payload.len(),
                limit: limits::PAYLOAD_BYTES,
            });
        }
        let mut violations = Violations::default();
        let project_id = violations.project(caller, &self.project_id);
        let event_type = violations.parse("event_type", &self.event_type);
        let endpoint_id = violations.parse_some("endpoint_id", &self.endpoint_id);
        if self.idempotency_key.len() > limits::IDEMPOTENCY_KEY_BYTES
            || self.idempotency_key.contains(char::is_control)
        {
            let text = format!(
                "must be at most {} bytes without control characters",
                limits::IDEMPOTENCY_KEY_BYTES
            );
            violations.add("idempotency_key", text);
        }
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
            });
        violations.finish(message)
    }
}

impl Message {
    /// One request per endpoint. The payload is shared, not copied.
    fn requested(
        &self,
        message_id: MessageId,
        endpoint_ids: &[EndpointId],
        requested_at: DateTime<Utc>,
    ) -> Vec<Requested> {
        let request_to = |&endpoint_id: &EndpointId| Requested {
            delivery: DeliveryRef {
                delivery_id: DeliveryId::derive(message_id, endpoint_id),
                message_id,
                project_id: self.project_id.clone(),
                endpoint_id,
                event_type: self.event_type.clone(),
            },
            content_type: self.content_type.clone(),
            payload: self.payload.clone(),
            requested_at,
            origin: self.origin,
            replay_of: None,
            traceparent: self.traceparent.clone(),
            deadline: requested_at + DEFAULT_DEADLINE,
        };
        endpoint_ids.iter().map(request_to).collect()
    }

    fn unmatched(&self, message_id: MessageId, requested_at: DateTime<Utc>) -> Unmatched {
        Unmatched {
            message_id,
            project_id: self.project_id.clone(),
            event_type: self.event_type.clone(),
            content_type: self.content_type.clone(),
            payload: self.payload.clone(),
            requested_at,
            traceparent: self.traceparent.clone(),
        }
    }

    /// Tells requests under one idempotency key apart. Every part is preceded by its length.
    fn fingerprint(&self) -> [u8; 32] {
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
