//! `dev`: all roles in one process that needs nothing running.
//!
//! The data directory holds everything: `history.db`, the store of a nats-server that is started and stopped here
//! (`nats/`), and the keys that were made on the first start (`admin.key`, `sealing.key`). One process at a time uses it.

mod locate;
mod lock;
mod nats;
mod secrets;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::lock::DirectoryLock;
use self::nats::NatsServer;
use crate::config::{Config, Origin, Sources, without_passwords};
use crate::roles::{Edge, Role, Running};
use crate::shutdown::Shutdown;

/// Where `dev` keeps its data unless it is told otherwise, in the working directory.
pub const DEFAULT_DATA_DIR: &str = ".cuitty-webhooks";
/// Networks that `dev` may deliver to: receivers on this machine.
const LOOPBACK: &str = "127.0.0.0/8,::1/128";
const READY_TIMEOUT: Duration = Duration::from_mins(1);

/// What `dev` is started with.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Made when it does not exist.
    pub data_dir: PathBuf,
    /// Configuration file, environment and flags; a set `log.url` means that no nats-server is started.
    pub sources: Sources,
    /// The value of `PATH`.
    pub path: Option<OsString>,
}

/// What others need to know of a running [`Dev`]: the line of `--ready-json`. It holds a key, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct DevInfo {
    /// Address of the API.
    pub listen: String,
    /// Address of `/livez`, `/readyz` and `/metrics`.
    pub admin: String,
    /// The admin key; `None` when it is configured, and so not ours to tell.
    pub api_key: Option<String>,
    /// Where nats-server is, without the password if there is one.
    pub nats_url: String,
    /// Absolute.
    pub data_dir: PathBuf,
}

/// All roles in this process, ready.
pub struct Dev {
    info: DevInfo,
    running: Running,
    nats: Option<NatsServer>,
    _lock: DirectoryLock,
}

/// A data directory that is locked, and the configuration to run on it. It holds a key, so it has no `Debug`.
pub struct Prepared {
    data_dir: PathBuf,
    lock: DirectoryLock,
    api_key: Option<String>,
    starts_nats: bool,
    path: Option<OsString>,
    config: Config,
}

impl Prepared {
    /// Takes the data directory, makes what is missing in it, and loads the configuration.
    pub fn new(options: DevOptions, edge: &mut Edge) -> anyhow::Result<Self> {
        let DevOptions {
            data_dir,
            mut sources,
            path,
        } = options;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        let data_dir = data_dir.canonicalize()?;
        let lock = DirectoryLock::take(&data_dir)?;
        let admin_key = secrets::admin_key(&data_dir, &mut edge.rng)?;
        let sealing_key = secrets::sealing_key(&data_dir, &mut edge.rng)?;
        let history = format!("sqlite:{}", data_dir.join("history.db").display());
        let preset = [
            ("api.admin_key", admin_key.as_str()),
            ("sealing.keys", &sealing_key),
            ("egress.allow_cidrs", LOOPBACK),
            ("history.url", &history),
        ];
        sources
            .preset
            .extend(preset.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let (config, settings) = Config::load(&sources, &Role::ALL)?;
        let api_key = (settings.origin("api.admin_key") == Origin::Preset).then_some(admin_key);
        let starts_nats = !settings.is_set("log.url");
        Ok(Self {
            data_dir,
            lock,
            api_key,
            starts_nats,
            path,
            config,
        })
    }

    /// The configuration, as far as it is known before nats-server runs.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Dev {
    /// Starts nats-server, unless one is configured, and every role; returns when all of them are ready.
    ///
    /// `asked` is what the process is asked for: its soft token, cancelled before that, gives the start up, and the answer
    /// is `None` once everything has ended again; its hard one kills nats-server. The roles follow `roles`.
    pub async fn start(
        prepared: Prepared,
        edge: Edge,
        asked: &Shutdown,
        roles: Shutdown,
    ) -> anyhow::Result<Option<Self>> {
        let Prepared {
            data_dir,
            lock,
            api_key,
            starts_nats,
            path,
            mut config,
        } = prepared;
        let mut nats = None;
        if starts_nats {
            let locating = locate::nats_server(config.dev.nats_server.as_deref(), path.as_deref());
            let Some(program) = asked.soft.run_until_cancelled(locating).await.transpose()? else {
                return Ok(None);
            };
            let Some(started) = NatsServer::start(program, data_dir.join("nats"), asked).await? else {
                return Ok(None);
            };
            config.log.url = started.url();
            nats = Some(started);
        }
        let started = start_roles(&config, edge, &asked.soft, roles).await;
        let Ok(Some(running)) = started else {
            if let Some(nats) = nats {
                nats.stop().await;
            }
            return started.map(|_| None);
        };
        let info = DevInfo {
            listen: running
                .api_address()
                .map(|address| address.to_string())
                .unwrap_or_default(),
            admin: running.admin_address().to_string(),
            api_key,
            nats_url: without_passwords(&config.log.url),
            data_dir,
        };
        Ok(Some(Self {
            info,
            running,
            nats,
            _lock: lock,
        }))
    }

    /// What others need to know.
    pub fn info(&self) -> &DevInfo {
        &self.info
    }

    /// Runs until a shutdown begins, drains the roles, and then stops nats-server.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            running, nats, _lock, ..
        } = self;
        let result = running.run().await;
        if let Some(nats) = nats {
            nats.stop().await;
        }
        result
    }
}

/// `None` when `given_up` was cancelled before the roles were ready; then they have ended again.
async fn start_roles(
    config: &Config,
    edge: Edge,
    given_up: &CancellationToken,
    shutdown: Shutdown,
) -> anyhow::Result<Option<Running>> {
    // Dropped, it cuts off what it has started.
    let starting = Box::pin(Running::start(config, &Role::ALL, edge, shutdown));
    let Some(mut running) = given_up.run_until_cancelled(starting).await.transpose()? else {
        return Ok(None);
    };
    let ready = given_up.run_until_cancelled(running.ready(READY_TIMEOUT)).await;
    if let Some(Ok(())) = ready {
        return Ok(Some(running));
    }
    // Its own error, if it has one, says no more than this one.
    let _ = running.stop().await;
    match ready {
        Some(Err(error)) if !given_up.is_cancelled() => Err(error),
        _ => Ok(None),
    }
}
