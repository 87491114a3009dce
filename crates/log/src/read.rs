//! Reading the log in order.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_domain::ids::DeliveryId;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::Log;
use crate::append::TRACEPARENT;
use crate::codec::{self, CodecError};
use crate::consume::{self, Attachment};
use crate::error::LogError;
use crate::metrics::names;
use crate::subjects::Subject;
use crate::topology::{CONTROL_STREAM, STREAM};

/// Messages that are pulled ahead of the reader.
const BATCH: usize = 1000;
/// Bytes that are pulled ahead of the reader: 16 MiB.
const BATCH_BYTES: usize = 16 << 20;
/// How long nats-server keeps a reader's consumer that nobody pulls from.
const INACTIVE: Duration = Duration::from_mins(1);

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its sequence in the log; sequences rise but may leave numbers out.
    pub sequence: u64,
    /// When nats-server stored it.
    pub stored_at: DateTime<Utc>,
    /// W3C trace context of what caused it.
    pub traceparent: Option<String>,
    /// What it holds.
    pub body: EventBody,
}

/// What a stored message holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventBody {
    /// A fact about a delivery.
    Event(DeliveryEvent),
    /// A timer that has not fired yet. Not a fact: the retry it stands for is told by the attempt before.
    Timer,
    /// Something that this version cannot read.
    Unreadable(CodecError),
}

impl StoredEvent {
    fn new(
        sequence: u64,
        stored_at_nanos: i128,
        subject: &str,
        headers: Option<&HeaderMap>,
        body: Bytes,
    ) -> Self {
        let traceparent = headers
            .and_then(|headers| headers.get(TRACEPARENT))
            .map(ToString::to_string);
        Self {
            sequence,
            stored_at: time(stored_at_nanos),
            traceparent,
            body: EventBody::decode(subject, body),
        }
    }
}

/// A time of nats-server's. Nanoseconds in an i64 reach until 2262.
pub(crate) fn time(nanos: i128) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// When nats-server stored a message.
pub(crate) fn stored_at(message: &StreamMessage) -> DateTime<Utc> {
    time(message.time.unix_timestamp_nanos())
}

impl EventBody {
    pub(crate) fn decode(subject: &str, body: Bytes) -> Self {
        let decoded = subject
            .parse()
            .map_err(CodecError::from)
            .and_then(|subject| match subject {
                Subject::Timer { .. } => Ok(Self::Timer),
                subject => codec::decode_event(subject.kind(), body).map(Self::Event),
            });
        decoded.unwrap_or_else(|error| {
            metrics::counter!(names::UNREADABLE).increment(1);
            Self::Unreadable(error)
        })
    }
}

impl Log {
    /// The message at `sequence`; `None` when it was removed or is not there yet.
    pub async fn get(&self, sequence: u64) -> Result<Option<StoredEvent>, LogError> {
        Ok(self.message_at(STREAM, sequence).await?.map(|message| {
            StoredEvent::new(
                message.sequence,
                message.time.unix_timestamp_nanos(),
                &message.subject,
                Some(&message.headers),
                message.payload,
            )
        }))
    }

    /// When the first message at or after `sequence` was stored; `None` when there is none.
    pub async fn stored_at(&self, sequence: u64) -> Result<Option<DateTime<Utc>>, LogError> {
        let next = self.next_message(STREAM, ">", sequence.max(1)).await?;
        Ok(next.as_ref().map(stored_at))
    }

    /// Sequence of the first message that was stored at `at` or later, as the stream's leader knows it; `None` when there is
    /// none yet.
    pub async fn first_since(&self, at: DateTime<Utc>) -> Result<Option<u64>, LogError> {
        let start_time = at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let request = json!({ "start_time": start_time, "next_by_subj": ">" });
        let api = format!("STREAM.MSG.GET.{STREAM}");
        self.retried(|| async {
            match self.js_api::<_, Found>(&api, &request).await? {
                Ok(found) => Ok(Some(found.message.seq)),
                Err(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
                Err(error) => Err(LogError::from_jetstream(&error)),
            }
        })
        .await
    }

    /// Sequences of the first and the last message. The first is one more than the last when there are none.
    pub async fn bounds(&self) -> Result<(u64, u64), LogError> {
        let info = self.retried(|| self.stream_info(STREAM)).await?;
        let state = info
            .ok_or_else(|| LogError::NoTopology {
                stream: STREAM.into(),
            })?
            .state;
        Ok((state.first_sequence.max(1), state.last_sequence))
    }

    /// Sequence of the last message that the log holds, as the stream's leader knows it; 0 when there are none. Up to
    /// [`Log::bounds`] there may be sequences that nothing is left of.
    pub async fn end(&self) -> Result<u64, LogError> {
        let last = self.retried(|| self.leader_last(STREAM, ">")).await?;
        Ok(last.map_or(0, |last| last.sequence))
    }

    /// Whether the request of a delivery stands at `sequence`, or may have: what is older than the log nobody can tell.
    pub async fn has_request(&self, delivery_id: DeliveryId, sequence: u64) -> Result<bool, LogError> {
        let (first, _) = self.bounds().await?;
        if sequence < first {
            return Ok(true);
        }
        let found = self.retried(|| self.leader_next(">", sequence)).await?;
        let Some(found) = found.filter(|found| found.sequence == sequence) else {
            return Ok(false);
        };
        Ok(match EventBody::decode(&found.subject, found.payload) {
            EventBody::Event(DeliveryEvent::Requested(requested)) => {
                requested.delivery.delivery_id == delivery_id
            }
            EventBody::Event(_) | EventBody::Timer => false,
            EventBody::Unreadable(_) => true,
        })
    }

    /// The last sequence up to `end` that the log still holds, or 0: a timer leaves the log when it fires, so its last
    /// sequences may be gone. Of a log that was restored, many may never have been there.
    pub async fn last_readable(&self, end: u64) -> Result<u64, LogError> {
        let last = self.end().await?;
        if last <= end {
            return Ok(last);
        }
        let (first, _) = self.bounds().await?;
        for sequence in (first..=end).rev() {
            if self.message_at(STREAM, sequence).await?.is_some() {
                return Ok(sequence);
            }
        }
        Ok(0)
    }

    /// Reads from `from_sequence` on (0 and 1 both mean the first), or from the first message that is still kept.
    pub fn read(&self, from_sequence: u64) -> EventReader {
        EventReader {
            log: self.clone(),
            next: from_sequence.max(1),
            attachment: Attachment::new("read", self),
            consumer_sequence: 0,
            connects: self.connects(),
            batch: Vec::new(),
            at_tail: false,
        }
    }

    /// Reads what is appended from now on.
    pub async fn tail(&self) -> Result<EventReader, LogError> {
        let (_, last) = self.bounds().await?;
        Ok(self.read(last + 1))
    }

    /// The message at `sequence` of `stream`.
    pub(crate) async fn message_at(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StreamMessage>, LogError> {
        if sequence == 0 {
            return Ok(None);
        }
        self.retried(|| async { found(self.stream(stream).await?.direct_get(sequence).await) })
            .await
    }

    /// The last message of `subject` in `stream`.
    pub(crate) async fn last_message(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StreamMessage>, LogError> {
        self.retried(|| async {
            found(
                self.stream(stream)
                    .await?
                    .direct_get_last_for_subject(subject)
                    .await,
            )
        })
        .await
    }

    /// Sequence of the last change that `subjects` selects, wildcards and all; 0 when there is none. The stream's leader is
    /// asked, which knows of every change that was acknowledged.
    pub async fn last_change(&self, subjects: &str) -> Result<u64, LogError> {
        self.retried(|| async {
            let stream = self.stream(CONTROL_STREAM).await?;
            match stream.get_last_raw_message_by_subject(subjects).await {
                Ok(message) => Ok(message.sequence),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
                Err(error) => Err(LogError::unavailable(error)),
            }
        })
        .await
    }

    /// The first message of `subject` in `stream` at or after `sequence`.
    pub(crate) async fn next_message(
        &self,
        stream: &str,
        subject: &str,
        sequence: u64,
    ) -> Result<Option<StreamMessage>, LogError> {
        self.retried(|| async {
            found(
                self.stream(stream)
                    .await?
                    .direct_get_next_for_subject(subject, Some(sequence))
                    .await,
            )
        })
        .await
    }

    pub(crate) async fn stream(&self, name: &str) -> Result<Stream<()>, LogError> {
        self.jetstream()
            .get_stream_no_info(name)
            .await
            .map_err(LogError::protocol)
    }
}

/// What nats-server says of a message that it found.
#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
}

fn found(answer: Result<StreamMessage, DirectGetError>) -> Result<Option<StreamMessage>, LogError> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::unavailable(error)),
    }
}

/// Reads the log in order, without gaps, across restarts of nats-server.
pub struct EventReader {
    log: Log,
    /// Sequence of the next message, or less when some were removed.
    next: u64,
    attachment: Attachment,
    /// Messages that the attached consumer delivered.
    consumer_sequence: u64,
    connects: watch::Receiver<u64>,
    /// Read and not given yet.
    batch: Vec<StoredEvent>,
    /// Whether nothing was behind the last message when it was delivered.
    at_tail: bool,
}

impl EventReader {
    /// The next events, at most `max`: what is there, as soon as the tail or `max` is reached; empty when nothing came
    /// within `max_wait`. Cancel safe. After an error the caller may just go on.
    pub async fn next_batch(&mut self, max: usize, max_wait: Duration) -> Result<Vec<StoredEvent>, LogError> {
        let deadline = Instant::now() + max_wait;
        while self.batch.len() < max {
            let received = if self.batch.is_empty() || !self.at_tail {
                timeout_at(deadline, self.receive()).await.ok()
            } else {
                // Each of the events that came one by one was the last one when it was sent; more may be here already.
                self.receive().now_or_never()
            };
            match received {
                Some(Ok(event)) => self.batch.push(event),
                Some(Err(error)) if self.batch.is_empty() => return Err(error),
                Some(Err(_)) | None => break,
            }
        }
        let rest = self.batch.split_off(self.batch.len().min(max));
        Ok(std::mem::replace(&mut self.batch, rest))
    }

    async fn receive(&mut self) -> Result<StoredEvent, LogError> {
        loop {
            let (log, next) = (&self.log, self.next);
            let messages = self
                .attachment
                .messages(|| {
                    self.consumer_sequence = 0;
                    self.connects.mark_unchanged();
                    Box::pin(attach(log.clone(), next))
                })
                .await?;
            let message = tokio::select! {
                biased;
                message = messages.next() => message,
                // What was under way is lost, and when nothing follows it nothing would tell.
                Ok(()) = self.connects.changed() => {
                    self.attachment.detach("the connection was made anew");
                    continue;
                }
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.attachment.detach(&error.to_string());
                    continue;
                }
                None => {
                    self.attachment.detach("the messages ended");
                    continue;
                }
            };
            let info = consume::position(&message)?;
            if info.consumer_sequence != self.consumer_sequence + 1 {
                self.attachment.detach("a message is missing");
                continue;
            }
            self.consumer_sequence += 1;
            self.next = info.stream_sequence + 1;
            self.at_tail = info.pending == 0;
            self.attachment.delivered();
            let stored_at = info.published.unix_timestamp_nanos();
            let (sequence, message) = (info.stream_sequence, &message.message);
            let (headers, body) = (message.headers.as_ref(), message.payload.clone());
            return Ok(StoredEvent::new(
                sequence,
                stored_at,
                &message.subject,
                headers,
                body,
            ));
        }
    }
}

/// Attaches to a consumer of everything from `start_sequence` on.
async fn attach(log: Log, start_sequence: u64) -> Result<pull::Stream, LogError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ..pull::Config::default()
    };
    let consumer = log.reading(STREAM, INACTIVE, config).await?;
    consume::pull(&consumer, BATCH, BATCH_BYTES).await
}
