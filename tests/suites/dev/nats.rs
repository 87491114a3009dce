//! The nats-server of `dev`: started again when it dies, told apart from strangers, ended with `dev` at any time.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use harness::dev::Dev;
use harness::eventually::{eventually, is};
use harness::nats::{NatsServer, impostor};
use harness::receiver::Receiver;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{PROMPTLY, admin, client, create_endpoint, deliver_one, refused, text};

/// A nats-server that does not start while there is a file `fail` beside it, and that neither starts nor listens to SIGTERM
/// while there is a file `hang`.
struct Moody {
    dir: PathBuf,
}

impl Moody {
    fn new(dir: &Path) -> Self {
        let script = format!(
            "#!/bin/sh\n\
             [ \"$1\" = --version ] && exec {nats} --version\n\
             [ -e {dir}/fail ] && echo 'no mood' && exit 3\n\
             [ -e {dir}/hang ] && trap '' TERM && while :; do sleep 0.1; done\n\
             exec {nats} \"$@\"\n",
            nats = harness::nats::binary().display(),
            dir = dir.display(),
        );
        let dir = dir.to_owned();
        fs::write(dir.join("nats-server"), script).unwrap();
        fs::set_permissions(dir.join("nats-server"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    fn set(&self, mood: &str) {
        fs::write(self.dir.join(mood), "").unwrap();
    }

    fn clear(&self, mood: &str) {
        fs::remove_file(self.dir.join(mood)).unwrap();
    }

    /// A `dev` with this nats-server, on `data` beside it.
    fn spawn(&self) -> Dev {
        let data_dir = self.dir.join("data");
        let mut command = Dev::command("dev", &data_dir);
        command
            .args(["--ready-json", "--log-format", "json"])
            .env("CUITTY_WEBHOOKS__DEV__NATS_SERVER", self.dir.join("nats-server"))
            // What is in flight while the log is away needs all of it.
            .env("CUITTY_WEBHOOKS__SHUTDOWN__TIMEOUT", "2s")
            .env("CUITTY_WEBHOOKS__DISPATCHER__DRAIN_TIMEOUT", "1s");
        Dev::run(command, &data_dir)
    }
}

/// SIGKILL to the only child of `dev`; gives its id.
fn kill_nats(dev: &Dev) -> u32 {
    let children = dev.children();
    assert_eq!(children.len(), 1, "{children:?}");
    kill(Pid::from_raw(children[0] as i32), Signal::SIGKILL).unwrap();
    children[0]
}

/// The log lines whose message starts with `text`.
fn logged(dev: &Dev, text: &str) -> Vec<Value> {
    let output = dev.output();
    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| {
            line["message"]
                .as_str()
                .is_some_and(|message| message.starts_with(text))
        })
        .collect()
}

#[tokio::test]
async fn one_that_dies_is_started_again_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut dev = Moody::new(dir.path()).spawn();
    let ready = dev.ready().await;
    let client = client(&ready).await;
    create_endpoint(&client, &receiver).await;

    let dead = kill_nats(&dev);

    eventually("another one runs", || async {
        match dev.children()[..] {
            [pid] if pid != dead => Ok(()),
            ref children => Err(format!("{children:?}")),
        }
    })
    .await;
    eventually("it is ready again", || async {
        is(admin(&ready).get("/readyz").await.status.as_u16(), 200)
    })
    .await;
    deliver_one(&client).await;
    receiver.received("/hook", 1).await;
    let told = logged(&dev, "nats-server died");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["level"], "ERROR");
    assert!(
        told[0]["ended"].as_str().unwrap().contains("signal: 9"),
        "{told:?}"
    );
    assert!(dev.stop().await.success());
    assert_eq!(dev.children(), [0; 0]);
}

#[tokio::test]
async fn one_that_does_not_come_back_is_tried_with_longer_and_longer_pauses() {
    let dir = tempfile::tempdir().unwrap();
    let moody = Moody::new(dir.path());
    let mut dev = moody.spawn();
    let ready = dev.ready().await;
    let port = text(&ready, "nats_url").rsplit_once(':').unwrap().1.to_owned();

    moody.set("fail");
    kill_nats(&dev);
    let failed = "cannot start nats-server again";
    eventually("it was tried three times", || async {
        is(logged(&dev, failed).len() >= 3, true)
    })
    .await;
    let told = logged(&dev, failed);
    let pauses: Vec<_> = told[..3]
        .iter()
        .map(|line| line["retry_in"].as_str().unwrap())
        .collect();
    assert_eq!(pauses, ["400ms", "800ms", "1.6s"]);
    let why = told[0]["message"].as_str().unwrap();
    assert!(why.contains("exit status: 3") && why.contains("no mood"), "{why}");

    // Whoever else answers on its port is not taken for it.
    let stranger = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    moody.clear("fail");
    eventually("the stranger is noticed", || async {
        let told = logged(&dev, failed);
        is(
            told.last()
                .unwrap()
                .to_string()
                .contains("address already in use"),
            true,
        )
    })
    .await;
    assert_eq!(logged(&dev, "nats-server is running").len(), 1);

    drop(stranger);
    eventually("it is ready again", || async {
        is(admin(&ready).get("/readyz").await.status.as_u16(), 200)
    })
    .await;
    assert!(dev.stop().await.success());
    assert_eq!(dev.children(), [0; 0]);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_one_that_does_not_come_back() {
    for mood in ["fail", "hang"] {
        let dir = tempfile::tempdir().unwrap();
        let moody = Moody::new(dir.path());
        let mut dev = moody.spawn();
        dev.ready().await;
        moody.set(mood);
        let dead = kill_nats(&dev);
        eventually("it is tried again", || async {
            match dev.children()[..] {
                _ if mood == "fail" => is(logged(&dev, "cannot start nats-server again").len() >= 2, true),
                [pid] => is(pid != dead, true),
                ref children => Err(format!("{children:?}")),
            }
        })
        .await;

        dev.signal(Signal::SIGTERM);
        if mood == "hang" {
            // It would be given 20 s; the second signal gives it none.
            eventually("the first signal is seen", || async {
                is(logged(&dev, "signal received").len(), 1)
            })
            .await;
            dev.signal(Signal::SIGTERM);
        }

        let status = dev.ended(PROMPTLY).await;
        assert!(status.success(), "{mood}: {status}");
        assert_eq!(dev.children(), [0; 0], "{mood}");
    }
}

#[tokio::test]
async fn a_signal_ends_a_start_that_waits_for_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let dir = tempfile::tempdir().unwrap();
        let moody = Moody::new(dir.path());
        moody.set("hang");
        let mut dev = moody.spawn();
        eventually("it is started", || async { is(dev.children().len(), 1) }).await;

        dev.signal(signal);
        eventually("the first signal is seen", || async {
            is(logged(&dev, "signal received").len(), 1)
        })
        .await;
        // It does not listen to SIGTERM; see above.
        dev.signal(signal);

        let status = dev.ended(PROMPTLY).await;
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(dev.children(), [0; 0], "{signal}");
    }
}

#[tokio::test]
async fn one_that_never_starts_is_told_with_the_end_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let moody = Moody::new(dir.path());
    moody.set("fail");
    let mut dev = moody.spawn();

    let status = dev.ended(PROMPTLY).await;

    assert_eq!(status.code(), Some(1));
    let said = dev.output();
    assert!(
        said.contains("exit status: 3") && said.contains("no mood"),
        "{said}"
    );
    assert_eq!(dev.children(), [0; 0]);
}

#[tokio::test]
async fn another_one_may_be_used_if_it_is_new_enough() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let with = |url: &str| {
        let mut command = Dev::command("dev", &data_dir);
        command.args(["--ready-json", "--nats", url]);
        command
    };
    let old = with(&impostor("2.9.0").await);
    let (code, said) = refused(old).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("log.url") && said.contains("2.9.0"), "{said}");

    let nats = NatsServer::start().await;
    let mut dev = Dev::run(with(&nats.url()), &data_dir);
    let ready = dev.ready().await;
    assert_eq!(text(&ready, "nats_url"), nats.url());
    assert_eq!(dev.children(), [0; 0]);
    assert!(!data_dir.join("nats").exists());
    assert!(dev.stop().await.success());
}
