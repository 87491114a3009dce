//! The history's contract, the same for SQLite and PostgreSQL.

mod folding;
mod given;
mod lists;
mod opening;
mod replay;
mod upkeep;

use std::pin::pin;
use std::time::Duration;

use cuitty_webhooks_domain::attempt::ErrorClass;
use cuitty_webhooks_history::{Batch, HistoryError, Store, StoreConfig};
use harness::eventually::{eventually, is};
use harness::postgres::PostgresCluster;
use rand::RngExt;
use sqlx::{Connection, Executor};
use tempfile::TempDir;

use given::{Given, Whole, apply_split, batch, causal};

/// An empty database of its own, gone when dropped.
pub(crate) struct Fresh {
    config: StoreConfig,
    _dir: Option<TempDir>,
}

pub(crate) fn fresh_sqlite() -> Fresh {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("history.db").display());
    Fresh {
        config: StoreConfig {
            url,
            ..StoreConfig::default()
        },
        _dir: Some(dir),
    }
}

pub(crate) async fn fresh_postgres() -> Fresh {
    let url = PostgresCluster::shared().await.database().await;
    Fresh {
        config: StoreConfig {
            url,
            max_connections: 5,
            ..StoreConfig::default()
        },
        _dir: None,
    }
}

/// Runs each function once per backend.
macro_rules! contract {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let fresh = crate::history::fresh_sqlite();
                super::$name(&fresh.config).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let fresh = crate::history::fresh_postgres().await;
                super::$name(&fresh.config).await;
            })*
        }
    };
}
pub(crate) use contract;

contract! {
    any_split_gives_the_same_rows
    applying_twice_changes_nothing
    an_interrupted_batch_is_written_whole_or_not_at_all
    a_batch_that_fails_midway_changes_nothing
    one_of_two_writers_wins
    a_snapshot_stays_as_it_was
    waiting_ends_with_the_checkpoint
    waiting_notices_a_reset_by_another_process
    a_reset_empties_everything
}

/// Runs a statement as somebody else.
async fn execute(config: &StoreConfig, statement: &'static str) {
    if config.url.starts_with("sqlite:") {
        sqlx::SqliteConnection::connect(&config.url)
            .await
            .unwrap()
            .execute(statement)
            .await
            .unwrap();
    } else {
        sqlx::PgConnection::connect(&config.url)
            .await
            .unwrap()
            .execute(statement)
            .await
            .unwrap();
    }
}

async fn any_split_gives_the_same_rows(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    for seed in 0..12 {
        let mut given = Given::new(seed);
        let length = given.rng.random_range(1..80);
        let events = given.log(length);
        store.reset().await.unwrap();
        apply_split(&store, &events, &[]).await;
        let at_once = Whole::of(&store).await;

        store.reset().await.unwrap();
        let one_by_one: Vec<_> = (1..events.len()).collect();
        apply_split(&store, &events, &one_by_one).await;
        assert_eq!(Whole::of(&store).await, at_once, "seed {seed}, one by one");

        for _ in 0..3 {
            let ends: Vec<_> = one_by_one
                .iter()
                .copied()
                .filter(|_| given.rng.random_bool(0.15))
                .collect();
            store.reset().await.unwrap();
            apply_split(&store, &events, &ends).await;
            assert_eq!(
                Whole::of(&store).await,
                at_once,
                "seed {seed}, batches that end at {ends:?}"
            );
        }
    }
}

#[tokio::test]
async fn both_backends_hold_the_same_rows() {
    let (sqlite, postgres) = (fresh_sqlite(), fresh_postgres().await);
    let stores = [
        Store::open(&sqlite.config).await.unwrap(),
        Store::open(&postgres.config).await.unwrap(),
    ];
    for seed in 100..112 {
        let events = Given::new(seed).log(60);
        for store in &stores {
            store.reset().await.unwrap();
            apply_split(store, &events, &[20, 40]).await;
        }
        assert_eq!(
            Whole::of(&stores[0]).await,
            Whole::of(&stores[1]).await,
            "seed {seed}"
        );
    }
}

async fn applying_twice_changes_nothing(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    for seed in 200..210 {
        let events = causal(Given::new(seed).log(60));
        store.reset().await.unwrap();
        let once = batch(0, &events);
        store.apply(&once).await.unwrap();
        let whole = Whole::of(&store).await;
        let again = Batch {
            expected_checkpoint: once.checkpoint,
            ..once
        };
        let stats = store.apply(&again).await.unwrap();
        assert_eq!((stats.created, stats.updated), (0, 0), "seed {seed}");
        assert_eq!(Whole::of(&store).await, whole, "seed {seed}");
    }
}

/// Polls a future at most this often, then drops it.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

async fn an_interrupted_batch_is_written_whole_or_not_at_all(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(6);
    let mut events = Vec::new();
    for _ in 0..3 {
        let before = Whole::of(&store).await;
        let more = given.log(30);
        let next = batch(before.checkpoint, &more);
        for polls in 1.. {
            let outcome = polled(polls, store.apply(&next)).await;
            let whole = Whole::of(&store).await;
            if whole.checkpoint == next.checkpoint {
                break;
            }
            assert!(outcome.is_none(), "{outcome:?}");
            assert_eq!(whole, before, "dropped after {polls} polls");
        }
        events.extend(more);
    }
    let interrupted = Whole::of(&store).await;
    store.reset().await.unwrap();
    apply_split(&store, &events, &[]).await;
    assert_eq!(Whole::of(&store).await, interrupted);
}

async fn a_batch_that_fails_midway_changes_nothing(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let mut given = Given::new(11);
    store.apply(&batch(0, &given.log(30))).await.unwrap();
    let before = Whole::of(&store).await;
    let next = batch(before.checkpoint, &given.log(30));
    // Attempts are written after deliveries and checkpoint.
    let (obstruct, clear) = if config.url.starts_with("sqlite:") {
        (
            "CREATE TRIGGER obstacle BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'no'); END",
            "DROP TRIGGER obstacle",
        )
    } else {
        (
            "ALTER TABLE attempts ADD CONSTRAINT obstacle CHECK (false) NOT VALID",
            "ALTER TABLE attempts DROP CONSTRAINT obstacle",
        )
    };
    execute(config, obstruct).await;
    let error = store.apply(&next).await.unwrap_err();
    assert!(matches!(error, HistoryError::Refused(_)), "{error:?}");
    assert_eq!(Whole::of(&store).await, before);
    execute(config, clear).await;
    store.apply(&next).await.unwrap();
    assert_eq!(store.checkpoint().await.unwrap(), next.checkpoint);
}

async fn one_of_two_writers_wins(config: &StoreConfig) {
    let stores = [
        Store::open(config).await.unwrap(),
        Store::open(config).await.unwrap(),
    ];
    let mut given = Given::new(7);
    let mut checkpoint = 0;
    for _ in 0..10 {
        let rivals = [given.log(10), given.log(10)];
        let batches = [batch(checkpoint, &rivals[0]), batch(checkpoint, &rivals[1])];
        let (a, b) = tokio::join!(stores[0].apply(&batches[0]), stores[1].apply(&batches[1]));
        let winner = usize::from(b.is_ok());
        assert!(a.is_ok() != b.is_ok(), "{a:?}, {b:?}");
        let loser = if winner == 0 { b } else { a }.unwrap_err();
        assert!(
            matches!(loser, HistoryError::CheckpointMoved { expected, actual }
                if expected == checkpoint && actual == batches[winner].checkpoint),
            "{loser:?}"
        );
        checkpoint = batches[winner].checkpoint;
        assert_eq!(stores[1 - winner].checkpoint().await.unwrap(), checkpoint);
    }
}

async fn a_snapshot_stays_as_it_was(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let events = Given::new(8).log(120);
    let (first, rest) = events.split_at(60);
    apply_split(&store, first, &[]).await;
    let before = Whole::of(&store).await;
    let mut snapshot = store.snapshot().await.unwrap();
    let mut deliveries = snapshot.next_chunk(2).await.unwrap();
    let mut checkpoint = before.checkpoint;
    for event in rest.chunks(10) {
        let batch = batch(checkpoint, event);
        store.apply(&batch).await.unwrap();
        checkpoint = batch.checkpoint;
        deliveries.extend(snapshot.next_chunk(1).await.unwrap());
    }
    deliveries.extend(snapshot.next_chunk(1000).await.unwrap());
    assert_eq!(snapshot.next_chunk(1).await.unwrap(), []);
    let unmatched = snapshot.next_unmatched_chunk(1000).await.unwrap();
    let failures = snapshot.next_failures_chunk(1000).await.unwrap();
    let seen = Whole {
        checkpoint: snapshot.checkpoint(),
        deliveries,
        unmatched,
        failures,
    };
    assert_eq!(seen, before);
    assert_ne!(Whole::of(&store).await, before);
}

async fn waiting_ends_with_the_checkpoint(config: &StoreConfig) {
    let (writer, reader) = (
        Store::open(config).await.unwrap(),
        Store::open_existing(config).await.unwrap(),
    );
    let long = Duration::from_secs(30);
    assert!(reader.wait_for(0, Duration::ZERO).await.unwrap());
    assert!(!reader.wait_for(1, Duration::from_millis(20)).await.unwrap());
    let events = Given::new(9).log(30);
    let batch = batch(0, &events);
    let (applied, elsewhere, also_elsewhere, here) = tokio::join!(
        biased;
        async { writer.apply(&batch).await },
        reader.wait_for(batch.checkpoint, long),
        reader.wait_for(batch.checkpoint - 1, long),
        writer.wait_for(batch.checkpoint, long),
    );
    assert!(applied.is_ok());
    assert!(elsewhere.unwrap() && also_elsewhere.unwrap() && here.unwrap());
    assert!(
        !reader
            .wait_for(batch.checkpoint + 1, Duration::from_millis(20))
            .await
            .unwrap()
    );
}

async fn waiting_notices_a_reset_by_another_process(config: &StoreConfig) {
    let (other, reader) = (
        Store::open(config).await.unwrap(),
        Store::open_existing(config).await.unwrap(),
    );
    let batch = batch(0, &Given::new(12).log(30));
    other.apply(&batch).await.unwrap();
    let (short, long) = (Duration::from_millis(50), Duration::from_secs(30));
    assert!(reader.wait_for(batch.checkpoint, long).await.unwrap());
    other.reset().await.unwrap();
    eventually("the reader waits for the rows to come back", || async {
        is(reader.wait_for(batch.checkpoint, short).await.ok(), Some(false))
    })
    .await;
    other.apply(&batch).await.unwrap();
    assert!(reader.wait_for(batch.checkpoint, long).await.unwrap());
}

async fn a_reset_empties_everything(config: &StoreConfig) {
    let store = Store::open(config).await.unwrap();
    let events = Given::new(10).log(60);
    apply_split(&store, &events, &[]).await;
    let whole = Whole::of(&store).await;
    store.reset().await.unwrap();
    assert_eq!(
        Whole::of(&store).await,
        Whole {
            checkpoint: 0,
            deliveries: vec![],
            unmatched: vec![],
            failures: vec![]
        }
    );
    let late = store.apply(&batch(whole.checkpoint, &[])).await.unwrap_err();
    assert!(
        matches!(late, HistoryError::CheckpointMoved { actual: 0, .. }),
        "{late:?}"
    );
    apply_split(&store, &events, &[]).await;
    assert_eq!(Whole::of(&store).await, whole);
    assert!(
        whole
            .deliveries
            .iter()
            .flat_map(|detail| &detail.attempts)
            .any(|row| {
                row.attempt
                    .error
                    .as_ref()
                    .is_some_and(|error| error.class == ErrorClass::Connect)
            })
    );
}
