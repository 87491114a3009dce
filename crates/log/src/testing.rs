//! A real nats-server for the tests of this crate, ended and cleaned up with the value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::{Log, LogConfig};

/// Longest wait for something that is to happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A nats-server with JetStream on a directory of its own.
pub(crate) struct NatsServer {
    port: u16,
    directory: TempDir,
    process: Option<Child>,
}

impl NatsServer {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts one with these settings in its configuration's `jetstream` block.
    pub(crate) async fn start_with(jetstream: &str) -> Self {
        Self::start_configured(|store| format!("jetstream {{ store_dir: {store:?}\n{jetstream} }}")).await
    }

    /// Starts one that wants a password.
    pub(crate) async fn start_secured() -> Self {
        Self::start_configured(|_| "authorization { user: u, password: p }".into()).await
    }

    /// Starts one that stores nothing.
    pub(crate) async fn start_without_jetstream() -> Self {
        Self::start_configured(|_| String::new()).await
    }

    async fn start_configured(config: impl FnOnce(&Path) -> String) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\n{}\n",
            config(&directory.path().join("store"))
        );
        std::fs::write(directory.path().join("nats.conf"), config).unwrap();
        let mut server = Self {
            port,
            directory,
            process: None,
        };
        server.restart().await;
        server
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again on the same port and directory; returns when it takes connections.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let process = Command::new(binary())
            .arg("--config")
            .arg(self.directory.path().join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("nats-server cannot be started ({error}); run `make setup`"));
        self.process = Some(process);
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "nats-server does not take connections");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A configuration for this server with short times.
    pub(crate) fn config(&self) -> LogConfig {
        LogConfig {
            url: self.url(),
            partitions: 4,
            ack_wait: Duration::from_secs(1),
            ..LogConfig::default()
        }
    }

    /// A log with its streams made.
    pub(crate) async fn log(&self) -> Log {
        let log = Log::connect(self.config()).await.unwrap();
        log.ensure().await.unwrap();
        log
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The nats-server that `make setup` installed, else the one on the path.
fn binary() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
    if installed.exists() {
        installed
    } else {
        "nats-server".into()
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Lets `span` pass, in which `event` must not happen. The one way to see that something never comes: as long as it would
/// take to come, and some more.
pub(crate) async fn never_within<T>(span: Duration, what: &str, event: impl Future<Output = T>) {
    let started = Instant::now();
    let happened = timeout(span, event).await.is_ok();
    assert!(!happened, "happened after {:?}: {what}", started.elapsed());
}
