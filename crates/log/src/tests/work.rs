use std::collections::BTreeSet;
use std::time::Duration;

use cuitty_webhooks_domain::delivery::Requested;
use cuitty_webhooks_domain::ids::DeliveryId;
use tokio::time::{Instant, timeout};

use super::fixtures::{endpoint_id, requested};
use crate::subjects::partition_of;
use crate::testing::{NatsServer, SOON, eventually, never_within};
use crate::{CodecError, Log, PartitionLag, WorkEvent, WorkItem, WorkStream};

/// `count` messages to an endpoint of partition 2 of 4.
pub(super) fn requests(count: u64) -> Vec<Requested> {
    let endpoint = (0..1000)
        .find(|&number| partition_of(endpoint_id(number), 4) == 2)
        .unwrap();
    (0..count).map(|message| requested(message, endpoint)).collect()
}

pub(super) async fn next(work: &mut WorkStream) -> WorkItem {
    let next = timeout(SOON, async {
        loop {
            // Errors tell that the server is being started again.
            if let Ok(item) = work.next().await {
                return item;
            }
        }
    });
    next.await.expect("no work came")
}

fn idle(partition: u16) -> PartitionLag {
    PartitionLag {
        partition,
        pending: 0,
        in_flight: 0,
    }
}

pub(super) async fn all_is_done(log: &Log) {
    eventually("all is done", async || {
        log.consumer_lag().await.unwrap() == [0, 1, 2, 3].map(idle)
    })
    .await;
}

fn delivery(item: &WorkItem) -> DeliveryId {
    match &item.event {
        WorkEvent::Requested(request) => request.delivery.delivery_id,
        other => panic!("not a request: {other:?}"),
    }
}

#[tokio::test]
async fn work_comes_to_its_partition_in_order_and_stays_done() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests = requests(5);
    log.append_requested(&requests).await.unwrap();
    let (mut other, mut work) = (log.work(1).await.unwrap(), log.work(2).await.unwrap());
    for (index, request) in requests.iter().enumerate() {
        let item = next(&mut work).await;
        assert_eq!((item.sequence, item.delivered), (index as u64 + 1, 1));
        assert_eq!(item.event, WorkEvent::Requested(Box::new(request.clone())));
        item.acker.ack().await.unwrap();
    }
    let ack_wait = log.config().ack_wait;
    never_within(ack_wait * 3 / 2, "work came again", work.next()).await;
    never_within(
        Duration::from_millis(10),
        "work of another partition came",
        other.next(),
    )
    .await;
    assert_eq!(log.consumer_lag().await.unwrap(), [0, 1, 2, 3].map(idle));
}

#[tokio::test]
async fn work_is_settled_up_to_the_first_that_is_not_acknowledged() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(3)).await.unwrap();
    let settled = async || log.settled_through().await.unwrap();
    assert_eq!(settled().await, [u64::MAX, u64::MAX, 0, u64::MAX]);
    let mut work = log.work(2).await.unwrap();
    let [first, second, third] = [
        next(&mut work).await,
        next(&mut work).await,
        next(&mut work).await,
    ];
    first.acker.ack().await.unwrap();
    third.acker.ack().await.unwrap();
    eventually("the first is settled", async || settled().await[2] == 1).await;
    second.acker.ack().await.unwrap();
    eventually("all are", async || settled().await == [u64::MAX; 4]).await;
}

#[tokio::test]
async fn work_without_a_word_comes_again_and_progress_holds_it() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(2)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    let (forgotten, held) = (next(&mut work).await, next(&mut work).await);
    let deadline = Instant::now() + Duration::from_millis(2500);
    let mut again = Vec::new();
    while Instant::now() < deadline {
        held.acker.progress().await.unwrap();
        if let Ok(item) = timeout(Duration::from_millis(200), work.next()).await {
            let item = item.unwrap();
            item.acker.ack().await.unwrap();
            again.push((item.sequence, item.delivered));
        }
    }
    assert_eq!(again, [(forgotten.sequence, 2)]);
    held.acker.ack().await.unwrap();
    all_is_done(&log).await;
}

#[tokio::test]
async fn work_put_off_comes_after_its_delay_and_terminated_work_never() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(2)).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    let (late, ended) = (next(&mut work).await, next(&mut work).await);
    let started = Instant::now();
    late.acker.nak(Duration::from_millis(300)).await.unwrap();
    ended.acker.term().await.unwrap();
    let item = next(&mut work).await;
    assert_eq!((item.sequence, item.delivered), (late.sequence, 2));
    assert!(
        started.elapsed() >= Duration::from_millis(250),
        "{:?}",
        started.elapsed()
    );
    item.acker.ack().await.unwrap();
    let ack_wait = log.config().ack_wait;
    never_within(ack_wait * 3 / 2, "terminated work came again", work.next()).await;
}

#[tokio::test]
async fn poison_is_handed_over() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let subject = format!("webhooks.work.2.acme.{}.requested", endpoint_id(1));
    log.jetstream()
        .publish(subject, "\u{1}".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let mut work = log.work(2).await.unwrap();
    let item = next(&mut work).await;
    assert!(
        matches!(item.event, WorkEvent::Unreadable(CodecError::Malformed(_))),
        "{:?}",
        item.event
    );
    // Set aside for later it is not lost: a version that can read it may come.
    item.acker.nak(Duration::from_millis(300)).await.unwrap();
    let again = next(&mut work).await;
    assert_eq!(
        (again.sequence, again.delivered, again.event),
        (item.sequence, 2, item.event)
    );
    again.acker.term().await.unwrap();
}

#[tokio::test]
async fn what_was_pulled_and_not_taken_is_handed_back_at_once() {
    let server = NatsServer::start().await;
    let log = Log::connect(crate::LogConfig {
        ack_wait: Duration::from_mins(1),
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    log.append_requested(&requests(100)).await.unwrap();
    let mut first = log.work(2).await.unwrap();
    next(&mut first).await.acker.ack().await.unwrap();
    eventually("all was pulled", async || {
        log.consumer_lag().await.unwrap()[2].pending == 0
    })
    .await;
    first.close().await;
    let mut second = log.work(2).await.unwrap();
    let mut sequences = BTreeSet::new();
    for _ in 0..99 {
        let item = next(&mut second).await;
        item.acker.ack().await.unwrap();
        sequences.insert(item.sequence);
    }
    assert_eq!(sequences, (2..=100).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_after_the_server_was_killed() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let requests = requests(2000);
    log.append_requested(&requests).await.unwrap();
    let mut work = log.work(2).await.unwrap();
    let mut done = Vec::new();
    for round in 1..=4 {
        while done.len() < 500 * round {
            let item = next(&mut work).await;
            item.acker.ack().await.unwrap();
            done.push(delivery(&item));
        }
        server.restart().await;
    }
    // Though the server forgot acknowledgements, nothing that was done came again.
    assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), 2000);
    eventually("all is done", async || {
        let again = timeout(Duration::from_millis(100), work.next()).await;
        assert!(!matches!(again, Ok(Ok(_))), "work came again");
        log.consumer_lag().await.is_ok_and(|lag| lag[2] == idle(2))
    })
    .await;
}
