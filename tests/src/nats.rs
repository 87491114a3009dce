//! A real nats-server on a port and a store directory of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_nats::ConnectOptions;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::certificates::{Authority, Certified};
use crate::eventually::eventually;
use crate::ports::free_port;
use crate::process::Process;

/// A nats-server with JetStream. Stopped on drop, its store removed.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    port: u16,
    login: Login,
    /// What its configuration takes from the environment.
    environment: Vec<(String, String)>,
    /// The authority of its certificate, if it has one, and what a client shows it.
    tls: Option<(PathBuf, Certified)>,
    dir: TempDir,
}

/// The users of the deployment's `accounts.conf`, and where each one's password comes from.
const USERS: [(&str, &str); 7] = [
    ("sys", "WEBHOOKS_SYS_PASSWORD"),
    ("webhooks-api", "WEBHOOKS_API_PASSWORD"),
    ("webhooks-ingest", "WEBHOOKS_INGEST_PASSWORD"),
    ("webhooks-dispatcher", "WEBHOOKS_DISPATCHER_PASSWORD"),
    ("webhooks-projector", "WEBHOOKS_PROJECTOR_PASSWORD"),
    ("webhooks-operator", "WEBHOOKS_OPERATOR_PASSWORD"),
    ("module-budgets", "MODULE_BUDGETS_PASSWORD"),
];
/// How much `accounts.conf` lets the log take.
const MAX_FILE: [&str; 2] = ["WEBHOOKS_MAX_FILE", "8GB"];
/// The user of `accounts.conf` that may do everything.
pub const OPERATOR: &str = "webhooks-operator";
/// Name of the configuration's file, if there is one.
const CONFIG: &str = "nats.conf";
const MUTE: &str = r#"authorization { users: [
    { user: all, password: all }
    { user: mute, password: mute, permissions: { publish: { deny: "$JS.ACK.>" } } }
] }"#;

/// The user that is let in, and the password; `None` lets everybody in.
type Login = Option<[String; 2]>;

impl NatsServer {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts one that lets in nobody but `user` with `password`, and waits until it answers.
    pub async fn start_with_password(user: &str, password: &str) -> Self {
        Self::start_with(Some([user.to_owned(), password.to_owned()])).await
    }

    /// Starts one that lets in the users `all` and `mute`, whose names are their passwords, and takes no acknowledgement of a
    /// delivered message from `mute`; waits until it answers.
    pub async fn start_with_mute() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        std::fs::write(dir.path().join(CONFIG), MUTE).expect("write the configuration");
        Self::start_in(dir, Some(["all".into(), "all".into()])).await
    }

    /// Starts one with the deployment's accounts, whose users' names are their passwords, and waits until it answers.
    pub async fn start_with_accounts() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        include_accounts(dir.path());
        let passwords = USERS.map(|(user, variable)| (variable.to_owned(), user.to_owned()));
        let environment = passwords.into_iter().chain([MAX_FILE.map(str::to_owned).into()]);
        let login = Some([OPERATOR.into(), OPERATOR.into()]);
        Self::start_as(dir, login, environment.collect(), None).await
    }

    /// Starts one that speaks TLS with this certificate and takes only clients that show one of `authority`; `client` is
    /// such a one. Waits until it answers.
    pub async fn start_with_tls(authority: &Authority, server: &Certified, client: &Certified) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let config = format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
            server.cert.display(),
            server.key.display(),
            authority.cert().display()
        );
        std::fs::write(dir.path().join(CONFIG), config).expect("write the configuration");
        let tls = Some((authority.cert(), client.clone()));
        Self::start_as(dir, None, Vec::new(), tls).await
    }

    async fn start_with(login: Login) -> Self {
        Self::start_in(tempfile::tempdir().expect("make a directory"), login).await
    }

    async fn start_in(dir: TempDir, login: Login) -> Self {
        Self::start_as(dir, login, Vec::new(), None).await
    }

    async fn start_as(
        dir: TempDir,
        login: Login,
        environment: Vec<(String, String)>,
        tls: Option<(PathBuf, Certified)>,
    ) -> Self {
        let port = free_port();
        let process = spawn(port, dir.path(), &login, &environment);
        let server = Self {
            process,
            port,
            login,
            environment,
            tls,
            dir,
        };
        server.answers().await;
        server
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where `user`, whose name is its password, connects to.
    pub fn url_of(&self, user: &str) -> String {
        format!("nats://{user}:{user}@127.0.0.1:{}", self.port)
    }

    /// What it has logged.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The process id, which changes with [`Self::restart`].
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGKILL: what was acknowledged is in the store directory, nothing else is left.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGSTOP: connections stay and nothing is answered, until [`Self::go_on`].
    pub async fn pause(&mut self) {
        self.process.pause().await;
    }

    /// SIGCONT.
    pub fn go_on(&mut self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) {
        self.process.stop().await;
    }

    /// Starts it again, stopping it first if it runs, on the same port and store.
    pub async fn restart(&mut self) {
        self.process.stop().await;
        self.process = spawn(self.port, self.dir.path(), &self.login, &self.environment);
        self.answers().await;
    }

    async fn answers(&self) {
        eventually("nats-server answers", || async {
            let options = match self.login.clone() {
                Some([user, password]) => ConnectOptions::with_user_and_password(user.clone(), password)
                    .custom_inbox_prefix(inbox_of(&user)),
                None => ConnectOptions::new(),
            };
            let options = match &self.tls {
                Some((authority, client)) => options
                    .add_root_certificates(authority.clone())
                    .add_client_certificate(client.cert.clone(), client.key.clone())
                    .require_tls(true),
                None => options,
            };
            let client = options
                .connect(self.url())
                .await
                .map_err(|error| error.to_string())?;
            // JetStream opens a moment after the port does.
            let context = async_nats::jetstream::new(client);
            context
                .query_account()
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await;
    }
}

/// What a user's answers arrive under, and nobody else's.
pub fn inbox_of(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// Writes a configuration into `dir` that includes the deployment's accounts.
fn include_accounts(dir: &Path) {
    let accounts = crate::workspace().join("deploy/k8s/base/nats/accounts.conf");
    std::fs::copy(accounts, dir.join("accounts.conf")).expect("copy the accounts");
    std::fs::write(dir.join(CONFIG), "include \"accounts.conf\"\n").expect("write the configuration");
}

fn spawn(port: u16, dir: &Path, login: &Login, environment: &[(String, String)]) -> Process {
    let mut command = Command::new(binary());
    command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["--addr", "127.0.0.1", "--jetstream", "--port", &port.to_string()])
        .arg("--store_dir")
        .arg(dir.join("store"));
    let config = dir.join(CONFIG);
    if config.exists() {
        command.arg("--config").arg(config);
    } else if let Some([user, password]) = login {
        command.args(["--user", user, "--pass", password]);
    }
    Process::spawn("nats-server", command, &dir.join("nats-server.log"))
}

/// The nats-server that `make setup` installed, else the one on `PATH`.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    let installed = crate::workspace().join(".tools/bin/nats-server");
    let on_path = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|dir| dir.join("nats-server"))
        .find(|path| path.is_file());
    match on_path {
        _ if installed.is_file() => installed,
        Some(path) => path,
        None => panic!("there is no nats-server: run `make setup`"),
    }
}

/// Something that greets like a nats-server of `version` and answers pings, but does nothing else. Returns its URL; it
/// stands until the runtime ends.
pub async fn impostor(version: &str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let port = listener.local_addr().expect("is bound").port();
    let greeting = serde_json::json!({
        "server_id": "IMPOSTOR", "server_name": "impostor", "version": version, "proto": 1, "go": "go1.24",
        "host": "127.0.0.1", "port": port, "headers": true, "max_payload": 1_048_576, "jetstream": true, "client_id": 1,
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(greet(stream, format!("INFO {greeting}\r\n")));
        }
    });
    format!("nats://127.0.0.1:{port}")
}

async fn greet(stream: TcpStream, greeting: String) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    write.write_all(greeting.as_bytes()).await?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("PING") {
            write.write_all(b"PONG\r\n").await?;
        }
    }
    Ok(())
}

/// A URL of 127.0.0.1 that nobody listens on.
pub fn nowhere() -> String {
    format!("nats://127.0.0.1:{}", free_port())
}
