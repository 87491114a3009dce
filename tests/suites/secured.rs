//! Connections to the log and to the history that are encrypted, and a log on three servers.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use harness::app::{TestApp, summary};
use harness::certificates::Authority;
use harness::eventually::{eventually, eventually_within};
use harness::nats::NatsServer;
use harness::nats_cluster::NatsCluster;
use harness::postgres::{Durability, PostgresCluster};
use harness::receiver::Receiver;
use harness::roles::{RoleProcess, Settings, command};
use serde_json::json;
use sqlx::{Connection, PgConnection};

const PATIENCE: Duration = Duration::from_mins(1);

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// What a command says that ends with this code.
fn ends_with(code: i32, arguments: &[&str], settings: &Settings) -> String {
    let output = command(arguments, settings);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {}",
        said(&output)
    );
    said(&output)
}

fn file(settings: &Settings, key: &str, path: &Path) -> Settings {
    settings.clone().set(key, path.display())
}

#[tokio::test]
async fn the_log_is_reached_over_tls_by_who_shows_a_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, client) = (authority.certify("server"), authority.certify("client"));
    let nats = NatsServer::start_with_tls(&authority, &server, &client).await;
    let plain = Settings::new(&nats.url(), "sqlite:unused.db").set("log.connect_timeout", "3s");
    let trusting = file(&plain, "log.ca_file", &authority.cert());
    let known = file(
        &file(&trusting, "log.cert_file", &client.cert),
        "log.key_file",
        &client.key,
    );

    ends_with(0, &["config", "check", "--role", "ingest"], &known);
    ends_with(0, &["topology", "apply"], &known);
    RoleProcess::start("ingest", &known).await;

    let text = ends_with(
        64,
        &["topology", "apply"],
        &file(&known, "log.ca_file", &stranger.cert()),
    );
    assert!(text.contains("log.ca_file"), "{text}");
    let text = ends_with(64, &["topology", "apply"], &trusting);
    assert!(text.contains("log.cert_file"), "{text}");

    // What the files themselves tell is told before anybody is asked.
    let other = authority.certify("other");
    for (settings, key) in [
        (file(&known, "log.key_file", &other.key), "log.key_file"),
        (file(&known, "log.cert_file", &client.key), "log.cert_file"),
        (
            file(&known, "log.ca_file", Path::new("missing.pem")),
            "log.ca_file",
        ),
        (file(&plain, "log.cert_file", &client.cert), "log.key_file"),
    ] {
        let text = ends_with(64, &["config", "check", "--role", "dispatcher"], &settings);
        assert!(text.contains(key), "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_must_be_encrypted_is_not_made_in_the_clear() {
    let nats = NatsServer::start().await;
    let settings = Settings::new(&nats.url(), "sqlite:unused.db")
        .set("log.connect_timeout", "1s")
        .set("log.tls_required", true);
    let text = ends_with(1, &["topology", "apply"], &settings);
    assert!(text.contains("log.url"), "{text}");
}

#[tokio::test]
async fn the_history_is_reached_over_tls() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let postgres = PostgresCluster::start_with_tls(Durability::None, &authority.certify("postgres")).await;
    let url = postgres.database().await;
    let verified = |authority: &Authority| {
        format!(
            "{url}?sslmode=verify-full&sslrootcert={}",
            authority.cert().display()
        )
    };
    let app = TestApp::builder().history_at(&verified(&authority)).start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let accepted = app.deliver("order.paid", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(summary(&detail).attempt_count, 1);

    let mut connection = PgConnection::connect(&url).await.unwrap();
    let plain: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE application_name = 'cuitty-webhooks' AND NOT ssl",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let encrypted: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE application_name = 'cuitty-webhooks' AND ssl",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(plain == 0 && encrypted > 0, "{plain} {encrypted}");

    let settings = Settings::new(&app.nats.url(), &verified(&stranger));
    let text = ends_with(1, &["projection", "verify"], &settings);
    assert!(
        text.contains("history.url") && text.contains("certificate"),
        "{text}"
    );
    let settings = Settings::new(
        &app.nats.url(),
        &format!("{url}?sslmode=verify-full&sslrootcert=missing.pem"),
    );
    let text = ends_with(64, &["config", "check", "--role", "projector"], &settings);
    assert!(
        text.contains("history.url") && text.contains("missing.pem"),
        "{text}"
    );
}

#[tokio::test]
async fn a_log_on_three_servers_outlives_one_of_them() {
    let mut nats = NatsCluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let history = format!("sqlite:{}", dir.path().join("history.db").display());
    let single = Settings::new(&nats.url(), &history).set("log.partitions", 2);
    ends_with(0, &["topology", "apply"], &single);
    assert!(ends_with(0, &["topology", "check"], &single).contains("1 of 1 copies"));

    // From one copy to three.
    let settings = single.set("log.replicas", 3);
    let text = ends_with(1, &["topology", "check"], &settings);
    assert!(text.contains("num_replicas is 1, 3 is wanted"), "{text}");
    ends_with(0, &["topology", "apply"], &settings);
    let text = eventually_within(PATIENCE, "three copies of everything", || async {
        let output = command(&["topology", "check"], &settings);
        if output.status.success() {
            Ok(said(&output))
        } else {
            Err(said(&output))
        }
    })
    .await;
    // Eight streams, two partitions' consumers and the one of what is published.
    assert_eq!(text.matches("3 of 3 copies").count(), 11, "{text}");

    let process = RoleProcess::start("api,dispatcher,projector", &settings).await;
    let receiver = Receiver::start();
    let rest = harness::rest::RestClient::new(process.url(), Some(harness::roles::ADMIN_KEY));
    let endpoint = json!({ "project_id": "acme", "url": receiver.url("/hook") });
    assert_eq!(
        rest.post("/manage/v1/webhooks/endpoints", &endpoint).await.status,
        201
    );
    let deliver = async |count: usize| {
        let event = json!({ "project_id": "acme", "event_type": "order.paid", "payload": {}, "idempotency_key": count.to_string() });
        eventually("an event is taken", || async {
            let answer = rest.post("/api/webhooks/deliver", &event).await;
            if answer.status == 202 {
                Ok(())
            } else {
                Err(answer.status)
            }
        })
        .await;
        receiver.received("/hook", count).await;
    };
    deliver(1).await;
    for index in 0..3 {
        nats.kill9(index);
        deliver(index + 2).await;
        if index == 2 {
            let text = ends_with(1, &["topology", "check"], &settings);
            // At first it just does not answer.
            assert!(text.contains("nats-2 is "), "{text}");
        } else {
            nats.restart(index).await;
            eventually_within(PATIENCE, "it has caught up", || async {
                let output = command(&["topology", "check"], &settings);
                if output.status.success() {
                    Ok(())
                } else {
                    Err(said(&output))
                }
            })
            .await;
        }
    }
}
