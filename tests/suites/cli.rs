//! The command line over the API, against a running service.

mod deliveries;
mod endpoints;
mod events;

use std::process::{Command, Stdio};

use harness::app::{PROJECT, TestApp};
use harness::cli::{Ran, run};
use harness::roles::{ADMIN_KEY, binary};
use serde_json::json;

/// Runs a command with the admin key.
fn cli(app: &TestApp, arguments: &[&str]) -> Ran {
    run(app.url(), ADMIN_KEY, arguments)
}

#[tokio::test]
async fn exit_codes_and_messages_tell_what_to_do() {
    let app = TestApp::start().await;
    for (arguments, code, told) in [
        (&["endpoints", "get", "ep_1"][..], 1, "endpoint_id must be an id"),
        (&["endpoints", "list", "--project", "nobody"], 1, "was not found"),
        (&["endpoints", "get"], 2, "<ID>"),
        (&["endpoints", "update", "ep_1"], 2, "nothing to change"),
        (
            &["endpoints", "create", "http://a", "--header", "x"],
            2,
            "Name: value",
        ),
        (&["deliveries", "list", "--since", "yesterday"], 2, "such as 90s"),
        (&["deliveries", "list", "--status", "lost"], 2, "possible values"),
        (
            &["events", "send", "a.b", "--file", "/nowhere"],
            1,
            "cannot read /nowhere",
        ),
        (
            &["listen", "--forward-to", "https://a"],
            2,
            "must be an http:// URL",
        ),
        (&["completion", "tcsh"], 2, "possible values"),
        (
            &["endpoints", "list", "--url", "nonsense of an address"],
            2,
            "is not a server's address",
        ),
        (
            &["endpoints", "list", "--url", "http://127.0.0.1:1"],
            1,
            "hint: is the service running",
        ),
    ] {
        let ran = cli(&app, arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(told), "{arguments:?}: {ran:?}");
        assert_eq!(ran.out, "", "{arguments:?}");
    }
    let ran = run(app.url(), "wrong", &["endpoints", "list"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("hint: CUITTY_WEBHOOKS_API_KEY"), "{ran:?}");
    let ran = run(app.url(), "", &["deliveries", "tail"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[tokio::test]
async fn every_field_at_fault_has_a_line_of_its_own() {
    let app = TestApp::start().await;
    let arguments = [
        "endpoints",
        "create",
        "ftp://a",
        "--timeout-ms",
        "1",
        "--project",
        PROJECT,
    ];
    let ran = cli(&app, &arguments);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(lines[0], "error: the request is refused");
    let fields: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(fields, ["url", "timeout_ms"], "{ran:?}");
}

#[tokio::test]
async fn event_types_are_created_changed_archived_and_restored() {
    let app = TestApp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let schema = dir.path().join("schema.json");
    std::fs::write(&schema, r#"{"type":"object","required":["id"]}"#).unwrap();
    let schema = schema.to_str().unwrap();
    let of = ["--project", PROJECT, "order.paid"];
    let run = |verb, more: &[&str]| cli(&app, &[&["event-types", verb], &of[..], more].concat());

    let created = run(
        "create",
        &[
            "--description",
            "an order",
            "--schema",
            schema,
            "--enforce",
            "--json",
        ],
    );
    let created = created.json();
    assert_eq!(created["schema"], json!({"type": "object", "required": ["id"]}));
    assert_eq!(
        (&created["enforce_schema"], &created["archived"]),
        (&json!(true), &json!(false))
    );

    let events = ["events", "send", "order.paid", "{}", "--project", PROJECT];
    let refused = cli(&app, &events);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("payload"), "{refused:?}");
    let updated = run("update", &["--enforce=false", "--schema", "none", "--json"]).json();
    assert_eq!(
        (&updated["schema"], &updated["enforce_schema"]),
        (&json!(null), &json!(false))
    );
    cli(&app, &events).ok();

    assert_eq!(run("archive", &["--json"]).json()["archived"], true);
    assert_eq!(cli(&app, &events).code, Some(1));
    let listed = |more: &[&str]| {
        let list = [&["event-types", "list", "--json", "--project", PROJECT], more].concat();
        cli(&app, &list).json_lines().len()
    };
    assert_eq!((listed(&[]), listed(&["--archived"])), (0, 1));
    assert_eq!(run("update", &["--restore", "--json"]).json()["archived"], false);
    assert!(run("get", &[]).ok().contains("an order"));
    assert_eq!(listed(&[]), 1);
    assert_eq!(run("update", &[]).code, Some(2));
    assert_eq!(run("create", &[]).code, Some(1));
}

#[test]
fn completion_scripts_know_the_commands() {
    for (shell, check) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let ran = run("", "", &["completion", shell]);
        let script = ran.ok();
        for word in ["endpoints", "rotate-secret", "deliveries", "forward-to"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        assert!(!script.contains("demo --once"), "{shell}");
        if let Some(shell) = check {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            let checked = Command::new(shell).arg("-n").arg(file.path()).status();
            assert!(checked.unwrap().success());
        }
    }
}

#[test]
fn an_answer_that_nobody_reads_is_no_error() {
    let mut child = Command::new(binary())
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
