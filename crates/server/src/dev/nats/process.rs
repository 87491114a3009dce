//! One process of nats-server, from its start to its end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::files::Files;

/// Longest start: a store of millions of messages is checked first.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// How long nats-server may take to stop before it is killed, which loses nothing.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(20);
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A nats-server that was started. [`Process::end`] ends it in good order; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts it on `port`, or on any free one.
    pub(super) fn spawn(program: &Path, files: &Files, port: Option<u16>) -> anyhow::Result<Self> {
        let log = files
            .renew(port)
            .context("cannot write the files of nats-server")?;
        let child = Command::new(program)
            .arg("--config")
            .arg(files.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Of its own, so that Ctrl-C in a terminal does not end it before the roles have drained.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child })
    }

    /// Waits until it takes connections, and gives their port; an error carries the end of its log.
    pub(super) async fn ready(&mut self, files: &Files) -> anyhow::Result<u16> {
        let listening = async {
            loop {
                if let Some(port) = files.listening_port() {
                    return port;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        let what = tokio::select! {
            port = listening => return Ok(port),
            ended = self.ended() => ended,
            () = sleep(START_TIMEOUT) => format!("takes no connections after {START_TIMEOUT:?}"),
        };
        bail!(
            "nats-server {what}; the end of {}:\n{}",
            files.log().display(),
            files.log_end()
        )
    }

    /// Waits until it has ended by itself, and says how.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("cannot be waited for: {error}"),
        }
    }

    /// Ends it, with SIGKILL when it takes too long or `hard` is cancelled.
    pub(super) async fn end(mut self, hard: &CancellationToken) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may be gone already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = timeout(STOP_TIMEOUT, self.child.wait());
        if matches!(hard.run_until_cancelled(ended).await, Some(Ok(_))) {
            info!("nats-server has stopped");
            return;
        }
        warn!("nats-server is not given more time to stop; killing it");
        if let Err(error) = self.child.kill().await {
            error!(%error, "cannot kill nats-server");
        }
    }
}
