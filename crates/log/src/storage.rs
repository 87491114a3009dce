//! How much the log holds, and how well it is kept.

use std::time::Duration;

use async_nats::jetstream::stream::Info;
use chrono::{DateTime, Utc};

use crate::error::LogError;
use crate::read::time;
use crate::{Log, topology};

/// What nats-server tells of the log's storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Every stream of the topology that exists, buckets included.
    pub streams: Vec<StreamStorage>,
    /// Bytes of file storage that the account has used, each replica counted.
    pub used: u64,
    /// Bytes that the account may use; `None` when only the disk, or `max_file_store` of nats-server, limits it.
    pub limit: Option<u64>,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStorage {
    /// Its name; a bucket's starts with `KV_`.
    pub name: &'static str,
    /// Messages kept.
    pub messages: u64,
    /// Their bytes, one replica counted.
    pub bytes: u64,
    /// When the oldest one was stored; `None` when there is none.
    pub oldest: Option<DateTime<Utc>>,
    /// How long messages are kept; zero means for ever.
    pub max_age: Duration,
    /// Replicas that have everything.
    pub current_replicas: usize,
    /// Replicas that are offline or behind.
    pub other_replicas: usize,
}

impl Log {
    /// Asks nats-server about every stream, one after the other.
    pub async fn storage(&self) -> Result<Storage, LogError> {
        let mut streams = Vec::new();
        for name in topology::STREAMS {
            let info = self.stream_info(name).await?;
            streams.extend(info.map(|info| storage(name, &info)));
        }
        let account = self
            .jetstream()
            .query_account()
            .await
            .map_err(LogError::unavailable)?;
        Ok(Storage {
            streams,
            used: account.storage,
            limit: account
                .limits
                .max_storage
                .and_then(|limit| u64::try_from(limit).ok()),
        })
    }
}

fn storage(name: &'static str, info: &Info) -> StreamStorage {
    let state = &info.state;
    // The leader, which answers, is not among its peers.
    let peers = info.cluster.iter().flat_map(|cluster| &cluster.replicas);
    let other_replicas = peers.clone().filter(|peer| peer.offline || !peer.current).count();
    StreamStorage {
        name,
        messages: state.messages,
        bytes: state.bytes,
        oldest: (state.messages > 0).then(|| time(state.first_timestamp.unix_timestamp_nanos())),
        max_age: info.config.max_age,
        current_replicas: 1 + peers.count() - other_replicas,
        other_replicas,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_behind_or_offline_are_told_from_the_leader_and_the_others() {
        let peer = |name: &str, current: bool, offline: bool| serde_json::json!({ "name": name, "current": current, "offline": offline, "active": 1 });
        let info = |cluster: serde_json::Value| -> Info {
            serde_json::from_value(serde_json::json!({
                "config": { "name": "WEBHOOKS", "retention": "limits", "max_age": 60_000_000_000_u64,
                    "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "discard": "old", "storage": "file",
                    "num_replicas": 3 },
                "created": "2026-11-22T00:00:00Z",
                "state": { "messages": 2, "bytes": 300, "first_seq": 1, "first_ts": "2026-11-22T00:00:01Z",
                    "last_seq": 2, "last_ts": "2026-11-22T00:00:02Z", "consumer_count": 0 },
                "cluster": cluster,
            }))
            .unwrap()
        };
        let alone = storage("WEBHOOKS", &info(serde_json::Value::Null));
        assert_eq!((alone.current_replicas, alone.other_replicas), (1, 0));
        assert_eq!((alone.messages, alone.bytes), (2, 300));
        assert_eq!(alone.max_age, Duration::from_mins(1));
        assert_eq!(alone.oldest.unwrap().timestamp(), 1_795_305_601);

        let replicas = [peer("b", true, false), peer("c", false, true)];
        let cluster = serde_json::json!({ "leader": "a", "replicas": replicas });
        let degraded = storage("WEBHOOKS", &info(cluster));
        assert_eq!((degraded.current_replicas, degraded.other_replicas), (2, 1));
    }
}
