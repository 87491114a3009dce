use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::testing::{NatsServer, eventually};
use crate::{Log, LogConfig, LogError};

#[tokio::test]
async fn nobody_listening_is_an_error_after_the_configured_time() {
    let config = LogConfig {
        url: "nats://127.0.0.1:1".into(),
        connect_timeout: Duration::from_millis(200),
        ..LogConfig::default()
    };
    let refused = Log::connect(config).await.err();
    let Some(LogError::Unavailable(cause)) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        cause.starts_with("cannot connect to 127.0.0.1:1 (log.url)"),
        "{cause}"
    );
}

/// Answers one client as nats-server 2.12.8 would, and gives its URL's address and what the client sent until it left.
async fn old_server() -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = r#"INFO {"server_id":"x","server_name":"x","version":"2.12.8","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}"#;
        stream
            .write_all(format!("{info}\r\nPONG\r\n").as_bytes())
            .await
            .unwrap();
        let mut sent = String::new();
        // Held open until the client leaves.
        let _ = stream.read_to_string(&mut sent).await;
        sent
    });
    (address, server)
}

#[tokio::test]
async fn an_older_server_is_refused_with_both_versions() {
    let (address, _server) = old_server().await;
    let refused = Log::connect(LogConfig {
        url: format!("nats://{address}"),
        ..LogConfig::default()
    })
    .await
    .err();
    assert_eq!(
        refused,
        Some(LogError::ServerTooOld {
            found: "2.12.8".into(),
            required: "2.14.0"
        })
    );
}

#[tokio::test]
async fn what_stands_before_the_host_is_used_to_log_in() {
    for (login, user, pass, auth_token) in [
        ("", Value::Null, Value::Null, Value::Null),
        (
            "ada:p%40ss=w%2Frd@",
            json!("ada"),
            json!("p@ss=w/rd"),
            Value::Null,
        ),
        ("t0ken@", Value::Null, Value::Null, json!("t0ken")),
    ] {
        let (address, server) = old_server().await;
        let url = format!("nats://{login}{address}");
        let refused = Log::connect(LogConfig {
            url,
            ..LogConfig::default()
        })
        .await;
        assert!(matches!(refused.err(), Some(LogError::ServerTooOld { .. })));
        let sent = server.await.unwrap();
        let connect = sent
            .lines()
            .find_map(|line| line.strip_prefix("CONNECT "))
            .unwrap();
        let connect: Value = serde_json::from_str(connect).unwrap();
        let found = ["user", "pass", "auth_token"].map(|name| connect[name].clone());
        assert_eq!(found, [user, pass, auth_token], "{login}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_at_once() {
    let server = NatsServer::start_secured().await;
    let started = Instant::now();
    let refused = Log::connect(server.config()).await.err();
    assert!(matches!(refused, Some(LogError::Unauthorized(_))), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() {
    let server = NatsServer::start_without_jetstream().await;
    let config = LogConfig {
        connect_timeout: Duration::from_millis(200),
        ..server.config()
    };
    let refused = Log::connect(config).await.err();
    let Some(LogError::Unavailable(cause)) = refused else {
        panic!("{refused:?}")
    };
    assert!(cause.starts_with("JetStream does not answer"), "{cause}");
}

#[tokio::test]
async fn a_missing_credentials_file_names_its_setting() {
    let config = LogConfig {
        credentials_file: Some("/nowhere/x.creds".into()),
        ..LogConfig::default()
    };
    let refused = Log::connect(config).await.err();
    assert!(
        matches!(
            refused,
            Some(LogError::Config {
                setting: "log.credentials_file",
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    assert!(log.is_connected());
    assert!(log.ping().await.unwrap() < Duration::from_secs(1));
    server.kill();
    eventually("the loss is noticed", async || !log.is_connected()).await;
    server.restart().await;
    eventually("the connection is back", async || log.is_connected()).await;
    eventually("JetStream answers", async || log.ping().await.is_ok()).await;
}
