//! An installation as its pods see it: objects, the Secrets that are made beside them, and the files of a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cuitty_webhooks_server::config::{Config, Sources};
use harness::certificates::Authority;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::yaml::{self, items, text};

pub(crate) const DATABASE: &str = "postgres://webhooks:secret@db.example.com/webhooks\
    ?sslmode=verify-full&sslrootcert=/etc/cuitty-webhooks/tls/history/ca.crt";

/// The objects of an overlay and what they refer to.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    pub(crate) objects: Vec<Value>,
    /// The keys of every Secret that README.md has somebody make, with their contents.
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Whose certificates are in them.
    pub(crate) authority: Arc<Authority>,
}

/// A workload's pods.
pub(crate) struct Pod<'a> {
    /// Kind and name of the workload, for messages.
    pub(crate) name: String,
    pub(crate) workload: &'a Value,
    pub(super) labels: &'a Value,
    pub(crate) spec: &'a Value,
}

impl Pod<'_> {
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Value> {
        items(&self.spec["containers"])
    }

    /// Whether it runs our binary.
    pub(crate) fn is_ours(&self) -> bool {
        self.containers().any(is_ours)
    }

    /// Whether it goes on until it is stopped.
    pub(super) fn stays(&self) -> bool {
        self.workload["kind"] != "Job"
    }
}

/// Whether a container runs our binary.
pub(crate) fn is_ours(container: &Value) -> bool {
    text(&container["image"]).contains("cuitty/webhooks:")
}

impl Installation {
    /// With the Secrets that `secrets.sh` makes for it, and the certificates that README.md asks for.
    pub(super) async fn new(objects: Vec<Value>, overlay: &str) -> Self {
        let mut secrets: BTreeMap<_, _> = yaml::documents(secrets(overlay).path())
            .await
            .iter()
            .map(|secret| {
                let data = secret["data"].as_object().expect("data").iter();
                let decoded = data.map(|(key, value)| {
                    let bytes = STANDARD.decode(text(value)).expect("base64");
                    (key.clone(), bytes)
                });
                (
                    text(&secret["metadata"]["name"]).to_owned(),
                    decoded.collect::<BTreeMap<_, _>>(),
                )
            })
            .collect();
        let authority = Authority::new();
        if overlay != "dev" {
            let certified = authority.certify("server");
            let pem = |path: &Path| fs::read(path).expect("a certificate");
            let server = [
                ("tls.crt", pem(&certified.cert)),
                ("tls.key", pem(&certified.key)),
                ("ca.crt", pem(&authority.cert())),
            ];
            let server = BTreeMap::from(server.map(|(key, value)| (key.to_owned(), value)));
            for certificate in yaml::documents(&super::k8s().join("certificates.yaml")).await {
                if certificate["kind"] == "Certificate" && certificate["spec"]["isCA"] != true {
                    secrets.insert(
                        text(&certificate["spec"]["secretName"]).to_owned(),
                        server.clone(),
                    );
                }
            }
            let history = BTreeMap::from([("ca.crt".to_owned(), server["ca.crt"].clone())]);
            secrets.insert("history-tls".into(), history);
        }
        Self {
            objects,
            secrets,
            authority: Arc::new(authority),
        }
    }

    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    pub(super) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    pub(crate) fn pods(&self) -> Vec<Pod<'_>> {
        let workloads = self
            .objects
            .iter()
            .filter(|object| object["spec"]["template"]["spec"].is_object());
        let pods = workloads.map(|workload| Pod {
            name: format!(
                "{} {}",
                text(&workload["kind"]),
                text(&workload["metadata"]["name"])
            ),
            workload,
            labels: &workload["spec"]["template"]["metadata"]["labels"],
            spec: &workload["spec"]["template"]["spec"],
        });
        pods.collect()
    }

    /// The configuration that the roles share, without what a pod's environment adds.
    pub(super) fn config(&self) -> Config {
        let file = NamedTempFile::new().expect("a file");
        let map = self
            .of_kind("ConfigMap")
            .find(|map| map["data"]["config.toml"].is_string());
        fs::write(
            file.path(),
            text(&map.expect("a ConfigMap with config.toml")["data"]["config.toml"]),
        )
        .expect("write");
        let sources = Sources {
            file: Some(file.path().to_owned()),
            ..Sources::default()
        };
        Config::load(&sources, &[]).expect("the configuration is valid").0
    }

    /// The keys of what a volume's source names, with their contents; `None` when it does not exist.
    pub(super) fn source(&self, volume: &Value) -> Option<BTreeMap<String, Vec<u8>>> {
        let (keys, listed) = if let Some(name) = volume["configMap"]["name"].as_str() {
            let data = self.find("ConfigMap", name)?["data"].as_object()?.iter();
            let keys = data.map(|(key, value)| (key.clone(), text(value).as_bytes().to_vec()));
            (keys.collect(), &volume["configMap"]["items"])
        } else {
            // As a volume, or as a part of a projected one.
            let secret = &volume["secret"];
            let name = secret["secretName"].as_str().or(secret["name"].as_str())?;
            (self.secrets.get(name)?.clone(), &secret["items"])
        };
        if listed.is_null() {
            return Some(keys);
        }
        items(listed)
            .map(|item| {
                Some((
                    text(&item["path"]).to_owned(),
                    keys.get(text(&item["key"]))?.clone(),
                ))
            })
            .collect()
    }

    /// Puts what a container's volumes hold below `root`, where their mounts say.
    pub(crate) fn mount(&self, pod: &Pod<'_>, container: &Value, root: &Path) {
        for mount in items(&container["volumeMounts"]) {
            let volume = items(&pod.spec["volumes"]).find(|volume| volume["name"] == mount["name"]);
            let Some(volume) = volume else { continue };
            let parts = match items(&volume["projected"]["sources"]).collect::<Vec<_>>() {
                parts if parts.is_empty() => vec![volume],
                parts => parts,
            };
            for (path, content) in parts.into_iter().filter_map(|part| self.source(part)).flatten() {
                let place = root.join(text(&mount["mountPath"]).trim_start_matches('/'));
                let place = match mount["subPath"].as_str() {
                    Some(sub_path) if sub_path == path => place,
                    Some(_) => continue,
                    None => place.join(path),
                };
                fs::create_dir_all(place.parent().expect("below the root")).expect("make a directory");
                // What names files by their place in the pod finds them below the root.
                let content = match String::from_utf8(content) {
                    Ok(text) => moved(&text, root).into_bytes(),
                    Err(error) => error.into_bytes(),
                };
                fs::write(place, content).expect("write");
            }
        }
    }

    /// `config check` for each role, as its pod would run: the role, and what the binary says.
    pub(super) fn config_checks(&self) -> Vec<(String, Result<String, String>)> {
        let mut checked = Vec::new();
        for pod in self.pods().iter().filter(|pod| pod.is_ours()) {
            let container = pod
                .containers()
                .find(|container| is_ours(container))
                .expect("is ours");
            let root = TempDir::new().expect("make a directory");
            self.mount(pod, container, root.path());
            let arguments = yaml::texts(&container["args"]);
            let file = arguments
                .iter()
                .skip_while(|argument| **argument != "--config")
                .nth(1);
            let role = text(&container["name"]).to_owned();
            let mut command = Command::new(harness::roles::binary());
            command
                .args(["config", "check"])
                .env_clear()
                .current_dir(root.path());
            if let Some(file) = file {
                command.arg("--config").arg(moved(file, root.path()));
            }
            if role != "topology" {
                command.args(["--role", &role]);
            }
            for variable in items(&container["env"]) {
                command.env(
                    text(&variable["name"]),
                    moved(text(&variable["value"]), root.path()),
                );
            }
            let ran = command.output().expect("run the binary");
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            let result = if ran.status.success() {
                Ok(said(&ran.stdout))
            } else {
                Err(said(&ran.stderr))
            };
            checked.push((role, result));
        }
        checked.sort_by(|one, other| one.0.cmp(&other.0));
        checked
    }

    /// Whether nats-server takes the configuration of its pod.
    pub(super) fn nats_check(&self) -> Result<(), String> {
        let pods = self.pods();
        let pod = pods
            .iter()
            .find(|pod| pod.name == "StatefulSet nats")
            .expect("nats");
        let container = pod.containers().next().expect("a container");
        let root = TempDir::new().expect("make a directory");
        self.mount(pod, container, root.path());
        let file = moved(yaml::texts(&container["args"])[1], root.path());
        let passwords = self.secrets["nats-passwords"].iter();
        let values = items(&container["env"]).filter_map(|variable| {
            let value = variable["value"].as_str()?;
            Some((text(&variable["name"]), value))
        });
        let ran = Command::new(harness::nats::binary())
            .args(["-t", "--config", &file])
            .env("POD_NAME", "nats-0")
            .envs(values)
            .envs(passwords.map(|(name, value)| (name, String::from_utf8_lossy(value).into_owned())))
            .output()
            .expect("run nats-server");
        let said = String::from_utf8_lossy(&ran.stderr);
        if ran.status.success() {
            Ok(())
        } else {
            Err(said.into_owned())
        }
    }

    /// The names of the partitions' consumers that the log makes.
    pub(crate) fn consumers(&self) -> BTreeSet<String> {
        (0..self.config().log.partitions)
            .map(|partition| format!("dispatch-{partition}"))
            .collect()
    }
}

/// The Secrets that `secrets.sh` makes for an overlay, as YAML.
pub(super) fn secrets(overlay: &str) -> NamedTempFile {
    let arguments: &[&str] = if overlay == "dev" {
        &["dev"]
    } else {
        &["prod", DATABASE]
    };
    let made = Command::new(super::k8s().join("secrets.sh"))
        .args(arguments)
        .output()
        .expect("run secrets.sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), made.stdout).expect("write");
    file
}

/// `text` with the directories of a pod as they are called below `root`.
pub(crate) fn moved(text: &str, root: &Path) -> String {
    let below = |path: &str| {
        PathBuf::from(root)
            .join(path.trim_start_matches('/'))
            .display()
            .to_string()
    };
    ["/etc/cuitty-webhooks", "/etc/nats", "/run/nats", "/data"]
        .iter()
        .fold(text.to_owned(), |text, path| {
            // Only where a path begins.
            text.replace(&format!("\"{path}"), &format!("\"{}", below(path)))
                .replace(&format!("={path}"), &format!("={}", below(path)))
                .split('\n')
                .map(|line| match line.strip_prefix(path) {
                    Some(rest) => format!("{}{rest}", below(path)),
                    None => line.to_owned(),
                })
                .collect::<Vec<_>>()
                .join("\n")
        })
}
