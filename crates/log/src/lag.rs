//! How far the dispatchers are behind.

use async_nats::jetstream::consumer;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::Log;
use crate::error::LogError;
use crate::read::stored_at;
use crate::subjects::work_filter;
use crate::topology::STREAM;
use crate::work::durable_name;

/// Partitions asked about at the same time.
const CONCURRENCY: usize = 16;

/// How much of a partition's work is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition.
    pub partition: u16,
    /// Items that were not pulled yet.
    pub pending: u64,
    /// Items that were pulled and not acknowledged.
    pub in_flight: u64,
}

/// What waits in a partition, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionBacklog {
    /// How much.
    pub lag: PartitionLag,
    /// When the oldest item came that was not pulled yet; `None` when there is none.
    pub waiting_since: Option<DateTime<Utc>>,
}

impl Log {
    /// What waits in one partition; `None` when it has no consumer.
    pub async fn partition_backlog(&self, partition: u16) -> Result<Option<PartitionBacklog>, LogError> {
        let Some(info) = self.consumer_info(&durable_name(partition)).await? else {
            return Ok(None);
        };
        let waiting_since = if info.num_pending == 0 {
            None
        } else {
            let next = info.delivered.stream_sequence + 1;
            let subject = work_filter(partition);
            let oldest = self.next_message(STREAM, &subject, next).await?;
            oldest.map(|message| stored_at(&message))
        };
        Ok(Some(PartitionBacklog {
            lag: lag(partition, &info),
            waiting_since,
        }))
    }

    /// The lag of every partition, in order.
    pub async fn consumer_lag(&self) -> Result<Vec<PartitionLag>, LogError> {
        let consumers = self.consumers().await?.into_iter().flatten();
        Ok(consumers.map(|(partition, info)| lag(partition, &info)).collect())
    }

    /// For each partition, the log sequence up to which all its work has been pulled and acknowledged; 0 while some waits
    /// to be pulled.
    pub async fn settled_through(&self) -> Result<Vec<u64>, LogError> {
        let settled = |info: consumer::Info| match (info.num_pending, info.num_ack_pending) {
            (0, 0) => u64::MAX,
            (0, _) => info.ack_floor.stream_sequence,
            _ => 0,
        };
        let consumers = self.consumers().await?;
        Ok(consumers
            .into_iter()
            .map(|consumer| consumer.map_or(0, |(_, info)| settled(info)))
            .collect())
    }

    /// What nats-server knows about each partition's consumer; `None` where there is none.
    async fn consumers(&self) -> Result<Vec<Option<(u16, consumer::Info)>>, LogError> {
        let partitions = self.stored_partitions().await?;
        let asked = stream::iter(0..partitions).map(|partition| async move {
            let info = self.consumer_info(&durable_name(partition)).await?;
            Ok::<_, LogError>(info.map(|info| (partition, info)))
        });
        asked.buffered(CONCURRENCY).try_collect().await
    }
}

fn lag(partition: u16, info: &consumer::Info) -> PartitionLag {
    PartitionLag {
        partition,
        pending: info.num_pending,
        in_flight: info.num_ack_pending as u64,
    }
}
