//! How far the dispatchers are behind.

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::Log;
use crate::error::LogError;
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

impl Log {
    /// The lag of every partition, in order.
    pub async fn consumer_lag(&self) -> Result<Vec<PartitionLag>, LogError> {
        let partitions = self.stored_partitions().await?;
        let lags = stream::iter(0..partitions).map(|partition| async move {
            let info = self.consumer_info(&durable_name(partition)).await?;
            Ok::<_, LogError>(info.map(|info| PartitionLag {
                partition,
                pending: info.num_pending,
                in_flight: info.num_ack_pending as u64,
            }))
        });
        lags.buffered(CONCURRENCY)
            .try_filter_map(|lag| async move { Ok(lag) })
            .try_collect()
            .await
    }
}
