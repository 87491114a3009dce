//! A real PostgreSQL: one cluster per test process, one database per test.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::certificates::Certified;
use crate::eventually::eventually;
use crate::ports::free_port;
use crate::process::{Process, reaper};

/// Connections that one cluster takes; every test's pool draws from them.
const MAX_CONNECTIONS: u32 = 400;
/// Names of the files of its certificate and key, if it has one.
const CERT: &str = "server.pem";
const KEY: &str = "server.key";

/// A PostgreSQL cluster in a directory of its own, reached by TCP as user `postgres` without a password.
#[derive(Debug)]
pub struct PostgresCluster {
    process: Process,
    port: u16,
    durability: Durability,
    databases: AtomicU32,
    // After the process: fields are dropped in order.
    dir: TempDir,
}

/// What a crash of the machine may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything: no fsync. For tests.
    None,
    /// Nothing: the server's defaults. For measurements.
    Default,
}

impl PostgresCluster {
    /// The cluster that the tests of this process share. It ends with the process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<PostgresCluster> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(Durability::None)).await
    }

    /// Starts one: stopped on drop, its directory removed.
    pub async fn start(durability: Durability) -> Self {
        Self::start_certified(durability, None).await
    }

    /// Starts one that speaks TLS, with this certificate, to whoever wants that.
    pub async fn start_with_tls(durability: Durability, server: &Certified) -> Self {
        Self::start_certified(durability, Some(server)).await
    }

    async fn start_certified(durability: Durability, server: Option<&Certified>) -> Self {
        let temp = tempfile::Builder::new()
            .prefix("postgres-")
            .tempdir()
            .expect("make a directory");
        let dir = temp.path();
        // The shared cluster is a static, which is never dropped.
        reaper().tell("directory", &dir.display().to_string());
        let owner = server_user();
        if let Some(user) = &owner {
            chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("own the directory");
        }
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).expect("close the directory");

        let initdb = command("initdb", owner.as_ref())
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg(dir.join("data"))
            .output()
            .expect("run initdb");
        assert!(
            initdb.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&initdb.stderr)
        );

        if let Some(Certified { cert, key }) = server {
            for (from, name) in [(cert, CERT), (key, KEY)] {
                let to = dir.join(name);
                std::fs::copy(from, &to).expect("copy the certificate");
                // The server takes no key that others may read.
                std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).expect("close the key");
                if let Some(user) = &owner {
                    chown(&to, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("own the key");
                }
            }
        }
        let port = free_port();
        let cluster = Self {
            process: serve(dir, port, durability),
            port,
            durability,
            databases: AtomicU32::new(0),
            dir: temp,
        };
        cluster.answers().await;
        cluster
    }

    /// Ends it at once, as a crash does: its connections break, and nobody listens on its port.
    pub fn crash(&mut self) {
        // SIGQUIT: the postmaster takes its children with it, which SIGKILL would leave behind.
        self.process.signal(Signal::SIGQUIT);
        self.process.wait_blocking(Duration::from_secs(20));
    }

    /// Starts it again after [`Self::crash`], on the same port and with the same data, and waits until it answers.
    pub async fn restart(&mut self) {
        self.process = serve(self.dir.path(), self.port, self.durability);
        self.answers().await;
    }

    async fn answers(&self) {
        eventually("PostgreSQL answers", || async { self.connect().await.map(drop) }).await;
    }

    /// Makes an empty database and returns its URL.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect().await.expect("connect to PostgreSQL");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
        connection.execute(create).await.expect("create a database");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// The postmaster's process id; its children serve the connections.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)).await
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Starts the server on the data in `dir`.
fn serve(dir: &Path, port: u16, durability: Durability) -> Process {
    let mut server = command("postgres", server_user().as_ref());
    server
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", &format!("max_connections={MAX_CONNECTIONS}")])
        .args(["-c", &format!("unix_socket_directories={}", dir.display())]);
    if dir.join(CERT).exists() {
        server
            .args(["-c", "ssl=on"])
            .args(["-c", &format!("ssl_cert_file={}", dir.join(CERT).display())])
            .args(["-c", &format!("ssl_key_file={}", dir.join(KEY).display())]);
    }
    if durability == Durability::None {
        server.args([
            "-c",
            "fsync=off",
            "-c",
            "synchronous_commit=off",
            "-c",
            "full_page_writes=off",
        ]);
    }
    Process::spawn("postgres", server, &dir.join("postgres.log"))
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made, else as nobody.
fn server_user() -> Option<User> {
    let find = |name| User::from_name(name).ok().flatten();
    Uid::effective().is_root().then(|| {
        find("postgres")
            .or_else(|| find("nobody"))
            .expect("a user that is not root")
    })
}

fn command(program: &str, owner: Option<&User>) -> Command {
    let mut command = Command::new(bin_dir().join(program));
    command.current_dir("/");
    if let Some(user) = owner {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Where the server's programs are: distributions keep them off `PATH`, a directory per version.
fn bin_dir() -> PathBuf {
    let packaged = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<_> = packaged
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    found.sort();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join("initdb").is_file())
    };
    found
        .pop()
        .map(|(_, bin)| bin)
        .or_else(on_path)
        .unwrap_or_else(|| panic!("there is no PostgreSQL server: run `make setup`"))
}
