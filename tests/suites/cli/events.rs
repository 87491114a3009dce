//! `events send`.

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::{PROJECT, TestApp};
use harness::cli::{json_lines, rows, run_with};
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::json;

use super::cli;

/// Arguments of `events send` with these.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let send = ["events", "send", "order.paid", "--project", PROJECT, "--json"];
    [&send[..], more].concat()
}

#[tokio::test]
async fn a_payload_is_an_argument_a_file_or_standard_input() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let request = CreateEndpointRequest {
        url: receiver.url("/hooks"),
        event_types: vec!["order.*".into()],
        ..Default::default()
    };
    let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("event.json");
    std::fs::write(&file, "{\"from\": \"file\"}\n").unwrap();

    let sent = cli(
        &app,
        &with(&[r#"{"from": "argument"}"#, "--idempotency-key", "a"]),
    )
    .json();
    assert_eq!(sent["deliveries"][0]["endpoint_id"], json!(endpoint.id));
    assert_eq!(sent["duplicate"], false);
    let again = cli(
        &app,
        &with(&[r#"{"from": "argument"}"#, "--idempotency-key", "a"]),
    )
    .json();
    assert_eq!(
        (&again["message_id"], &again["duplicate"]),
        (&sent["message_id"], &json!(true))
    );
    receiver.received("/hooks", 1).await;
    cli(&app, &with(&["--file", file.to_str().unwrap()])).ok();
    receiver.received("/hooks", 2).await;
    run_with(app.url(), ADMIN_KEY, &with(&["--file", "-"]), r#"{"from": "-"}"#).ok();
    receiver.received("/hooks", 3).await;
    run_with(app.url(), ADMIN_KEY, &with(&[]), r#"{"from": "input"}"#).ok();
    let bodies: Vec<_> = receiver
        .received("/hooks", 4)
        .await
        .into_iter()
        .map(|request| request.body)
        .collect();
    let expected = [
        r#"{"from": "argument"}"#,
        "{\"from\": \"file\"}\n",
        r#"{"from": "-"}"#,
        r#"{"from": "input"}"#,
    ];
    assert_eq!(bodies, expected);

    let nobody = cli(
        &app,
        &["events", "send", "budget.exceeded", "{}", "--project", PROJECT],
    )
    .ok();
    assert_eq!(rows(&nobody)[1][1], "none: nobody takes it");
    let refused = cli(&app, &with(&["{"]));
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("\n  payload "), "{refused:?}");
}

#[tokio::test]
async fn every_line_is_an_event_and_a_bad_one_stops_no_other() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hooks")).await;
    let mut lines: Vec<_> = (1..=1000)
        .map(|number| format!("{{\"number\":{number}}}"))
        .collect();
    lines[499] = "{".into();
    lines.insert(2, String::new());
    let input = lines.join("\r\n");
    let send = [
        "events",
        "send",
        "order.paid",
        "--lines",
        "--project",
        PROJECT,
        "--idempotency-key",
        "run-1",
    ];

    let first = run_with(app.url(), ADMIN_KEY, &send, &input);

    assert_eq!(first.code, Some(1));
    assert!(first.err.contains("line 501: payload"), "{first:?}");
    assert!(first.err.contains("1 of 1000 events are refused"), "{first:?}");
    assert_eq!(
        first.out,
        "accepted: 999 (0 of them before), deliveries: 999, refused: 1\n"
    );
    receiver.received("/hooks", 999).await;

    let again = run_with(app.url(), ADMIN_KEY, &[&send[..], &["--json"]].concat(), &input);
    let told = json_lines(&again.out);
    assert_eq!(told.len(), 1000);
    let duplicates = told.iter().filter(|line| line["duplicate"] == true).count();
    let refused: Vec<_> = told.iter().filter(|line| line["error"].is_object()).collect();
    assert_eq!(
        (duplicates, refused.len(), &refused[0]["line"]),
        (999, 1, &json!(501))
    );
    assert_eq!((receiver.count("/hooks"), receiver.distinct_ids()), (999, 999));
}
