//! compose.yaml: hardened, complete, and what the binary takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::yaml::{self, items, text, texts};

/// What a service here may have; a key that is misspelt would be ignored by nobody but us.
const KEYS: [&str; 26] = [
    "build",
    "cap_add",
    "cap_drop",
    "command",
    "configs",
    "depends_on",
    "entrypoint",
    "env_file",
    "environment",
    "healthcheck",
    "image",
    "logging",
    "mem_limit",
    "network_mode",
    "ports",
    "read_only",
    "restart",
    "secrets",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "tmpfs",
    "user",
    "volumes",
    "deploy",
    "labels",
];
const ROLES: [&str; 6] = [
    "api",
    "dispatcher-1",
    "dispatcher-2",
    "ingest",
    "projector",
    "topology",
];

fn deploy() -> PathBuf {
    harness::workspace().join("deploy")
}

async fn compose() -> Value {
    yaml::documents(&deploy().join("compose.yaml")).await.remove(0)
}

/// A copy of `deploy/compose` with its secrets made.
fn with_secrets() -> TempDir {
    let dir = TempDir::new().expect("make a directory");
    let here = dir.path().join("compose");
    fs::create_dir(&here).expect("make a directory");
    for file in ["config.toml", "secrets.sh"] {
        fs::copy(deploy().join("compose").join(file), here.join(file)).expect("copy");
    }
    let made = Command::new(here.join("secrets.sh"))
        .status()
        .expect("run secrets.sh");
    assert!(made.success());
    dir
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().expect("services").iter()
}

fn is_ours(service: &Value) -> bool {
    service["image"] == "cuitty-webhooks"
}

/// What is wrong, a line each.
fn problems(compose: &Value, files: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, service) in services(compose) {
        let mut say = |met: bool, what: &str| {
            if !met {
                wrong.push(format!("{name}: {what}"));
            }
        };
        for key in service.as_object().into_iter().flatten().map(|(key, _)| key) {
            say(KEYS.contains(&key.as_str()), &format!("there is no key {key}"));
        }
        say(service["read_only"] == true, "can write to its image");
        say(service["cap_drop"] == json!(["ALL"]), "keeps capabilities");
        say(
            service["security_opt"] == json!(["no-new-privileges:true"]),
            "may gain privileges",
        );
        say(service["mem_limit"].is_string(), "has no limit of memory");
        say(service["restart"].is_string(), "has no restart policy");
        say(service["healthcheck"].is_object(), "has no health check");
        let tag = text(&service["image"])
            .rsplit('/')
            .next()
            .and_then(|image| image.split_once(':'));
        say(
            is_ours(service) || tag.is_some_and(|(_, tag)| tag != "latest"),
            "its image names no version",
        );
        say(
            items(&service["ports"]).all(|port| text(port).starts_with("127.0.0.1:")),
            "listens on every address",
        );
        for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
            let other = &compose["services"][needed];
            let can = match text(&how["condition"]) {
                "service_healthy" => other["healthcheck"]["test"].is_array(),
                "service_completed_successfully" => ["no", "on-failure"].contains(&text(&other["restart"])),
                _ => false,
            };
            say(can, &format!("waits for {needed} in vain"));
        }
        for secret in texts(&service["secrets"]) {
            let file = text(&compose["secrets"][secret]["file"]);
            say(
                !file.is_empty() && files.join(file).is_file(),
                &format!("there is no secret {secret}"),
            );
        }
        for config in items(&service["configs"]).map(|config| text(&config["source"])) {
            say(
                compose["configs"][config]["file"].is_string(),
                &format!("there is no config {config}"),
            );
        }
        for volume in texts(&service["volumes"])
            .into_iter()
            .filter(|volume| !volume.starts_with('.'))
        {
            let volume = volume.split(':').next().unwrap_or_default();
            say(
                compose["volumes"][volume].is_object(),
                &format!("there is no volume {volume}"),
            );
        }
        for file in texts(&service["env_file"]) {
            say(files.join(file).is_file(), &format!("there is no {file}"));
        }
        if is_ours(service) {
            say(
                checked(compose, service, files).is_ok(),
                &checked(compose, service, files).err().unwrap_or_default(),
            );
        }
    }
    wrong
}

/// Whether the binary takes a service's arguments and, with its environment and files, its configuration.
fn checked(compose: &Value, service: &Value, files: &Path) -> Result<(), String> {
    let arguments = texts(&service["command"]);
    let run = |command: &mut Command| {
        let ran = command.output().expect("run the binary");
        if ran.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&ran.stderr).into_owned())
        }
    };
    run(Command::new(harness::roles::binary())
        .args(&arguments)
        .arg("--help"))?;
    let file = arguments
        .iter()
        .skip_while(|argument| **argument != "--config")
        .nth(1);
    let config = items(&service["configs"]).find(|config| config["target"].as_str() == file.copied());
    let config = config.ok_or("its configuration is not mounted")?;
    let mut check = Command::new(harness::roles::binary());
    check.args(["config", "check", "--config"]);
    check
        .arg(files.join(text(&compose["configs"][text(&config["source"])]["file"])))
        .env_clear();
    if arguments[0] != "topology" {
        check.args(["--role", arguments[0]]);
    }
    for (name, value) in service["environment"].as_object().into_iter().flatten() {
        let value = match text(value).strip_prefix("/run/secrets/") {
            Some(secret) if texts(&service["secrets"]).contains(&secret) => files
                .join(text(&compose["secrets"][secret]["file"]))
                .display()
                .to_string(),
            _ => text(value).to_owned(),
        };
        check.env(name, value);
    }
    run(&mut check)
}

#[tokio::test]
async fn every_service_is_hardened_complete_and_taken_by_the_binary() {
    let (compose, files) = (compose().await, with_secrets());
    assert_eq!(problems(&compose, files.path()), [""; 0]);
    let roles: Vec<_> = services(&compose)
        .filter(|(_, service)| is_ours(service))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(roles, ROLES);
}

#[tokio::test]
async fn a_copy_that_is_broken_is_refused() {
    let (whole, files) = (compose().await, with_secrets());
    let broken = [
        ("/services/api/read_only", json!(false), "can write"),
        ("/services/nats/cap_drop", json!([]), "keeps capabilities"),
        ("/services/grafana/security_opt", json!([]), "may gain"),
        ("/services/postgres/mem_limit", Value::Null, "no limit"),
        ("/services/ingest/restart", Value::Null, "no restart"),
        ("/services/ingest/healthcheck", Value::Null, "no health check"),
        ("/services/nats/image", json!("nats"), "no version"),
        ("/services/api/ports", json!(["7710:7710"]), "every address"),
        (
            "/services/api/depends_on/topology/condition",
            json!("service_healthy"),
            "in vain",
        ),
        (
            "/services/api/secrets",
            json!(["nats-apis"]),
            "no secret nats-apis",
        ),
        (
            "/services/api/configs/0/source",
            json!("webhooks"),
            "no config webhooks",
        ),
        ("/services/nats/volumes", json!(["log:/data"]), "no volume log"),
        ("/services/nats/env_file", json!(["nats.env"]), "no nats.env"),
        ("/services/nats/readonly", json!(true), "no key readonly"),
        ("/services/ingest/command/0", json!("inject"), "inject"),
        (
            "/services/projector/environment",
            json!({"CUITTY_WEBHOOKS__LOG__ADDRESS": "nats"}),
            "there is no such key",
        ),
        ("/services/dispatcher-2/environment", json!({}), "sealing.keys"),
    ];
    for (pointer, value, expected) in broken {
        let mut copy = whole.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = copy.pointer_mut(parent).expect("it is there");
        match key.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[key] = value,
        }
        let problems = problems(&copy, files.path());
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{pointer}: {problems:?}"
        );
    }
}

#[tokio::test]
async fn every_file_that_is_mounted_is_there() {
    let compose = compose().await;
    let mounted = services(&compose)
        .flat_map(|(_, service)| texts(&service["volumes"]))
        .filter(|volume| volume.starts_with("./"));
    let missing: Vec<_> = mounted
        .filter_map(|volume| volume.split(':').next())
        .filter(|path| !deploy().join(path).exists())
        .collect();
    assert_eq!(missing, [""; 0]);
    // Whoever shows the metrics asks services that are there.
    let prometheus = yaml::documents(&deploy().join("prometheus/prometheus.yaml"))
        .await
        .remove(0);
    let targets = items(&prometheus["scrape_configs"])
        .flat_map(|job| items(&job["static_configs"]))
        .flat_map(|it| texts(&it["targets"]));
    let targets: BTreeSet<_> = targets.collect();
    let expected = ROLES
        .iter()
        .filter(|role| **role != "topology")
        .map(|role| format!("{role}:7711"))
        .collect::<Vec<_>>();
    assert!(
        expected.iter().all(|target| targets.contains(target.as_str())),
        "{targets:?}"
    );
}

/// What nats-server is told of users is what its configuration asks for.
#[test]
fn every_password_that_nats_asks_for_is_made() {
    let accounts = fs::read_to_string(deploy().join("k8s/base/nats/accounts.conf")).expect("read");
    let without_comments = accounts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let asked: BTreeSet<_> = without_comments
        .filter_map(|line| line.split_once("password: $"))
        .map(|(_, name)| {
            name.split(|c: char| !c.is_ascii_uppercase() && c != '_')
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    let made = fs::read_to_string(with_secrets().path().join("compose/secrets/nats.env")).expect("read");
    let made: BTreeSet<_> = made
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(asked, made);
}

/// The image's dependencies are built over empty crates: what is copied before must make a workspace of them.
#[test]
fn the_image_s_empty_crates_are_a_workspace() {
    let workspace = harness::workspace();
    let dockerfile = fs::read_to_string(workspace.join("deploy/Dockerfile")).expect("read");
    let dir = tempfile::tempdir().expect("a directory");
    let (before, build) = dockerfile
        .split_once("\nRUN ")
        .expect("the build of the dependencies");
    for copied in before.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let (from, to) = copied.rsplit_once(' ').expect("from and to");
        // Of a directory, its content is copied.
        let content = if workspace.join(from).is_dir() { "/." } else { "" };
        let to = dir.path().join(to);
        let to = to.display();
        sh(&format!("mkdir -p {to} && cp -r {from}{content} {to}"), workspace);
    }
    let (empty_crates, _) = build.split_once("&& cargo build").expect("the build");
    sh(&empty_crates.replace("\\\n", " "), dir.path());
    sh(
        "cargo metadata --offline --locked --no-deps --format-version 1 > metadata",
        dir.path(),
    );
}

fn sh(script: &str, dir: &Path) {
    let ran = Command::new("sh").args(["-c", script]).current_dir(dir).output();
    let ran = ran.expect("run sh");
    assert!(
        ran.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// The image that is built is the one that `make image-check` tries.
#[test]
fn the_image_and_its_check_build_alike() {
    let read = |path: &str| fs::read_to_string(harness::workspace().join(path)).expect("read");
    let (dockerfile, makefile) = (read("deploy/Dockerfile"), read("Makefile"));
    let flags = makefile
        .lines()
        .find_map(|line| line.strip_prefix("IMAGE_RUSTFLAGS := "))
        .expect("flags");
    assert!(dockerfile.contains(&format!("RUSTFLAGS=\"{flags}\"")), "{flags}");
    let packages = fs::read_dir(harness::workspace().join("crates")).expect("read");
    for package in packages.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a text")
    }) {
        let line = format!("COPY crates/{package}/Cargo.toml crates/{package}/");
        assert!(dockerfile.contains(&line), "{line}");
    }
    for command in ["healthcheck", "api --help"] {
        let ran = Command::new(harness::roles::binary())
            .args(command.split(' '))
            .arg("--help")
            .output()
            .expect("run the binary");
        assert!(ran.status.success(), "{command}");
    }
}
