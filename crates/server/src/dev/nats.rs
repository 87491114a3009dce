//! The nats-server that `dev` starts and stops itself, with its JetStream store in the data directory.

mod files;
mod orphans;
mod process;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::files::Files;
use self::process::Process;
use crate::shutdown::Shutdown;

/// First and longest pause before a nats-server that died is started again; doubled every time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What has run for this long is not about to die again: the pauses start anew.
const STABLE: Duration = Duration::from_secs(30);

/// A nats-server that runs, and is started again when it dies.
#[derive(Debug)]
pub(super) struct NatsServer {
    address: SocketAddr,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

/// What to start, and where.
#[derive(Debug)]
struct Launcher {
    program: PathBuf,
    files: Files,
}

impl NatsServer {
    /// Ends what an earlier `dev` left running on this data directory, whose lock the caller holds, and starts
    /// `program` there: on the port of the last time if it is free, so that others find it again.
    ///
    /// `None` when the soft token was cancelled before it took connections; then it has ended again. The hard one makes
    /// every end a SIGKILL, which loses nothing.
    pub(super) async fn start(
        program: PathBuf,
        directory: PathBuf,
        asked: &Shutdown,
    ) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let files = Files::new(directory.canonicalize()?);
        let Some(ended) = asked.soft.run_until_cancelled(orphans::end(&files)).await else {
            return Ok(None);
        };
        ended?;
        let last = files.last_port().filter(|port| is_free(*port));
        let launcher = Launcher { program, files };
        let started = match launcher.launch(last, asked).await {
            Err(error) if last.is_some() => {
                // Somebody may have taken the port in between; any other reason shows again.
                warn!("{error:#}; trying another port");
                launcher.launch(None, asked).await
            }
            started => started,
        };
        let Some((process, port)) = started? else {
            return Ok(None);
        };
        launcher.files.remember_port(port)?;
        let stop = CancellationToken::new();
        let asked = Shutdown {
            soft: stop.clone(),
            hard: asked.hard.clone(),
            ..Shutdown::default()
        };
        Ok(Some(Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            stop,
            keeper: tokio::spawn(keep(process, launcher, port, asked)),
        }))
    }

    /// Where clients connect.
    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Stops it, once everything that uses it has drained.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.keeper.await {
            error!(%error, "the keeper of nats-server failed");
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Launcher {
    /// Starts nats-server on `port`, or on any free one, and waits until it takes connections; `None` when `asked.soft` is
    /// cancelled before that. Without a process in the answer, none is left.
    async fn launch(&self, port: Option<u16>, asked: &Shutdown) -> anyhow::Result<Option<(Process, u16)>> {
        let mut process = Process::spawn(&self.program, &self.files, port)?;
        let ready = asked.soft.run_until_cancelled(process.ready(&self.files)).await;
        if let Some(Ok(port)) = ready {
            info!(port, program = %self.program.display(), "nats-server is running");
            return Ok(Some((process, port)));
        }
        process.end(&asked.hard).await;
        ready.transpose().map(|_| None)
    }
}

/// Starts the server again whenever it dies, until `asked.soft`; then ends it.
async fn keep(mut process: Process, launcher: Launcher, port: u16, asked: Shutdown) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        tokio::select! {
            () = asked.soft.cancelled() => {
                process.end(&asked.hard).await;
                return;
            }
            ended = process.ended() => {
                let log = launcher.files.log_end();
                error!(ended, log, "nats-server died; starting it again");
            }
        }
        if started.elapsed() >= STABLE {
            pause = FIRST_PAUSE;
        }
        process = loop {
            if asked.soft.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match launcher.launch(Some(port), &asked).await {
                Ok(Some((process, _))) => break process,
                Ok(None) => return,
                Err(error) => error!(retry_in = ?pause, "cannot start nats-server again: {error:#}"),
            }
        };
    }
}
