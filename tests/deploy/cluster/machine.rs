//! The prod overlay on one machine: every pod is a process with the overlay's own files, arguments and environment, but for
//! what [`Machine::differences`] lists.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use async_nats::ConnectOptions;
use cuitty_webhooks_client::{Client, Publisher};
use cuitty_webhooks_log::{Log, LogConfig};
use harness::eventually::eventually_within;
use harness::nats::{OPERATOR, inbox_of};
use harness::ports::free_port;
use harness::postgres::{Durability, PostgresCluster};
use harness::process::Process;
use harness::rest::RestClient;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::PATIENCE;
use crate::manifests::{self, DATABASE, Installation, is_ours, moved};
use crate::yaml::{items, text, texts};

/// Ports as the overlay numbers them.
const API: u16 = 7710;
const ADMIN: u16 = 7711;
const CLIENTS: u16 = 4222;
const ROUTES: u16 = 6222;
const MONITOR: u16 = 8222;
/// Between two looks whether a pod is ready.
const BETWEEN_PROBES: Duration = Duration::from_millis(50);
/// The user of `accounts.conf` that publishes events, and where its password comes from.
const MODULE: [&str; 2] = ["module-budgets", "MODULE_BUDGETS_PASSWORD"];
/// Whose addresses of nats-server `secrets.sh` makes.
const USERS: [&str; 5] = ["api", "ingest", "dispatcher", "projector", "operator"];

/// The ports of a pod: as the overlay numbers them, and as they are here.
type Ports = BTreeMap<u16, u16>;

/// A part of a file that cannot be here what it is in a cluster.
struct Difference {
    /// The key of the `ConfigMap` or Secret.
    file: String,
    overlay: String,
    here: String,
}

fn difference(file: &str, overlay: &str, here: String) -> Difference {
    Difference {
        file: file.to_owned(),
        overlay: overlay.to_owned(),
        here,
    }
}

/// Where the pods run.
pub(super) struct Machine {
    installation: Installation,
    /// Of each nats-server.
    servers: Vec<Ports>,
    /// The database of the history: authority, name.
    database: String,
    _postgres: PostgresCluster,
}

impl Machine {
    /// The overlay, rendered, with new Secrets and certificates, and PostgreSQL, which is not part of it.
    pub(super) async fn new() -> Self {
        let installation = manifests::installation("prod").await;
        let certified = installation.authority.certify("postgres");
        let postgres = PostgresCluster::start_with_tls(Durability::None, &certified).await;
        let database = postgres.database().await;
        let replicas = replicas(&installation, "nats");
        Self {
            servers: (0..replicas).map(|_| ports([CLIENTS, ROUTES, MONITOR])).collect(),
            database,
            installation,
            _postgres: postgres,
        }
    }

    /// Everything that is not as in the overlay, beside these directories, which lie below one of the pod's own:
    /// /etc/cuitty-webhooks, /etc/nats, /etc/nats-tls, /run/nats, /data. Certificates are for 127.0.0.1 instead of names.
    fn differences(&self, workload: &str, own: &Ports) -> Vec<Difference> {
        let local = |number: u16| format!("127.0.0.1:{}", own[&number]);
        let name = |index: usize| format!("nats-{index}.nats.cuitty-webhooks.svc.cluster.local");
        let mut all = Vec::new();
        if workload == "nats" {
            // All pods have one address.
            for (key, number) in [("listen", CLIENTS), ("http", MONITOR), ("listen", ROUTES)] {
                let overlay = format!("{key}: \"0.0.0.0:{number}\"");
                let here = format!("{key}: \"{}\"", local(number));
                all.push(difference("cluster.conf", &overlay, here));
            }
            // Their names are those of a cluster.
            for (index, ports) in self.servers.iter().enumerate() {
                let here = format!("127.0.0.1:{}", ports[&ROUTES]);
                all.push(difference(
                    "cluster.conf",
                    &format!("{}:{ROUTES}", name(index)),
                    here,
                ));
            }
            return all;
        }
        for (key, number) in [("api", API), ("admin", ADMIN)] {
            let overlay = format!("{key} = \"0.0.0.0:{number}\"");
            all.push(difference(
                "config.toml",
                &overlay,
                format!("{key} = \"{}\"", local(number)),
            ));
        }
        // The receivers are on this machine, too, where no delivery may go by default.
        all.push(difference(
            "config.toml",
            "[history]\n",
            "[egress]\nallow_cidrs = [\"127.0.0.0/8\"]\n\n[history]\n".into(),
        ));
        for user in USERS {
            for (index, ports) in self.servers.iter().enumerate() {
                let here = format!("127.0.0.1:{}", ports[&CLIENTS]);
                all.push(difference(
                    &format!("{user}-url"),
                    &format!("{}:{CLIENTS}", name(index)),
                    here,
                ));
            }
        }
        // Of the Secret `history`.
        let overlay = DATABASE.split('?').next().expect("a URL");
        all.push(difference("url", overlay, self.database.clone()));
        all
    }

    /// How many pods of a workload the overlay has.
    pub(super) fn replicas(&self, workload: &str) -> usize {
        replicas(&self.installation, workload)
    }

    /// How many partitions the overlay's log has.
    pub(super) fn partitions(&self) -> usize {
        self.installation.consumers().len()
    }

    /// All pods of a workload, started.
    pub(super) fn start_all(&self, workload: &str) -> Vec<Pod> {
        (0..self.replicas(workload))
            .map(|ordinal| self.start(workload, ordinal))
            .collect()
    }

    /// A pod, started; its number tells it from the others of its workload.
    pub(super) fn start(&self, workload: &str, ordinal: usize) -> Pod {
        let pod = self.place(workload, ordinal);
        Pod {
            process: pod.spawn(pod.arguments.iter().map(String::as_str)),
            place: pod,
        }
    }

    /// Runs the pod of a Job until it ends.
    pub(super) fn run_job(&self, job: &str) -> Output {
        let place = self.place(job, 0);
        let mut command = place.command();
        command.args(&place.arguments);
        command.output().expect("run the binary")
    }

    /// The pod's files, and how it is started there.
    fn place(&self, workload: &str, ordinal: usize) -> Place {
        let own = match workload {
            "nats" => self.servers[ordinal].clone(),
            _ => ports([API, ADMIN]),
        };
        let mut installation = self.installation.clone();
        for difference in self.differences(workload, &own) {
            replace(&mut installation, &difference);
        }
        let pods = installation.pods();
        let template = pods
            .iter()
            .find(|pod| pod.workload["metadata"]["name"] == workload)
            .expect("the workload");
        let container = template.containers().next().expect("a container");
        let root = TempDir::new().expect("make a directory");
        for mount in items(&container["volumeMounts"]) {
            if mount["subPath"].is_null() {
                let below = text(&mount["mountPath"]).trim_start_matches('/');
                std::fs::create_dir_all(root.path().join(below)).expect("make a directory");
            }
        }
        installation.mount(template, container, root.path());
        if workload == "nats" {
            let written = std::fs::read_to_string(root.path().join("etc/nats/cluster.conf"));
            let store = format!("store_dir: \"{}\"", root.path().join("data").display());
            assert!(
                written.expect("cluster.conf").contains(&store),
                "the store lies elsewhere"
            );
        }
        let name = format!("{workload}-{ordinal}");
        let mut environment: Vec<_> = items(&container["env"])
            .map(|variable| {
                let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                    Some("metadata.name") => name.clone(),
                    Some(other) => panic!("{other} is not known here"),
                    None => moved(text(&variable["value"]), root.path()),
                };
                (text(&variable["name"]).to_owned(), value)
            })
            .collect();
        for source in items(&container["envFrom"]) {
            let secret = &installation.secrets[text(&source["secretRef"]["name"])];
            environment.extend(secret.iter().map(|(key, value)| {
                let value = String::from_utf8(value.clone()).expect("text");
                (key.clone(), value)
            }));
        }
        let arguments = texts(&container["args"]);
        let probe = &container["readinessProbe"]["httpGet"];
        let probed = items(&container["ports"]).find(|port| port["name"] == probe["port"]);
        let readiness = probed.map(|port| {
            let number = port["containerPort"].as_u64().expect("a port") as u16;
            let base = format!("http://127.0.0.1:{}", own[&number]);
            (base, text(&probe["path"]).to_owned())
        });
        Place {
            name,
            program: if is_ours(container) {
                harness::roles::binary().to_owned()
            } else {
                harness::nats::binary()
            },
            arguments: arguments.iter().map(|text| moved(text, root.path())).collect(),
            environment,
            ports: own,
            readiness,
            grace: template.spec["terminationGracePeriodSeconds"]
                .as_u64()
                .map(Duration::from_secs),
            root,
        }
    }

    /// The authority of every certificate, PEM.
    fn authority(&self) -> Vec<u8> {
        std::fs::read(self.installation.authority.cert()).expect("read the certificate")
    }

    /// A caller of that pod of the API, that repeats nothing by itself.
    pub(super) async fn caller(&self, api: &Pod, key: &str) -> Client {
        let url = format!("https://127.0.0.1:{}", api.place.ports[&API]);
        let client = Client::builder(&url, key)
            .patience(Duration::ZERO)
            .authorities(self.authority());
        client.connect().await.expect("connect to the API")
    }

    /// A module that publishes events, and repeats nothing by itself.
    pub(super) async fn module(&self) -> Publisher {
        let [user, variable] = MODULE;
        let password = &self.installation.secrets["nats-passwords"][variable];
        let password = String::from_utf8(password.clone()).expect("text");
        let servers = self
            .servers
            .iter()
            .map(|ports| format!("tls://127.0.0.1:{}", ports[&CLIENTS]));
        let client = ConnectOptions::with_user_and_password(user.into(), password)
            .custom_inbox_prefix(inbox_of(user))
            .add_root_certificates(self.installation.authority.cert())
            .connect(servers.collect::<Vec<_>>())
            .await;
        Publisher::new(client.expect("connect as a module")).patience(Duration::ZERO)
    }

    /// The log, as the operator reads it.
    pub(super) async fn log(&self) -> Log {
        let mut installation = self.installation.clone();
        for difference in self.differences("topology", &ports([API, ADMIN])) {
            replace(&mut installation, &difference);
        }
        let url = &installation.secrets["nats-users"]["operator-url"];
        let config = LogConfig {
            url: String::from_utf8(url.clone()).expect("text"),
            ca_file: Some(self.installation.authority.cert()),
            inbox_prefix: inbox_of(OPERATOR),
            ..LogConfig::default()
        };
        Log::connect(config).await.expect("connect to the log")
    }
}

fn ports<const N: usize>(numbers: [u16; N]) -> Ports {
    numbers.map(|number| (number, free_port())).into()
}

fn replicas(installation: &Installation, workload: &str) -> usize {
    let pods = installation.pods();
    let found = pods
        .iter()
        .find(|pod| pod.workload["metadata"]["name"] == workload)
        .and_then(|pod| pod.workload["spec"]["replicas"].as_u64());
    found.expect("it says how many") as usize
}

/// In every `ConfigMap` and Secret that has the file.
fn replace(installation: &mut Installation, difference: &Difference) {
    let Difference { file, overlay, here } = difference;
    let mut is_there = false;
    for object in &mut installation.objects {
        if let Some(Value::String(content)) = object.get_mut("data").and_then(|data| data.get_mut(file)) {
            is_there |= content.contains(overlay);
            *content = content.replace(overlay, here);
        }
    }
    for secret in installation.secrets.values_mut() {
        if let Some(content) = secret.get_mut(file) {
            let old = std::str::from_utf8(content).expect("text");
            is_there |= old.contains(overlay);
            *content = old.replace(overlay, here).into_bytes();
        }
    }
    assert!(is_there, "{file} of the overlay has no {overlay:?} any more");
}

/// How a pod is started, and where.
struct Place {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    ports: Ports,
    /// What its readiness probe asks: server and path.
    readiness: Option<(String, String)>,
    grace: Option<Duration>,
    root: TempDir,
}

impl Place {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// Asks its readiness probe.
    async fn probe(&self) -> Result<(), String> {
        let (server, path) = self.readiness.as_ref().expect("it has a probe");
        let answer = RestClient::new(server, None).try_get(path).await?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&answer.body).into_owned())
        }
    }

    fn spawn<'a>(&self, arguments: impl Iterator<Item = &'a str>) -> Process {
        let mut command = self.command();
        command.args(arguments);
        Process::spawn(&self.name, command, &self.root.path().join("output.log"))
    }
}

/// A running pod; killed on drop.
pub(super) struct Pod {
    process: Process,
    // After the process: fields are dropped in order.
    place: Place,
}

impl Pod {
    /// The name of its workload, and its number.
    pub(super) fn name(&self) -> &str {
        &self.place.name
    }

    /// Waits until its readiness probe is answered.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub(super) async fn ready(&self) {
        let what = format!("{} is ready", self.name());
        eventually_within(PATIENCE, &what, || self.place.probe()).await;
    }

    /// [`Self::ready`], and started again whenever it ends before that, as Kubernetes does.
    pub(super) async fn becomes_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(said) = self.place.probe().await {
            assert!(Instant::now() < deadline, "{} is not ready: {said}", self.name());
            if !self.is_running() {
                self.start_again();
            }
            sleep(BETWEEN_PROBES).await;
        }
    }

    /// The sum of a metric's samples over all labels; 0 when it has none.
    pub(super) async fn metric(&self, name: &str) -> f64 {
        let admin = format!("http://127.0.0.1:{}", self.place.ports[&ADMIN]);
        harness::roles::metric(&admin, name).await
    }

    /// What it has logged.
    pub(super) fn output(&self) -> String {
        self.process.output()
    }

    /// Runs the binary beside it, as `kubectl exec` does, with the overlay's configuration.
    pub(super) async fn exec(&self, arguments: &[&str]) -> Output {
        let config = self.place.arguments.iter().skip_while(|text| *text != "--config");
        let mut command = self.place.command();
        command.args(arguments).args(config);
        let ran = tokio::task::spawn_blocking(move || command.output());
        ran.await.expect("a thread").expect("run the binary")
    }

    /// Whether it has not ended by itself.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.exit_status().is_none()
    }

    /// SIGKILL.
    pub(super) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again after [`Self::kill9`], with its files as they are.
    pub(super) fn start_again(&mut self) {
        self.process = self.place.spawn(self.place.arguments.iter().map(String::as_str));
    }

    /// SIGTERM, and its end within the pod's grace period.
    ///
    /// # Panics
    /// When it takes longer.
    pub(super) async fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(self.place.grace.expect("a grace period")).await
    }
}
