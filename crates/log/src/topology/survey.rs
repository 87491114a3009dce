//! How the log stands on its servers: where its streams and durable consumers are, how many copies of each there are, and what
//! room is left. For an operator; nothing here is read while deliveries are made.

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::ClusterInfo;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{CONCURRENCY, INGEST_STREAM, STREAM, streams};
use crate::Log;
use crate::config::LogConfig;
use crate::connect::{connect_to, parse_servers};
use crate::error::LogError;
use crate::ingest;
use crate::work::durable_name;

/// What there is on nats-server at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The streams, buckets included, and the durable consumers.
    pub parts: Vec<Part>,
    /// Bytes that the account's streams take, each copy counted.
    pub stored: u64,
    /// How many they may take; `None` when the account has no limit of its own.
    pub limit: Option<u64>,
}

/// A stream or a durable consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name; of a consumer `<stream>/<consumer>`.
    pub name: String,
    /// The server that leads it; `None` when there is none at this moment.
    pub leader: Option<String>,
    /// Copies that there are, and how many are configured.
    pub copies: (usize, usize),
    /// Servers that hold a copy and are down.
    pub offline: Vec<String>,
    /// Servers whose copies are not up to date.
    pub behind: Vec<String>,
    /// Messages that it holds; of a consumer, those that wait to be pulled.
    pub messages: u64,
    /// Bytes that one copy takes; 0 of a consumer.
    pub bytes: u64,
}

impl Part {
    /// What is wrong with it, the most serious first; `None` when nothing is.
    pub fn problem(&self) -> Option<String> {
        let (copies, wanted) = self.copies;
        if self.leader.is_none() {
            Some("it has no leader: fewer than half of its servers are up".into())
        } else if !self.offline.is_empty() {
            Some(format!("{} is down", self.offline.join(", ")))
        } else if copies != wanted {
            Some(format!("it has {copies} copies, {wanted} are configured"))
        } else if !self.behind.is_empty() {
            Some(format!("{} is behind", self.behind.join(", ")))
        } else {
            None
        }
    }

    fn new(name: String, cluster: Option<ClusterInfo>, wanted: usize) -> Self {
        // A server that is in no cluster names none.
        let is_one = |cluster: &ClusterInfo| cluster.name.as_ref().is_some_and(|name| !name.is_empty());
        let cluster = cluster.filter(is_one).unwrap_or_else(|| ClusterInfo {
            leader: Some("the only server".into()),
            ..ClusterInfo::default()
        });
        let names = |is_meant: fn(&async_nats::jetstream::stream::PeerInfo) -> bool| {
            let peers = cluster.replicas.iter().filter(|&peer| is_meant(peer));
            peers.map(|peer| peer.name.clone()).collect()
        };
        Self {
            name,
            copies: (1 + cluster.replicas.len(), wanted),
            offline: names(|peer| peer.offline),
            behind: names(|peer| !peer.offline && !peer.current),
            leader: cluster.leader.filter(|leader| !leader.is_empty()),
            messages: 0,
            bytes: 0,
        }
    }
}

/// A server of `log.url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// Its version, or why it cannot be asked.
    pub version: Result<String, LogError>,
}

/// Asks each server of `log.url` by itself, for one that is down is not noticed as long as another one is up.
pub async fn servers(config: &LogConfig) -> Result<Vec<Server>, LogError> {
    let servers = parse_servers(&config.url)?;
    let asked = servers.iter().enumerate().map(|(index, server)| async move {
        let version = connect_to(config, index).await;
        Server {
            address: format!("{}:{}", server.host(), server.port()),
            version: version.map(|client| client.server_info().version),
        }
    });
    Ok(futures_util::future::join_all(asked).await)
}

impl Log {
    /// How the log stands. Streams and consumers that are missing are left out: [`Log::check`] tells of them.
    pub async fn survey(&self) -> Result<Survey, LogError> {
        let wanted = self.config().replicas;
        let mut parts = Vec::new();
        for config in streams::wanted(self.config()) {
            let Some(info) = self.stream_info(&config.name).await? else {
                continue;
            };
            parts.push(Part {
                messages: info.state.messages,
                bytes: info.state.bytes,
                ..Part::new(config.name, info.cluster, wanted)
            });
        }
        let partitions = self.stored_partitions().await?;
        let durables = (0..partitions).map(|partition| (STREAM, durable_name(partition)));
        let durables = durables.chain([(INGEST_STREAM, ingest::DURABLE.to_owned())]);
        let asked = stream::iter(durables).map(|(stream, name)| async move {
            let info = self.consumer_of(stream, &name).await?;
            let part = |info: consumer::Info| Part {
                messages: info.num_pending,
                ..Part::new(format!("{stream}/{name}"), info.cluster, wanted)
            };
            Ok::<_, LogError>(info.map(part))
        });
        let durables: Vec<_> = asked.buffered(CONCURRENCY).try_collect().await?;
        parts.extend(durables.into_iter().flatten());
        let account = self
            .jetstream()
            .query_account()
            .await
            .map_err(LogError::unavailable)?;
        Ok(Survey {
            parts,
            stored: account.storage,
            limit: account
                .limits
                .max_storage
                .and_then(|limit| u64::try_from(limit).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::PeerInfo;

    use super::*;

    fn peer(name: &str, current: bool, offline: bool) -> PeerInfo {
        PeerInfo {
            name: name.into(),
            current,
            offline,
            ..PeerInfo::default()
        }
    }

    #[test]
    fn what_is_wrong_with_a_part_is_told() {
        let part = |leader: &str, peers: &[PeerInfo]| {
            let cluster = ClusterInfo {
                name: Some("webhooks".into()),
                leader: Some(leader.into()),
                replicas: peers.to_vec(),
                ..ClusterInfo::default()
            };
            Part::new("WEBHOOKS".into(), Some(cluster), 3).problem()
        };
        let told = |text: &str| Some(text.to_owned());
        let (b, c) = (peer("b", true, false), peer("c", true, false));
        assert_eq!(part("a", &[b.clone(), c.clone()]), None);
        assert_eq!(part("a", &[b.clone(), peer("c", false, true)]), told("c is down"));
        assert_eq!(
            part("a", &[b.clone(), peer("c", false, false)]),
            told("c is behind")
        );
        assert_eq!(
            part("a", std::slice::from_ref(&b)),
            told("it has 2 copies, 3 are configured")
        );
        assert_eq!(
            part("", &[b, c]),
            told("it has no leader: fewer than half of its servers are up")
        );
        assert_eq!(Part::new("WEBHOOKS".into(), None, 1).problem(), None);
    }
}
