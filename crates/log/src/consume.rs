//! What reading and working have in common: a pull consumer that is attached again when it is lost.

use std::time::Duration;

use async_nats::Subject as ReplySubject;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, AckKind};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::Log;
use crate::connect::retry_delay;
use crate::error::LogError;
use crate::metrics::names;

/// How often nats-server tells that a consumer is alive; it counts as lost after twice this.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long one pull request waits at the server. Renewed for ever; bounds what a lost one costs.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// When items that were handed back come again: after nats-server knows that we no longer pull.
const HAND_BACK_DELAY: Duration = Duration::from_millis(100);

/// A pull consumer's messages, or the way to them. Every step may be cancelled: progress is kept here.
pub(crate) struct Attachment {
    /// For the metrics: `read`, `work` or `ingest`.
    used_to: &'static str,
    state: State,
    /// Attachments lost or failed since the last message.
    failures: usize,
    connects: watch::Receiver<u64>,
}

enum State {
    Detached,
    Attaching(BoxFuture<'static, Result<pull::Stream, LogError>>),
    Attached(Box<pull::Stream>),
}

impl Attachment {
    pub(crate) fn new(used_to: &'static str, log: &Log) -> Self {
        Self {
            used_to,
            state: State::Detached,
            failures: 0,
            connects: log.connects(),
        }
    }

    /// The attached messages. When there are none, `attach` makes them, after a pause that grows with the failures.
    pub(crate) async fn messages(
        &mut self,
        mut attach: impl FnMut() -> BoxFuture<'static, Result<pull::Stream, LogError>>,
    ) -> Result<&mut pull::Stream, LogError> {
        loop {
            if matches!(self.state, State::Detached) {
                self.connects.mark_unchanged();
                let attaching = attach();
                let pause = retry_delay(self.failures);
                self.state = State::Attaching(Box::pin(async move {
                    sleep(pause).await;
                    attaching.await
                }));
            }
            let State::Attaching(attaching) = &mut self.state else {
                break;
            };
            let attached = tokio::select! {
                biased;
                attached = attaching => attached,
                Ok(()) = self.connects.changed() => {
                    // The answers under way are lost: asking anew beats waiting for their time to run out.
                    self.state = State::Detached;
                    continue;
                }
            };
            match attached {
                Ok(messages) => self.state = State::Attached(Box::new(messages)),
                Err(error) => {
                    self.state = State::Detached;
                    self.failures += 1;
                    return Err(error);
                }
            }
        }
        match &mut self.state {
            State::Attached(messages) => Ok(messages),
            State::Detached | State::Attaching(_) => Err(LogError::Unavailable("not attached".into())),
        }
    }

    /// Gives up the attached messages.
    pub(crate) fn detach(&mut self, why: &str) {
        metrics::counter!(names::REATTACHED, "use" => self.used_to).increment(1);
        debug!(used_to = self.used_to, why, "consumer lost, attaching again");
        self.failures += 1;
        self.state = State::Detached;
    }

    /// A message came: all is well.
    pub(crate) fn delivered(&mut self) {
        self.failures = 0;
    }

    /// The attached messages, to be given up.
    pub(crate) fn into_messages(self) -> Option<pull::Stream> {
        match self.state {
            State::Attached(messages) => Some(*messages),
            State::Detached | State::Attaching(_) => None,
        }
    }
}

impl Log {
    /// A consumer of `stream` for whoever reads along, without a word about what it gives. It lives in the memory of one server:
    /// when it is lost, another one takes its place. nats-server drops it when nobody has pulled from it for `inactive`.
    pub(crate) async fn reading(
        &self,
        stream: &str,
        inactive: Duration,
        config: pull::Config,
    ) -> Result<PullConsumer, LogError> {
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: inactive,
            ..config
        };
        self.create_consumer(stream, config)
            .await?
            .map_err(LogError::unavailable)
    }

    /// The durable consumer of `stream` that `config` names, made if it is missing, and configured so.
    pub(crate) async fn durable_consumer(
        &self,
        stream: &str,
        config: pull::Config,
    ) -> Result<PullConsumer, LogError> {
        let created = self.create_consumer(stream, config).await?;
        created.map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(cause) => LogError::from_jetstream(&cause),
            _ => LogError::unavailable(error),
        })
    }

    /// The outer error says that there was no answer.
    async fn create_consumer(
        &self,
        stream: &str,
        config: pull::Config,
    ) -> Result<Result<PullConsumer, ConsumerError>, LogError> {
        self.insist(|| self.jetstream().create_consumer_on_stream(config.clone(), stream))
            .await
            .ok_or_else(|| {
                self.why_unanswered(&format!("$JS.API.CONSUMER.CREATE.{stream}"), "no answer in time")
            })
    }
}

/// Starts pulling at most `batch` messages and `max_bytes` (0: any number) ahead of their reader.
pub(crate) async fn pull(
    consumer: &PullConsumer,
    batch: usize,
    max_bytes: usize,
) -> Result<pull::Stream, LogError> {
    let pulling = consumer
        .stream()
        .max_messages_per_batch(batch)
        .max_bytes_per_batch(max_bytes)
        .heartbeat(HEARTBEAT)
        .expires(PULL_EXPIRES);
    pulling.messages().await.map_err(LogError::unavailable)
}

/// Where a delivered message stands.
pub(crate) fn position(message: &jetstream::Message) -> Result<jetstream::message::Info<'_>, LogError> {
    message
        .info()
        .map_err(|error| LogError::Protocol(error.to_string()))
}

/// Says a word about a delivered message to its `reply` subject. An error says that there was no connection to hand it to.
pub(crate) async fn say(log: &Log, reply: &ReplySubject, word: AckKind) -> Result<(), LogError> {
    let saying = log.client().publish(reply.clone(), word.into());
    match timeout(log.config().request_timeout, saying).await {
        Ok(said) => said.map_err(LogError::unavailable),
        Err(_) => Err(LogError::Unavailable(
            "no connection to acknowledge work on".into(),
        )),
    }
}

/// Hands back what was pulled and not taken.
pub(crate) async fn hand_back(mut messages: pull::Stream) {
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
