//! Opening a history, and what stands in the way: each obstacle is an error of its own.

use std::time::Duration;

use cuitty_webhooks_history::{HistoryError, Store, StoreConfig};
use sqlx::{Connection, Executor};

use super::given::{Given, Whole, batch};
use super::{execute, fresh_postgres, fresh_sqlite};

super::contract! {
    many_may_open_an_empty_database_at_once
    an_unmigrated_schema_is_too_old_for_readers
    a_newer_schema_is_refused
    what_is_written_is_there_after_opening_again
}

fn impatient(config: &StoreConfig) -> StoreConfig {
    StoreConfig {
        acquire_timeout: Duration::from_millis(300),
        ..config.clone()
    }
}

fn at(url: impl Into<String>) -> StoreConfig {
    impatient(&StoreConfig {
        url: url.into(),
        ..StoreConfig::default()
    })
}

async fn many_may_open_an_empty_database_at_once(config: &StoreConfig) {
    // They wait for one another.
    let config = StoreConfig {
        acquire_timeout: Duration::from_secs(10),
        ..config.clone()
    };
    let opened = tokio::join!(
        Store::open(&config),
        Store::open(&config),
        Store::open(&config),
        Store::open(&config)
    );
    for store in [opened.0, opened.1, opened.2, opened.3] {
        let store = store.unwrap();
        assert_eq!(store.checkpoint().await.unwrap(), 0);
        store.ping().await.unwrap();
    }
}

async fn an_unmigrated_schema_is_too_old_for_readers(config: &StoreConfig) {
    let error = Store::open_existing(config).await.unwrap_err();
    if config.url.starts_with("sqlite:") {
        // There is no file yet, and a reader does not make one.
        assert!(matches!(error, HistoryError::Unreachable(_)), "{error:?}");
        let create = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(config.url.strip_prefix("sqlite:").unwrap())
            .create_if_missing(true);
        sqlx::SqliteConnection::connect_with(&create)
            .await
            .unwrap()
            .close()
            .await
            .unwrap();
    }
    let error = Store::open_existing(config).await.unwrap_err();
    assert!(
        matches!(error, HistoryError::SchemaTooOld { found: 0, known } if known > 0),
        "{error:?}"
    );
    assert!(error.is_transient());
    Store::open(config).await.unwrap();
    Store::open_existing(config).await.unwrap();
}

async fn a_newer_schema_is_refused(config: &StoreConfig) {
    drop(Store::open(config).await.unwrap());
    let from_the_future =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                           SELECT 9000, 'from the future', success, checksum, 0 FROM _sqlx_migrations
                           WHERE version = 1";
    execute(config, from_the_future).await;
    for error in [
        Store::open(config).await.unwrap_err(),
        Store::open_existing(config).await.unwrap_err(),
    ] {
        let known = 2;
        assert!(
            matches!(error, HistoryError::SchemaTooNew { found: 9000, known: newest } if newest == known),
            "{error:?}"
        );
        assert!(!error.is_transient());
    }
}

async fn what_is_written_is_there_after_opening_again(config: &StoreConfig) {
    let events = Given::new(30).log(40);
    let store = Store::open(config).await.unwrap();
    store.apply(&batch(0, &events)).await.unwrap();
    let written = Whole::of(&store).await;
    drop(store);
    assert_eq!(
        Whole::of(&Store::open_existing(config).await.unwrap()).await,
        written
    );
}

#[tokio::test]
async fn wrong_urls_are_told_apart() {
    for url in [
        "",
        "history.db",
        "mysql://localhost/x",
        "sqlite:",
        "sqlite::memory:",
        "sqlite:a.db?mode=memory",
    ] {
        let error = Store::open(&at(url)).await.unwrap_err();
        assert!(matches!(error, HistoryError::BadUrl(_)), "{url}: {error:?}");
    }
    for url in [
        "sqlite:a.db?mode=sideways",
        "postgres://host:port/x",
        "postgres://localhost/x?sslmode=perhaps",
    ] {
        let error = Store::open(&at(url)).await.unwrap_err();
        assert!(matches!(error, HistoryError::BadUrl(_)), "{url}: {error:?}");
    }
    let debug = format!("{:?}", at("postgres://ada:lovelace@localhost/history"));
    assert!(!debug.contains("lovelace") && !debug.contains("ada"), "{debug}");
}

#[tokio::test]
async fn an_sqlite_path_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = Store::open(&at(format!("sqlite:{}/history.db", missing.display())))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, HistoryError::NoDirectory(path) if *path == missing),
        "{error:?}"
    );
    assert!(!missing.exists());

    let error = Store::open(&at(format!("sqlite:{}", dir.path().display())))
        .await
        .unwrap_err();
    assert!(matches!(error, HistoryError::Unreachable(_)), "{error:?}");

    let text = dir.path().join("notes.txt");
    std::fs::write(
        &text,
        "not a database, but long enough to have a header of 100 bytes. ".repeat(40),
    )
    .unwrap();
    let error = Store::open(&at(format!("sqlite:{}", text.display())))
        .await
        .unwrap_err();
    assert!(matches!(error, HistoryError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_postgres_that_cannot_be_used_is_unreachable() {
    let fresh = fresh_postgres().await;
    let (server, _) = fresh.config.url.rsplit_once('/').unwrap();
    let closed = format!("postgres://postgres@127.0.0.1:{}/x", harness::ports::free_port());
    for url in [
        format!("{server}/no_such_database"),
        server.replace("//postgres@", "//nobody@"),
        closed,
    ] {
        let error = Store::open(&at(&url)).await.unwrap_err();
        assert!(matches!(error, HistoryError::Unreachable(_)), "{url}: {error:?}");
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn a_locked_sqlite_file_is_told_and_nothing_is_written() {
    let fresh = fresh_sqlite();
    let store = Store::open(&impatient(&fresh.config)).await.unwrap();
    let mut other = sqlx::SqliteConnection::connect(&fresh.config.url).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let events = Given::new(31).log(20);
    let error = store.apply(&batch(0, &events)).await.unwrap_err();
    assert!(matches!(error, HistoryError::Locked(_)), "{error:?}");
    assert!(error.is_transient());
    // Readers go on.
    assert!(Whole::of(&store).await.deliveries.is_empty());
    other.execute("ROLLBACK").await.unwrap();
    store.apply(&batch(0, &events)).await.unwrap();
}

#[tokio::test]
async fn a_locked_postgres_is_told_and_nothing_is_written() {
    let fresh = fresh_postgres().await;
    let config = impatient(&fresh.config);
    let store = Store::open(&config).await.unwrap();
    let mut other = sqlx::PgConnection::connect(&config.url).await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other
        .execute("SELECT 1 FROM projection_checkpoint FOR UPDATE")
        .await
        .unwrap();
    let events = Given::new(32).log(20);
    for error in [
        store.apply(&batch(0, &events)).await.unwrap_err(),
        store.reset().await.unwrap_err(),
    ] {
        assert!(matches!(error, HistoryError::Locked(_)), "{error:?}");
    }
    assert!(Whole::of(&store).await.deliveries.is_empty());
    other.execute("ROLLBACK").await.unwrap();
    store.apply(&batch(0, &events)).await.unwrap();
}
