//! Accepting: a message comes in, a delivery per matching endpoint is in the log before the answer goes out.

mod many;
mod message;
mod once;
mod published;

use std::panic::resume_unwind;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::Delivery;
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use cuitty_webhooks_log::{Intent, Log, trace};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

pub(crate) use self::many::Item;
pub(super) use self::message::Message;
pub(crate) use self::message::NewMessage;
use self::once::Once;
pub(crate) use self::published::Place;
use super::keyed::{Answer, Keyed};
use super::{App, observed, unknown_endpoint};
use crate::auth::{Caller, Scope};
use crate::error::AppError;
use crate::metrics as names;

/// What the log has stored of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) message_id: MessageId,
    /// None when no endpoint matched.
    pub(crate) deliveries: Vec<(DeliveryId, EndpointId)>,
    /// When it was accepted first.
    pub(crate) requested_at: DateTime<Utc>,
    /// Highest of the message's.
    pub(crate) log_sequence: u64,
    /// Whether the idempotency key had been used for the same request before.
    pub(crate) duplicate: bool,
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
            let permit = Arc::clone(&self.accepts)
                .try_acquire_owned()
                .map_err(|_| AppError::Overloaded)?;
            self.take(caller, message, permit, &trace::task_span()).await
        })
        .await
    }

    /// Checks and accepts a message of a caller who may deliver. `call` is told which it is: the span of a call that is about
    /// nothing else.
    async fn take(
        &self,
        caller: &Caller,
        message: NewMessage,
        permit: OwnedSemaphorePermit,
        call: &Span,
    ) -> Result<Accepted, AppError> {
        let message = message.read(caller)?;
        caller.require_project(&message.project_id)?;
        let spans = [&Span::current(), call];
        for span in spans {
            span.record("project.id", message.project_id.as_str());
            span.record("event.type", message.event_type.as_str());
        }
        let message = self.vet_message(message).await?;
        let accepted = self.accept(message, permit).await?;
        for span in spans {
            span.record("message.id", display(accepted.message_id));
            span.record("log.seq", accepted.log_sequence);
        }
        Ok(accepted)
    }

    /// Sends a synthetic event to one endpoint, whatever its event types. Refused while the endpoint is disabled: it would
    /// get nothing.
    #[tracing::instrument(name = "api.send_test_event", skip_all, fields(endpoint.id = %endpoint_id))]
    pub(crate) async fn send_test_event(
        &self,
        caller: &Caller,
        endpoint_id: EndpointId,
        event_type: &str,
        idempotency_key: String,
    ) -> Result<Answer<Delivery>, AppError> {
        observed("send_test_event", async {
            caller.require(Scope::Manage)?;
            let permit = Arc::clone(&self.accepts)
                .try_acquire_owned()
                .map_err(|_| AppError::Overloaded)?;
            let known = self.known_endpoint(caller, endpoint_id)?;
            let project_id = known.endpoint.project_id.clone();
            let message = Message::test(project_id, endpoint_id, event_type, idempotency_key)?;
            let message = self.with_example(message);
            let keyed = Keyed {
                project_id: &message.project_id,
                key: &message.idempotency_key,
                fingerprint: message.fingerprint(),
            };
            // One that was begun was checked then, and may be in the log.
            if self.recall(&keyed).await?.is_none()
                && let Some(reason) = self.endpoint(caller, endpoint_id)?.endpoint.disabled_reason
            {
                let conflict = Rejection::Conflict {
                    resource: Resource::Endpoint,
                    id: endpoint_id.to_string(),
                    message: format!("is disabled ({}) and gets no test events", reason.as_str()),
                };
                return Err(conflict.into());
            }
            let described = message.clone();
            let accepted = self.accept(message, permit).await?;
            let requested = described.requested(&accepted.intent(endpoint_id));
            let requested = requested
                .first()
                .ok_or_else(|| AppError::internal("a test event went to nobody"))?;
            Ok(Answer {
                value: Delivery::requested(requested, accepted.log_sequence),
                is_replayed: accepted.duplicate,
            })
        })
        .await
    }

    async fn accept(&self, message: Message, permit: OwnedSemaphorePermit) -> Result<Accepted, AppError> {
        let targets = match self.targets(&message) {
            // Whatever has become of its endpoints: what is done then is what was recorded.
            Err(refusal) if !self.is_repeated(&message).await? => return Err(refusal),
            targets => targets.unwrap_or_default(),
        };
        let intent = self.intent(targets);
        if message.idempotency_key.is_empty() {
            let log_sequence = append(&self.log, &message, &intent).await?;
            let accepted = Accepted::new(&intent, log_sequence);
            accepted.count();
            return Ok(accepted);
        }
        let once = Once {
            log: self.log.clone(),
            keys: self.idempotency().await?.clone(),
            intent: Intent {
                fingerprint: message.fingerprint(),
                ..intent
            },
            message,
            permit,
        };
        self.see_through(async { once.run().await.inspect(Accepted::count) })
            .await
    }

    /// Whether the same message was accepted, or began to be, under its idempotency key.
    pub(super) async fn is_repeated(&self, message: &Message) -> Result<bool, AppError> {
        if message.idempotency_key.is_empty() {
            return Ok(false);
        }
        let keys = self.idempotency().await?;
        let record = keys.recall(&message.project_id, &message.idempotency_key).await?;
        Ok(record.is_some_and(|record| record.intent.fingerprint == message.fingerprint()))
    }

    /// Works in a task of its own: a caller who goes away must not leave what was appended without its record.
    pub(super) fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AppError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, AppError>> {
        let working = self.accepting.spawn(trace::carried(work.in_current_span()));
        async move {
            working
                .await
                .unwrap_or_else(|error| match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(cancelled) => Err(AppError::internal(cancelled)),
                })
        }
    }

    /// Waits for messages whose callers are gone to be accepted all the same, until `hard` is cancelled. Called when no
    /// door is open any more.
    pub(crate) async fn finish_accepting(&self, hard: &CancellationToken) {
        self.accepting.close();
        tokio::select! {
            biased;
            () = self.accepting.wait() => {}
            () = hard.cancelled() => {
                tracing::warn!(messages = self.accepting.len(), "leaving messages that are being accepted");
            }
        }
    }

    /// Where the message goes.
    fn targets(&self, message: &Message) -> Result<Vec<EndpointId>, AppError> {
        let project = &message.project_id;
        if let Some(id) = message.endpoint_id {
            let known = self.directory.get(id);
            if known.is_some_and(|e| e.endpoint.deleted_at.is_none() && e.endpoint.project_id == *project) {
                return Ok(vec![id]);
            }
            self.endpoints_of(project)?;
            return Err(unknown_endpoint(id));
        }
        let matching = self.directory.matching(project, &message.event_type);
        let matching = self.or_none(project, matching)?;
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

    /// A new message to these endpoints, now.
    fn intent(&self, endpoint_ids: Vec<EndpointId>) -> Intent {
        let requested_at = self.now();
        Intent {
            message_id: self.with_rng(|rng| MessageId::new(requested_at, rng)),
            endpoint_ids,
            fingerprint: [0; 32],
            requested_at,
        }
    }
}

/// Appends what is intended; the highest sequence of it.
async fn append(log: &Log, message: &Message, intent: &Intent) -> Result<u64, AppError> {
    if intent.endpoint_ids.is_empty() {
        return Ok(log.append_unmatched(&message.unmatched(intent)).await?);
    }
    let sequences = log.append_requested(&message.requested(intent)).await?;
    Ok(sequences.into_iter().max().unwrap_or_default())
}

impl Accepted {
    fn new(intent: &Intent, log_sequence: u64) -> Self {
        let message_id = intent.message_id;
        let delivery = |&endpoint_id: &EndpointId| (DeliveryId::derive(message_id, endpoint_id), endpoint_id);
        let deliveries = intent.endpoint_ids.iter().map(delivery).collect();
        Self {
            message_id,
            deliveries,
            requested_at: intent.requested_at,
            log_sequence,
            duplicate: false,
        }
    }

    /// What was intended by a message to one endpoint.
    fn intent(&self, endpoint_id: EndpointId) -> Intent {
        Intent {
            message_id: self.message_id,
            endpoint_ids: vec![endpoint_id],
            fingerprint: [0; 32],
            requested_at: self.requested_at,
        }
    }

    fn count(&self) {
        let outcome = if self.duplicate {
            "duplicate"
        } else if self.deliveries.is_empty() {
            "unmatched"
        } else {
            "accepted"
        };
        metrics::counter!(names::MESSAGES, "outcome" => outcome).increment(1);
        if !self.duplicate {
            metrics::counter!(names::DELIVERIES).increment(self.deliveries.len() as u64);
        }
    }
}
