//! What comes again when a partition's durable consumer is lost.

use async_nats::jetstream::consumer::{self, DeliverPolicy};

use super::work::{all_is_done, next, requests};
use crate::testing::{NatsServer, eventually, never_within};
use crate::topology::{LANES_BUCKET, STREAM};
use crate::{Log, WorkStream};

/// Takes `count` items, and finishes all but those whose sequences are in `open`.
async fn work_on(work: &mut WorkStream, count: usize, open: &[u64]) -> Vec<u64> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let item = next(work).await;
        if !open.contains(&item.sequence) {
            item.acker.ack().await.unwrap();
        }
        taken.push(item.sequence);
    }
    taken
}

async fn lose_durable(log: &Log) {
    let lost = log.jetstream().delete_consumer_from_stream("dispatch-2", STREAM);
    lost.await.unwrap();
}

/// Where the consumer that there is now was made to start.
async fn start_of(log: &Log) -> DeliverPolicy {
    let found = log.consumer_info("dispatch-2").await.unwrap();
    found.unwrap().config.deliver_policy
}

fn from(start_sequence: u64) -> DeliverPolicy {
    DeliverPolicy::ByStartSequence { start_sequence }
}

async fn stored_floor(log: &Log) -> Option<String> {
    let stored = log
        .bucket(LANES_BUCKET)
        .await
        .unwrap()
        .get("floor.2")
        .await
        .unwrap();
    stored.map(|stored| String::from_utf8(stored.to_vec()).unwrap())
}

async fn nothing_comes(log: &Log, work: &mut WorkStream) {
    let ack_wait = log.config().ack_wait;
    never_within(ack_wait * 3 / 2, "work came that is done", work.next()).await;
}

#[tokio::test]
async fn a_durable_lost_while_it_is_worked_on_is_made_again_and_nothing_is_lost_or_done_twice() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests = requests(40);
    log.append_requested(&requests[..20]).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    let mut taken = work_on(&mut work, 20, &[]).await;
    all_is_done(&log).await;
    lose_durable(&log).await;
    log.append_requested(&requests[20..]).await.unwrap();
    taken.extend(work_on(&mut work, 20, &[]).await);
    assert_eq!(taken, (1..=40).collect::<Vec<u64>>());
    assert_eq!(start_of(&log).await, from(21));
}

#[tokio::test]
async fn a_durable_lost_with_its_worker_brings_only_what_was_not_done() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests = requests(40);
    log.append_requested(&requests[..30]).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    work_on(&mut work, 30, &[7, 12, 30]).await;
    // As a process that is killed just after it stored its floor.
    eventually("the floor is stored", async || {
        stored_floor(&log)
            .await
            .is_some_and(|floor| floor.ends_with(r#""open":[[7,0],[5,0],[18,0]]}"#))
    })
    .await;
    drop(work);
    lose_durable(&log).await;
    log.append_requested(&requests[30..]).await.unwrap();
    let other = server.log().await;
    assert_eq!(start_of(&other).await, from(7));
    let mut work = other.work(2).await.unwrap();
    let expected: Vec<_> = [7, 12].into_iter().chain(30..=40).collect();
    assert_eq!(work_on(&mut work, expected.len(), &[]).await, expected);
    nothing_comes(&other, &mut work).await;
    all_is_done(&other).await;
}

#[tokio::test]
async fn what_a_closed_stream_finished_is_known_at_once() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(20)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    work_on(&mut work, 20, &[]).await;
    work.close().await;
    lose_durable(&log).await;
    let other = server.log().await;
    assert_eq!(start_of(&other).await, from(21));
}

/// Nothing lost beats nothing repeated.
#[tokio::test]
async fn without_a_durable_and_a_floor_everything_comes_again() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(20)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    work_on(&mut work, 20, &[]).await;
    work.close().await;
    let bucket = log.bucket(LANES_BUCKET).await.unwrap();
    bucket.delete("floor.2").await.unwrap();
    lose_durable(&log).await;
    let other = server.log().await;
    assert_eq!(start_of(&other).await, DeliverPolicy::All);
    let mut work = other.work(2).await.unwrap();
    assert_eq!(work_on(&mut work, 20, &[]).await, (1..=20).collect::<Vec<u64>>());
    // From here on it is known again.
    work.close().await;
    assert!(
        stored_floor(&log)
            .await
            .is_some_and(|floor| floor.contains(r#""seen":20,"#))
    );
}

/// A worker that goes on while the stream is deleted and made anew finds sequences that it knows with other items.
#[tokio::test]
async fn a_stream_made_anew_is_worked_on_from_its_start() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(20)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    work_on(&mut work, 20, &[]).await;
    log.store_floor(2).await.unwrap();
    log.jetstream().delete_stream(STREAM).await.unwrap();
    log.ensure().await.unwrap();
    let others: Vec<_> = requests(50).split_off(30);
    log.append_requested(&others).await.unwrap();
    assert_eq!(work_on(&mut work, 20, &[]).await, (1..=20).collect::<Vec<u64>>());
    nothing_comes(&log, &mut work).await;
}

/// As after a loss of power: the last messages are gone, and their sequences are given out again.
#[tokio::test]
async fn a_floor_beyond_a_stream_that_lost_its_end_is_not_believed() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(20)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    work_on(&mut work, 20, &[]).await;
    work.close().await;
    lose_durable(&log).await;
    let stream = log.jetstream().get_stream(STREAM).await.unwrap();
    assert!(stream.delete_message(20).await.unwrap());
    let other = server.log().await;
    assert_eq!(start_of(&other).await, DeliverPolicy::All);
}

/// A durable of a version that stored no floor, or one that another worker just left.
#[tokio::test]
async fn the_floor_of_a_durable_that_is_found_is_its_own() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(20)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    work_on(&mut work, 10, &[]).await;
    drop(work);
    eventually("all words have arrived", async || {
        let found: consumer::Info = log.consumer_info("dispatch-2").await.unwrap().unwrap();
        found.ack_floor.stream_sequence == 10
    })
    .await;
    assert_eq!(stored_floor(&log).await, None);
    let other = server.log().await;
    let mut work = other.work(2).await.unwrap();
    assert_eq!(work_on(&mut work, 10, &[]).await, (11..=20).collect::<Vec<u64>>());
    work.close().await;
    lose_durable(&other).await;
    assert_eq!(start_of(&server.log().await).await, from(21));
}
