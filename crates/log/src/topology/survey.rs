//! How the log stands on its servers: where its streams and durable consumers are, how many copies of each there are, and what
//! room is left. For an operator; nothing here is read while deliveries are made.

use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::{CONCURRENCY, INGEST_STREAM, STREAM, streams};
use crate::Log;
use crate::config::LogConfig;
use crate::connect::{connect_to, parse_servers};
use crate::error::LogError;
use crate::ingest;
use crate::work::durable_name;

/// How often a part is looked at while copies of it seem to be behind. Under load a copy is a few messages behind at most
/// moments; one that was seen up to date once is well.
const LOOKS: usize = 12;
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What there is on nats-server.
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
    /// Servers whose copies were not up to date at any look.
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

    /// What this look tells, after an earlier one: a copy that either has seen up to date is not behind.
    fn after(mut self, earlier: &Self) -> Self {
        self.behind.retain(|server| earlier.behind.contains(server));
        self
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
        let partitions = self.stored_partitions().await?;
        let durables = (0..partitions).map(|partition| (STREAM, durable_name(partition)));
        let durables = durables.chain([(INGEST_STREAM, ingest::DURABLE.to_owned())]);
        let names = streams::wanted(self.config())
            .into_iter()
            .map(|config| config.name)
            .chain(durables.map(|(stream, name)| format!("{stream}/{name}")));
        let asked = stream::iter(names).map(|name| async move { self.settled(&name).await });
        let parts: Vec<_> = asked.buffered(CONCURRENCY).try_collect().await?;
        let parts = parts.into_iter().flatten().collect();
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

    /// A stream, or a consumer by `<stream>/<consumer>`, looked at until each of its copies was seen up to date or [`LOOKS`]
    /// times.
    async fn settled(&self, name: &str) -> Result<Option<Part>, LogError> {
        let mut part = self.part(name).await?;
        for _ in 1..LOOKS {
            let Some(earlier) = part.take_if(|part| !part.behind.is_empty()) else {
                break;
            };
            sleep(LOOK_INTERVAL).await;
            part = self.part(name).await?.map(|later| later.after(&earlier));
        }
        Ok(part)
    }

    async fn part(&self, name: &str) -> Result<Option<Part>, LogError> {
        let wanted = self.config().replicas;
        let Some((stream, consumer)) = name.split_once('/') else {
            let info = self.stream_info(name).await?;
            return Ok(info.map(|info| Part {
                messages: info.state.messages,
                bytes: info.state.bytes,
                ..Part::new(name.to_owned(), info.cluster, wanted)
            }));
        };
        let info = self.consumer_of(stream, consumer).await?;
        Ok(info.map(|info| Part {
            messages: info.num_pending,
            ..Part::new(name.to_owned(), info.cluster, wanted)
        }))
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

    #[test]
    fn a_copy_that_was_up_to_date_at_one_look_is_not_behind() {
        let behind = |servers: &[&str]| Part {
            behind: servers.iter().map(ToString::to_string).collect(),
            ..Part::new("WEBHOOKS".into(), None, 3)
        };
        for (earlier, later, both) in [
            (&["b", "c"][..], &["c"][..], &["c"][..]),
            (&["b"], &["c"], &[]),
            (&["b"], &[], &[]),
            (&["b", "c"], &["b", "c"], &["b", "c"]),
        ] {
            assert_eq!(behind(later).after(&behind(earlier)), behind(both));
        }
    }
}
