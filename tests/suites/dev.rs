//! `dev`: everything in one process on a data directory of its own, which survives whatever ends it.

mod directory;
mod nats;

use std::process::Command;
use std::time::Duration;

use cuitty_webhooks_client::Client;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliveryStatus, Endpoint, ListDeliveriesRequest};
use harness::app::{PROJECT, event};
use harness::dev::Dev;
use harness::eventually::{eventually, is};
use harness::process::Process;
use harness::receiver::Receiver;
use harness::rest::RestClient;
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long a start that is given up, or one that has nothing in flight, may take to end.
const PROMPTLY: Duration = Duration::from_secs(8);

fn text(ready: &Value, name: &str) -> String {
    ready[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} is missing in {ready}"))
        .to_owned()
}

fn url(ready: &Value, name: &str) -> String {
    let address = text(ready, name);
    if address.contains("://") {
        address
    } else {
        format!("http://{address}")
    }
}

fn admin(ready: &Value) -> RestClient {
    RestClient::new(url(ready, "admin"), None)
}

async fn client(ready: &Value) -> Client {
    Client::connect(&url(ready, "listen"), &text(ready, "api_key"))
        .await
        .unwrap()
}

async fn create_endpoint(client: &Client, receiver: &Receiver) -> Endpoint {
    let request = CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: receiver.url("/hook"),
        ..CreateEndpointRequest::default()
    };
    client.create_endpoint(request).await.unwrap().endpoint.unwrap()
}

async fn deliver_one(client: &Client) -> String {
    client
        .deliver(event("order.paid", "{}"))
        .await
        .unwrap()
        .message_id
}

/// How many deliveries the history holds with that status.
async fn count(client: &Client, status: DeliveryStatus) -> usize {
    let request = ListDeliveriesRequest {
        project_id: PROJECT.into(),
        status: status.into(),
        ..Default::default()
    };
    client.list_deliveries(request).await.unwrap().deliveries.len()
}

#[tokio::test]
async fn it_delivers_and_keeps_everything_over_an_ordinary_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let receiver = Receiver::start();
    let mut dev = Dev::spawn(&data_dir);
    let ready = dev.ready().await;
    assert_eq!(text(&ready, "data_dir"), data_dir.to_str().unwrap());
    assert!(text(&ready, "nats_url").starts_with("nats://127.0.0.1:"));
    assert_eq!(admin(&ready).get("/readyz").await.status, 200);
    assert_eq!(admin(&ready).get("/livez").await.status, 200);
    let metrics = admin(&ready).get("/metrics").await.body;
    assert!(String::from_utf8_lossy(&metrics).contains("webhooks_"));
    let before = client(&ready).await;
    let created = create_endpoint(&before, &receiver).await;
    deliver_one(&before).await;
    receiver.received("/hook", 1).await;
    eventually("it is recorded", || async {
        is(count(&before, DeliveryStatus::Delivered).await, 1)
    })
    .await;

    assert!(dev.stop().await.success());
    assert_eq!(dev.children(), [0; 0]);
    let dev = Dev::spawn(&data_dir);
    let again = dev.ready().await;

    assert_eq!(text(&again, "api_key"), text(&ready, "api_key"));
    assert_eq!(text(&again, "nats_url"), text(&ready, "nats_url"));
    let after = client(&again).await;
    assert_eq!(after.get_endpoint(&created.id).await.unwrap(), created);
    assert_eq!(count(&after, DeliveryStatus::Delivered).await, 1);
    deliver_one(&after).await;
    receiver.received("/hook", 2).await;
}

#[tokio::test]
async fn after_a_sigkill_the_next_start_ends_the_orphan_and_goes_on_with_all_data() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let receiver = Receiver::start();
    let mut dev = Dev::spawn(&data_dir);
    let ready = dev.ready().await;
    let before = client(&ready).await;
    create_endpoint(&before, &receiver).await;
    for _ in 0..20 {
        deliver_one(&before).await;
    }

    dev.kill9();
    let orphans = dev.children();
    assert_eq!(orphans.len(), 1, "its nats-server goes on alone: {orphans:?}");
    let mut next = Dev::spawn(&data_dir);
    let again = next.ready().await;

    let children = next.children();
    assert_eq!(children.len(), 1, "{children:?}");
    assert_ne!(children, orphans);
    assert_eq!(text(&again, "nats_url"), text(&ready, "nats_url"));
    let after = client(&again).await;
    let last = deliver_one(&after).await;
    eventually("everything arrives", || async {
        is(receiver.ids("/hook").len(), 21)
    })
    .await;
    let requests = receiver.requests("/hook");
    assert!(
        requests
            .iter()
            .any(|request| request.header("webhook-id") == last)
    );
    eventually("everything is recorded", || async {
        is(count(&after, DeliveryStatus::Delivered).await, 21)
    })
    .await;
    assert!(next.stop().await.success());
    assert_eq!(next.children(), [0; 0]);
}

#[tokio::test]
async fn a_signal_before_it_is_ready_ends_it_and_its_nats_server() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        for subcommand in ["dev", "demo"] {
            let dir = tempfile::tempdir().unwrap();
            let data_dir = dir.path().join("data");
            let mut command = Dev::command(subcommand, &data_dir);
            // A history that never opens: nats-server runs, and the roles do not become ready.
            command.arg("--database").arg(format!(
                "postgres://nobody@127.0.0.1:{}/none",
                harness::ports::free_port()
            ));
            let mut dev = Dev::run(command, &data_dir);
            let port = data_dir.join("nats/port");
            eventually("nats-server listens", || async { is(port.exists(), true) }).await;

            dev.signal(signal);

            let status = dev.ended(PROMPTLY).await;
            assert_eq!(status.code(), Some(0), "{subcommand}, {signal}: {status}");
            assert_eq!(dev.children(), [0; 0], "{subcommand}, {signal}");
        }
    }
}

/// The exit code of a `dev` or `demo` that cannot start, and what it printed.
async fn refused(command: Command) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::spawn("a refused dev", command, &dir.path().join("output"));
    let status = process.wait(PROMPTLY).await;
    (status.code(), process.output())
}
