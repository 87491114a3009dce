//! The durable consumers, one per partition, and the floor of each: what is known to be done, kept where it outlives
//! both the consumer and the process.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{
    self, AckPolicy, DeliverPolicy, IntoConsumerConfig, PullConsumer, pull,
};
use async_nats::jetstream::kv::{Operation, UpdateErrorKind};
use async_nats::jetstream::stream::Info;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use super::known::Known;
use super::{Floor, ItemId};
use crate::Log;
use crate::error::LogError;
use crate::subjects::work_filter;
use crate::topology::{LANES_BUCKET, STREAM};

/// How often a floor that has changed is stored: work that was done since may be done again when both the process and
/// the consumer are lost.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a stream that is closed tries to store its floor.
const LAST_KEEP: Duration = Duration::from_secs(1);

/// The name of a partition's durable consumer.
pub(crate) fn durable_name(partition: u16) -> String {
    format!("dispatch-{partition}")
}

/// The bucket's key of a partition's floor.
pub(super) fn floor_key(partition: u16) -> String {
    format!("floor.{partition}")
}

/// Stores the floor of `partition` whenever it has changed.
pub(super) async fn keep(log: Log, partition: u16) {
    loop {
        sleep(KEEP_INTERVAL).await;
        if let Err(error) = log.store_floor(partition).await {
            debug!(partition, %error, "floor is not stored, trying again");
        }
    }
}

/// Stores the floor of `partition` a last time, if that is quick.
pub(super) async fn keep_last(log: &Log, partition: u16) {
    if log.is_connected() {
        // What is not stored now is not lost: the consumer knows it, too.
        let _ = timeout(LAST_KEEP, log.store_floor(partition)).await;
    }
}

impl Log {
    /// The durable consumer of `partition`, configured as it must be. One that is missing is made again: it starts where
    /// work is known to be done.
    pub(crate) async fn durable(&self, partition: u16) -> Result<PullConsumer, LogError> {
        let stream = self
            .stream_info(STREAM)
            .await?
            .ok_or_else(|| LogError::NoTopology {
                stream: STREAM.into(),
            })?;
        let floor = self.floor(partition);
        floor.of_stream(stream.created.unix_timestamp_nanos());
        self.load_floor(partition).await?;
        let found = self.consumer_info(&durable_name(partition)).await?;
        let deliver_policy = match &found {
            Some(found) => {
                attached(floor, found);
                if floor.known().anchor().is_none()
                    && let Some(id) = self.item_at(found.ack_floor.stream_sequence).await?
                {
                    floor.anchor_at(id);
                }
                found.config.deliver_policy
            }
            None => self.restart_policy(floor, partition, &stream).await?,
        };
        let config = self.durable_config(partition, deliver_policy);
        if let Some(found) = found
            && !differs(&found.config, &config.clone().into_consumer_config())
        {
            // Nothing to change, and so no need for the leader of the whole cluster.
            return Ok(PullConsumer::new(config, found, self.jetstream().clone()));
        }
        let consumer = self.durable_consumer(STREAM, config).await?;
        attached(floor, consumer.cached_info());
        Ok(consumer)
    }

    /// Makes the durable consumer of `partition` if it is missing, and configures it as it must be. What there was to do,
    /// `None` for nothing; with `apply` it is done.
    pub(crate) async fn visit_durable(
        &self,
        partition: u16,
        apply: bool,
    ) -> Result<Option<&'static str>, LogError> {
        let wanted = self
            .durable_config(partition, DeliverPolicy::All)
            .into_consumer_config();
        let difference = match self.consumer_info(&durable_name(partition)).await? {
            None => "missing",
            Some(found) if differs(&found.config, &wanted) => "configured otherwise",
            Some(_) => return Ok(None),
        };
        if apply && let Err(error) = self.durable(partition).await {
            // Another process may have made it, from another start.
            match self.consumer_info(&durable_name(partition)).await? {
                Some(found) if !differs(&found.config, &wanted) => {}
                _ => return Err(error),
            }
        }
        Ok(Some(difference))
    }

    /// What nats-server knows about a consumer of the log; `None` when it does not exist.
    pub(crate) async fn consumer_info(&self, name: &str) -> Result<Option<consumer::Info>, LogError> {
        self.consumer_of(STREAM, name).await
    }

    /// What nats-server knows about a consumer of a stream; `None` when it does not exist.
    pub(crate) async fn consumer_of(
        &self,
        stream: &str,
        name: &str,
    ) -> Result<Option<consumer::Info>, LogError> {
        match self.ask(&format!("CONSUMER.INFO.{stream}.{name}")).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Err(LogError::NoTopology {
                stream: stream.into(),
            }),
            Err(error) => Err(LogError::from_jetstream(&error)),
        }
    }

    fn durable_config(&self, partition: u16, deliver_policy: DeliverPolicy) -> pull::Config {
        pull::Config {
            durable_name: Some(durable_name(partition)),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.config().ack_wait,
            max_ack_pending: self.config().max_ack_pending,
            filter_subject: work_filter(partition),
            ..pull::Config::default()
        }
    }

    /// Where a consumer that takes the place of a missing one starts.
    async fn restart_policy(
        &self,
        floor: &Floor,
        partition: u16,
        stream: &Info,
    ) -> Result<DeliverPolicy, LogError> {
        let state = &stream.state;
        if state.last_sequence == 0 {
            return Ok(DeliverPolicy::All);
        }
        let known = floor.known();
        let start_sequence = known.resume_at();
        if self.is_sound(&known, stream).await? {
            warn!(
                partition,
                log.seq = start_sequence,
                "durable consumer is missing: it is made again and starts where its work is known to be done"
            );
            return Ok(DeliverPolicy::ByStartSequence { start_sequence });
        }
        floor.forget();
        // There may be nothing that it could have done.
        if self.leader_last(STREAM, &work_filter(partition)).await?.is_some() {
            error!(
                partition,
                log.seq = state.first_sequence,
                "durable consumer is missing, and what it had done is not known: everything of the partition that is kept is \
                 delivered again, so that nothing is lost"
            );
        }
        Ok(DeliverPolicy::All)
    }

    /// Whether `stream` is the one that `known` is about, with what it held then: one that lost its last messages gives
    /// their sequences to others.
    pub(super) async fn is_sound(&self, known: &Known, stream: &Info) -> Result<bool, LogError> {
        let Some(anchor) = known.anchor() else {
            return Ok(false);
        };
        Ok(match self.item_at(anchor.sequence).await? {
            Some(found) => found == anchor,
            None => anchor.sequence < stream.state.first_sequence,
        })
    }

    async fn item_at(&self, sequence: u64) -> Result<Option<ItemId>, LogError> {
        let message = self.message_at(STREAM, sequence).await?;
        Ok(message.map(|message| ItemId {
            sequence,
            stored_at: message.time.unix_timestamp_nanos(),
        }))
    }

    /// Learns what the last holder of `partition` stored.
    async fn load_floor(&self, partition: u16) -> Result<(), LogError> {
        let entry = self
            .bucket(LANES_BUCKET)
            .await?
            .entry(floor_key(partition))
            .await
            .map_err(LogError::unavailable)?;
        let Some(entry) = entry else { return Ok(()) };
        let known = match (entry.operation, Known::decode(&entry.value)) {
            (Operation::Put, Ok(known)) => known,
            (Operation::Put, Err(error)) => {
                warn!(partition, %error, "the stored floor cannot be read, going on without it");
                Known::default()
            }
            _ => Known::default(),
        };
        self.floor(partition).learn(known, entry.revision);
        Ok(())
    }

    /// Stores the floor of `partition` if it has changed.
    pub(crate) async fn store_floor(&self, partition: u16) -> Result<(), LogError> {
        let floor = self.floor(partition);
        if !floor.has_changed() {
            return Ok(());
        }
        if let Some(found) = self.consumer_info(&durable_name(partition)).await? {
            floor.acknowledged(found.ack_floor.stream_sequence);
        }
        let unstored = floor.unstored();
        let Some(text) = unstored.known.encode() else {
            return Ok(());
        };
        let bucket = self.bucket(LANES_BUCKET).await?;
        match bucket.update(floor_key(partition), text, unstored.revision).await {
            Ok(revision) => {
                floor.stored(&unstored, revision);
                Ok(())
            }
            // Another holder came first, or an answer was lost: the next time, we follow that.
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                self.load_floor(partition).await
            }
            Err(error) => Err(LogError::unavailable(error)),
        }
    }
}

fn attached(floor: &Floor, found: &consumer::Info) {
    floor.attached(
        found.ack_floor.stream_sequence,
        found.delivered.stream_sequence,
        found.delivered.consumer_sequence,
    );
}

fn differs(found: &consumer::Config, wanted: &consumer::Config) -> bool {
    found.ack_policy != wanted.ack_policy
        || found.ack_wait != wanted.ack_wait
        || found.max_ack_pending != wanted.max_ack_pending
        || found.filter_subject != wanted.filter_subject
}
