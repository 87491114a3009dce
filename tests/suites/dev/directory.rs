//! Data directories that cannot be used, and ones whose files are out of date.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use harness::dev::Dev;
use harness::nats::impostor;
use harness::receiver::Receiver;
use nix::unistd::Uid;

use super::{admin, client, create_endpoint, deliver_one, refused, text};

#[tokio::test]
async fn one_in_use_is_refused_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let first = Dev::spawn(&data_dir);
    let ready = first.ready().await;
    let children = first.children();
    // Another name of the same directory.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&data_dir, &link).unwrap();

    for (subcommand, path) in [("dev", &data_dir), ("demo", &data_dir), ("dev", &link)] {
        let (code, said) = refused(Dev::command(subcommand, path)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(data_dir.to_str().unwrap()) && said.contains("in use by process "),
            "{said}"
        );
        assert!(said.contains("--data-dir"), "{said}");
    }

    assert_eq!(admin(&ready).get("/readyz").await.status, 200);
    assert_eq!(first.children(), children);
}

/// Puts into `dir` what makes `dir/data` unusable.
type Spoil = fn(dir: &Path);

#[tokio::test]
async fn ones_that_cannot_be_written_are_named() {
    let mut cases: Vec<(&str, Spoil)> = vec![
        ("a file stands there", |dir| {
            fs::write(dir.join("data"), "").unwrap();
        }),
        ("the lock cannot be opened", |dir| {
            fs::create_dir_all(dir.join("data/lock")).unwrap();
        }),
        ("the key cannot be written", |dir| {
            fs::create_dir_all(dir.join("data/admin.new")).unwrap();
        }),
        ("nats-server has no place", |dir| {
            fs::create_dir(dir.join("data")).unwrap();
            fs::write(dir.join("data/nats"), "").unwrap();
        }),
    ];
    // Nothing is read-only for root.
    if !Uid::effective().is_root() {
        cases.push(("it is read-only", |dir| {
            fs::create_dir(dir.join("data")).unwrap();
            fs::set_permissions(dir.join("data"), Permissions::from_mode(0o500)).unwrap();
        }));
    }
    for (what, spoil) in cases {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        spoil(dir.path());

        let (code, said) = refused(Dev::command("dev", &data_dir)).await;

        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(said.contains(data_dir.to_str().unwrap()), "{what}: {said}");
        assert!(
            !data_dir.join("nats/port").exists(),
            "{what}: nats-server was started"
        );
    }
}

#[tokio::test]
async fn a_remembered_port_that_is_of_no_use_is_replaced() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = stranger.local_addr().unwrap().port().to_string();
    let url = impostor("2.14.6").await;
    let speaking = url.rsplit_once(':').unwrap().1.to_owned();
    for remembered in [&*silent, &*speaking, "0", "no port at all"] {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        fs::create_dir_all(data_dir.join("nats")).unwrap();
        fs::write(data_dir.join("nats/port"), remembered).unwrap();
        let receiver = Receiver::start();

        let mut dev = Dev::spawn(&data_dir);
        let ready = dev.ready().await;

        let nats_url = text(&ready, "nats_url");
        let port = nats_url.strip_prefix("nats://127.0.0.1:").unwrap();
        assert_ne!(port, remembered);
        assert_eq!(fs::read_to_string(data_dir.join("nats/port")).unwrap(), port);
        let client = client(&ready).await;
        create_endpoint(&client, &receiver).await;
        deliver_one(&client).await;
        receiver.received("/hook", 1).await;
        assert!(dev.stop().await.success());
    }
}
