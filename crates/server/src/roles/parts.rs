//! What the roles of a process share, and the roles made of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use cuitty_webhooks_api::Api;
use cuitty_webhooks_dispatcher::Dispatcher;
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::seal::KeyRing;
use cuitty_webhooks_history::{HistoryError, Store, StoreConfig};
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::{ApiKeys, Cancellations, EventTypes, Lanes, Log, LogError, Topology};
use cuitty_webhooks_projector::Projector;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Edge, Role};
use crate::admin::Health;
use crate::cmd::{about, print};
use crate::config::Config;
use crate::shutdown::Shutdown;

/// First and longest pause between two tries to open the history.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often streams that are missing are looked for.
const TOPOLOGY_PAUSE: Duration = Duration::from_secs(2);

/// What a role's task ends with.
type Ended = anyhow::Result<()>;

/// The parts of a process that its roles are made of.
pub(super) struct Parts<'a> {
    pub(super) health: Arc<Health>,
    config: &'a Config,
    log: Log,
    directory: Directory,
    /// Only with the role that asks for them.
    api_keys: Option<ApiKeys>,
    lanes: Lanes,
    cancellations: Cancellations,
    /// As above.
    event_types: Option<EventTypes>,
    history: History,
    clock: Clock,
    rng: Mutex<StdRng>,
    shutdown: Shutdown,
}

impl<'a> Parts<'a> {
    /// Connects to the log, makes its streams where they are missing or waits for whoever does, and catches up with the
    /// endpoints.
    pub(super) async fn connect(
        config: &'a Config,
        edge: Edge,
        health: Arc<Health>,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let log = Log::connect(config.log.clone()).await.map_err(about("log.url"))?;
        let topology = if config.log.manage_topology {
            Box::pin(log.ensure()).await?
        } else {
            let found = Box::pin(await_topology(&log));
            let found = shutdown.soft.run_until_cancelled(found).await;
            found.context("stopped while the log's streams were missing")??
        };
        for (stream, difference) in topology.drifted() {
            warn!(
                stream,
                difference, "stream is not as configured; `cuitty-webhooks topology check` tells more"
            );
        }
        let _ = health.log.set(log.clone());
        let accepts = [Role::Api, Role::Ingest]
            .iter()
            .any(|role| health.roles.contains(role));
        let event_types = if accepts {
            Some(EventTypes::start(&log, shutdown.hard.clone()).await?)
        } else {
            None
        };
        // Read until the roles have drained, so it follows the log until the hard end.
        let directory = Directory::start(&log, shutdown.hard.clone()).await?;
        let _ = health.directory.set(directory.clone());
        let api_keys = if accepts {
            Some(ApiKeys::start(&log, shutdown.hard.clone()).await?)
        } else {
            None
        };
        let lanes = Lanes::start(&log, shutdown.hard.clone()).await?;
        let cancellations = Cancellations::start(&log, shutdown.hard.clone()).await?;
        let Edge { clock, rng } = edge;
        let (history, rng) = (History::default(), Mutex::new(rng));
        Ok(Self {
            health,
            config,
            log,
            directory,
            api_keys,
            lanes,
            cancellations,
            event_types,
            history,
            clock,
            rng,
            shutdown,
        })
    }

    /// Opens the history, however long the database is away. The projector migrates it; an API waits for that.
    pub(super) fn open_history(&self, migrate: bool) -> impl Future<Output = Ended> + Send + use<> {
        let (history, health, soft) = (
            self.history.clone(),
            self.health.clone(),
            self.shutdown.soft.clone(),
        );
        let config = self.config.history.clone();
        async move {
            let opening = open(&config, migrate, &health.history_failed);
            let Some(opened) = soft.run_until_cancelled(opening).await else {
                return Ok(());
            };
            let store = opened?;
            // First to those who use it: who sees that it is open can use it.
            history.0.send_replace(Some(store.clone()));
            let _ = health.history.set(store);
            Ok(())
        }
    }

    pub(super) fn dispatcher(&self) -> anyhow::Result<impl Future<Output = Ended> + Send + use<>> {
        let (directory, keys) = self.delivering()?;
        let (config, policy) = (self.config.dispatcher.clone(), self.config.policy());
        let (log, clock, rng) = (self.log.clone(), self.clock, self.fork_rng());
        let (lanes, cancellations) = (self.lanes.clone(), self.cancellations.clone());
        let dispatcher = Dispatcher::build(
            config,
            log,
            directory,
            lanes,
            cancellations,
            keys,
            policy,
            clock,
            rng,
        )?;
        let _ = self.health.dispatcher.set(dispatcher.joined());
        let Shutdown { soft, hard, .. } = self.shutdown.clone();
        Ok(async move { Ok(dispatcher.run(soft, hard).await?) })
    }

    pub(super) fn projector(&self) -> impl Future<Output = Ended> + Send + use<> {
        let mut config = self.config.projector.clone();
        if config.id.is_empty() {
            config.id = format!("projector-{:08x}", self.fork_rng().random::<u32>());
        }
        let (log, directory, lanes, clock, history, health) = (
            self.log.clone(),
            self.directory.clone(),
            self.lanes.clone(),
            self.clock,
            self.history.clone(),
            self.health.clone(),
        );
        let Shutdown { soft, hard, .. } = self.shutdown.clone();
        async move {
            let Some(store) = history.opened(&soft).await else {
                return Ok(());
            };
            let projector = Projector::build(config, log, directory, lanes, store, clock);
            let _ = health.projector.set(projector.status());
            projector.run(soft, hard).await;
            Ok(())
        }
    }

    /// What accepts messages, through doors and from what is published.
    pub(super) fn api(&self) -> anyhow::Result<Api> {
        let (directory, keys) = if self.health.roles.contains(&Role::Api) {
            self.delivering()?
        } else {
            (self.directory.clone(), self.no_keys()?)
        };
        let api_keys = self.api_keys.clone().context("the role api was not asked for")?;
        let (config, policy) = (self.config.api.clone(), self.config.policy());
        let (log, clock, rng) = (self.log.clone(), self.clock, self.fork_rng());
        let history = self.history.0.subscribe();
        let (lanes, cancellations) = (self.lanes.clone(), self.cancellations.clone());
        let event_types = self.event_types.clone().context("event types are not followed")?;
        let api = Api::build(
            config,
            log,
            directory,
            api_keys,
            lanes,
            cancellations,
            event_types,
            history,
            keys,
            policy,
            clock,
            rng,
        )?;
        let _ = self.health.app.set(Arc::downgrade(api.app()));
        Ok(api)
    }

    pub(super) fn doors(
        &self,
        api: Api,
        listener: TcpListener,
    ) -> impl Future<Output = Ended> + Send + use<> {
        let Shutdown { leaving, soft, hard } = self.shutdown.clone();
        async move {
            if let Some(key) = api.make_first_key().await? {
                // To standard output, where no log line goes: it is stored nowhere.
                print(&format!("admin API key, shown only this once: {}", key.expose()))?;
            }
            Ok(api.run(listener, leaving, soft, hard).await?)
        }
    }

    pub(super) fn ingest(&self, api: &Api) -> impl Future<Output = Ended> + Send + use<> {
        let ingest = api.ingest(self.config.ingest.clone());
        let _ = self.health.ingest.set(ingest.attached());
        let Shutdown { soft, hard, .. } = self.shutdown.clone();
        async move {
            ingest.run(soft, hard).await;
            Ok(())
        }
    }

    /// A key ring that opens nothing, for a process that seals and opens nothing.
    fn no_keys(&self) -> anyhow::Result<KeyRing> {
        Ok(KeyRing::new(vec![("none".into(), self.fork_rng().random())])?)
    }

    fn delivering(&self) -> anyhow::Result<(Directory, KeyRing)> {
        let keys = self
            .config
            .sealing
            .keys
            .as_ref()
            .context("sealing.keys is not set")?;
        Ok((self.directory.clone(), keys.0.clone()))
    }

    fn fork_rng(&self) -> StdRng {
        StdRng::from_rng(&mut *self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits until somebody has made the streams.
async fn await_topology(log: &Log) -> Result<Topology, LogError> {
    loop {
        match log.check().await {
            Err(error @ LogError::NoTopology { .. }) => {
                warn!(%error, "waiting for the log's streams: log.manage_topology is false, so this process makes none");
            }
            Err(error) if error.is_transient() => {
                warn!(%error, "cannot look at the log's streams yet; trying again");
            }
            found => return found,
        }
        tokio::time::sleep(TOPOLOGY_PAUSE).await;
    }
}

/// The history, once it is open.
#[derive(Clone, Default)]
struct History(Arc<watch::Sender<Option<Store>>>);

impl History {
    /// Waits until it is open; `None` when a shutdown began before.
    async fn opened(&self, soft: &CancellationToken) -> Option<Store> {
        let mut receiver = self.0.subscribe();
        let opened = soft
            .run_until_cancelled(receiver.wait_for(Option::is_some))
            .await?;
        opened.ok()?.clone()
    }
}

/// Tries until the history is open. Without `migrate` nobody's work depends on it, so only what the configuration alone is
/// to blame for ends the process.
async fn open(config: &StoreConfig, migrate: bool, failed: &AtomicBool) -> anyhow::Result<Store> {
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = if migrate {
            Store::open(config).await
        } else {
            Store::open_existing(config).await
        };
        match opened {
            Ok(store) => {
                info!("history is open");
                return Ok(store);
            }
            Err(error @ HistoryError::SchemaTooOld { .. }) => {
                warn!(%error, "waiting for a projector to migrate the history");
            }
            Err(error) if error.is_transient() => warn!(%error, "cannot open the history; trying again"),
            Err(error @ (HistoryError::BadUrl(_) | HistoryError::NoDirectory(_))) => {
                return Err(about("history.url")(error));
            }
            Err(error) if migrate => return Err(about("history.url")(error)),
            Err(error) => error!(%error, "cannot open the history, its reads are refused; trying again"),
        }
        failed.store(true, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
