//! The work of a partition: pulled, acknowledged, delivered again when it is not.

mod floor;
mod recent;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject as ReplySubject;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, AckKind, ErrorCode};
use cuitty_webhooks_domain::delivery::{Due, Requested};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use self::floor::Floor;
pub(crate) use self::recent::Recent;
use crate::Log;
use crate::codec::{self, CodecError};
use crate::consume::{self, Attachment};
use crate::error::LogError;
use crate::metrics::names;
use crate::subjects::{Kind, Subject, work_filter};
use crate::topology::STREAM;

/// Items that are pulled ahead of the worker.
const BATCH: usize = 256;
/// Bytes that are pulled ahead of the worker: 4 MiB.
const BATCH_BYTES: usize = 4 << 20;
/// When items that were handed back come again: after nats-server knows that we no longer pull.
const HAND_BACK_DELAY: Duration = Duration::from_millis(100);

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
    floor: Arc<Floor>,
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
        self.floor.done(self.id.sequence);
        self.log.recent(self.partition).insert(self.id);
    }

    async fn say(&self, word: AckKind) -> Result<(), LogError> {
        let patience = self.log.config().request_timeout;
        match timeout(
            patience,
            self.log.client().publish(self.reply.clone(), word.into()),
        )
        .await
        {
            Ok(said) => said.map_err(LogError::unavailable),
            Err(_) => Err(LogError::Unavailable(
                "no connection to acknowledge work on".into(),
            )),
        }
    }
}

/// The work of one partition.
pub struct WorkStream {
    log: Log,
    partition: u16,
    attachment: Attachment,
    floor: Arc<Floor>,
}

impl Log {
    /// Attaches to the work of `partition`, making its durable consumer if there is none.
    pub async fn work(&self, partition: u16) -> Result<WorkStream, LogError> {
        let mut stream = WorkStream {
            log: self.clone(),
            partition,
            attachment: Attachment::new("work", self),
            floor: Arc::default(),
        };
        stream.messages().await?;
        Ok(stream)
    }
}

impl WorkStream {
    /// The next item. Cancel safe. After an error the caller may just go on: the stream attaches anew, with back-off.
    ///
    /// An item comes again when `ack_wait` passed without a word about it, even to the same worker. It does not when the
    /// word was given here and nats-server, killed, forgot it: that is acknowledged again and left out.
    pub async fn next(&mut self) -> Result<WorkItem, LogError> {
        loop {
            match self.messages().await?.next().await {
                Some(Ok(message)) => {
                    self.attachment.delivered();
                    let item = self.item(message)?;
                    if !self.log.recent(self.partition).contains(item.acker.id) {
                        return Ok(item);
                    }
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
        let Some(mut messages) = self.attachment.into_messages() else {
            return;
        };
        let mut untaken = Vec::new();
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            untaken.push(message);
        }
        drop(messages);
        for message in untaken {
            // When this fails, the items come again after `ack_wait`.
            if message
                .ack_with(AckKind::Nak(Some(HAND_BACK_DELAY)))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn messages(&mut self) -> Result<&mut pull::Stream, LogError> {
        let (log, partition, floor) = (&self.log, self.partition, &self.floor);
        self.attachment
            .messages(|| Box::pin(attach(log.clone(), partition, floor.clone())))
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
        self.floor.taken(id.sequence);
        let reply = message
            .reply
            .ok_or_else(|| LogError::Protocol("a work item without a reply subject".into()))?;
        let acker = Acker {
            reply,
            log: self.log.clone(),
            partition: self.partition,
            id,
            floor: self.floor.clone(),
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
    fn decode(subject: &str, body: bytes::Bytes) -> Self {
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

/// The name of a partition's durable consumer.
pub(crate) fn durable_name(partition: u16) -> String {
    format!("dispatch-{partition}")
}

/// Attaches to the durable consumer of `partition`; makes it when it is missing, changes it when it is configured
/// otherwise. One that was lost goes on where its last one knew all to be done.
async fn attach(log: Log, partition: u16, floor: Arc<Floor>) -> Result<pull::Stream, LogError> {
    let name = durable_name(partition);
    let found = log.consumer_info(&name).await?;
    let deliver_policy = match (&found, floor.resume_at()) {
        (Some(found), _) => {
            floor.attached(
                found.ack_floor.stream_sequence,
                found.delivered.stream_sequence,
                found.num_ack_pending as u64,
            );
            found.config.deliver_policy
        }
        (None, Some(start_sequence)) => {
            warn!(
                partition,
                log.seq = start_sequence,
                "durable consumer was lost, making it again"
            );
            DeliverPolicy::ByStartSequence { start_sequence }
        }
        (None, None) => DeliverPolicy::All,
    };
    let config = pull::Config {
        durable_name: Some(name),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: log.config().ack_wait,
        max_ack_pending: log.config().max_ack_pending,
        filter_subject: work_filter(partition),
        ..pull::Config::default()
    };
    let consumer: consumer::PullConsumer = log
        .jetstream()
        .create_consumer_on_stream(config, STREAM)
        .await
        .map_err(LogError::unavailable)?;
    consume::pull(&consumer, BATCH, BATCH_BYTES).await
}

impl Log {
    /// What nats-server knows about a consumer of the log; `None` when it does not exist.
    pub(crate) async fn consumer_info(&self, name: &str) -> Result<Option<consumer::Info>, LogError> {
        match self
            .js_api(&format!("CONSUMER.INFO.{STREAM}.{name}"), &json!({}))
            .await?
        {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Err(LogError::NoTopology {
                stream: STREAM.into(),
            }),
            Err(error) => Err(LogError::from_jetstream(&error)),
        }
    }
}
