use cuitty_webhooks_domain::delivery::{Conclusion, FailureReason};

use super::fixtures::concluded;
use super::work::{next, requests};
use crate::testing::{NatsServer, eventually};
use crate::{PartitionBacklog, PartitionLag, topology};

#[tokio::test]
async fn what_waits_in_a_partition_is_as_old_as_its_first_item_that_was_not_pulled() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(3)).await.unwrap();
    let stored_at = async |sequence| log.get(sequence).await.unwrap().unwrap().stored_at;
    let backlog = |pending, in_flight, waiting_since| PartitionBacklog {
        lag: PartitionLag {
            partition: 2,
            pending,
            in_flight,
        },
        waiting_since,
    };
    // nats-server tells the consumer of what it has stored in its own time.
    let waiting = Some(backlog(3, 0, Some(stored_at(1).await)));
    eventually("three items wait", async || {
        log.partition_backlog(2).await.unwrap() == waiting
    })
    .await;
    let other = log.partition_backlog(1).await.unwrap().unwrap();
    assert_eq!((other.lag.pending, other.waiting_since), (0, None));

    let mut work = log.work(2).await.unwrap();
    for _ in 0..3 {
        next(&mut work).await;
    }
    let found = log.partition_backlog(2).await.unwrap();
    assert_eq!(found, Some(backlog(0, 3, None)));
    assert_eq!(log.partition_backlog(99).await.unwrap(), None);
}

#[tokio::test]
async fn the_time_of_what_comes_next_is_told_whatever_was_removed_before_it() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&requests(3)).await.unwrap();
    let stream = log.stream(topology::STREAM).await.unwrap();
    stream.delete_message(1).await.unwrap();
    let second = log.get(2).await.unwrap().unwrap().stored_at;
    for sequence in [0, 1, 2] {
        assert_eq!(log.stored_at(sequence).await.unwrap(), Some(second));
    }
    assert_eq!(log.stored_at(4).await.unwrap(), None);
}

#[tokio::test]
async fn storage_is_told_of_every_stream_of_the_topology() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let request = requests(1);
    log.append_requested(&request).await.unwrap();
    let mut ended = concluded(&request[0], 1);
    ended.conclusion = Conclusion::Failed {
        reason: FailureReason::Exhausted,
    };
    log.append_concluded(&ended).await.unwrap();

    let checked = log.check().await.unwrap().streams;
    let names: Vec<_> = checked.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, topology::STREAMS);
    let storage = log.storage().await.unwrap();
    let names: Vec<_> = storage.streams.iter().map(|stream| stream.name).collect();
    assert_eq!(names, topology::STREAMS);
    let events = &storage.streams[0];
    assert_eq!((events.messages, events.max_age), (2, log.config().max_age));
    assert_eq!((events.current_replicas, events.other_replicas), (1, 0));
    assert_eq!(events.oldest, log.stored_at(1).await.unwrap());
    assert!(storage.used >= events.bytes && events.bytes > 0, "{storage:?}");
    assert_eq!(storage.limit, None);
}
