//! `deliveries` and `replays`.

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::{PROJECT, TestApp};
use harness::cli::{command, json_lines, rows};
use harness::eventually::{eventually, is};
use harness::process::Process;
use harness::receiver::{Receiver, Reply};
use harness::roles::ADMIN_KEY;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::cli;

fn list(app: &TestApp, more: &[&str]) -> Vec<Value> {
    let list = ["deliveries", "list", "--project", PROJECT, "--json"];
    cli(app, &[&list[..], more].concat()).json_lines()
}

#[tokio::test]
async fn deliveries_are_listed_shown_and_sent_again() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hooks")).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let accepted = app.deliver("order.paid", &json!({"number": number})).await;
        ids.push(accepted.deliveries[0].id.clone());
    }
    for id in &ids {
        app.ended(id).await;
    }
    ids.reverse();

    let listed = list(
        &app,
        &[
            "--status",
            "delivered",
            "--since",
            "1h",
            "--event-type",
            "order.paid",
        ],
    );
    assert_eq!(
        listed
            .iter()
            .map(|row| row["id"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ids
    );
    assert_eq!(listed[0]["response_status"], 200);
    assert_eq!(
        (
            list(&app, &["--limit", "2"]).len(),
            list(&app, &["--status", "failed"]).len()
        ),
        (2, 0)
    );
    assert_eq!(list(&app, &["--until", "1h"]).len(), 0);
    let cut = cli(
        &app,
        &["deliveries", "list", "--project", PROJECT, "--limit", "2"],
    );
    assert!(cut.err.contains("older ones are left out"), "{cut:?}");
    assert_eq!(rows(&cut.ok())[1][3..6], ["delivered", "1", "200"]);

    let shown = cli(&app, &["deliveries", "get", &ids[0], "--verify"]).ok();
    assert!(shown.contains("\n{\"number\":2}\n"), "{shown}");
    assert!(
        shown.contains("webhook-signature by sec_") && shown.contains("is valid"),
        "{shown}"
    );
    let detail = cli(&app, &["deliveries", "get", &ids[0], "--json"]).json();
    assert_eq!(
        (&detail["payload"], &detail["attempts"][0]["response"]["status"]),
        (&json!({"number": 2}), &json!(200))
    );

    let again = cli(&app, &["deliveries", "replay", &ids[0], &ids[1], "--json"]).json_lines();
    let of: Vec<_> = again
        .iter()
        .map(|row| row["replay_of"].as_str().unwrap())
        .collect();
    assert_eq!(of, ids[..2]);
    receiver.received("/hooks", 5).await;
    // What was done before the first refusal is told all the same.
    let half = cli(
        &app,
        &["deliveries", "replay", &ids[2], "dlv_1", &ids[2], "--json"],
    );
    assert_eq!((half.code, json_lines(&half.out).len()), (Some(1), 1));
    receiver.received("/hooks", 6).await;
}

#[tokio::test]
async fn a_pending_delivery_is_cancelled() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hooks", [Reply::status(500)]);
    app.create_endpoint(CreateEndpointRequest {
        url: receiver.url("/hooks"),
        retry_schedule_seconds: vec![3600],
        ..Default::default()
    })
    .await;
    let id = app.deliver("order.paid", &json!({})).await.deliveries[0]
        .id
        .clone();
    eventually("it has failed once", || async {
        let detail = app.delivery(&id).await;
        is(detail.attempts.len(), 1)
    })
    .await;
    let cancelled = cli(&app, &["deliveries", "cancel", &id, "--json"]).json();
    assert_eq!(
        (&cancelled["status"], &cancelled["failure_reason"]),
        (&json!("failed"), &json!("cancelled"))
    );
}

#[tokio::test]
async fn tail_shows_what_happens() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hooks")).await;
    let dir = tempfile::tempdir().unwrap();
    let tail = |more: &[&str], log: &str| {
        let arguments = [&["deliveries", "tail", "--project", PROJECT], more].concat();
        Process::spawn(
            "tail",
            command(app.url(), ADMIN_KEY, &arguments),
            &dir.path().join(log),
        )
    };
    let (mut people, programs) = (tail(&[], "people"), tail(&["--json"], "programs"));
    for process in [&people, &programs] {
        eventually("it watches", || async {
            is(process.output().contains("watching"), true)
        })
        .await;
    }
    let id = app.deliver("order.paid", &json!({})).await.deliveries[0]
        .id
        .clone();

    let lines = eventually("both show two events", || async {
        let lines = |process: &Process| {
            let output = process.output();
            output.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        let (people, programs) = (lines(&people), lines(&programs));
        is((people.len(), programs.len()), (2, 2)).map(|_| (people, programs))
    })
    .await;
    let (people, programs) = (&mut people, lines);
    assert!(
        programs.0[0].contains("requested") && programs.0[0].contains(&id),
        "{programs:?}"
    );
    assert!(
        programs.0[1].contains("succeeded") && programs.0[1].contains("attempt 1: 200"),
        "{programs:?}"
    );
    let events = json_lines(&programs.1.join("\n"));
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["requested", "succeeded"]);
    assert_eq!(events[1]["attempt"]["response"]["status"], 200);
    people.signal(Signal::SIGINT);
    people.wait(harness::eventually::PATIENCE).await;
}

#[tokio::test]
async fn a_replay_is_counted_first_and_then_waited_for() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = app
        .create_endpoint_at(receiver.url("/hooks"))
        .await
        .endpoint
        .unwrap();
    app.set_active(&endpoint.id, false).await;
    for number in 0..5 {
        let accepted = app.deliver("order.paid", &json!({"number": number})).await;
        app.ended(&accepted.deliveries[0].id).await;
    }
    app.set_active(&endpoint.id, true).await;
    let start = [
        "replays",
        "start",
        "--endpoint",
        &endpoint.id,
        "--since-disabled",
        "--json",
        "--project",
        PROJECT,
    ];

    let counted = cli(&app, &[&start[..], &["--dry-run"]].concat()).json();
    assert_eq!(
        (&counted["state"], &counted["total"], &counted["id"]),
        (&json!("dry_run"), &json!(5), &Value::Null)
    );
    assert_eq!(receiver.count("/hooks"), 0);
    let done = cli(&app, &start).json();
    assert_eq!(
        (
            &done["state"],
            &done["total"],
            &done["replayed"],
            &done["skipped"]
        ),
        (&json!("done"), &json!(5), &json!(5), &json!(0))
    );
    receiver.received("/hooks", 5).await;
    let id = done["id"].as_str().unwrap();
    assert_eq!(
        cli(&app, &["replays", "get", id, "--wait", "--json"]).json(),
        done
    );

    // One that takes a minute is not waited for, and cancelled.
    let slowly = [
        "replays",
        "start",
        "--status",
        "delivered",
        "--rate",
        "1",
        "--detach",
        "--json",
        "--project",
        PROJECT,
    ];
    let running = cli(&app, &slowly).json();
    assert_eq!(running["state"], "running");
    let id = running["id"].as_str().unwrap();
    assert_eq!(
        cli(&app, &["replays", "cancel", id, "--json"]).json()["state"],
        "cancelled"
    );
}
