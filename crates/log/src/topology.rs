//! The streams, buckets and durable consumers that the log consists of: how each must be, and making it so.

mod streams;
pub mod survey;

use std::sync::atomic::Ordering;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{info, warn};

pub(crate) use self::streams::CANCELLATION_MAX_AGE;
use crate::Log;
use crate::config::LogConfig;
use crate::error::{LogError, chain};
use crate::work::durable_name;

/// Every delivery fact.
pub const STREAM: &str = "WEBHOOKS";
/// Control-plane events: the audit log, and by its last message per subject the current state.
pub const CONTROL_STREAM: &str = "WEBHOOKS_CONTROL";
/// What other modules publish on NATS.
pub const INGEST_STREAM: &str = "WEBHOOKS_INGEST";
/// Bucket: idempotency key to message id and deliveries.
pub const IDEMPOTENCY_BUCKET: &str = "WEBHOOKS_IDEMPOTENCY";
/// Bucket: heartbeats of live dispatchers, partition leases, the projector's lease.
pub const DISPATCHERS_BUCKET: &str = "WEBHOOKS_DISPATCHERS";
/// Bucket: where each endpoint's lane is and how the endpoint fares; per partition, what of its work is known to be done.
pub const LANES_BUCKET: &str = "WEBHOOKS_LANES";
/// Bucket: cancelled deliveries.
pub const CANCELLATIONS_BUCKET: &str = "WEBHOOKS_CANCELLATIONS";
/// When each API key was last used.
pub const API_KEY_USES_BUCKET: &str = "WEBHOOKS_API_KEY_USES";

/// Every stream, buckets included.
pub const STREAMS: [&str; 8] = [
    STREAM,
    CONTROL_STREAM,
    INGEST_STREAM,
    "KV_WEBHOOKS_IDEMPOTENCY",
    "KV_WEBHOOKS_DISPATCHERS",
    "KV_WEBHOOKS_LANES",
    "KV_WEBHOOKS_CANCELLATIONS",
    "KV_WEBHOOKS_API_KEY_USES",
];

/// Most partitions that a stream can have.
pub const MAX_PARTITIONS: u16 = 64;
/// Durable consumers visited at the same time.
const CONCURRENCY: usize = 16;
/// The stream's metadata key that holds the number of partitions.
const PARTITIONS_KEY: &str = "cuitty.webhooks.partitions";

/// The log as it was found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Partitions of the work, as the stream's metadata say.
    pub partitions: u16,
    /// Every stream, buckets included.
    pub streams: Vec<StreamStatus>,
}

impl Topology {
    /// The streams that are not as the configuration wants them.
    pub fn drifted(&self) -> impl Iterator<Item = (&str, &str)> {
        self.streams.iter().filter_map(|stream| match &stream.state {
            StreamState::Drifted(difference) => Some((stream.name.as_str(), difference.as_str())),
            _ => None,
        })
    }
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its name; a bucket's starts with `KV_`.
    pub name: String,
    /// How it was found.
    pub state: StreamState,
}

/// How a stream was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamState {
    /// It did not exist and was made.
    Created,
    /// It was as wanted.
    Unchanged,
    /// It was changed to be as wanted.
    Updated,
    /// It is usable but not as the configuration wants it: what differs.
    Drifted(String),
}

impl Log {
    /// Makes and updates the streams, and the durable consumer of every partition, as the configuration says. Idempotent;
    /// several processes may do so at once.
    ///
    /// What cannot be changed is reported as drift if the service can work with it (the number of partitions), and an
    /// error otherwise.
    pub async fn ensure(&self) -> Result<Topology, LogError> {
        self.visit(true).await
    }

    /// Compares the streams with the configuration and changes nothing. A missing one is an error, and so is one that
    /// the service cannot work with. Durable consumers that are missing are drift of [`STREAM`].
    pub async fn check(&self) -> Result<Topology, LogError> {
        self.visit(false).await
    }

    async fn visit(&self, apply: bool) -> Result<Topology, LogError> {
        let config = self.config();
        if !(1..=MAX_PARTITIONS).contains(&config.partitions) {
            let message = format!("must be 1 to {MAX_PARTITIONS}");
            return Err(LogError::Config {
                setting: "log.partitions",
                message,
            });
        }
        let mut partitions = config.partitions;
        let mut statuses = Vec::new();
        for wanted in streams::wanted(config) {
            let name = wanted.name.clone();
            let (found, mut state) = self.visit_stream(wanted, apply).await?;
            if name == STREAM {
                partitions = read_partitions(&found)?;
                if partitions != config.partitions {
                    let note = format!(
                        "has {partitions} partitions, {} are configured",
                        config.partitions
                    );
                    state = StreamState::Drifted(match state {
                        StreamState::Drifted(difference) => format!("{difference}; {note}"),
                        _ => note,
                    });
                }
            }
            statuses.push(StreamStatus { name, state });
        }
        self.inner.partitions.store(partitions, Ordering::Relaxed);
        let differences = self.visit_durables(partitions, apply).await?;
        let missing = self.visit_ingest_durable(apply).await?;
        let missing = missing.map(|name| format!("{name} is missing"));
        for (stream, differences) in [(STREAM, differences), (INGEST_STREAM, Vec::from_iter(missing))] {
            if let Some(status) = statuses.iter_mut().find(|status| status.name == stream) {
                status.state = with_durables(&status.state, differences, apply);
            }
        }
        for StreamStatus { name, state } in &statuses {
            match state {
                StreamState::Drifted(difference) => warn!(stream = name, difference, "stream has drifted"),
                StreamState::Created => info!(stream = name, "stream created"),
                StreamState::Updated => info!(stream = name, "stream updated"),
                StreamState::Unchanged => {}
            }
        }
        Ok(Topology {
            partitions,
            streams: statuses,
        })
    }

    /// The partitions that the stream's metadata say, read from nats-server unless they were before.
    pub(crate) async fn stored_partitions(&self) -> Result<u16, LogError> {
        let known = self.inner.partitions.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        let info = self
            .stream_info(STREAM)
            .await?
            .ok_or_else(|| LogError::NoTopology {
                stream: STREAM.into(),
            })?;
        let partitions = read_partitions(&info.config)?;
        self.inner.partitions.store(partitions, Ordering::Relaxed);
        Ok(partitions)
    }

    async fn visit_stream(&self, wanted: Config, apply: bool) -> Result<(Config, StreamState), LogError> {
        let name = wanted.name.clone();
        let Some(found) = self.stream_info(&name).await?.map(|info| info.config) else {
            if !apply {
                return Err(LogError::NoTopology { stream: name });
            }
            return match self
                .js_api::<_, Info>(&format!("STREAM.CREATE.{name}"), &wanted)
                .await?
            {
                Ok(info) => Ok((info.config, StreamState::Created)),
                // Another process was faster, with another configuration or the same.
                Err(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                    let info = self.stream_info(&name).await?;
                    let found = info.ok_or(LogError::NoTopology { stream: name })?.config;
                    Ok((found, StreamState::Unchanged))
                }
                Err(error) => Err(refused(name, &error)),
            };
        };
        if let Some(difference) = streams::unusable(&found, &wanted) {
            return Err(LogError::Drift {
                stream: name,
                difference,
            });
        }
        let merged = streams::merge(&found, wanted);
        let Some(difference) = streams::difference(&found, &merged) else {
            return Ok((found, StreamState::Unchanged));
        };
        if !apply {
            return Ok((found, StreamState::Drifted(difference)));
        }
        match self
            .js_api::<_, Info>(&format!("STREAM.UPDATE.{name}"), &merged)
            .await?
        {
            Ok(info) => Ok((info.config, StreamState::Updated)),
            Err(error) => Err(refused(name, &error)),
        }
    }

    /// Compares the partitions' durable consumers with the configuration, and with `apply` makes them so: what differed.
    async fn visit_durables(&self, partitions: u16, apply: bool) -> Result<Vec<String>, LogError> {
        let visits = stream::iter(0..partitions).map(|partition| async move {
            let difference = self.visit_durable(partition, apply).await?;
            Ok(difference.map(|difference| format!("{} is {difference}", durable_name(partition))))
        });
        visits
            .buffered(CONCURRENCY)
            .try_filter_map(|difference| async move { Ok(difference) })
            .try_collect()
            .await
    }

    /// What nats-server knows about a stream; `None` when it does not exist.
    pub(crate) async fn stream_info(&self, name: &str) -> Result<Option<Info>, LogError> {
        match self.ask(&format!("STREAM.INFO.{name}")).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            Err(error) => Err(LogError::from_jetstream(&error)),
        }
    }

    /// [`Log::js_api`] for what changes nothing, and so may be asked again.
    pub(crate) async fn ask<V: DeserializeOwned>(
        &self,
        subject: &str,
    ) -> Result<Result<V, jetstream::Error>, LogError> {
        let nothing = json!({});
        self.insist(|| self.js_api(subject, &nothing))
            .await
            .unwrap_or_else(|| Err(self.why_unanswered(&format!("$JS.API.{subject}"), "no answer in time")))
    }

    /// One request to the JetStream API: the outer error says that there was no answer, the inner one is the answer.
    pub(crate) async fn js_api<T: Serialize + ?Sized, V: DeserializeOwned>(
        &self,
        subject: &str,
        request: &T,
    ) -> Result<Result<V, jetstream::Error>, LogError> {
        match self
            .jetstream()
            .request(subject.to_owned(), request)
            .await
            .map_err(|error| self.why_unanswered(&format!("$JS.API.{subject}"), &chain(&error)))?
        {
            Response::Ok(answer) => Ok(Ok(answer)),
            Response::Err { error } => Ok(Err(error)),
        }
    }
}

/// `found` as [`Log::ensure`] would make it of a stream that it finds so.
pub(crate) fn adapted(found: &Config, config: &LogConfig) -> Config {
    let wanted = streams::wanted(config)
        .into_iter()
        .find(|wanted| wanted.name == found.name);
    wanted.map_or_else(|| found.clone(), |wanted| streams::merge(found, wanted))
}

/// The state of the stream in whose durable consumers there were these differences, `applied` or not.
fn with_durables(state: &StreamState, differences: Vec<String>, applied: bool) -> StreamState {
    match state {
        state if differences.is_empty() => state.clone(),
        StreamState::Unchanged if applied => StreamState::Updated,
        state if applied => state.clone(),
        StreamState::Drifted(difference) => {
            StreamState::Drifted([vec![difference.clone()], differences].concat().join("; "))
        }
        _ => StreamState::Drifted(differences.join("; ")),
    }
}

fn refused(stream: String, error: &jetstream::Error) -> LogError {
    match LogError::from_jetstream(error) {
        LogError::Protocol(difference) => LogError::Drift { stream, difference },
        other => other,
    }
}

fn read_partitions(config: &Config) -> Result<u16, LogError> {
    config
        .metadata
        .get(PARTITIONS_KEY)
        .and_then(|text| text.parse().ok())
        .filter(|partitions| (1..=MAX_PARTITIONS).contains(partitions))
        .ok_or_else(|| LogError::Drift {
            stream: config.name.clone(),
            difference: format!("its metadata `{PARTITIONS_KEY}` must be 1 to {MAX_PARTITIONS}"),
        })
}
