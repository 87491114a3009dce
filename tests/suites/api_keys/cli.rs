//! `cuitty-webhooks keys`.

use std::process::{Command, Output, Stdio};

use harness::app::{PROJECT, TestApp};
use harness::roles::{ADMIN_KEY, binary};
use serde_json::Value;

/// Runs `keys` with these arguments, and this key in the environment.
fn keys(url: &str, key: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(binary())
        .arg("keys")
        .args(arguments)
        .env("CUITTY_WEBHOOKS_URL", url)
        .env("CUITTY_WEBHOOKS_API_KEY", key)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let app = TestApp::start().await;
    let run = |arguments: &[&str]| keys(app.url(), ADMIN_KEY, arguments);

    let scopes = ["--scope", "deliver,read", "--description", "for billing"];
    let (code, key, note) = run(&[&["create", "--project", PROJECT], &scopes[..]].concat());
    assert_eq!(code, Some(0), "{note}");
    let key = key.trim_end();
    assert!(key.starts_with("cwk_") && key.len() == 62, "{key}");
    assert!(note.starts_with("key_") && !note.contains(key), "{note}");
    let id = note.split(':').next().unwrap();

    let (code, created, _) = run(&["create", "--scope", "admin", "--json"]);
    let created: Value = serde_json::from_str(&created).unwrap();
    assert_eq!((code, &created["project_id"]), (Some(0), &Value::Null));
    assert!(
        created["secret"].as_str().unwrap().starts_with("cwk_"),
        "{created}"
    );

    let (code, table, _) = run(&["list"]);
    assert_eq!(code, Some(0));
    let rows: Vec<Vec<_>> = table
        .lines()
        .map(|line| {
            let cells = line.split("  ").map(str::trim);
            cells.filter(|cell| !cell.is_empty()).collect()
        })
        .collect();
    assert_eq!(rows[0][..4], ["ID", "PROJECT", "SCOPES", "CREATED"], "{table}");
    assert_eq!(rows[1][1..3], ["(all)", "admin"], "{table}");
    assert_eq!(rows[2][..3], [id, PROJECT, "deliver,read"], "{table}");
    assert_eq!(rows[2].last(), Some(&"for billing"), "{table}");

    let (code, revoked, _) = run(&["revoke", id, "--json"]);
    let revoked: Value = serde_json::from_str(&revoked).unwrap();
    assert_eq!((code, revoked["id"].as_str()), (Some(0), Some(id)));
    assert!(revoked["revoked_at"].is_string(), "{revoked}");
    let (code, listed, _) = run(&["list", "--json", "--project", PROJECT]);
    let lines: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((code, lines), (Some(0), vec![revoked]));

    let (code, _, error) = keys(app.url(), key, &["list"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("the API key is not valid"), "{error}");
}

#[tokio::test]
async fn exit_codes_tell_a_refusal_from_bad_usage() {
    let app = TestApp::start().await;
    let id = "key_01h455vb4pex5vsknk084sn02q";
    for (arguments, expected, told) in [
        (&["revoke", id][..], 1, "was not found"),
        (&["revoke", "x"], 1, "must be an id of the form key_"),
        (
            &["create", "--scope", "read", "--project", "a b"],
            1,
            "project_id",
        ),
        (&["create"], 2, "--scope"),
        (&["create", "--scope", "write"], 2, "write"),
        (&["list", "--url", "http://127.0.0.1:1"], 1, "not available"),
    ] {
        let (code, _, error) = keys(app.url(), ADMIN_KEY, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    let (code, _, error) = keys(app.url(), "", &["list"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("CUITTY_WEBHOOKS_API_KEY"), "{error}");
}
