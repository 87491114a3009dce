//! What is not restored, and what a backup that fails leaves behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cuitty_webhooks_log::backup::{MANIFEST, Manifest};
use futures_util::TryStreamExt;
use harness::app::TestApp;
use harness::log::connect;
use harness::nats::NatsServer;
use harness::process::Process;
use harness::receiver::Receiver;
use harness::roles::{Settings, binary, command};
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{empty_place, fails, run, succeeds};

/// A small installation, backed up.
async fn backed_up() -> (TempDir, PathBuf, TestApp) {
    let dir = tempfile::tempdir().unwrap();
    let (app, receiver) = (TestApp::start().await, Receiver::start());
    app.create_endpoint_at(receiver.url("/hook")).await;
    for number in 0..5 {
        let accepted = app.deliver("order.paid", &json!({ "number": number })).await;
        app.ended(&accepted.deliveries[0].id).await;
    }
    let backup = dir.path().join("backup");
    succeeds("backup", &backup, &app.settings).await;
    (dir, backup, app)
}

/// Its name, what is done to a backup, and what is to be said of it.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

async fn streams(url: &str) -> Vec<String> {
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    let mut names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn a_damaged_backup_is_refused_with_its_reason_and_nothing_is_made() {
    let (dir, backup, _app) = backed_up().await;
    let (nats, settings, _) = empty_place(dir.path()).await;
    let cases: [Case; 7] = [
        (
            "truncated",
            |dir| {
                let file = fs::File::options()
                    .write(true)
                    .open(dir.join("WEBHOOKS.tar.s2"))
                    .unwrap();
                file.set_len(file.metadata().unwrap().len() - 1).unwrap();
            },
            &["WEBHOOKS.tar.s2", "is damaged: it has", "bytes, not"],
        ),
        (
            "flipped",
            |dir| {
                let path = dir.join("WEBHOOKS.tar.s2");
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            &["WEBHOOKS.tar.s2", "is damaged: its SHA-256 is"],
        ),
        (
            "gone",
            |dir| fs::remove_file(dir.join("history.db")).unwrap(),
            &["history.db is damaged: it is missing"],
        ),
        (
            "unfinished",
            |dir| fs::remove_file(dir.join(MANIFEST)).unwrap(),
            &["holds no finished backup", MANIFEST],
        ),
        (
            "later",
            |dir| change(dir, |manifest| manifest["format"] = json!(2)),
            &["the backup has format 2, this version reads format 1"],
        ),
        (
            "short",
            |dir| {
                change(dir, |manifest| {
                    manifest["streams"].as_array_mut().unwrap().pop();
                });
            },
            &["manifest.json cannot be read: it names no stream WEBHOOKS_CONTROL"],
        ),
        (
            "no JSON",
            |dir| fs::write(dir.join(MANIFEST), "{").unwrap(),
            &["manifest.json cannot be read"],
        ),
    ];
    for (name, damage, expected) in cases {
        let damaged = dir.path().join(name);
        copy(&backup, &damaged);
        damage(&damaged);
        let said = fails("restore", &damaged, &settings).await;
        assert!(expected.iter().all(|text| said.contains(text)), "{name}: {said}");
        assert_eq!(streams(&nats.url()).await, [""; 0], "{name}");
        assert!(!dir.path().join("restored.db").exists(), "{name}");
    }
    let said = fails("restore", &dir.path().join("nowhere"), &settings).await;
    assert!(said.contains("holds no finished backup"), "{said}");
}

fn change(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join(MANIFEST);
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

#[tokio::test]
async fn nothing_is_restored_where_something_is() {
    let (dir, backup, app) = backed_up().await;
    let settings = app.settings.clone().set("history.url", "sqlite:nowhere.db");
    let said = fails("restore", &backup, &settings).await;
    assert!(
        said.contains("the log is not empty") && said.contains("WEBHOOKS has 10 messages"),
        "{said}"
    );
    let said = fails("restore", &backup, &app.settings).await;
    assert!(said.contains("exists, and restoring replaces nothing"), "{said}");
    let said = fails("backup", &backup, &app.settings).await;
    assert!(
        said.contains("is not empty: a backup needs a directory of its own"),
        "{said}"
    );

    // Streams without a message are in nobody's way; somebody who works is.
    let (nats, settings, _) = empty_place(dir.path()).await;
    assert!(command(&["topology", "apply"], &settings).status.success());
    let log = connect(&nats.url()).await;
    let mut lease = log.lease("projector", "somebody");
    assert!(lease.try_acquire().await.unwrap());
    let said = fails("restore", &backup, &settings).await;
    assert!(
        said.contains("roles are running on this log: projector"),
        "{said}"
    );
    lease.release().await.unwrap();
    let said = succeeds("restore", &backup, &settings).await;
    assert!(said.contains("the roles can be started"), "{said}");
    let said = fails("restore", &backup, &settings).await;
    assert!(said.contains("was restored here before"), "{said}");
    assert!(command(&["topology", "check"], &settings).status.success());
}

#[tokio::test]
async fn restoring_that_was_cut_off_goes_on_when_it_is_begun_again() {
    let (dir, backup, app) = backed_up().await;
    let (nats, settings, _) = empty_place(dir.path()).await;
    // Another key ring than that of the backup.
    let keys = "other:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let settings = settings.set("sealing.keys", keys);
    let said = succeeds("restore", &backup, &settings).await;
    assert!(
        said.contains("warning: secrets are sealed with keys that sealing.keys does not have here: test"),
        "{said}"
    );
    let whole = harness::log::stored(&nats.url()).await;
    assert_eq!(whole, harness::log::stored(&app.nats.url()).await);

    // As it is when the last streams are not there yet.
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    for stream in [
        "WEBHOOKS_CONTROL",
        "KV_WEBHOOKS_API_KEY_USES",
        "KV_WEBHOOKS_DISPATCHERS",
    ] {
        jetstream.delete_stream(stream).await.unwrap();
    }
    let said = succeeds("restore", &backup, &settings).await;
    let how = |stream: &str| {
        let line = said
            .lines()
            .find(|line| line.split_whitespace().next() == Some(stream));
        line.unwrap_or_else(|| panic!("{stream}: {said}"))
            .ends_with(" restored")
    };
    assert!(how("WEBHOOKS_CONTROL") && !how("WEBHOOKS"), "{said}");
    assert_eq!(harness::log::stored(&nats.url()).await, whole);
    assert!(command(&["topology", "check"], &settings).status.success());
}

#[tokio::test]
async fn a_backup_whose_nats_server_dies_fails_and_leaves_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::start().await;
    let settings = Settings::new(&nats.url(), "postgres://nobody@127.0.0.1/nothing");
    assert!(command(&["topology", "apply"], &settings).status.success());
    fill(&nats.url(), 64 << 20).await;

    let backup = dir.path().join("backup");
    let mut arguments = Command::new(binary());
    arguments.arg("backup").arg(&backup).envs(settings.environment());
    let mut process = Process::spawn("backup", arguments, &dir.path().join("output.log"));
    let file = backup.join("WEBHOOKS.tar.s2");
    while fs::metadata(&file).map_or(0, |file| file.len()) == 0 {
        assert_eq!(process.exit_status(), None, "{}", process.output());
        tokio::task::yield_now().await;
    }
    process.signal(Signal::SIGSTOP);
    nats.kill9();
    process.signal(Signal::SIGCONT);
    let status = process.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(1));
    let said = process.output();
    assert!(said.contains("WEBHOOKS was not transferred to its end"), "{said}");
    assert!(!backup.join(MANIFEST).exists());
    let said = fails("restore", &backup, &settings).await;
    assert!(said.contains("holds no finished backup"), "{said}");

    // Once it is back, another one succeeds, into another directory.
    nats.restart().await;
    let again = dir.path().join("again");
    let output = run("backup", &again, &settings).await;
    assert!(output.status.success(), "{output:?}");
    let taken = Manifest::read(&again).unwrap().streams;
    let log = taken.iter().find(|taken| taken.stream == "WEBHOOKS").unwrap();
    assert!(log.state.messages >= 64 && log.bytes > 64 << 20, "{log:?}");
}

/// Stores this many bytes that cannot be compressed.
async fn fill(url: &str, bytes: usize) {
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut acks = Vec::new();
    for _ in 0..bytes / (256 << 10) {
        let mut payload = vec![0; 256 << 10];
        rng.fill(&mut payload[..]);
        let sent = jetstream
            .publish("webhooks.message.acme.unmatched", payload.into())
            .await;
        acks.push(sent.unwrap());
    }
    for ack in acks {
        ack.await.unwrap();
    }
}
