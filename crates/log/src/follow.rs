//! Follows a stream whose last message per subject is a state: first every subject's last message, then all that come.
//!
//! Nothing that stays in the stream is missed or seen out of order. An ordered consumer of async-nats gives as much,
//! but re-creates itself in silence: here every loss shows, so that whoever folds the stream knows how fresh it is.

mod kept;

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

pub(crate) use self::kept::{Fold, Kept};
use crate::connect::retry_delay;
use crate::{Log, LogError, consume};

/// Messages asked for ahead of their reader.
const BATCH: usize = 500;
/// How often a stream may be found to end before what was read of it until that is believed: for some seconds, with the pauses
/// between the tries.
const BEHIND_TRIES: usize = 8;
/// How long the server keeps a consumer that nobody pulls from.
const INACTIVE: Duration = Duration::from_secs(30);

/// What [`Follower::next`] found.
pub(crate) enum Followed {
    /// The next message.
    Message {
        /// Its sequence in the stream.
        sequence: u64,
        /// When the server stored it, in nanoseconds since the Unix epoch by the server's clock.
        stored_at: i128,
        message: Box<jetstream::Message>,
    },
    /// A consumer was made; messages follow.
    Attached,
    /// Everything that the consumer's replica held when it was made has been given, up to `sequence`. A replica may be behind:
    /// what is to be known for certain is compared with what the stream's leader has.
    CaughtUp { sequence: u64 },
    /// The stream was made anew: what was folded from the one before is void.
    Restarted,
}

/// A gap-free reader of one stream, all subjects unless told otherwise.
pub(crate) struct Follower {
    log: Log,
    stream: String,
    /// Select the subjects.
    filters: Vec<&'static str>,
    /// Sequence of the last message given.
    position: u64,
    /// Whether every subject's last message was given once, so that reading on from `position` is enough.
    complete: bool,
    /// When the stream was made, in nanoseconds since the Unix epoch: tells it from another one of the same name.
    made_at: Option<i128>,
    /// Attempts to attach that failed since the last one that did not.
    failures: usize,
    connects: watch::Receiver<u64>,
    attaching: Option<BoxFuture<'static, Result<Turn, LogError>>>,
    attached: Option<Box<Attached>>,
}

/// What an attempt to attach led to.
enum Turn {
    Attached { made_at: i128, attached: Box<Attached> },
    Restarted { made_at: i128 },
}

/// A consumer that delivers.
struct Attached {
    messages: pull::Stream,
    consumer_sequence: u64,
    /// Whether something is still to come of what was there when the consumer was made.
    is_catching_up: bool,
    /// At most this many messages are still to come before the follower has caught up.
    pending: u64,
}

impl Follower {
    pub(crate) fn new(log: &Log, stream: impl Into<String>) -> Self {
        Self {
            log: log.clone(),
            stream: stream.into(),
            // nats-server wants to be told that every subject is meant.
            filters: vec![">"],
            position: 0,
            complete: false,
            made_at: None,
            failures: 0,
            connects: log.connects(),
            attaching: None,
            attached: None,
        }
    }

    /// Leaves out what `filter` does not select.
    pub(crate) fn only(self, filter: &'static str) -> Self {
        self.only_these([filter])
    }

    /// Leaves out what none of `filters`, which do not overlap, selects.
    pub(crate) fn only_these(self, filters: impl Into<Vec<&'static str>>) -> Self {
        let filters = filters.into();
        Self { filters, ..self }
    }

    /// The next message or turn of events. After an error the follower is detached; calling again attaches it where it
    /// was, after a pause that grows with the failures. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Followed, LogError> {
        let Some(attached) = &mut self.attached else {
            return self.attach().await;
        };
        if attached.pending == 0 && attached.is_catching_up {
            attached.is_catching_up = false;
            // Not further than what was given: what the stream holds behind that, the replica may not have had yet.
            self.complete = true;
            return Ok(Followed::CaughtUp {
                sequence: self.position,
            });
        }
        let found = tokio::select! {
            message = attached.messages.next() => attached.accept(message),
            // What was sent into the old connection is lost, and no gap would show before the next message.
            _ = self.connects.changed() => Err(lost("the connection was made anew")),
        };
        match found {
            Ok((sequence, stored_at, message)) => {
                self.position = sequence;
                Ok(Followed::Message {
                    sequence,
                    stored_at,
                    message: message.into(),
                })
            }
            Err(error) => {
                self.attached = None;
                Err(error)
            }
        }
    }

    /// Whether every subject's last message was given once.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    async fn attach(&mut self) -> Result<Followed, LogError> {
        // Kept over cancelled calls: starting anew each time might never come to an end.
        let attaching = self.attaching.get_or_insert_with(|| {
            self.connects.mark_unchanged();
            let known = self.made_at;
            let position = self.complete.then_some(self.position);
            let attaching = attach(
                self.log.clone(),
                self.stream.clone(),
                self.filters.clone(),
                known,
                position,
                self.failures,
            );
            let pause = retry_delay(self.failures);
            Box::pin(async move {
                sleep(pause).await;
                attaching.await
            })
        });
        let turn = tokio::select! {
            turn = attaching => turn,
            // The answer that is awaited was sent into the old connection, if at all.
            _ = self.connects.changed() => {
                self.attaching = None;
                self.failures = 0;
                return Err(lost("the connection was made anew"));
            }
        };
        self.attaching = None;
        self.failures = if turn.is_ok() { 0 } else { self.failures + 1 };
        Ok(match turn? {
            Turn::Attached { made_at, attached } => {
                self.made_at = Some(made_at);
                self.attached = Some(attached);
                Followed::Attached
            }
            Turn::Restarted { made_at } => {
                self.made_at = Some(made_at);
                self.position = 0;
                self.complete = false;
                Followed::Restarted
            }
        })
    }
}

/// Makes a consumer of what follows `position`, or of every subject's last message, unless the stream is another one
/// than that of `known`.
async fn attach(
    log: Log,
    name: String,
    filters: Vec<&'static str>,
    known: Option<i128>,
    position: Option<u64>,
    failures: usize,
) -> Result<Turn, LogError> {
    if !log.is_connected() {
        return Err(LogError::Unavailable("not connected".into()));
    }
    let Some(info) = log.stream_info(&name).await? else {
        return Err(LogError::NoTopology { stream: name });
    };
    let (last, made_at) = (info.state.last_sequence, info.created.unix_timestamp_nanos());
    // Deleted and made again, or restored from a backup.
    if known.is_some_and(|known| known != made_at) {
        return Ok(Turn::Restarted { made_at });
    }
    if position.is_some_and(|position| last < position) {
        // A leader that has just been elected may be behind the replica that was read; a stream that lost its last messages
        // stays so.
        if failures < BEHIND_TRIES {
            return Err(lost("the stream's leader is behind what was read"));
        }
        return Ok(Turn::Restarted { made_at });
    }
    let deliver_policy = match position {
        Some(position) => DeliverPolicy::ByStartSequence {
            start_sequence: position + 1,
        },
        None => DeliverPolicy::LastPerSubject,
    };
    // nats-server takes a single filter as such only.
    let (filter_subject, filter_subjects) = match &filters[..] {
        [filter] => ((*filter).to_owned(), Vec::new()),
        several => (
            String::new(),
            several.iter().map(|&filter| filter.to_owned()).collect(),
        ),
    };
    let config = pull::Config {
        deliver_policy,
        filter_subject,
        filter_subjects,
        ..pull::Config::default()
    };
    let consumer = log.reading(&name, INACTIVE, config).await?;
    let pending = consumer.cached_info().num_pending;
    let messages = consume::pull(&consumer, BATCH, 0).await?;
    let attached = Box::new(Attached {
        messages,
        consumer_sequence: 0,
        is_catching_up: true,
        pending,
    });
    Ok(Turn::Attached { made_at, attached })
}

impl Attached {
    /// Checks that `message` follows the one before; gives its sequence, the time it was stored, and itself.
    fn accept(
        &mut self,
        message: Option<Result<jetstream::Message, pull::MessagesError>>,
    ) -> Result<(u64, i128, jetstream::Message), LogError> {
        let message = message
            .ok_or_else(|| lost("it ended"))?
            .map_err(LogError::unavailable)?;
        let info = consume::position(&message)?;
        if info.consumer_sequence != self.consumer_sequence + 1 {
            return Err(lost("a message is missing"));
        }
        let (sequence, stored_at) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        self.consumer_sequence = info.consumer_sequence;
        self.pending = self.pending.saturating_sub(1).min(info.pending);
        Ok((sequence, stored_at, message))
    }
}

fn lost(why: &str) -> LogError {
    LogError::Unavailable(format!("lost the consumer: {why}"))
}
