//! `history.url`: a database that cannot be used as it is.

use std::fs;

use harness::eventually::eventually;
use harness::nats::NatsServer;
use harness::ports::free_port;
use harness::postgres::PostgresCluster;
use harness::rest::RestClient;
use harness::roles::{RoleProcess, Settings};
use sqlx::{Connection, Executor, SqliteConnection};

use super::{names, no_history, run, settings};

/// What needs the history, and cannot wait for it as roles do.
const COMMANDS: [&[&str]; 2] = [&["projection", "rebuild"], &["projection", "verify"]];

#[tokio::test]
async fn one_that_is_no_url_is_a_matter_of_configuration() {
    let nats = NatsServer::start().await;
    for url in [
        "mysql://user:hunter2@localhost/x",
        "sqlite:",
        "sqlite:a.db?mode=sideways",
        "postgres://user:hunter2@host:port/x",
        "postgres://user:hunter2@localhost/x?sslmode=perhaps",
    ] {
        for arguments in [&["projector"][..], &["api"], COMMANDS[0], COMMANDS[1]] {
            let (code, said) = run(arguments, &settings(&nats.url(), url)).await;
            assert_eq!(code, Some(64), "{url}: {said}");
            assert!(said.contains("history.url"), "{url}: {said}");
            assert!(!said.contains("hunter2"), "{url}: {said}");
        }
    }
}

#[tokio::test]
async fn one_in_a_directory_that_does_not_exist() {
    let nats = NatsServer::start().await;
    let (dir, _) = no_history();
    let missing = dir.path().join("missing");
    let url = format!("sqlite:{}", missing.join("history.db").display());
    for arguments in [&["projector"][..], COMMANDS[0], COMMANDS[1]] {
        let (code, said) = run(arguments, &settings(&nats.url(), &url)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("history.url") && said.contains(missing.to_str().unwrap()),
            "{said}"
        );
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[tokio::test]
async fn one_that_does_not_let_in() {
    let nats = NatsServer::start().await;
    let postgres = PostgresCluster::shared().await.database().await;
    let (server, database) = postgres.rsplit_once('/').unwrap();
    let nowhere = format!("postgres://user:hunter2@127.0.0.1:{}/x", free_port());
    let nobody = server.replace("postgres@", "nobody:hunter2@");
    for url in [
        nowhere,
        format!("{nobody}/{database}"),
        format!("{server}/no_such_database"),
    ] {
        for arguments in COMMANDS {
            let (code, said) = run(arguments, &settings(&nats.url(), &url)).await;
            assert_eq!(code, Some(1), "{url}: {said}");
            assert!(said.contains("history.url"), "{url}: {said}");
            assert!(!said.contains("hunter2"), "{url}: {said}");
        }
    }
}

#[tokio::test]
async fn one_that_is_no_database_stays_as_it_is() {
    let nats = NatsServer::start().await;
    let (dir, url) = no_history();
    let path = dir.path().join("history.db");
    let text = "Dear diary, today nobody delivered anything. ".repeat(100);
    fs::write(&path, &text).unwrap();
    for arguments in COMMANDS {
        let (code, said) = run(arguments, &settings(&nats.url(), &url)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("history.url"), "{said}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

async fn migrations(database: &mut SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations")
        .fetch_one(database)
        .await
        .unwrap()
}

#[tokio::test]
async fn one_of_a_newer_schema() {
    let nats = NatsServer::start().await;
    let (_dir, url) = no_history();
    drop(RoleProcess::start("projector", &Settings::new(&nats.url(), &url)).await);
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99999, 'from the future', TRUE, x'00', 0)";
    database.execute(newer).await.unwrap();
    let before = migrations(&mut database).await;

    for arguments in [&["projector"][..], COMMANDS[0], COMMANDS[1]] {
        let (code, said) = run(arguments, &settings(&nats.url(), &url)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("history.url") && said.contains("99999"), "{said}");
    }

    assert_eq!(migrations(&mut database).await, before);
}

#[tokio::test]
async fn one_that_is_locked() {
    let nats = NatsServer::start().await;
    let (_dir, url) = no_history();
    let mut holder = SqliteConnection::connect(&format!("{url}?mode=rwc"))
        .await
        .unwrap();
    holder.execute("BEGIN EXCLUSIVE").await.unwrap();
    let settings = settings(&nats.url(), &url);
    assert_eq!(run(&["topology", "apply"], &settings).await.0, Some(0));

    let (code, said) = run(&["projection", "rebuild"], &settings).await;

    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("history.url") && said.contains("locked"), "{said}");

    // A projector waits for the lock instead: whoever holds it may let go.
    let projector = RoleProcess::spawn("projector", &settings);
    let answered = eventually("it says what is missing", || async {
        let admin = RestClient::new(projector.admin_url(), None);
        admin.try_get("/readyz").await
    })
    .await;
    assert_eq!(answered.status, 503);
    holder.execute("ROLLBACK").await.unwrap();
    projector.ready().await;
}
