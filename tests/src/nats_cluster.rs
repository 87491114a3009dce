//! Three real nats-servers that form a JetStream cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::ConnectOptions;
use tempfile::TempDir;

use crate::eventually::eventually_within;
use crate::nats::{binary, inbox_of};
use crate::ports::free_port;
use crate::process::Process;

/// How many servers there are.
pub const NODES: usize = 3;
/// How long they may take to find one another and to elect who leads.
const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster of [`NODES`] nats-servers, each with a port and a store of its own. Stopped on drop, their stores removed.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<Node>,
    setup: Setup,
    _dir: TempDir,
}

#[derive(Debug)]
struct Node {
    process: Process,
    port: u16,
    dir: PathBuf,
}

/// What the servers are configured with beside who they are.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Lines of each one's configuration, such as an `include` of a file by its name.
    pub lines: String,
    /// Files that are copied beside it.
    pub files: Vec<PathBuf>,
    /// What it takes from the environment.
    pub environment: Vec<(String, String)>,
    /// The user that may ask how JetStream is, and the password; `None` when everybody may.
    pub login: Option<[String; 2]>,
    /// PEM: the authority of the servers' certificates, when they speak TLS.
    pub authority: Option<PathBuf>,
}

impl NatsCluster {
    /// Starts one that lets everybody in, and waits until it has elected who leads it.
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// Starts one, and waits until it has elected who leads it.
    pub async fn start_with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let (ports, routes): (Vec<_>, Vec<_>) = (0..NODES).map(|_| (free_port(), free_port())).unzip();
        let all: Vec<_> = routes
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let nodes = (0..NODES).map(|index| {
            let dir = dir.path().join(index.to_string());
            std::fs::create_dir(&dir).expect("make a directory");
            for file in &setup.files {
                std::fs::copy(file, dir.join(file.file_name().expect("a file"))).expect("copy a file");
            }
            let config = format!(
                "server_name: nats-{index}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n\
                 cluster {{ name: webhooks, listen: \"127.0.0.1:{}\", routes: [{}] }}\n{}\n",
                ports[index],
                dir.join("store").display(),
                routes[index],
                all.join(", "),
                setup.lines,
            );
            std::fs::write(dir.join("nats.conf"), config).expect("write the configuration");
            let (process, port) = (spawn(index, &dir, &setup), ports[index]);
            Node { process, port, dir }
        });
        let cluster = Self {
            nodes: nodes.collect(),
            setup: setup.clone(),
            _dir: dir,
        };
        for index in 0..NODES {
            cluster.answers(index).await;
        }
        cluster
    }

    /// Where clients connect to: every server.
    pub fn url(&self) -> String {
        self.urls("")
    }

    /// Where `user`, whose name is its password, connects to.
    pub fn url_of(&self, user: &str) -> String {
        self.urls(&format!("{user}:{user}@"))
    }

    fn urls(&self, login: &str) -> String {
        let urls = self
            .nodes
            .iter()
            .map(|node| format!("nats://{login}127.0.0.1:{}", node.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The process id of a server, which changes with [`Self::restart`].
    pub fn pid(&self, index: usize) -> u32 {
        self.nodes[index].process.pid()
    }

    /// What a server has logged.
    pub fn output(&self, index: usize) -> String {
        self.nodes[index].process.output()
    }

    /// SIGKILL to one of them.
    pub fn kill9(&mut self, index: usize) {
        self.nodes[index].process.kill9();
    }

    /// SIGTERM to one of them, and waits for its end.
    pub async fn stop(&mut self, index: usize) {
        self.nodes[index].process.stop().await;
    }

    /// Starts one again that was killed or stopped, and waits until it answers.
    pub async fn restart(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.process = spawn(index, &node.dir, &self.setup);
        self.answers(index).await;
    }

    async fn answers(&self, index: usize) {
        let Setup { login, authority, .. } = &self.setup;
        eventually_within(PATIENCE, "the cluster has a leader", || async {
            let options = match login.clone() {
                Some([user, password]) => ConnectOptions::with_user_and_password(user.clone(), password)
                    .custom_inbox_prefix(inbox_of(&user)),
                None => ConnectOptions::new(),
            };
            let options = match authority {
                Some(authority) => options.add_root_certificates(authority.clone()).require_tls(true),
                None => options,
            };
            let url = format!("nats://127.0.0.1:{}", self.nodes[index].port);
            let client = options.connect(url).await.map_err(|error| error.to_string())?;
            let account = async_nats::jetstream::new(client).query_account().await;
            account.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
}

fn spawn(index: usize, dir: &Path, setup: &Setup) -> Process {
    let mut command = Command::new(binary());
    command
        .envs(setup.environment.iter().map(|(name, value)| (name, value)))
        .arg("--config")
        .arg(dir.join("nats.conf"));
    Process::spawn(format!("nats-{index}"), command, &dir.join("nats-server.log"))
}
