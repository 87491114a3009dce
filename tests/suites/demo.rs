//! `demo`, which `make run` starts: what it shows is what happened, and what it tells to try works.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use chrono::DateTime;
use cuitty_webhooks_client::{Client, SignedHeaders, SigningSecret, verify};
use cuitty_webhooks_proto::v1::ListEndpointsRequest;
use harness::dev::Dev;
use harness::eventually::{eventually, is};
use harness::rest::{RestClient, RestResponse};
use hyper::Method;
use nix::sys::signal::Signal;
use serde_json::json;

const ONCE: Duration = Duration::from_mins(1);
const PROMPTLY: Duration = Duration::from_secs(10);

/// What stands between `start` and the next of `end` after it.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start:?} in: {text}"));
    rest.split_once(end).map_or(rest, |(found, _)| found)
}

/// The lines that the demo shows of what it received: its headers, and its body.
fn received(output: &str) -> (HashMap<&str, &str>, &str) {
    let shown = between(output, "3. Received after", "\n4. ");
    let mut lines = shown
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .skip(1);
    assert_eq!(lines.next(), Some("POST /hooks"), "{shown}");
    let lines: Vec<_> = lines.collect();
    let (body, headers) = lines.split_last().unwrap();
    let headers = headers.iter().map(|line| line.split_once(": ").unwrap());
    (headers.collect(), body)
}

/// One `curl` that the demo tells to try.
#[derive(Debug, PartialEq)]
struct Curl {
    url: String,
    headers: Vec<String>,
    body: Option<String>,
}

/// The commands under "Try next", read by a shell, as when a user pastes them.
fn curls(output: &str) -> Vec<Curl> {
    let lines = between(output, "Try next:", "Receiving until");
    let script = format!(r#"curl() {{ printf '%s\n' "$@" --end; }}{lines}"#);
    let told = Command::new("sh").args(["-euc", &script]).output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let told = String::from_utf8(told.stdout).unwrap();
    let (commands, rest) = told.rsplit_once("--end\n").unwrap();
    assert_eq!(rest, "");
    let read = |command: &str| {
        let mut curl = Curl {
            url: String::new(),
            headers: Vec::new(),
            body: None,
        };
        let mut words = command.lines().map(str::to_owned);
        while let Some(word) = words.next() {
            match &*word {
                "-s" => {}
                "-H" => curl.headers.extend(words.next()),
                "-d" => curl.body = words.next(),
                _ => curl.url = word,
            }
        }
        curl
    };
    commands.split("--end\n").map(read).collect()
}

impl Curl {
    async fn send(&self) -> RestResponse {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|header| header.split_once(": ").unwrap())
            .collect();
        // As curl chooses.
        let method = if self.body.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let body = self.body.clone().unwrap_or_default();
        RestClient::new("", None)
            .send(method, &self.url, &headers, body)
            .await
    }
}

#[tokio::test]
async fn once_shows_a_signed_request_its_record_and_what_to_try_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut command = Dev::command("demo", &data_dir);
    command.arg("--once");
    let mut demo = Dev::run(command, &data_dir);

    let status = demo.ended(ONCE).await;

    let output = demo.output();
    assert!(status.success(), "{status}: {output}");
    assert_eq!(demo.children(), [0; 0]);

    let (headers, body) = received(&output);
    let secret = between(&output, "signing secret, shown once: ", "\n");
    let signed = SignedHeaders {
        id: headers["webhook-id"],
        timestamp: headers["webhook-timestamp"],
        signature: headers["webhook-signature"],
    };
    let at = DateTime::from_timestamp(signed.timestamp.parse().unwrap(), 0).unwrap();
    let secret = SigningSecret::parse(secret).unwrap();
    verify(signed, body.as_bytes(), &[secret], at, Duration::ZERO).unwrap();
    assert!(output.contains("\n4. Signature verified"), "{output}");

    assert!(
        between(&output, "\n2. ", "\n").contains(headers["webhook-id"]),
        "{output}"
    );
    let recorded = between(&output, "\n5. Recorded in the history:", "Try next");
    for part in [
        headers["x-cuitty-delivery-id"],
        "delivered, attempts: 1",
        "response status 200",
    ] {
        assert!(recorded.contains(part), "{part} is not in: {recorded}");
    }
    let paths: Vec<_> = curls(&output)
        .into_iter()
        .map(|curl| curl.url.splitn(4, '/').nth(3).unwrap().to_owned())
        .collect();
    assert_eq!(
        paths,
        [
            "api/webhooks/status",
            "api/webhooks/endpoints?project_id=demo",
            "api/webhooks/deliver",
            "api/openapi.json",
            "metrics",
        ]
    );
}

#[tokio::test]
async fn it_serves_what_it_tells_to_try_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut demo = Dev::run(Dev::command("demo", &data_dir), &data_dir);
    eventually("it has shown the first event", || async {
        is(demo.output().contains("Receiving until Ctrl-C."), true)
    })
    .await;
    let endpoint = between(&demo.output(), "1. Endpoint ", " ").to_owned();

    let mut answers = Vec::new();
    for curl in curls(&demo.output()) {
        answers.push(curl.send().await);
    }

    let [status, endpoints, accepted, openapi, metrics] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(
        (status.status.as_u16(), &status.json()["status"]),
        (200, &json!("ok"))
    );
    assert_eq!(endpoints.json()["data"][0]["id"], endpoint);
    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.json()["deliveries"][0]["endpoint_id"], endpoint);
    assert!(openapi.json()["paths"].is_object());
    assert_eq!(metrics.status, 200);
    let message_id = accepted.json()["message_id"].as_str().unwrap().to_owned();
    eventually("the second event is shown", || async {
        let output = demo.output();
        let second = between(&output, "Receiving until Ctrl-C.", "\u{0}");
        is(
            second.contains(&format!("webhook-id: {message_id}"))
                && second.contains(r#"{"budget":"compute"}"#),
            true,
        )
    })
    .await;

    demo.signal(Signal::SIGTERM);

    assert!(demo.ended(PROMPTLY).await.success());
    assert_eq!(demo.children(), [0; 0]);
    // Its endpoint, whose receiver is gone, is gone too.
    let mut dev = Dev::spawn(&data_dir);
    let ready = dev.ready().await;
    let url = format!("http://{}", ready["listen"].as_str().unwrap());
    let client = Client::connect(&url, ready["api_key"].as_str().unwrap())
        .await
        .unwrap();
    let request = ListEndpointsRequest {
        project_id: "demo".into(),
        page: None,
    };
    let left = client.list_endpoints(request).await.map(|page| page.endpoints);
    assert!(left.as_ref().map_or(true, Vec::is_empty), "{left:?}");
    assert!(dev.stop().await.success());
}
