use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv;
use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::fixtures::{endpoint_id, now};
use crate::testing::{NatsServer, SOON, eventually, never_within};
use crate::topology::LANES_BUCKET;
use crate::{HealthState, LaneHealth, LaneRecord, Lanes, Log, LogError, SavedLane};

/// What `dispatcher` saves of the lane of endpoint `endpoint`: done up to `cursor`.
fn record(endpoint: u64, dispatcher: &str, cursor: u64) -> LaneRecord {
    LaneRecord {
        endpoint_id: endpoint_id(endpoint),
        project_id: "acme".parse().unwrap(),
        partition: 1,
        detached: true,
        floor: 1,
        cursor,
        done: Vec::new(),
        outcomes_from: 0,
        health: LaneHealth {
            state: HealthState::Closed,
            since: now(),
            consecutive_failures: 0,
            probe: 0,
            next_probe_at: None,
        },
        blocked_by: None,
        dispatcher_id: dispatcher.into(),
        saved_at: now(),
    }
}

async fn lanes_of(log: &Log) -> Lanes {
    Lanes::start(log, CancellationToken::new()).await.unwrap()
}

async fn bucket(log: &Log) -> kv::Store {
    log.bucket(LANES_BUCKET).await.unwrap()
}

fn key(endpoint: u64) -> String {
    format!("lane.{}", endpoint_id(endpoint))
}

fn shown(lanes: &Lanes, endpoint: u64) -> Option<(LaneRecord, u64)> {
    let saved = lanes.get(endpoint_id(endpoint))?;
    Some((saved.record.clone(), saved.revision))
}

fn endpoints(detached: &[Arc<SavedLane>]) -> Vec<String> {
    let mut ids: Vec<_> = detached
        .iter()
        .map(|saved| saved.record.endpoint_id.to_string())
        .collect();
    ids.sort();
    ids
}

fn conflict<T: std::fmt::Debug>(result: &Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::Conflict { .. }))
}

#[tokio::test]
async fn what_is_saved_is_shown_here_at_once_and_elsewhere_after_catching_up() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (lanes, others) = (lanes_of(&log).await, lanes_of(&other).await);
    assert!(lanes.is_live());
    assert_eq!(shown(&lanes, 1), None);
    let mut last = 0;
    for cursor in 1..=50 {
        let revision = lanes.save(&record(1, "d1", cursor)).await.unwrap();
        assert!(revision > last);
        assert_eq!(shown(&lanes, 1), Some((record(1, "d1", cursor), revision)));
        last = revision;
    }
    others.catch_up(SOON).await.unwrap();
    assert_eq!(shown(&others, 1), Some((record(1, "d1", 50), last)));
    assert_eq!(
        shown(&lanes_of(&other).await, 1),
        Some((record(1, "d1", 50), last))
    );
}

#[tokio::test]
async fn detached_lanes_are_found_by_their_partition() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let lanes = lanes_of(&log).await;
    let elsewhere = LaneRecord {
        partition: 2,
        ..record(3, "d1", 1)
    };
    let attached = LaneRecord {
        detached: false,
        ..record(4, "d1", 1)
    };
    for record in [record(1, "d1", 1), record(2, "d1", 1), elsewhere, attached] {
        lanes.save(&record).await.unwrap();
    }
    let mut expected = [1, 2].map(|number| endpoint_id(number).to_string());
    expected.sort();
    for lanes in [&lanes, &lanes_of(&log).await] {
        assert_eq!(endpoints(&lanes.detached(1)), expected);
        assert_eq!(endpoints(&lanes.detached(2)), [endpoint_id(3).to_string()]);
        assert_eq!(endpoints(&lanes.detached(3)), Vec::<String>::new());
    }
}

/// The owner before, which does not know yet that it is none any more, must not undo what the next one saves, not even
/// once it can see it.
#[tokio::test]
async fn who_was_overtaken_cannot_save_before_it_was_told() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (before, after) = (lanes_of(&log).await, lanes_of(&other).await);
    before.save(&record(1, "before", 1)).await.unwrap();
    after.catch_up(SOON).await.unwrap();
    let revision = after.save(&record(1, "after", 2)).await.unwrap();
    let overtaken = Some((record(1, "after", 2), revision));
    eventually("the copy is kept", async || shown(&before, 1) == overtaken).await;
    assert!(conflict(&before.save(&record(1, "before", 3)).await));
    assert_eq!(shown(&before, 1), overtaken);
    // Told, it may.
    let revision = before.save(&record(1, "before", 3)).await.unwrap();
    assert_eq!(shown(&before, 1), Some((record(1, "before", 3), revision)));
    assert!(conflict(&after.save(&record(1, "after", 4)).await));
    assert_eq!(shown(&after, 1), Some((record(1, "before", 3), revision)));
    // And so may who takes it over.
    before.save(&record(1, "before", 4)).await.unwrap();
    after.catch_up(SOON).await.unwrap();
    after.save(&record(1, "after", 5)).await.unwrap();
}

#[tokio::test]
async fn a_lane_that_somebody_else_saved_first_is_not_overwritten() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (lanes, others) = (lanes_of(&log).await, lanes_of(&other).await);
    let (one, two) = (record(1, "d1", 1), record(1, "d2", 2));
    let (one, two) = tokio::join!(lanes.save(&one), others.save(&two));
    assert_eq!([&one, &two].map(conflict).iter().filter(|&&lost| lost).count(), 1);
    assert!(shown(&lanes, 1).is_some() && shown(&lanes, 1) == shown(&others, 1));
}

#[tokio::test]
async fn a_save_whose_answer_was_lost_is_recognised_when_it_is_repeated() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let lanes = lanes_of(&log).await;
    let first = lanes.save(&record(1, "d1", 1)).await.unwrap();
    let text = serde_json::to_vec(&record(1, "d1", 2)).unwrap();
    let lost = bucket(&log)
        .await
        .update(key(1), text.into(), first)
        .await
        .unwrap();
    assert_eq!(lanes.save(&record(1, "d1", 2)).await, Ok(lost));
    assert!(lanes.save(&record(1, "d1", 3)).await.is_ok());
}

#[tokio::test]
async fn a_save_outlasts_a_restart_of_the_server_and_the_copy_is_kept_live() {
    let mut server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (lanes, others) = (lanes_of(&log).await, lanes_of(&other).await);
    lanes.save(&record(1, "d1", 1)).await.unwrap();
    server.kill();
    let saving = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.save(&record(1, "d1", 2)).await }
    });
    let short = Duration::from_millis(200);
    assert!(matches!(
        others.catch_up(short).await,
        Err(LogError::Unavailable(_))
    ));
    server.restart().await;
    let revision = saving.await.unwrap().unwrap();
    others.catch_up(SOON).await.unwrap();
    assert_eq!(shown(&others, 1), Some((record(1, "d1", 2), revision)));
    assert!(others.is_live());
}

#[tokio::test]
async fn a_forgotten_lane_is_gone_and_may_be_saved_anew() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (lanes, others) = (lanes_of(&log).await, lanes_of(&other).await);
    lanes.save(&record(1, "d1", 1)).await.unwrap();
    lanes.save(&record(1, "d1", 2)).await.unwrap();
    lanes.forget(endpoint_id(1)).await.unwrap();
    // There is none, which is as good.
    for number in [1, 2] {
        lanes.forget(endpoint_id(number)).await.unwrap();
    }
    assert_eq!((shown(&lanes, 1), lanes.detached(1)), (None, vec![]));
    others.catch_up(SOON).await.unwrap();
    assert_eq!(shown(&others, 1), None);
    let kept: Vec<_> = bucket(&log)
        .await
        .history(key(1))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(kept.len(), 1, "only that it was deleted");
    let revision = others.save(&record(1, "d2", 1)).await.unwrap();
    lanes.catch_up(SOON).await.unwrap();
    assert_eq!(shown(&lanes, 1), Some((record(1, "d2", 1), revision)));
}

#[tokio::test]
async fn the_buckets_other_entries_are_passed_over() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let bucket = bucket(&log).await;
    bucket.put("floor.1", "{}".into()).await.unwrap();
    let lanes = lanes_of(&log).await;
    lanes.catch_up(SOON).await.unwrap();
    let revision = lanes.save(&record(1, "d1", 1)).await.unwrap();
    bucket.put("floor.1", "{}".into()).await.unwrap();
    let again = lanes_of(&log).await;
    for lanes in [lanes, again] {
        lanes.catch_up(SOON).await.unwrap();
        assert_eq!(shown(&lanes, 1), Some((record(1, "d1", 1), revision)));
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_hides_no_other_and_is_repaired_by_the_next_save() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let bucket = bucket(&log).await;
    let foreign = serde_json::to_vec(&record(2, "d1", 1)).unwrap();
    bucket.put(key(1), "{".into()).await.unwrap();
    bucket.put(key(3), foreign.into()).await.unwrap();
    bucket.put("lane.nobody", "{".into()).await.unwrap();
    let lanes = lanes_of(&log).await;
    assert_eq!([1, 2, 3].map(|number| shown(&lanes, number)), [None, None, None]);
    for number in [1, 2, 3] {
        let revision = lanes.save(&record(number, "d1", 1)).await.unwrap();
        assert_eq!(shown(&lanes, number), Some((record(number, "d1", 1), revision)));
    }
}

#[tokio::test]
async fn the_last_16_values_of_a_lane_are_kept() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let lanes = lanes_of(&log).await;
    for cursor in 1..=20 {
        lanes.save(&record(1, "d1", cursor)).await.unwrap();
    }
    let kept: Vec<_> = bucket(&log)
        .await
        .history(key(1))
        .await
        .unwrap()
        .map_ok(|entry| serde_json::from_slice::<LaneRecord>(&entry.value).unwrap().cursor)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(kept, (5..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_copy_is_not_kept_after_it_was_stopped() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let stop = CancellationToken::new();
    let lanes = Lanes::start(&log, stop.clone()).await.unwrap();
    stop.cancel();
    lanes_of(&log).await.save(&record(1, "d1", 1)).await.unwrap();
    let seen = eventually("the lane is shown", async || shown(&lanes, 1).is_some());
    never_within(Duration::from_millis(300), "a stopped copy followed", seen).await;
}
