//! The work of a partition: pulled, acknowledged, delivered again when it is not.

mod durable;
mod floor;
mod known;
mod settle;

use std::time::Duration;

use async_nats::Subject as ReplySubject;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, AckKind};
use cuitty_webhooks_domain::delivery::{Due, Requested};
use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

pub(crate) use self::durable::durable_name;
use self::floor::Delivery;
pub(crate) use self::floor::Floor;
use crate::Log;
use crate::codec::{self, CodecError};
use crate::consume::{self, Attachment};
use crate::error::LogError;
use crate::metrics::names;
use crate::subjects::{Kind, Subject};

/// Items that are pulled ahead of the worker.
const BATCH: usize = 256;
/// Bytes that are pulled ahead of the worker: 4 MiB.
const BATCH_BYTES: usize = 4 << 20;

/// Something to do: a delivery to attempt.
#[derive(Debug, Clone)]
pub struct WorkItem {
    /// Its sequence in the log.
    pub sequence: u64,
    /// What is to be done.
    pub event: WorkEvent,
    /// How often it was delivered, this time included: 1 for the first.
    pub delivered: u64,
    /// Says that it is done, or not yet.
    pub acker: Acker,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkEvent {
    /// The first attempt.
    Requested(Box<Requested>),
    /// A retry.
    Due(Due),
    /// Something that this version cannot read.
    Unreadable(CodecError),
}

/// Tells nats-server how a work item goes. Cheap to clone.
///
/// Nothing waits for an answer: a word that is lost brings the item back after `ack_wait`, at worst. An error says that
/// there was no connection to hand the word to.
#[derive(Debug, Clone)]
pub struct Acker {
    reply: ReplySubject,
    log: Log,
    partition: u16,
    id: ItemId,
}

/// Tells a stored message from any other, even of a stream that was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ItemId {
    sequence: u64,
    /// When it was stored, in nanoseconds since the Unix epoch.
    stored_at: i128,
}

impl Acker {
    /// It is done.
    pub async fn ack(&self) -> Result<(), LogError> {
        self.done();
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

    /// Never bring it back.
    pub async fn term(&self) -> Result<(), LogError> {
        self.done();
        self.say(AckKind::Term).await
    }

    fn done(&self) {
        self.log.floor(self.partition).done(self.id);
    }

    async fn say(&self, word: AckKind) -> Result<(), LogError> {
        consume::say(&self.log, &self.reply, word).await
    }
}

/// The work of one partition.
pub struct WorkStream {
    log: Log,
    partition: u16,
    attachment: Attachment,
    /// Stores what is known to be done, every now and then.
    _keeping: AbortOnDropHandle<()>,
}

impl Log {
    /// Attaches to the work of `partition`, making its durable consumer if there is none.
    pub async fn work(&self, partition: u16) -> Result<WorkStream, LogError> {
        let mut stream = WorkStream {
            log: self.clone(),
            partition,
            attachment: Attachment::new("work", self),
            _keeping: AbortOnDropHandle::new(tokio::spawn(durable::keep(self.clone(), partition))),
        };
        stream.messages().await?;
        Ok(stream)
    }
}

impl WorkStream {
    /// The next item. Cancel safe. After an error the caller may just go on: the stream attaches anew, with back-off.
    ///
    /// An item comes again when `ack_wait` passed without a word about it, even to the same worker. It does not when it is
    /// known to be done, though nats-server was killed and forgot the word, or lost its consumer: that is acknowledged
    /// again and left out.
    pub async fn next(&mut self) -> Result<WorkItem, LogError> {
        loop {
            match self.messages().await?.next().await {
                Some(Ok(message)) => {
                    self.attachment.delivered();
                    let number = consume::position(&message)?.consumer_sequence;
                    let item = self.item(message)?;
                    let is_first = item.delivered == 1;
                    let delivery = Delivery { number, is_first };
                    if self.log.floor(self.partition).take(item.acker.id, delivery) {
                        return Ok(item);
                    }
                    debug!(
                        partition = self.partition,
                        log.seq = item.sequence,
                        delivered = item.delivered,
                        "work item is done already"
                    );
                    item.acker.ack().await?;
                }
                Some(Err(error)) => self.attachment.detach(&error.to_string()),
                None => self.attachment.detach("the messages ended"),
            }
        }
    }

    /// Stops pulling and hands back at once what was pulled but not taken, so that whoever pulls the partition next
    /// does not wait for `ack_wait`.
    pub async fn close(self) {
        if let Some(messages) = self.attachment.into_messages() {
            consume::hand_back(messages).await;
        }
        durable::keep_last(&self.log, self.partition).await;
    }

    async fn messages(&mut self) -> Result<&mut pull::Stream, LogError> {
        let (log, partition) = (&self.log, self.partition);
        self.attachment
            .messages(|| Box::pin(attach(log.clone(), partition)))
            .await
    }

    fn item(&self, message: jetstream::Message) -> Result<WorkItem, LogError> {
        let info = consume::position(&message)?;
        let id = ItemId {
            sequence: info.stream_sequence,
            stored_at: info.published.unix_timestamp_nanos(),
        };
        let delivered = u64::try_from(info.delivered).unwrap_or(1);
        let message = message.message;
        let reply = message
            .reply
            .ok_or_else(|| LogError::Protocol("a work item without a reply subject".into()))?;
        let acker = Acker {
            reply,
            log: self.log.clone(),
            partition: self.partition,
            id,
        };
        let event = WorkEvent::decode(&message.subject, message.payload);
        Ok(WorkItem {
            sequence: id.sequence,
            event,
            delivered,
            acker,
        })
    }
}

impl WorkEvent {
    pub(crate) fn decode(subject: &str, body: bytes::Bytes) -> Self {
        let decoded = subject
            .parse::<Subject>()
            .map_err(CodecError::from)
            .and_then(|subject| match subject.kind() {
                Kind::Due => codec::decode_due(body).map(Self::Due),
                _ => codec::decode_requested(body).map(|event| Self::Requested(Box::new(event))),
            });
        decoded.unwrap_or_else(|error| {
            metrics::counter!(names::UNREADABLE).increment(1);
            Self::Unreadable(error)
        })
    }
}

/// Attaches to the durable consumer of `partition`.
async fn attach(log: Log, partition: u16) -> Result<pull::Stream, LogError> {
    let consumer = log.durable(partition).await?;
    consume::pull(&consumer, BATCH, BATCH_BYTES).await
}
