//! The service under load: nats-server, the history, and one process per role.

use std::time::Duration;

use anyhow::{Context, Result};
use cuitty_webhooks_history::{Store, StoreConfig};
use cuitty_webhooks_log::{Log, LogConfig};
use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use harness::grpc::authorized;
use harness::nats::NatsServer;
use harness::postgres::{Durability, PostgresCluster};
use harness::procfs;
use harness::roles::{ADMIN_KEY, RoleProcess, Settings};
use tempfile::TempDir;

use crate::generator::{PROJECT, event_type};
use crate::options::{Backend, Options};
use crate::sink::Sink;

/// The running processes.
#[derive(Debug)]
pub(crate) struct Stack {
    api: RoleProcess,
    dispatcher: RoleProcess,
    projector: RoleProcess,
    history: Store,
    log: Log,
    postgres: Option<PostgresCluster>,
    nats: NatsServer,
    _dir: TempDir,
}

/// What one process has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) name: &'static str,
    /// Whether it is one of our roles.
    pub(crate) ours: bool,
    pub(crate) cpu: Duration,
    /// Largest resident set so far, in bytes; of PostgreSQL, the present sum with shared pages counted once.
    pub(crate) peak_memory: u64,
    /// Present resident set, in bytes.
    pub(crate) memory: u64,
}

impl Stack {
    /// Starts everything, with its defaults but for the addresses and the keys.
    pub(crate) async fn start(backend: Backend) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let nats = NatsServer::start().await;
        let (history_url, postgres) = match backend {
            Backend::Postgres => {
                let cluster = PostgresCluster::start(Durability::Default).await;
                (cluster.database().await, Some(cluster))
            }
            Backend::Sqlite | Backend::Both => (
                format!("sqlite:{}", dir.path().join("history.db").display()),
                None,
            ),
        };
        let settings = Settings::new(&nats.url(), &history_url).set("telemetry.log_filter", "warn");
        let projector = RoleProcess::start("projector", &settings).await;
        let api = RoleProcess::start("api", &settings).await;
        let dispatcher = RoleProcess::start("dispatcher", &settings).await;
        let history = Store::open_existing(&StoreConfig {
            url: history_url,
            ..StoreConfig::default()
        })
        .await?;
        let log = Log::connect(LogConfig {
            url: nats.url(),
            ..LogConfig::default()
        })
        .await?;
        Ok(Self {
            api,
            dispatcher,
            projector,
            history,
            log,
            postgres,
            nats,
            _dir: dir,
        })
    }

    /// Where the API is served.
    pub(crate) fn url(&self) -> String {
        self.api.url()
    }

    /// Creates the endpoints: each group of `fan_out` of them takes an event type of its own.
    pub(crate) async fn create_endpoints(&self, options: &Options, sink: &Sink) -> Result<()> {
        let requests = (0..options.endpoints).map(|endpoint| CreateEndpointRequest {
            url: sink.url(endpoint),
            event_types: vec![event_type(endpoint / options.fan_out)],
            ..CreateEndpointRequest::default()
        });
        self.create(requests).await
    }

    /// Creates endpoints of the project.
    pub(crate) async fn create(&self, requests: impl Iterator<Item = CreateEndpointRequest>) -> Result<()> {
        let mut client = EndpointServiceClient::new(authorized(&self.url(), Some(ADMIN_KEY)).await?);
        for request in requests {
            let request = CreateEndpointRequest {
                project_id: PROJECT.into(),
                ..request
            };
            client
                .create_endpoint(request)
                .await
                .context("create an endpoint")?;
        }
        Ok(())
    }

    /// Sequence of the last event in the log.
    pub(crate) async fn log_end(&self) -> Result<u64> {
        Ok(self.log.bounds().await?.1)
    }

    /// Sequence of the last event that the history has folded.
    pub(crate) async fn checkpoint(&self) -> Result<u64> {
        Ok(self.history.checkpoint().await?)
    }

    /// Work that no dispatcher has pulled, or that is pulled and not acknowledged.
    pub(crate) async fn undone(&self) -> Result<u64> {
        let lags = self.log.consumer_lag().await?;
        Ok(lags.iter().map(|lag| lag.pending + lag.in_flight).sum())
    }

    /// How many endpoints are not tried but for single probes.
    pub(crate) async fn open_breakers(&self) -> u32 {
        self.dispatcher.metric("webhooks_open_breakers").await as u32
    }

    /// What every process has used so far.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        let single = |name, ours, pid| Usage {
            name,
            ours,
            cpu: procfs::cpu(pid),
            peak_memory: procfs::peak_memory(pid),
            memory: procfs::resident_memory(pid),
        };
        let mut all = vec![
            single("api", true, self.api.pid()),
            single("dispatcher", true, self.dispatcher.pid()),
            single("projector", true, self.projector.pid()),
            single("nats-server", false, self.nats.pid()),
        ];
        all.extend(self.postgres.as_ref().map(|cluster| {
            let (pid, memory) = (cluster.pid(), procfs::memory_of_tree(cluster.pid()));
            let cpu = procfs::cpu_of_tree(pid);
            Usage {
                name: "PostgreSQL",
                ours: false,
                cpu,
                peak_memory: memory,
                memory,
            }
        }));
        all.push(single("generator and sink", false, std::process::id()));
        all
    }
}
