//! What other modules publish on NATS: pulled by every ingest process, acknowledged once it is in the log.

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, Subject as ReplySubject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tracing::warn;

use crate::Log;
use crate::consume::{self, Attachment};
use crate::error::LogError;
use crate::notify::{Notification, NotifyError};
use crate::subjects::{INGEST_PREFIX, ingest_rejected};
use crate::topology::INGEST_STREAM;

/// The durable consumer that all ingest processes pull from.
pub(crate) const DURABLE: &str = "ingest";
/// Messages that are pulled ahead. Not bounded in bytes: a single message that is larger would never be delivered, and stop all
/// others.
const BATCH: usize = 64;
/// Largest payload that is published again when its message is rejected, in bytes: with the headers of a rejection, it stays
/// below what nats-server takes by default.
const REJECTED_BYTES: usize = 512 << 10;
/// Longest text in a header of a rejection, in bytes.
const HEADER_BYTES: usize = 1000;

/// A message as it was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// What stands in its subject for the project; not checked.
    pub project: String,
    /// What stands in its subject for the event type, dots included; not checked.
    pub event_type: String,
    /// Its body.
    pub payload: Bytes,
    /// Its sequence among what is published.
    pub sequence: u64,
    /// When it was stored, by nats-server's clock.
    pub stored_at: DateTime<Utc>,
    /// How often it was delivered, this time included: 1 for the first.
    pub delivered: u64,
    /// How many wait behind it.
    pub waiting: u64,
    /// What it was published on.
    pub subject: String,
    headers: HeaderMap,
    reply: ReplySubject,
    log: Log,
}

/// Why a message is not taken, now or ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What programs tell reasons apart by, in upper case.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field at fault; empty when none is.
    pub field: String,
}

impl Published {
    /// The value of a header, whose name is compared without regard to case; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| AsRef::<str>::as_ref(known).eq_ignore_ascii_case(name))
            .and_then(|(_, values)| values.first())
            .map_or("", |value| value.as_str())
    }

    /// The id that its publisher gave it; empty when there is none.
    pub fn id(&self) -> &str {
        self.headers
            .get(NATS_MESSAGE_ID)
            .map_or("", |value| value.as_str())
    }

    /// It is in the log.
    pub async fn ack(&self) -> Result<(), LogError> {
        self.say(AckKind::Ack).await
    }

    /// It is being worked on: `ack_wait` starts anew.
    pub async fn progress(&self) -> Result<(), LogError> {
        self.say(AckKind::Progress).await
    }

    /// Not now: bring it back after `delay`.
    pub async fn nak(&self, delay: Duration) -> Result<(), LogError> {
        self.say(AckKind::Nak(Some(delay))).await
    }

    /// Publishes it again under the subject of what is rejected, with the reason in headers, and never brings it back. Killed in
    /// between, it is rejected once more, with the same id.
    pub async fn reject(&self, refusal: &Refusal) -> Result<(), LogError> {
        let is_small = self.payload.len() <= REJECTED_BYTES;
        let header = |name: &str, value: &str| (name.to_owned(), header_text(value));
        let mut headers = vec![
            header("Cuitty-Reason", &refusal.reason),
            header("Cuitty-Message", &refusal.message),
            header("Cuitty-Field", &refusal.field),
            header("Cuitty-Subject", &self.subject),
            header("Cuitty-Payload-Bytes", &self.payload.len().to_string()),
        ];
        if !self.id().is_empty() {
            headers.push(header("Cuitty-Msg-Id", self.id()));
        }
        let notification = Notification {
            subject: ingest_rejected(&self.project),
            id: format!("rejected-{}-{}", self.sequence, self.stored_at.timestamp_micros()),
            headers,
            payload: if is_small {
                self.payload.clone()
            } else {
                Bytes::new()
            },
            wants_reply: false,
        };
        match self
            .log
            .notify(notification, self.log.config().request_timeout)
            .await
        {
            Ok(()) | Err(NotifyError::NobodyListens) => {}
            Err(error @ (NotifyError::Refused(_) | NotifyError::Unfit(_))) => {
                warn!(%error, published.seq = self.sequence, "a rejected message could not be published");
            }
            Err(error @ (NotifyError::Unavailable | NotifyError::NoReply(_))) => {
                return Err(LogError::Unavailable(error.to_string()));
            }
        }
        self.say(AckKind::Term).await
    }

    async fn say(&self, word: AckKind) -> Result<(), LogError> {
        consume::say(&self.log, &self.reply, word).await
    }
}

/// A text that can stand in a header: one line, not too long.
fn header_text(text: &str) -> String {
    let end = text.floor_char_boundary(HEADER_BYTES);
    text[..end].replace(|c: char| c.is_control(), " ")
}

/// What is published, as this process pulls it.
pub struct IngestStream {
    log: Log,
    attachment: Attachment,
}

impl Log {
    /// Attaches to what is published, making the durable consumer if there is none.
    pub async fn ingest(&self) -> Result<IngestStream, LogError> {
        let mut stream = IngestStream {
            log: self.clone(),
            attachment: Attachment::new("ingest", self),
        };
        stream.messages().await?;
        Ok(stream)
    }

    /// How long what was pulled may stay without a word about it.
    pub fn ack_wait(&self) -> Duration {
        self.config().ack_wait
    }
}

impl IngestStream {
    /// The next message. Cancel safe. After an error the caller may just go on: the stream attaches anew, with back-off.
    pub async fn next(&mut self) -> Result<Published, LogError> {
        loop {
            match self.messages().await?.next().await {
                Some(Ok(message)) => {
                    self.attachment.delivered();
                    return published(&self.log, message);
                }
                Some(Err(error)) => self.attachment.detach(&error.to_string()),
                None => self.attachment.detach("the messages ended"),
            }
        }
    }

    /// Stops pulling and hands back at once what was pulled but not taken.
    pub async fn close(self) {
        if let Some(messages) = self.attachment.into_messages() {
            consume::hand_back(messages).await;
        }
    }

    async fn messages(&mut self) -> Result<&mut pull::Stream, LogError> {
        let log = &self.log;
        self.attachment.messages(|| Box::pin(attach(log.clone()))).await
    }
}

impl Log {
    /// Makes the durable consumer with `apply` if it is missing: its name if it was. How it is configured is seen to by whoever
    /// attaches.
    pub(crate) async fn visit_ingest_durable(&self, apply: bool) -> Result<Option<&'static str>, LogError> {
        if self.consumer_of(INGEST_STREAM, DURABLE).await?.is_some() {
            return Ok(None);
        }
        if apply {
            make_durable(self).await?;
        }
        Ok(Some(DURABLE))
    }
}

async fn attach(log: Log) -> Result<pull::Stream, LogError> {
    consume::pull(&make_durable(&log).await?, BATCH, 0).await
}

/// The durable consumer, configured as it must be.
async fn make_durable(log: &Log) -> Result<PullConsumer, LogError> {
    let config = pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: log.config().ack_wait,
        max_ack_pending: log.config().max_ack_pending,
        ..pull::Config::default()
    };
    log.durable_consumer(INGEST_STREAM, config).await
}

fn published(log: &Log, message: jetstream::Message) -> Result<Published, LogError> {
    let position = consume::position(&message)?;
    let (sequence, waiting) = (position.stream_sequence, position.pending);
    let delivered = u64::try_from(position.delivered).unwrap_or(1);
    // Nanoseconds in an i64 reach until 2262.
    let nanos = i64::try_from(position.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
    let message = message.message;
    let reply = message
        .reply
        .ok_or_else(|| LogError::Protocol("a published message without a reply subject".into()))?;
    let names = message.subject.strip_prefix(INGEST_PREFIX).unwrap_or_default();
    let (project, event_type) = names.split_once('.').unwrap_or((names, ""));
    Ok(Published {
        project: project.to_owned(),
        event_type: event_type.to_owned(),
        payload: message.payload,
        sequence,
        stored_at: DateTime::from_timestamp_nanos(nanos),
        delivered,
        waiting,
        headers: message.headers.unwrap_or_default(),
        subject: message.subject.to_string(),
        reply,
        log: log.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_one_line_that_is_not_too_long() {
        assert_eq!(
            header_text("a\r\nNats-Rollup: all\tb\u{7f}"),
            "a  Nats-Rollup: all b "
        );
        assert_eq!(header_text(&"é".repeat(800)).len(), HEADER_BYTES);
        assert_eq!(header_text("payload must be JSON"), "payload must be JSON");
    }
}
