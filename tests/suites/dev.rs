//! `dev`: everything in one process on a data directory of its own, which survives whatever ends it.

use cuitty_webhooks_client::Client;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliveryStatus, ListDeliveriesRequest};
use harness::app::{PROJECT, event};
use harness::dev::Dev;
use harness::eventually::{eventually, is};
use harness::receiver::Receiver;
use harness::rest::RestClient;
use serde_json::Value;

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

async fn client(ready: &Value) -> Client {
    Client::connect(&url(ready, "listen"), &text(ready, "api_key"))
        .await
        .unwrap()
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
    let admin = RestClient::new(url(&ready, "admin"), None);
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/livez").await.status, 200);
    assert!(String::from_utf8_lossy(&admin.get("/metrics").await.body).contains("webhooks_"));
    let before = client(&ready).await;
    let endpoint = CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: receiver.url("/hook"),
        ..CreateEndpointRequest::default()
    };
    let created = before.create_endpoint(endpoint).await.unwrap().endpoint.unwrap();
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
    let after = client(&again).await;
    assert_eq!(after.get_endpoint(&created.id).await.unwrap(), created);
    assert_eq!(count(&after, DeliveryStatus::Delivered).await, 1);
    deliver_one(&after).await;
    receiver.received("/hook", 2).await;
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let first = Dev::spawn(&data_dir);
    first.ready().await;
    let mut command = std::process::Command::new(harness::roles::binary());
    let second = command
        .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data_dir)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        said.contains(data_dir.to_str().unwrap()) && said.contains("in use"),
        "{said}"
    );
    assert_eq!(
        RestClient::new(url(&first.ready().await, "admin"), None)
            .get("/readyz")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn after_a_sigkill_the_next_start_goes_on_with_all_data() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let receiver = Receiver::start();
    let mut dev = Dev::spawn(&data_dir);
    let before = client(&dev.ready().await).await;
    let endpoint = CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: receiver.url("/hook"),
        ..CreateEndpointRequest::default()
    };
    before.create_endpoint(endpoint).await.unwrap();
    for _ in 0..20 {
        deliver_one(&before).await;
    }

    dev.kill9();
    let orphans = dev.children();
    let mut next = Dev::spawn(&data_dir);
    let ready = next.ready().await;

    eventually("at most one nats-server is left", || async {
        is(next.children().len(), 1)
    })
    .await;
    assert!(orphans.len() <= 1, "{orphans:?}");
    let after = client(&ready).await;
    let last = deliver_one(&after).await;
    eventually("everything arrives", || async {
        is(receiver.ids("/hook").len(), 21)
    })
    .await;
    assert!(receiver.ids("/hook").contains_key(&last));
    eventually("everything is recorded", || async {
        is(count(&after, DeliveryStatus::Delivered).await, 21)
    })
    .await;
    assert!(next.stop().await.success());
    assert_eq!(next.children(), [0; 0]);
}
