//! `log.url`: a nats-server that is not there, not let into, or not good enough.

use std::fs;
use std::net::TcpListener;

use harness::nats::{NatsServer, impostor, nowhere};
use harness::roles::Settings;

use super::{names, no_history, run, settings};

const ROLES: [&str; 3] = ["serve", "--role", "api,dispatcher,projector"];

/// Fails with this code, naming `log.url` and `also`, showing no password, before the history is touched.
async fn refused(url: &str, code: i32, also: &str) {
    let (dir, history) = no_history();
    for arguments in [&ROLES[..], &["topology", "apply"]] {
        let (found, said) = run(arguments, &settings(url, &history)).await;
        assert_eq!(found, Some(code), "{url}: {said}");
        assert!(said.contains("log.url") && said.contains(also), "{url}: {said}");
        assert!(!said.contains("hunter2"), "the password is shown: {said}");
        assert_eq!(names(dir.path()), [""; 0], "{url}");
    }
}

fn with_login(nats: &NatsServer, login: &str) -> String {
    nats.url().replace("://", &format!("://{login}@"))
}

#[tokio::test]
async fn one_that_is_no_address_is_a_matter_of_configuration() {
    for url in [
        "http://user:hunter2@127.0.0.1:4222",
        "nats://user:hunter2@127.0.0.1:port",
        "nats://",
        ",",
    ] {
        refused(url, 64, "").await;
    }
}

#[tokio::test]
async fn one_where_nobody_answers() {
    let nowhere = nowhere();
    let address = nowhere.strip_prefix("nats://").unwrap();
    refused(&format!("nats://user:hunter2@{address}"), 1, address).await;

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    refused(&format!("nats://user:hunter2@{address}"), 1, &address).await;
}

#[tokio::test]
async fn one_that_refuses_the_password_and_lets_in_with_the_right_one() {
    let nats = NatsServer::start_with_password("webhooks", "p@ss/word%").await;
    let refusal = "refused the credentials";
    refused(&nats.url(), 1, refusal).await;
    refused(&with_login(&nats, "webhooks:hunter2"), 1, refusal).await;
    refused(&with_login(&nats, "hunter2"), 1, refusal).await;

    // Nothing was made by those that were refused.
    let settings = |command: &'static str| {
        let url = with_login(&nats, "webhooks:p%40ss%2Fword%25");
        (["topology", command], Settings::new(&url, "sqlite:unused.db"))
    };
    let (check, apply) = (settings("check"), settings("apply"));
    let (code, said) = run(&check.0, &check.1).await;
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = run(&apply.0, &apply.1).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("unchanged") && said.contains("created"), "{said}");
}

#[tokio::test]
async fn one_that_is_too_old() {
    for version in ["2.9.0", "2.12.8", "2.13.99"] {
        refused(&impostor(version).await, 1, version).await;
    }
}

#[tokio::test]
async fn one_without_jetstream() {
    refused(&impostor("2.14.6").await, 1, "JetStream").await;
}

#[tokio::test]
async fn a_credentials_file_that_cannot_be_used() {
    let nats = NatsServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nats.creds");
    for content in [None, Some("hunter2")] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let settings = settings(&nats.url(), "sqlite:unused.db").set("log.credentials_file", file.display());
        let (code, said) = run(&["dispatcher"], &settings).await;
        assert_eq!(code, Some(64), "{said}");
        assert!(
            said.contains("log.credentials_file") && said.contains(file.to_str().unwrap()),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
}
