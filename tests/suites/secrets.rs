//! What nobody may read in a log line, however much is logged: keys, signing secrets, passwords, payloads.

use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, Header};
use harness::app::{PROJECT, TestApp, event};
use harness::dev::Dev;
use harness::eventually::eventually;
use harness::grpc::{authorized, refused};
use harness::nats::NatsServer;
use harness::postgres::PostgresCluster;
use harness::receiver::{Receiver, Reply};
use harness::rest::RestClient;
use harness::roles::{ADMIN_KEY, RoleProcess, Settings};
use hyper::Method;
use serde_json::{Value, json};

const SEALING_KEY: &str = "c2VhbGluZy1rZXktb2YtdGhlLW5lZWRsZS10ZXN0IS4=";
const IMPORTED_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const BAD_SECRET: &str = "whsec_bmVlZGxlOmEtc2VjcmV0LXRoYXQ";
const WRONG_KEY: &str = "needle-wrong-key-0001";
const NATS_PASSWORD: &str = "needle-nats=pass";
const DATABASE_PASSWORD: &str = "needle-database-password";
const ENDPOINT_TOKEN: &str = "needle-endpoint-token";
const QUERY: &str = "needle-query";
const PAYLOAD: &str = "needle-payload";
const ANSWER: &str = "needle-answer";

const DELIVER: &str = "/api/webhooks/deliver";

/// The log lines that our crates wrote, at any level.
fn ours(output: &str) -> Vec<Value> {
    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| {
            line["target"]
                .as_str()
                .is_some_and(|target| target.starts_with("cuitty_webhooks"))
        })
        .collect()
}

/// A signing secret without what every one starts with.
fn bare(secret: &str) -> &str {
    secret.trim_start_matches("whsec_")
}

/// `url` with a password for its user.
fn with_password(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{user}:{password}@{host}")
}

fn request(receiver: &Receiver) -> CreateEndpointRequest {
    CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: format!("{}?token={QUERY}", receiver.url("/hook")),
        signing_secret: IMPORTED_SECRET.into(),
        headers: vec![Header {
            name: "authorization".into(),
            value: format!("Bearer {ENDPOINT_TOKEN}"),
        }],
        retry_schedule_seconds: vec![1, 1],
        ..Default::default()
    }
}

fn message() -> Value {
    json!({"project_id": PROJECT, "event_type": "order.paid", "payload": {"card": PAYLOAD}})
}

/// Makes an endpoint, rotates its secret, and delivers by both doors, with a retry after an answer and one after none.
/// Gives the new secret.
async fn deliver(url: &str, receiver: &Receiver) -> String {
    let replies = [
        Reply::status(500).body(ANSWER),
        Reply::reset(),
        Reply::status(200),
    ];
    receiver.script("/hook", replies);
    let rest = RestClient::new(url, Some(ADMIN_KEY));
    let channel = authorized(url, Some(ADMIN_KEY)).await.unwrap();
    let mut endpoints = EndpointServiceClient::new(channel.clone());
    let created = endpoints.create_endpoint(request(receiver)).await.unwrap();
    let endpoint_id = created.into_inner().endpoint.unwrap().id;
    let rotate = format!("/api/webhooks/endpoints/{endpoint_id}/rotate");
    let rotated = rest.post(&rotate, &json!({})).await.json();
    let payload = message()["payload"].to_string();
    let mut messages = MessageServiceClient::new(channel);
    messages.deliver(event("order.paid", payload)).await.unwrap();
    receiver.received("/hook", 3).await;
    assert_eq!(rest.post(DELIVER, &message()).await.status, 202);
    receiver.received("/hook", 4).await;
    rotated["signing_secret"].as_str().unwrap().to_owned()
}

/// Makes an endpoint and rotates its secret as an agent does. Gives the new secret.
async fn act_as_agent(url: &str, receiver: &Receiver) -> String {
    let rest = RestClient::new(url, Some(ADMIN_KEY));
    let call = async |tool: &str, arguments: Value| {
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        let params = json!({"name": tool, "arguments": arguments});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let answer = rest.send(Method::POST, "/mcp", &headers, body.to_string()).await;
        answer.json()["result"]["structuredContent"].clone()
    };
    let new = json!({
        "project_id": PROJECT,
        "url": format!("{}?token={QUERY}", receiver.url("/agent")),
        "headers": {"authorization": format!("Bearer {ENDPOINT_TOKEN}")},
        "signing_secret": IMPORTED_SECRET,
    });
    let created = call("create_webhook_endpoint", new).await;
    assert_eq!(created["signing_secret"], IMPORTED_SECRET);
    let rotated = call("rotate_webhook_secret", json!({"endpoint_id": created["id"]})).await;
    rotated["signing_secret"].as_str().unwrap().to_owned()
}

/// Makes calls that are refused, and gives what is answered.
async fn be_refused(url: &str, receiver: &Receiver) -> Vec<String> {
    let channel = authorized(url, Some(ADMIN_KEY)).await.unwrap();
    let mut endpoints = EndpointServiceClient::new(channel.clone());
    let mut messages = MessageServiceClient::new(channel);
    let wrong = authorized(url, Some(WRONG_KEY)).await.unwrap();
    let mut unknown = MessageServiceClient::new(wrong);
    let bad_secret = CreateEndpointRequest {
        signing_secret: BAD_SECRET.into(),
        ..request(receiver)
    };
    let broken = event("order.paid", format!(r#"{{"card":"{PAYLOAD}""#));
    let refusals = [
        refused(endpoints.create_endpoint(bad_secret).await),
        refused(messages.deliver(broken).await),
        refused(unknown.deliver(event("order.paid", "{}")).await),
    ];
    let rest = RestClient::new(url, Some(ADMIN_KEY));
    let headers = [("content-type", "application/json")];
    let broken = rest
        .send(Method::POST, DELIVER, &headers, format!("{}}}", message()))
        .await;
    let unknown = rest.with_key(Some(WRONG_KEY)).post(DELIVER, &message()).await;
    assert_eq!((broken.status.as_u16(), unknown.status.as_u16()), (400, 401));
    let bodies = [broken, unknown].map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
    refusals
        .iter()
        .map(|refusal| format!("{refusal:?}"))
        .chain(bodies)
        .collect()
}

#[tokio::test]
async fn no_log_line_of_any_level_holds_one() {
    let nats = NatsServer::start_with_password("webhooks", NATS_PASSWORD).await;
    let database = PostgresCluster::shared().await.database().await;
    let settings = Settings::new(
        &with_password(&nats.url(), "webhooks", NATS_PASSWORD),
        &with_password(&database, "postgres", DATABASE_PASSWORD),
    )
    .set("sealing.keys", format!("needles:{SEALING_KEY}"))
    .set("telemetry.log_filter", "trace")
    .set("telemetry.log_format", "json");
    let mut process = RoleProcess::start("api,dispatcher,projector", &settings).await;
    let receiver = Receiver::start();

    let rotated = deliver(&process.url(), &receiver).await;
    let rotated_by_agent = act_as_agent(&process.url(), &receiver).await;
    let answers = be_refused(&process.url(), &receiver).await;
    assert!(process.stop().await.success());

    let logged = process.output();
    let is_debug = |line: &Value| line["level"] == "DEBUG";
    assert!(ours(&logged).iter().any(is_debug), "our debug lines are there");
    let is_trace = |line: &str| line.contains(r#""level":"TRACE""#);
    assert!(logged.lines().any(is_trace), "everybody's trace lines are there");
    for secret in [
        ADMIN_KEY,
        SEALING_KEY,
        WRONG_KEY,
        NATS_PASSWORD,
        DATABASE_PASSWORD,
        ENDPOINT_TOKEN,
        PAYLOAD,
        ANSWER,
        QUERY,
        bare(IMPORTED_SECRET),
        bare(BAD_SECRET),
        bare(&rotated),
        bare(&rotated_by_agent),
    ] {
        let line = logged.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is logged");
        let answer = answers.iter().find(|answer| answer.contains(secret));
        assert_eq!(answer, None, "{secret} is answered");
    }
}

#[tokio::test]
async fn dev_logs_none_of_the_keys_that_it_makes() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut command = Dev::command("dev", &data_dir);
    command.args(["--ready-json", "--log-filter", "trace", "--log-format", "json"]);
    let mut dev = Dev::run(command, &data_dir);
    dev.ready().await;
    assert!(dev.stop().await.success());

    let output = dev.output();
    assert!(ours(&output).len() > 10, "{output}");
    let nats_log = std::fs::read_to_string(data_dir.join("nats/nats.log")).unwrap();
    for name in ["admin.key", "sealing.key"] {
        let key = std::fs::read_to_string(data_dir.join(name)).unwrap();
        let key = key.trim().rsplit_once(':').map_or(key.trim(), |(_, key)| key);
        assert!(key.len() > 30, "{key}");
        // The line of `--ready-json` is there to tell the key.
        let shown = output.lines().chain(nats_log.lines());
        let line = shown
            .filter(|line| !line.starts_with(r#"{"listen":"#))
            .find(|line| line.contains(key));
        assert_eq!(line, None, "{name} is logged");
    }
}

#[tokio::test]
async fn a_dispatcher_without_the_sealing_key_says_so_and_what_it_failed_is_delivered_with_it() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let receiver = Receiver::start();
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![1; 10],
        ..Default::default()
    };
    app.create_endpoint(request).await;
    let another = app
        .settings
        .clone()
        .set("sealing.keys", format!("another:{SEALING_KEY}"));
    let mut dispatcher = RoleProcess::start("dispatcher", &another).await;

    for number in 0..3 {
        app.deliver("order.paid", &json!({ "number": number })).await;
    }
    eventually("attempts fail", || async {
        let attempts = dispatcher.metric("webhooks_attempts_total").await;
        if attempts >= 3.0 { Ok(()) } else { Err(attempts) }
    })
    .await;
    let said = dispatcher.output();
    let lines = said
        .lines()
        .filter(|line| line.contains("a signing secret does not open"));
    assert_eq!(lines.count(), 1, "{said}");
    assert!(
        said.contains("the key ring does not hold sealing key `test`"),
        "{said}"
    );

    assert!(dispatcher.stop().await.success());
    let _dispatcher = RoleProcess::start("dispatcher", &app.settings).await;
    receiver.received("/hook", 3).await;
}
