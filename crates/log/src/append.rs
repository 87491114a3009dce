//! Appending facts: pipelined, repeated under the same id until acknowledged.

mod budget;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

use async_nats::header::{
    HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID,
};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use backon::BackoffBuilder;
use bytes::Bytes;
use cuitty_webhooks_domain::delivery::{Concluded, Requested, Unmatched};
use cuitty_webhooks_domain::endpoint::{Actor, Endpoint, EndpointChange};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, field, instrument};

pub(crate) use self::budget::Budget;
use self::budget::{Room, Share};
use crate::Log;
use crate::codec;
use crate::connect::backoff;
use crate::error::LogError;
use crate::metrics::names;
use crate::progress::OutcomeId;
use crate::subjects::{Subject, partition_of};
use crate::topology::{CONTROL_STREAM, STREAM};
use crate::trace;

/// Names the [`Kind`](crate::subjects::Kind) of a stored message.
const KIND: HeaderName = HeaderName::from_static("Cuitty-Kind");
const CONTENT_TYPE: HeaderName = HeaderName::from_static("Content-Type");
/// W3C trace context of what caused the message.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// How every message is stored.
const PROTOBUF: &str = "application/protobuf";
/// Requests of one call that are under way at the same time: enough to keep nats-server busy.
const PIPELINE: usize = 256;
/// How often a publish that waits for a connection looks whether there is one, should it not have been told.
const CONNECTION_CHECK: Duration = Duration::from_millis(200);

/// Where an event was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its sequence in the log.
    pub sequence: u64,
    /// Whether it had been stored before, under the same id.
    pub duplicate: bool,
}

/// A message on its way into the log.
pub(crate) struct Outgoing<'a> {
    pub(crate) subject: Subject,
    /// Under which it is stored once.
    pub(crate) id: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) traceparent: Cow<'a, str>,
    /// Sequence that the subject's last message must have.
    pub(crate) expected: Option<u64>,
    /// Headers beyond the common ones.
    pub(crate) headers: Vec<(HeaderName, String)>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(subject: Subject, body: Bytes) -> Self {
        Self {
            subject,
            id: None,
            body,
            traceparent: Cow::Borrowed(""),
            expected: None,
            headers: Vec::new(),
        }
    }

    fn id(self, id: String) -> Self {
        Self { id: Some(id), ..self }
    }

    fn traceparent(self, traceparent: Cow<'a, str>) -> Self {
        Self { traceparent, ..self }
    }

    fn to_message(&self) -> PublishMessage {
        let mut headers = HeaderMap::new();
        headers.insert(KIND, self.subject.kind().as_str());
        headers.insert(CONTENT_TYPE, PROTOBUF);
        // Whoever called may have sent anything: what cannot stand in a header is kept in the event only.
        if !self.traceparent.is_empty()
            && let Ok(traceparent) = self.traceparent.parse::<HeaderValue>()
        {
            headers.insert(TRACEPARENT, traceparent);
        }
        if let Some(id) = &self.id {
            headers.insert(NATS_MESSAGE_ID, id.as_str());
        }
        if let Some(expected) = self.expected {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.as_str());
        }
        PublishMessage::build()
            .payload(self.body.clone())
            .headers(headers)
    }
}

/// A message that was sent and is not acknowledged.
struct Pending<'a> {
    message: Outgoing<'a>,
    subject: String,
    started: Instant,
    deadline: Instant,
    connects: watch::Receiver<u64>,
    sent: Result<PublishAckFuture, LogError>,
    _room: Room<'a>,
}

impl Log {
    /// Appends requests in this order, pipelined; resolves when every one is stored, with their sequences.
    ///
    /// Waits while `max_append_bytes` are under way. Repeating it with the same deliveries stores nothing twice inside
    /// `duplicate_window`. After an error some of them may be stored.
    ///
    /// What stands in the log as their trace context is this append, when it is recorded.
    #[instrument(
        name = "log.append",
        level = "debug",
        skip_all,
        fields(
            otel.kind = "producer",
            otel.status_code = field::Empty,
            error.type = field::Empty,
            messaging.system = "nats",
            messaging.operation.type = "send",
            messaging.operation.name = "append",
            messaging.destination.name = STREAM,
            messaging.batch.message_count = requests.len(),
            log.kind = "requested"
        )
    )]
    pub async fn append_requested(&self, requests: &[Requested]) -> Result<Vec<u64>, LogError> {
        trace::refused(self.append_all(requests).await)
    }

    async fn append_all(&self, requests: &[Requested]) -> Result<Vec<u64>, LogError> {
        let partitions = self.stored_partitions().await?;
        let share = &self.budget().accepted;
        let mut sequences = Vec::with_capacity(requests.len());
        let mut window = VecDeque::with_capacity(requests.len().min(PIPELINE));
        for request in requests {
            let payload = request.payload.len();
            let (room, deadline) = loop {
                let deadline = self.deadline();
                if window.len() < PIPELINE
                    && let Some(room) = share.try_take(payload)
                {
                    break (room, deadline);
                }
                // Our own messages make room first: waiting while they hold some, many calls could wait for one another.
                match window.pop_front() {
                    Some(oldest) => sequences.push(self.settle(oldest).await?.sequence),
                    None => break (share.take(payload, deadline).await?, deadline),
                }
            };
            let delivery = &request.delivery;
            let subject = Subject::Work {
                partition: partition_of(delivery.endpoint_id, partitions),
                project_id: delivery.project_id.clone(),
                endpoint_id: delivery.endpoint_id,
                due: false,
            };
            let traceparent = trace::stored(&request.traceparent);
            let message = Outgoing::new(subject, codec::encode_requested(request, &traceparent))
                .id(delivery.delivery_id.to_string())
                .traceparent(traceparent);
            let pending = self.launch(message, room, deadline).await;
            let unsent = pending.sent.is_err();
            window.push_back(pending);
            // What could not be sent is tried again, or is the end: the next one would fare no better.
            while unsent && let Some(oldest) = window.pop_front() {
                sequences.push(self.settle(oldest).await?.sequence);
            }
        }
        for pending in window {
            sequences.push(self.settle(pending).await?.sequence);
        }
        Ok(sequences)
    }

    /// Appends a message that matched no endpoint.
    #[instrument(
        name = "log.append",
        level = "debug",
        skip_all,
        fields(
            otel.kind = "producer",
            otel.status_code = field::Empty,
            error.type = field::Empty,
            messaging.system = "nats",
            messaging.operation.type = "send",
            messaging.operation.name = "append",
            messaging.destination.name = STREAM,
            log.kind = "unmatched"
        )
    )]
    pub async fn append_unmatched(&self, message: &Unmatched) -> Result<u64, LogError> {
        let subject = Subject::Unmatched {
            project_id: message.project_id.clone(),
        };
        let traceparent = trace::stored(&message.traceparent);
        let outgoing = Outgoing::new(subject, codec::encode_unmatched(message, &traceparent))
            .id(message.message_id.to_string())
            .traceparent(traceparent);
        let share = &self.budget().accepted;
        Ok(trace::refused(self.append_in(share, outgoing).await)?.sequence)
    }

    /// Appends the end of an attempt; at most one is stored per delivery and attempt number inside `duplicate_window`.
    /// When another one came first, [`Appended`] tells where that one is.
    pub async fn append_concluded(&self, event: &Concluded) -> Result<Appended, LogError> {
        self.append_outcome(event, false).await
    }

    /// Appends how a delivery ended although another end of the same attempt is stored, one that left the delivery open:
    /// the attempt was repeated, with another result. At most one is stored beside that one.
    pub async fn append_final(&self, event: &Concluded) -> Result<Appended, LogError> {
        self.append_outcome(event, true).await
    }

    #[instrument(
        name = "log.append",
        level = "debug",
        skip_all,
        fields(
            otel.kind = "producer",
            otel.status_code = field::Empty,
            error.type = field::Empty,
            messaging.system = "nats",
            messaging.operation.type = "send",
            messaging.operation.name = "append",
            messaging.destination.name = STREAM,
            log.kind = codec::outcome_of(&event.conclusion).kind().as_str()
        )
    )]
    async fn append_outcome(&self, event: &Concluded, is_final: bool) -> Result<Appended, LogError> {
        let subject = Subject::Outcome {
            project_id: event.delivery.project_id.clone(),
            endpoint_id: event.delivery.endpoint_id,
            outcome: codec::outcome_of(&event.conclusion),
        };
        let number = event.attempt.as_ref().map_or(0, |attempt| attempt.number);
        let id = OutcomeId {
            delivery_id: event.delivery.delivery_id,
            number,
            is_final,
        };
        let outgoing = Outgoing::new(subject, codec::encode_concluded(event))
            .id(id.to_string())
            .traceparent(trace::header().into());
        let appended = trace::refused(self.append(outgoing).await)?;
        if !appended.duplicate {
            self.metrics().concluded(&event.conclusion);
        }
        Ok(appended)
    }

    /// Appends a change of an endpoint with its state afterwards. `expected_last_sequence` is the sequence of the change
    /// before, 0 for none; [`LogError::Conflict`] when another change came first.
    pub async fn append_endpoint(
        &self,
        change: &EndpointChange,
        endpoint: &Endpoint,
        actor: &Actor,
        expected_last_sequence: u64,
    ) -> Result<u64, LogError> {
        let fields = match change {
            EndpointChange::Updated { .. } => {
                let before = self.endpoint_at(expected_last_sequence).await?;
                before
                    .map(|before| codec::changed_fields(&before, endpoint))
                    .unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let subject = Subject::Endpoint {
            project_id: endpoint.project_id.clone(),
            endpoint_id: endpoint.id,
        };
        let body = codec::encode_endpoint(change, &fields, endpoint, actor);
        self.append_change(subject, endpoint.id, body, expected_last_sequence)
            .await
    }

    /// Appends a change of the thing with this id to its subject, whose last message must be at `expected` (0: none).
    #[instrument(
        name = "log.append",
        level = "debug",
        skip_all,
        fields(
            otel.kind = "producer",
            otel.status_code = field::Empty,
            error.type = field::Empty,
            messaging.system = "nats",
            messaging.operation.type = "send",
            messaging.operation.name = "append",
            messaging.destination.name = CONTROL_STREAM,
            log.kind = subject.kind().as_str(),
            log.id = %id
        )
    )]
    pub(crate) async fn append_change(
        &self,
        subject: Subject,
        id: impl Display,
        body: Bytes,
        expected: u64,
    ) -> Result<u64, LogError> {
        // Two different changes never share an id, the same one repeated always does.
        let id = format!("{id}.{:x}", Bytes::copy_from_slice(&Sha256::digest(&body)[..16]));
        let message = Outgoing {
            expected: Some(expected),
            ..Outgoing::new(subject, body).id(id.clone())
        };
        let subject = message.subject.to_string();
        match trace::refused(self.append(message).await) {
            Err(conflict @ LogError::Conflict { .. }) => {
                // The conflict may be with this very change, stored by an append whose acknowledgement was lost.
                let last = self.last_message(CONTROL_STREAM, &subject).await?;
                last.filter(|last| {
                    last.headers
                        .get(NATS_MESSAGE_ID)
                        .is_some_and(|stored| stored.as_str() == id)
                })
                .map(|last| last.sequence)
                .ok_or(conflict)
            }
            appended => Ok(appended?.sequence),
        }
    }

    /// Publishes `message` until it is acknowledged, at most for `request_timeout`.
    pub(crate) async fn append(&self, message: Outgoing<'_>) -> Result<Appended, LogError> {
        self.append_in(&self.budget().others, message).await
    }

    async fn append_in(&self, share: &Share, message: Outgoing<'_>) -> Result<Appended, LogError> {
        let deadline = self.deadline();
        let room = share.take(message.body.len(), deadline).await?;
        let pending = self.launch(message, room, deadline).await;
        self.settle(pending).await
    }

    /// When an operation that starts now has taken too long.
    fn deadline(&self) -> Instant {
        Instant::now() + self.config().request_timeout
    }

    /// Publishes `message`, without waiting for its acknowledgement.
    async fn launch<'a>(&self, message: Outgoing<'a>, room: Room<'a>, deadline: Instant) -> Pending<'a> {
        let started = Instant::now();
        let mut connects = self.connects();
        let subject = message.subject.to_string();
        let sent = self.send(&subject, &message, &mut connects, deadline).await;
        Pending {
            message,
            subject,
            started,
            deadline,
            connects,
            sent,
            _room: room,
        }
    }

    /// Waits for the acknowledgement.
    ///
    /// A connection that was made anew has lost the acknowledgements under way: the message is sent again at once, and
    /// its id (or, for a timer, its subject) makes the repetition harmless.
    async fn settle(&self, pending: Pending<'_>) -> Result<Appended, LogError> {
        let Pending {
            message,
            subject,
            started,
            deadline,
            mut connects,
            mut sent,
            _room,
        } = pending;
        let mut pauses = backoff().without_max_times().build();
        let ack = loop {
            let (error, pause) = match sent {
                Ok(ack) => tokio::select! {
                    acknowledged = timeout_at(deadline, ack) => match acknowledged {
                        Ok(Ok(ack)) => break ack,
                        Ok(Err(error)) => (LogError::publish(&error, &subject, message.expected), pauses.next()),
                        Err(_) => return Err(self.why_unanswered(&subject, "no acknowledgement in time")),
                    },
                    Ok(()) = connects.changed() => {
                        let why = "the connection was made anew before the acknowledgement came";
                        (LogError::Unavailable(why.into()), None)
                    }
                },
                Err(error) => (error, pauses.next()),
            };
            let pause = pause.unwrap_or_default();
            if !error.is_transient() || Instant::now() + pause >= deadline {
                return Err(error);
            }
            metrics::counter!(names::APPEND_RETRIES).increment(1);
            debug!(subject, %error, "appending again");
            sleep(pause).await;
            sent = self.send(&subject, &message, &mut connects, deadline).await;
        };
        let metrics = self.metrics();
        metrics.append_seconds.record(started.elapsed());
        if !ack.duplicate {
            metrics.appended(message.subject.kind());
        }
        Ok(Appended {
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        })
    }

    /// Hands `message` to the connection as soon as there is one; `connects` then changes when that one is lost. What is
    /// handed over while there is none would stay in memory, however long that is and whoever gave up waiting for it.
    async fn send(
        &self,
        subject: &str,
        message: &Outgoing<'_>,
        connects: &mut watch::Receiver<u64>,
        deadline: Instant,
    ) -> Result<PublishAckFuture, LogError> {
        let sending = async {
            loop {
                connects.mark_unchanged();
                if self.is_connected() {
                    break;
                }
                // Either way the next look tells.
                let _ = timeout(CONNECTION_CHECK, connects.changed()).await;
            }
            self.jetstream()
                .send_publish(subject.to_owned(), message.to_message())
                .await
        };
        match timeout_at(deadline, sending).await {
            Ok(sent) => sent.map_err(|error| LogError::publish(&error, subject, message.expected)),
            Err(_) => Err(LogError::Unavailable("no connection to send on".into())),
        }
    }

    /// The endpoint as the change at `sequence` of the control stream left it; `None` when there is none.
    pub async fn endpoint_at(&self, sequence: u64) -> Result<Option<Endpoint>, LogError> {
        let Some(message) = self.message_at(CONTROL_STREAM, sequence).await? else {
            return Ok(None);
        };
        Ok(Some(codec::decode_endpoint_state(message.payload)?))
    }
}
