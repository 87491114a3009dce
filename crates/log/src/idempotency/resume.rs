//! Carrying out what an earlier call began: what it appended is found in the log, the rest is appended.
//!
//! The stream recognises a repeated append by its id for `duplicate_window` only, and an intent may be repeated for as long
//! as it is remembered. So the log is asked first, at every repetition: whether the window is over is for no clock of ours
//! to say.

use std::slice;
use std::time::Duration;

use async_nats::datetime;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{Requested, Unmatched};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;
use tracing::{instrument, warn};

use super::Idempotency;
use crate::consume;
use crate::error::LogError;
use crate::subjects::{Subject, partition_of};
use crate::topology::STREAM;

/// Searches at the same time: each costs nats-server a consumer.
pub(super) const SEARCHES: usize = 16;
/// How far the clocks of a cluster's servers may be apart: one of them dates the record, another the messages.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Messages that a search pulls ahead; only their headers are sent.
const BATCH: usize = 1000;
/// How long nats-server keeps the consumer of a search that has ended. It is not deleted: who may delete one consumer of a
/// stream may delete them all, and searches are few.
const INACTIVE: Duration = Duration::from_secs(5);

impl Idempotency {
    /// Appends those of `requests` that are not in the log yet, and returns the highest sequence of all of them. What is
    /// older than `recorded_at`, the time of the record by nats-server's clock, is not looked at.
    ///
    /// Calls at the same time store each request once, the call that began it included: what one of them appends after
    /// another has looked is within `duplicate_window` of the other's own append, and has the same id.
    ///
    /// At least once: a request is appended again when it is not found within half of `request_timeout` among the
    /// messages of its endpoint, when `max_age` has removed it, or when a call stands still for longer than
    /// `duplicate_window` just before it appends.
    #[instrument(name = "log.resume", level = "debug", skip_all, fields(events = requests.len()))]
    pub async fn resume_requested(
        &self,
        requests: &[Requested],
        recorded_at: DateTime<Utc>,
    ) -> Result<u64, LogError> {
        let partitions = self.log.stored_partitions().await?;
        let resumed: Vec<_> = requests
            .iter()
            .map(|request| self.resume_one(request, partitions, recorded_at))
            .collect();
        let mut resumed = stream::iter(resumed).buffer_unordered(SEARCHES);
        let mut highest = 0;
        while let Some(sequence) = resumed.try_next().await? {
            highest = highest.max(sequence);
        }
        Ok(highest)
    }

    /// [`Self::resume_requested`] of a message that matched no endpoint.
    #[instrument(name = "log.resume", level = "debug", skip_all)]
    pub async fn resume_unmatched(
        &self,
        message: &Unmatched,
        recorded_at: DateTime<Utc>,
    ) -> Result<u64, LogError> {
        let subject = Subject::Unmatched {
            project_id: message.project_id.clone(),
        };
        match self
            .find(&subject, &message.message_id.to_string(), recorded_at)
            .await?
        {
            Some(sequence) => Ok(sequence),
            None => self.log.append_unmatched(message).await,
        }
    }

    async fn resume_one(
        &self,
        request: &Requested,
        partitions: u16,
        recorded_at: DateTime<Utc>,
    ) -> Result<u64, LogError> {
        let delivery = &request.delivery;
        let subject = Subject::Work {
            partition: partition_of(delivery.endpoint_id, partitions),
            project_id: delivery.project_id.clone(),
            endpoint_id: delivery.endpoint_id,
            due: false,
        };
        let id = delivery.delivery_id.to_string();
        if let Some(sequence) = self.find(&subject, &id, recorded_at).await? {
            return Ok(sequence);
        }
        let sequences = self.log.append_requested(slice::from_ref(request)).await?;
        Ok(sequences.into_iter().max().unwrap_or_default())
    }

    /// Where the message of `subject` with this id is stored, unless it was stored before `since`. `None` also when there is
    /// too much to look through.
    async fn find(&self, subject: &Subject, id: &str, since: DateTime<Utc>) -> Result<Option<u64>, LogError> {
        let _turn = self
            .searches
            .acquire()
            .await
            .map_err(|error| LogError::Unavailable(error.to_string()))?;
        let subject = subject.to_string();
        let patience = self.log.config().request_timeout / 2;
        let search = || async {
            let Ok(found) = timeout(patience, self.search(&subject, id, since)).await else {
                warn!(
                    subject,
                    id, "too many messages to find one in time; it is appended, perhaps again"
                );
                return Ok(None);
            };
            found
        };
        self.log.retried(search).await
    }

    async fn search(&self, subject: &str, id: &str, since: DateTime<Utc>) -> Result<Option<u64>, LogError> {
        let mut connects = self.log.connects();
        connects.mark_unchanged();
        let consumer = self.consumer(subject, since - CLOCK_SKEW).await?;
        let looking = look(&consumer, id);
        let found = tokio::select! {
            found = looking => found?,
            Ok(()) = connects.changed() => {
                return Err(LogError::Unavailable("the connection was made anew during a search".into()));
            }
        };
        Ok(found)
    }

    /// A consumer of the headers of `subject`'s messages from `start` on. The literal filter spares nats-server the others.
    async fn consumer(&self, subject: &str, start: DateTime<Utc>) -> Result<PullConsumer, LogError> {
        let nanos = i128::from(start.timestamp_micros()) * 1000;
        let start_time =
            datetime::from_nanos(nanos).map_err(|error| LogError::Protocol(error.to_string()))?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            filter_subject: subject.to_owned(),
            headers_only: true,
            ..pull::Config::default()
        };
        self.log.reading(STREAM, INACTIVE, config).await
    }
}

/// The sequence of the message with this id among those that `consumer` had to deliver when it was made.
async fn look(consumer: &PullConsumer, id: &str) -> Result<Option<u64>, LogError> {
    let mut left = consumer.cached_info().num_pending;
    if left == 0 {
        return Ok(None);
    }
    let mut messages = consume::pull(consumer, BATCH, 0).await?;
    let mut seen = 0;
    while left > 0 {
        let message = match messages.next().await {
            Some(message) => message.map_err(LogError::unavailable)?,
            None => return Err(LogError::Unavailable("a search was cut off".into())),
        };
        let position = consume::position(&message)?;
        seen += 1;
        if position.consumer_sequence != seen {
            return Err(LogError::Unavailable("a search missed a message".into()));
        }
        let stored_id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(NATS_MESSAGE_ID));
        if stored_id.is_some_and(|stored| stored.as_str() == id) {
            return Ok(Some(position.stream_sequence));
        }
        // What came after the search began is not looked at, and some of what it was to see may have aged out.
        left = (left - 1).min(position.pending);
    }
    Ok(None)
}
