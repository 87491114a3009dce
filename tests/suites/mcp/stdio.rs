//! `cuitty-webhooks mcp` when what it needs is missing.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use harness::app::TestApp;
use harness::ports::free_address;
use harness::roles::binary;
use serde_json::{Value, json};

/// Runs `mcp` for the service at `url` until all of `input` is answered: its exit code, answers and complaints.
fn mcp(url: &str, key: &str, input: impl AsRef<[u8]>) -> (Option<i32>, Vec<Value>, String) {
    let mut process = Command::new(binary())
        .args(["mcp", "--url", url])
        .env("CUITTY_WEBHOOKS_API_KEY", key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it reads anything.
    let _ = process.stdin.take().unwrap().write_all(input.as_ref());
    let Output {
        status,
        stdout,
        stderr,
    } = process.wait_with_output().unwrap();
    let answers = String::from_utf8(stdout).unwrap();
    let answers = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (status.code(), answers, String::from_utf8(stderr).unwrap())
}

fn ping(id: u64) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": "ping"}))
}

#[tokio::test]
async fn every_request_is_answered_before_it_ends() {
    let app = TestApp::start().await;
    let input: String = (0..100).map(ping).collect();
    let url = app.url().to_owned();
    let run = move || mcp(&url, harness::roles::ADMIN_KEY, &input);
    let (code, answers, complaints) = tokio::task::spawn_blocking(run).await.unwrap();
    let mut ids: Vec<_> = answers
        .iter()
        .map(|answer| answer["id"].as_u64().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!((code, ids), (Some(0), (0..100).collect()), "{complaints}");
    assert!(
        answers.iter().all(|answer| answer["result"] == json!({})),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_line_that_is_no_text_costs_no_other_its_answer() {
    let app = TestApp::start().await;
    let mut input: Vec<u8> = (0..20).flat_map(|id| ping(id).into_bytes()).collect();
    input.extend(b"{\"jsonrpc\": \"\xff\"}\n");
    input.extend(ping(20).into_bytes());
    let url = app.url().to_owned();
    let run = move || mcp(&url, harness::roles::ADMIN_KEY, &input);
    let (code, answers, complaints) = tokio::task::spawn_blocking(run).await.unwrap();
    let mut ids: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer["id"].as_u64())
        .collect();
    ids.sort_unstable();
    assert_eq!((code, ids), (Some(0), (0..=20).collect()), "{complaints}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_answered_with_the_reason() {
    let app = TestApp::start().await;
    let (url, wrong) = (app.url().to_owned(), "wrong-key-0123456789");
    let told = |answers: &[Value]| {
        assert_eq!((answers.len(), &answers[0]["id"]), (1, &json!(1)), "{answers:?}");
        answers[0]["error"]["message"].as_str().unwrap().to_owned()
    };
    let run = move || mcp(&url, wrong, ping(1));
    let (code, answers, _) = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(code, Some(0));
    let message = told(&answers);
    assert!(
        message.contains("401") && message.contains("the API key is not valid"),
        "{message}"
    );

    let nowhere = format!("http://{}", free_address());
    let input = ping(1) + "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";
    let (code, answers, complaints) = mcp(&nowhere, wrong, &input);
    assert_eq!(code, Some(0));
    let message = told(&answers);
    assert!(message.contains(&format!("cannot reach {nowhere}")), "{message}");
    assert!(
        complaints.contains(&nowhere),
        "a notification has no answer: {complaints}"
    );
}

#[test]
fn without_a_key_it_does_not_start() {
    let (code, answers, complaints) = mcp("http://127.0.0.1:1", "", ping(1));
    assert_eq!((code, answers), (Some(2), Vec::new()));
    assert!(
        complaints.contains("CUITTY_WEBHOOKS_API_KEY is not set"),
        "{complaints}"
    );
}
