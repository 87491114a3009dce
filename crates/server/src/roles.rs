//! Roles: what one process does, put together from the configuration, started and drained.

mod parts;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cuitty_webhooks_domain::Clock;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::parts::Parts;
use crate::admin::{self, Health, Readiness};
use crate::config::Config;
use crate::gauges;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Instance};

/// How often a start looks whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// What cut-off tasks may take to notice that they are.
const HARD_GRACE: Duration = Duration::from_secs(2);

/// What a process does. Roles share no memory, and each may run in any number of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Takes messages and manages endpoints: gRPC and REST.
    Api,
    /// Takes messages that are published on NATS.
    Ingest,
    /// Delivers.
    Dispatcher,
    /// Folds the log into the history.
    Projector,
}

impl Role {
    /// Every role, as `dev` runs them.
    pub const ALL: [Self; 4] = [Self::Api, Self::Ingest, Self::Dispatcher, Self::Projector];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api => "api",
            Self::Ingest => "ingest",
            Self::Dispatcher => "dispatcher",
            Self::Projector => "projector",
        })
    }
}

/// What only the edge of a process has.
#[derive(Debug)]
pub struct Edge {
    /// Tells the time.
    pub clock: Clock,
    /// Where all randomness comes from.
    pub rng: StdRng,
}

impl Edge {
    /// This process, which runs `roles`.
    pub fn instance(&mut self, roles: &[Role]) -> Instance {
        Instance {
            roles: roles.to_vec(),
            id: self.rng.random(),
            clock: self.clock,
        }
    }
}

/// Roles that run. Dropped, they are cut off.
pub struct Running {
    api_address: Option<SocketAddr>,
    admin_address: SocketAddr,
    health: Arc<Health>,
    shutdown: Shutdown,
    /// The tasks of the roles.
    tasks: TaskTracker,
    /// The admin listener, which answers until the roles have ended.
    admin: TaskTracker,
    admin_stop: CancellationToken,
    timeout: Duration,
    /// The first error that ended a role.
    failures: mpsc::Receiver<anyhow::Error>,
}

impl Running {
    /// Binds the listeners, connects to the log, makes its streams, and starts the roles. They become ready by
    /// themselves: see [`Running::ready`].
    pub async fn start(
        config: &Config,
        roles: &[Role],
        edge: Edge,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let has = |role| roles.contains(&role);
        if roles.is_empty() {
            bail!("no role to run");
        }
        raise_open_files();
        let metrics = telemetry::metrics()?;
        gauges::start(roles);
        let admin_listener = bind(config.listen.admin, "listen.admin").await?;
        let admin_address = admin_listener.local_addr()?;
        let api_listener = if has(Role::Api) {
            Some(bind(config.listen.api, "listen.api").await?)
        } else {
            None
        };
        let api_address = api_listener.as_ref().map(TcpListener::local_addr).transpose()?;

        let health = Arc::new(Health {
            roles: roles.to_vec(),
            shutdown: shutdown.clone(),
            ..Health::default()
        });
        let (tasks, admin) = (TaskTracker::new(), TaskTracker::new());
        let admin_stop = CancellationToken::new();
        let (failed, failures) = mpsc::channel(Role::ALL.len() + 2);
        let spawner = Spawner {
            failed,
            soft: shutdown.soft.clone(),
        };
        // Up before anything is waited for, so that a start can be watched.
        let serving = admin::serve(admin_listener, health.clone(), metrics, admin_stop.clone());
        spawner.spawn(&admin, "admin", async { Ok(serving.await?) });
        admin.close();
        // From here on, an error drops it and thereby ends what was started.
        let running = Self {
            api_address,
            admin_address,
            health: health.clone(),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
            admin,
            admin_stop,
            timeout: config.shutdown.timeout,
            failures,
        };

        let parts = Parts::connect(config, edge, health, shutdown).await?;
        if parts.health.uses_history() {
            spawner.spawn(&tasks, "history", parts.open_history(has(Role::Projector)));
        }
        if has(Role::Dispatcher) {
            spawner.spawn(&tasks, "dispatcher", parts.dispatcher()?);
        }
        if has(Role::Projector) {
            spawner.spawn(&tasks, "projector", parts.projector());
        }
        if has(Role::Api) || has(Role::Ingest) {
            let api = parts.api()?;
            if has(Role::Ingest) {
                spawner.spawn(&tasks, "ingest", parts.ingest(&api));
            }
            if let Some(listener) = api_listener {
                spawner.spawn(&tasks, "api", parts.doors(api, listener));
            }
        }
        tasks.close();
        let roles = roles.iter().map(Role::to_string).collect::<Vec<_>>().join(",");
        info!(roles, api = ?api_address, admin = %admin_address, "started");
        Ok(running)
    }

    /// Where the API listens; `None` without that role.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api_address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// How things stand.
    pub async fn readiness(&self) -> Readiness {
        self.health.readiness().await
    }

    /// Waits until every role does its work, or `timeout` has passed; the error says what is missing. Ends early with
    /// the error of a role that ended.
    pub async fn ready(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let readiness = self.readiness().await;
            if readiness.ready {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "not ready within {timeout:?}: {}",
                    serde_json::to_string(&readiness)?
                );
            }
            tokio::select! {
                Some(error) = self.failures.recv() => return Err(error),
                () = self.shutdown.soft.cancelled() => bail!("stopped before it was ready"),
                () = tokio::time::sleep(READY_INTERVAL) => {}
            }
        }
    }

    /// Runs until a shutdown begins or a role fails, then drains: soft for `shutdown.timeout`, then hard.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let failure = tokio::select! {
            () = self.shutdown.soft.cancelled() => None,
            Some(error) = self.failures.recv() => Some(error),
        };
        self.drain().await;
        // A role that failed is what began the shutdown, though its error may only be read now.
        match failure.or_else(|| self.failures.try_recv().ok()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Shuts down and drains. What does not end in time is cut off.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.soft.cancel();
        self.run().await
    }

    async fn drain(&self) {
        self.shutdown.soft.cancel();
        tokio::select! {
            () = self.tasks.wait() => info!("drained"),
            () = self.shutdown.hard.cancelled() => warn!("stopping without draining"),
            () = tokio::time::sleep(self.timeout) => {
                warn!(timeout = ?self.timeout, "not drained in time; cutting off what is left");
            }
        }
        self.shutdown.hard.cancel();
        self.admin_stop.cancel();
        let ended = async {
            self.tasks.wait().await;
            self.admin.wait().await;
        };
        if tokio::time::timeout(HARD_GRACE, ended).await.is_err() {
            warn!(tasks = self.tasks.len(), "tasks left running");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.soft.cancel();
        self.shutdown.hard.cancel();
        self.admin_stop.cancel();
    }
}

/// Spawns tasks so that one that ends badly ends the process.
struct Spawner {
    failed: mpsc::Sender<anyhow::Error>,
    soft: CancellationToken,
}

impl Spawner {
    fn spawn(
        &self,
        tracker: &TaskTracker,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let (failed, soft) = (self.failed.clone(), self.soft.clone());
        let task = tokio::spawn(work);
        tracker.spawn(async move {
            let error = match task.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.context(name),
                Err(panic) => anyhow::Error::new(panic).context(name),
            };
            error!(error = format!("{error:#}"), "a part of this process failed");
            // There is room for one error of each.
            let _ = failed.try_send(error);
            soft.cancel();
        });
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key}: cannot listen on {address}"))
}

/// Connections are file descriptors, and the soft limit that a process is born with is often far below the hard one.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files");
    }
}
