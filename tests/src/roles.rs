//! The roles of the service, as real processes of the built binary.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::ports::free_address;
use crate::process::Process;
use crate::rest::RestClient;

/// The bootstrap admin key of every installation that a test makes.
pub const ADMIN_KEY: &str = "admin-key-of-the-tests-0123456789";
/// 32 bytes in base64, the sealing key of every installation that a test makes.
const SEALING_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// What all roles of one installation are configured with: values by `section.key`.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// An installation on this nats-server and this history that may deliver to loopback.
    pub fn new(nats_url: &str, history_url: &str) -> Self {
        Self(BTreeMap::new())
            .set("log.url", nats_url)
            .set("history.url", history_url)
            .set("api.admin_key", ADMIN_KEY)
            .set("sealing.keys", format!("test:{SEALING_KEY}"))
            .set("egress.allow_cidrs", "127.0.0.0/8,::1/128")
    }

    /// With another value of `section.key`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.0.insert(key.to_owned(), value.to_string());
        self
    }

    /// As environment variables.
    pub fn environment(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|(key, value)| {
            let name = key.to_ascii_uppercase().replace('.', "__");
            (format!("CUITTY_WEBHOOKS__{name}"), value.as_str())
        })
    }
}

/// A process that runs one or more roles. Killed on drop; what it logged is printed when the test fails.
#[derive(Debug)]
pub struct RoleProcess {
    process: Process,
    name: String,
    settings: Settings,
    roles: String,
    listen: SocketAddr,
    admin: SocketAddr,
    dir: TempDir,
}

impl RoleProcess {
    /// Starts `roles` (comma-separated) and waits until they are ready.
    pub async fn start(roles: &str, settings: &Settings) -> Self {
        let process = Self::spawn(roles, settings);
        process.ready().await;
        process
    }

    /// Starts `roles` and does not wait.
    pub fn spawn(roles: &str, settings: &Settings) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let (listen, admin) = (free_address(), free_address());
        let settings = settings
            .clone()
            .set("listen.api", listen)
            .set("listen.admin", admin);
        let process = run(roles, &settings, dir.path());
        Self {
            process,
            name: roles.to_owned(),
            settings,
            roles: roles.to_owned(),
            listen,
            admin,
            dir,
        }
    }

    /// Where gRPC and REST are served, when `api` is among the roles: `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where health and metrics are served: `http://host:port`.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The process id, which changes with a restart.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The sum of a metric's samples over all labels; 0 when it has none.
    ///
    /// # Panics
    /// When the metrics are not served.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(&self.admin_url(), name).await
    }

    /// What it has logged.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Starts it again with the same settings on the same ports, killed first if it runs, and does not wait; see
    /// [`Self::ready`].
    pub fn start_again(&mut self) {
        self.process.kill9();
        self.process = run(&self.roles, &self.settings, self.dir.path());
    }

    /// Waits until it says that it is ready, and its history open, when it has one.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn ready(&self) {
        self.ready_when(|history| history.is_null() || history == "ok")
            .await;
    }

    /// [`Self::ready`], whatever it says of the history.
    pub async fn ready_without_history(&self) {
        self.ready_when(|_| true).await;
    }

    /// What it answers on `/readyz`, once it answers: the status and the body.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub async fn readiness(&self) -> (u16, Value) {
        eventually(&format!("{} answers", self.name), || self.try_readiness()).await
    }

    async fn try_readiness(&self) -> Result<(u16, Value), String> {
        let admin = RestClient::new(self.admin_url(), None);
        let answer = admin.try_get("/readyz").await?;
        Ok((answer.status.as_u16(), answer.json()))
    }

    async fn ready_when(&self, accepts: impl Fn(&Value) -> bool) {
        eventually(&format!("{} is ready", self.name), || async {
            let (status, body) = self.try_readiness().await?;
            if status == 200 && accepts(&body["history"]) {
                Ok(())
            } else {
                Err(format!("{status}: {body}"))
            }
        })
        .await;
    }
}

fn run(roles: &str, settings: &Settings, dir: &Path) -> Process {
    let mut command = Command::new(binary());
    command
        .args(["serve", "--role", roles])
        .current_dir(dir)
        .envs(settings.environment());
    Process::spawn(roles, command, &dir.join("output.log"))
}

/// The sum of a metric's samples over all labels, of the process with this admin listener; 0 when it has none.
///
/// # Panics
/// When the metrics are not served.
pub async fn metric(admin_url: &str, name: &str) -> f64 {
    let answer = RestClient::new(admin_url, None).get("/metrics").await;
    let text = String::from_utf8_lossy(&answer.body);
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series.split('{').next() == Some(name);
            is_it.then(|| value.parse::<f64>().expect("a sample is a number"))
        })
        .sum()
}

/// Runs the binary with `arguments` until it ends.
pub fn command(arguments: &[&str], settings: &Settings) -> Output {
    Command::new(binary())
        .args(arguments)
        .envs(settings.environment())
        .stdin(Stdio::null())
        .output()
        .expect("run the binary")
}

/// The binary `cuitty-webhooks`, built once per run in the profile of this executable.
///
/// # Panics
/// When it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let this = std::env::current_exe().expect("this executable has a path");
        // target/<profile>/bench, or target/<profile>/deps/suites-<hash>
        let profile_dir = this
            .ancestors()
            .skip(1)
            .find(|dir| !dir.ends_with("deps"))
            .expect("a directory");
        let release = profile_dir.ends_with("release");
        // The cargo on PATH, which knows the workspace's toolchain also when no cargo started this executable.
        let mut build = Command::new("cargo");
        // As `make` does, so that what it has built is not built again with other features.
        build.args(["build", "--quiet", "--workspace", "--bin", "cuitty-webhooks"]);
        build
            .args(release.then_some("--release"))
            .current_dir(crate::workspace());
        assert!(
            build.status().expect("run cargo").success(),
            "cuitty-webhooks does not build"
        );
        profile_dir.join("cuitty-webhooks")
    })
}
