//! A start that cannot succeed says in time which setting is to blame, and leaves nothing behind.

mod history;
mod log;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::process::Process;
use harness::roles::{Settings, binary};
use tempfile::TempDir;

/// How long a start may try before it gives up, with the short timeouts of [`settings`].
const BOUND: Duration = Duration::from_secs(15);

fn settings(nats_url: &str, history_url: &str) -> Settings {
    Settings::new(nats_url, history_url)
        .set("listen.api", "127.0.0.1:0")
        .set("listen.admin", "127.0.0.1:0")
        .set("log.connect_timeout", "1s")
        .set("log.request_timeout", "1s")
        .set("history.acquire_timeout", "300ms")
}

/// The exit code of the binary and what it printed, while the test's own tasks go on.
async fn run(arguments: &[&str], settings: &Settings) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.args(arguments).envs(settings.environment());
    end_of(command).await
}

async fn end_of(mut command: Command) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    command.current_dir(dir.path());
    let output = dir.path().join("output");
    let mut process = Process::spawn("cuitty-webhooks", command, &output);
    let status = process.wait(BOUND).await;
    assert_eq!(names(dir.path()), ["output"], "it left files behind");
    (status.code(), process.output())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A directory, and the URL of an SQLite file in it that does not exist.
fn no_history() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("history.db").display());
    (dir, url)
}

#[tokio::test]
async fn every_problem_of_the_configuration_is_told_at_once() {
    let settings = settings("nats://127.0.0.1:4222", "mysql://localhost/x")
        .set("api.admin_key", "short")
        .set("log.partitions", "65")
        .set("egress.allow_cidrs", "10.0.0.0/33")
        .set("api.no_such_key", "1");
    let (code, said) = run(&["api"], &settings).await;
    assert_eq!(code, Some(64), "{said}");
    for key in [
        "history.url",
        "api.admin_key",
        "log.partitions",
        "egress.allow_cidrs",
        "api.no_such_key",
    ] {
        assert!(said.contains(key), "{key} is not in: {said}");
    }
    assert!(!said.contains("short"), "a secret is shown: {said}");
}

#[tokio::test]
async fn bad_usage_is_told_apart() {
    let (code, said) = run(
        &["serve", "--role", "postman"],
        &settings("nats://127.0.0.1:4222", "sqlite:x.db"),
    )
    .await;
    assert_eq!(code, Some(2), "{said}");
}

#[tokio::test]
async fn a_bad_file_is_told_by_key_and_place_without_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let path = file.to_str().unwrap();
    for (text, told) in [
        ("[api]\nadmin_key = \"hunter2\"\n", "api.admin_key"),
        (
            "[api]\nadmin_key = \"hunter2 with spaces, longer\"\n",
            "api.admin_key",
        ),
        ("[api]\nadmin_key = [\"hunter2\"]\n", "api.admin_key"),
        ("[api]\nadmin_kye = \"hunter2\"\n", "api.admin_kye"),
        ("[api]\nadmin_key = \"hunter2\n", "line 2, column "),
        ("[api]\nadmin_key = hunter2\n", "line 2, column "),
        ("[sealing]\nkeys = [\"k1:hunter2\"]\n", "sealing.keys"),
        ("[sealing]\nkeys = [\"hunter2\"]\n", "sealing.keys"),
        ("[sealing]\nkeys = { k1 = \"hunter2\" }\n", "sealing.keys"),
        ("[log]\nurl = \"http://user:hunter2@127.0.0.1:4222\"\n", "log.url"),
        ("[history]\nurl = \"mysql://user:hunter2@db/x\"\n", "history.url"),
    ] {
        fs::write(&file, text).unwrap();
        for arguments in [&["api"][..], &["config", "check"]] {
            let mut command = Command::new(binary());
            command.args(arguments).args(["--config", path]);
            let (code, said) = end_of(command).await;
            assert_eq!(code, Some(64), "{text}: {said}");
            assert!(said.contains(told) && said.contains(path), "{text}: {said}");
            assert!(!said.contains("hunter2"), "{text}: {said}");
        }
    }
}
