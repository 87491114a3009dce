//! A start that cannot succeed says which setting is to blame, and leaves nothing behind.

use std::process::Output;

use harness::nats::{NatsServer, impostor};
use harness::ports::free_port;
use harness::roles::{Settings, command};
use sqlx::{Connection, Executor, SqliteConnection};

fn settings(nats_url: &str, history_url: &str) -> Settings {
    Settings::new(nats_url, history_url)
        .set("listen.api", "127.0.0.1:0")
        .set("listen.admin", "127.0.0.1:0")
        .set("log.connect_timeout", "1s")
        .set("log.request_timeout", "1s")
        .set("history.acquire_timeout", "300ms")
}

/// The exit code of the binary and what it printed, while the test's own tasks go on.
async fn run(arguments: &'static [&'static str], settings: &Settings) -> (Option<i32>, String) {
    let settings = settings.clone();
    let run = tokio::task::spawn_blocking(move || command(arguments, &settings));
    let Output {
        status,
        stdout,
        stderr,
    } = run.await.unwrap();
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr),
    )
}

#[tokio::test]
async fn every_problem_of_the_configuration_is_told_at_once() {
    let settings = settings("nats://127.0.0.1:4222", "mysql://localhost/x")
        .set("api.admin_key", "short")
        .set("log.partitions", "65")
        .set("egress.allow_cidrs", "10.0.0.0/33")
        .set("api.no_such_key", "1");
    let (code, said) = run(&["api"], &settings).await;
    assert_eq!(code, Some(64), "{said}");
    for key in [
        "history.url",
        "api.admin_key",
        "log.partitions",
        "egress.allow_cidrs",
        "api.no_such_key",
    ] {
        assert!(said.contains(key), "{key} is not in: {said}");
    }
    assert!(!said.contains("short"), "a secret is shown: {said}");
}

#[tokio::test]
async fn bad_usage_is_told_apart() {
    let output = command(
        &["serve", "--role", "postman"],
        &settings("nats://127.0.0.1:4222", "sqlite:x.db"),
    );
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn wrong_log_url() {
    let nobody = format!("nats://user:hunter2@127.0.0.1:{}", free_port());
    for (url, code) in [("http://127.0.0.1:4222", None), (&*nobody, Some(1))] {
        let (found, said) = run(&["dispatcher"], &settings(url, "sqlite:unused.db")).await;
        // A URL that can never work is a matter of configuration, one that nobody answers one of the run time.
        assert!(
            found == code || code.is_none() && matches!(found, Some(1 | 64)),
            "{found:?}: {said}"
        );
        assert!(said.contains("log.url") || said.contains("127.0.0.1"), "{said}");
        assert!(!said.contains("hunter2"), "the password is shown: {said}");
    }
}

#[tokio::test]
async fn too_old_nats_server() {
    let url = impostor("2.12.8").await;
    let (code, said) = run(&["dispatcher"], &settings(&url, "sqlite:unused.db")).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2.12.8") && said.contains("2.14"), "{said}");
}

#[tokio::test]
async fn history_in_a_directory_that_does_not_exist() {
    let nats = NatsServer::start().await;
    let (code, said) = run(
        &["projector"],
        &settings(&nats.url(), "sqlite:/nonexistent/dir/history.db"),
    )
    .await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("history.url") && said.contains("/nonexistent/dir"),
        "{said}"
    );
}

async fn migrations(database: &mut SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations")
        .fetch_one(database)
        .await
        .unwrap()
}

#[tokio::test]
async fn history_of_a_newer_schema() {
    let nats = NatsServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("history.db").display());
    drop(harness::roles::RoleProcess::start("projector", &Settings::new(&nats.url(), &url)).await);
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99999, 'from the future', TRUE, x'00', 0)";
    database.execute(newer).await.unwrap();
    let before = migrations(&mut database).await;

    let (code, said) = run(&["projector"], &settings(&nats.url(), &url)).await;

    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("99999"), "{said}");
    assert_eq!(migrations(&mut database).await, before);
}

#[tokio::test]
async fn history_that_is_locked() {
    let nats = NatsServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let mut holder = SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", path.display()))
        .await
        .unwrap();
    holder.execute("BEGIN EXCLUSIVE").await.unwrap();
    let settings = settings(&nats.url(), &format!("sqlite:{}", path.display()));

    assert_eq!(run(&["topology", "apply"], &settings).await.0, Some(0));

    let (code, said) = run(&["projection", "rebuild"], &settings).await;

    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("locked"), "{said}");

    // A projector waits for the lock instead: whoever holds it may let go.
    let projector = harness::roles::RoleProcess::spawn("projector", &settings);
    let answered = harness::eventually::eventually("it says what is missing", || async {
        let admin = harness::rest::RestClient::new(projector.admin_url(), None);
        admin.try_get("/readyz").await
    })
    .await;
    assert_eq!(answered.status, 503);
    holder.execute("ROLLBACK").await.unwrap();
    projector.ready().await;
}
