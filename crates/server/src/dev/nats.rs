//! The nats-server that `dev` starts and stops itself, with its JetStream store in the data directory.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Longest start: a store of millions of messages is checked first.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// How long nats-server may take to stop before it is killed, which loses nothing.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Pause before a nats-server that died is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Ports tried before a start is given up.
const PORT_TRIES: usize = 5;
/// Lines of its log that are shown when it does not start.
const LOG_LINES: usize = 5;

/// The files of the nats-server of a data directory.
#[derive(Debug, Clone)]
struct Files {
    directory: PathBuf,
}

impl Files {
    fn config(&self) -> PathBuf {
        self.directory.join("nats.conf")
    }

    fn pid(&self) -> PathBuf {
        self.directory.join("nats.pid")
    }

    fn port(&self) -> PathBuf {
        self.directory.join("port")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("nats.log")
    }

    fn store(&self) -> PathBuf {
        self.directory.join("store")
    }
}

/// A nats-server that runs, and is started again when it dies.
#[derive(Debug)]
pub(super) struct NatsServer {
    address: SocketAddr,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl NatsServer {
    /// Ends what an earlier `dev` left running on this data directory, whose lock the caller holds, and starts
    /// `program` there: on the port of the last time if it is free, so that others find it again.
    pub(super) async fn start(program: PathBuf, directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let files = Files {
            directory: directory.canonicalize()?,
        };
        end_orphan(&files).await?;
        let mut last = None;
        for _ in 0..PORT_TRIES {
            let port = free_port(&files, last.is_none())?;
            match spawn(&program, &files, port).await {
                Ok(child) => {
                    fs::write(files.port(), port.to_string())?;
                    let stop = CancellationToken::new();
                    let keeper = tokio::spawn(keep(child, program, files, port, stop.clone()));
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    return Ok(Self {
                        address,
                        stop,
                        keeper,
                    });
                }
                // Somebody may have taken the port in between.
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no port was tried")))
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

/// The port of the last time, if `remembered` is wanted and it is free, or any free one.
fn free_port(files: &Files, remembered: bool) -> anyhow::Result<u16> {
    let is_free = |port: u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .ok()?
            .local_addr()
            .ok()
    };
    let last = || fs::read_to_string(files.port()).ok()?.trim().parse::<u16>().ok();
    let kept = remembered.then(last).flatten().and_then(is_free);
    let address = kept.or_else(|| is_free(0)).context("no free port on 127.0.0.1")?;
    Ok(address.port())
}

/// Starts nats-server and waits until it takes connections; an error carries the end of its log.
async fn spawn(program: &Path, files: &Files, port: u16) -> anyhow::Result<Child> {
    fs::write(files.config(), configuration(files, port))?;
    let log = File::create(files.log())?;
    let mut child = Command::new(program)
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
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() && child.try_wait()?.is_none() {
            info!(port, program = %program.display(), "nats-server is running");
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "nats-server ended with {status}; the end of {}:\n{}",
                files.log().display(),
                log_end(files)
            );
        }
        if Instant::now() >= deadline {
            bail!(
                "nats-server takes no connections; the end of {}:\n{}",
                files.log().display(),
                log_end(files)
            );
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn configuration(files: &Files, port: u16) -> String {
    // A JSON string is a string of nats-server's configuration too.
    let quoted = |path: PathBuf| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        "# Written by `cuitty-webhooks dev` at every start.\n\
         server_name: cuitty-webhooks-dev\n\
         listen: \"127.0.0.1:{port}\"\n\
         pid_file: {pid}\n\
         jetstream {{\n  store_dir: {store}\n}}\n",
        pid = quoted(files.pid()),
        store = quoted(files.store()),
    )
}

fn log_end(files: &Files) -> String {
    let text = fs::read_to_string(files.log()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Starts the server again whenever it dies, until `stop`; then ends it.
async fn keep(mut child: Child, program: PathBuf, files: Files, port: u16, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            status = child.wait() => warn!(?status, "nats-server died; starting it again"),
        }
        loop {
            if stop.run_until_cancelled(sleep(RESTART_PAUSE)).await.is_none() {
                return;
            }
            match spawn(&program, &files, port).await {
                Ok(started) => {
                    child = started;
                    break;
                }
                Err(error) => error!("cannot start nats-server again: {error:#}"),
            }
        }
    }
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may be gone already.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if timeout(STOP_TIMEOUT, child.wait()).await.is_ok() {
        info!("nats-server has stopped");
        return;
    }
    warn!("nats-server does not stop; killing it");
    if let Err(error) = child.kill().await {
        error!(%error, "cannot kill nats-server");
    }
}

/// Ends the nats-server that a `dev` which was killed left behind.
async fn end_orphan(files: &Files) -> anyhow::Result<()> {
    let Some(pid) = orphan(files) else { return Ok(()) };
    warn!(%pid, "ending the nats-server that an earlier dev left behind");
    for (signal, patience) in [(Signal::SIGTERM, STOP_TIMEOUT), (Signal::SIGKILL, STOP_TIMEOUT)] {
        let _ = kill(pid, signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !is_ours(pid, files) {
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    bail!("nats-server (process {pid}) of an earlier dev does not end; end it by hand")
}

fn orphan(files: &Files) -> Option<Pid> {
    let pid = fs::read_to_string(files.pid()).ok()?.trim().parse().ok()?;
    Some(Pid::from_raw(pid)).filter(|pid| is_ours(*pid, files))
}

/// Whether this process runs and is a nats-server of this very data directory: ids are used again.
fn is_ours(pid: Pid, files: &Files) -> bool {
    let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let config = files.config();
    command_line
        .split(|byte| *byte == 0)
        .any(|argument| argument == config.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_port_is_taken_while_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            directory: directory.path().to_owned(),
        };
        let first = free_port(&files, true).unwrap();
        fs::write(files.port(), first.to_string()).unwrap();
        assert_eq!(free_port(&files, true).unwrap(), first);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert_ne!(free_port(&files, true).unwrap(), first);
    }

    #[tokio::test]
    async fn only_a_process_of_this_directory_is_an_orphan() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            directory: directory.path().to_owned(),
        };
        assert_eq!(orphan(&files), None);
        fs::write(files.pid(), std::process::id().to_string()).unwrap();
        assert_eq!(
            orphan(&files),
            None,
            "a process of another kind that has the id now"
        );

        let mut shell = Command::new("sh")
            .args(["-c", "read line", "sh"])
            .arg(files.config())
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(shell.id().unwrap() as i32);
        fs::write(files.pid(), pid.to_string()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // A process that was just started may not show its arguments yet.
        while orphan(&files).is_none() && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
        assert_eq!(orphan(&files), Some(pid));
        let reaped = tokio::spawn(async move { shell.wait().await });
        end_orphan(&files).await.unwrap();
        assert_eq!(orphan(&files), None);
        reaped.await.unwrap().unwrap();
    }
}
