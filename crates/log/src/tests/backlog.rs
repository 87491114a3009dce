use std::time::Duration;

use async_nats::jetstream::stream::{Config, Info, Source};
use cuitty_webhooks_domain::delivery::Requested;
use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::fixtures::{due, endpoint_id, now, requested};
use crate::subjects::{Subject, partition_of};
use crate::testing::{NatsServer, eventually};
use crate::topology::STREAM;
use crate::{CodecError, Log, LogError, WorkEvent, WorkRead, codec};

/// A stream that stands for a replica which answers direct reads.
const REPLICA: &str = "REPLICA";

/// `count` messages to each of `endpoints` endpoints, one endpoint after the other: message `m` to endpoint `e` is at
/// sequence `m * endpoints + e + 1`.
async fn append(log: &Log, endpoints: u64, count: u64) -> Vec<Requested> {
    let requests: Vec<_> = (0..count)
        .flat_map(|message| (0..endpoints).map(move |endpoint| requested(message, endpoint)))
        .collect();
    log.append_requested(&requests).await.unwrap();
    requests
}

async fn read(log: &Log, endpoint: u64, from: u64, max_items: usize, max_bytes: usize) -> WorkRead {
    let project_id = "acme".parse().unwrap();
    log.read_work(&project_id, endpoint_id(endpoint), from, max_items, max_bytes)
        .await
        .unwrap()
}

fn sequences(read: &WorkRead) -> Vec<u64> {
    read.items.iter().map(|(sequence, _)| *sequence).collect()
}

/// Stores `body` as work of endpoint `endpoint`.
async fn store(log: &Log, endpoint: u64, due: bool, body: Vec<u8>) -> u64 {
    let subject = Subject::Work {
        partition: partition_of(endpoint_id(endpoint), log.partitions()),
        project_id: "acme".parse().unwrap(),
        endpoint_id: endpoint_id(endpoint),
        due,
    };
    let stored = log.jetstream().publish(subject.to_string(), body.into()).await;
    stored.unwrap().await.unwrap().sequence
}

#[tokio::test]
async fn an_endpoints_work_is_read_in_order_up_to_the_tail() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests = append(&log, 3, 10).await;
    let first = read(&log, 1, 0, 4, usize::MAX).await;
    assert_eq!(sequences(&first), [2, 5, 8, 11]);
    assert_eq!((first.end, first.at_tail), (11, false));
    let rest = read(&log, 1, first.end + 1, 6, usize::MAX).await;
    assert_eq!(sequences(&rest), [14, 17, 20, 23, 26, 29]);
    assert_eq!((rest.end, rest.at_tail), (29, true));
    for (sequence, event) in first.items.into_iter().chain(rest.items) {
        let request = requests[sequence as usize - 1].clone();
        assert_eq!(event, WorkEvent::Requested(Box::new(request)));
    }
    let nothing = WorkRead {
        items: Vec::new(),
        end: 29,
        at_tail: true,
    };
    assert_eq!(read(&log, 1, 30, 10, usize::MAX).await, nothing);
    assert_eq!(
        read(&log, 7, 30, 10, usize::MAX).await,
        nothing,
        "an endpoint without work"
    );
    append(&log, 2, 1).await;
    assert_eq!(
        sequences(&read(&log, 1, 30, 10, usize::MAX).await),
        [] as [u64; 0],
        "a duplicate was stored"
    );
    log.append_requested(&[requested(10, 1)]).await.unwrap();
    let more = read(&log, 1, 30, 10, usize::MAX).await;
    assert_eq!((sequences(&more), more.at_tail), (vec![31], true));
}

#[tokio::test]
async fn a_read_ends_with_the_item_that_reaches_its_bytes() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..5)
        .map(|message| Requested {
            payload: vec![b'x'; 10_000].into(),
            ..requested(message, 1)
        })
        .collect();
    log.append_requested(&requests).await.unwrap();
    assert_eq!(sequences(&read(&log, 1, 1, 100, 25_000).await), [1, 2, 3]);
    let one = read(&log, 1, 4, 100, 0).await;
    assert_eq!((sequences(&one), one.at_tail), (vec![4], false), "always one");
    let last = read(&log, 1, 5, 0, 1).await;
    assert_eq!((sequences(&last), last.at_tail), (vec![5], true));
}

#[tokio::test]
async fn retries_and_poison_are_part_of_the_work() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let request = requested(1, 1);
    log.append_requested(std::slice::from_ref(&request))
        .await
        .unwrap();
    let retry = due(&request, now());
    store(&log, 1, true, codec::encode_due(&retry).into()).await;
    store(&log, 1, false, vec![1]).await;
    let read = read(&log, 1, 1, 10, usize::MAX).await;
    assert_eq!(sequences(&read), [1, 2, 3]);
    assert_eq!(read.items[1].1, WorkEvent::Due(retry));
    let poison = &read.items[2].1;
    assert!(
        matches!(poison, WorkEvent::Unreadable(CodecError::Malformed(_))),
        "{poison:?}"
    );
}

#[tokio::test]
async fn a_replica_that_is_behind_is_not_believed_about_the_tail() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    append(&log, 2, 3).await;
    let _replica = replica_that_stays_behind(&log).await;
    log.append_requested(&[requested(3, 0), requested(3, 1), requested(4, 1)])
        .await
        .unwrap();
    let known = read(&log, 1, 1, 10, usize::MAX).await;
    assert_eq!((sequences(&known), known.at_tail), (vec![2, 4, 6], false));
    let unknown = read(&log, 1, known.end + 1, 10, usize::MAX).await;
    assert_eq!(
        (sequences(&unknown), unknown.end),
        (vec![8], 8),
        "the leader's next item"
    );
    assert!(!unknown.at_tail);
    let last = read(&log, 1, 9, 10, usize::MAX).await;
    assert_eq!(
        (sequences(&last), last.at_tail),
        (vec![9], false),
        "the next read tells"
    );
    let end = read(&log, 1, 10, 10, usize::MAX).await;
    assert_eq!((sequences(&end), end.end, end.at_tail), (vec![], 9, true));
}

/// Has direct reads answered by a replica that has what the log holds now and learns nothing more.
async fn replica_that_stays_behind(log: &Log) -> AbortOnDropHandle<()> {
    let found = log.stream_info(STREAM).await.unwrap().unwrap();
    let config = Config {
        allow_direct: false,
        ..found.config
    };
    let updated = log
        .js_api::<_, Info>(&format!("STREAM.UPDATE.{STREAM}"), &config)
        .await;
    updated.unwrap().unwrap();
    let mut mirror = Config {
        name: REPLICA.into(),
        allow_direct: true,
        mirror: Some(Source {
            name: STREAM.into(),
            ..Source::default()
        }),
        ..Config::default()
    };
    log.jetstream().create_stream(mirror.clone()).await.unwrap();
    eventually("the replica has everything", async || {
        let replica = log.stream_info(REPLICA).await.unwrap().unwrap();
        replica.state.last_sequence == found.state.last_sequence
    })
    .await;
    mirror.mirror = None;
    log.jetstream().update_stream(&mirror).await.unwrap();
    let client = log.client().clone();
    let mut reads = client
        .subscribe(format!("$JS.API.DIRECT.GET.{STREAM}"))
        .await
        .unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(read) = reads.next().await {
            let subject = format!("$JS.API.DIRECT.GET.{REPLICA}");
            let passed = client.publish_with_reply(subject, read.reply.unwrap(), read.payload);
            passed.await.unwrap();
        }
    }))
}

#[tokio::test]
async fn reading_goes_on_when_the_server_was_killed() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    append(&log, 2, 100).await;
    let first = read(&log, 1, 1, 30, usize::MAX).await;
    server.kill();
    let reading = tokio::spawn({
        let log = log.clone();
        async move { read(&log, 1, first.end + 1, 1000, usize::MAX).await }
    });
    server.restart().await;
    let rest = reading.await.unwrap();
    assert_eq!(
        (first.items.len(), rest.items.len(), rest.at_tail),
        (30, 70, true)
    );
    assert_eq!(sequences(&rest)[0], first.end + 2);
}

#[tokio::test]
async fn without_a_server_a_read_fails_after_its_time() {
    let mut server = NatsServer::start().await;
    let mut config = server.config();
    config.request_timeout = Duration::from_millis(300);
    let log = Log::connect(config).await.unwrap();
    log.ensure().await.unwrap();
    server.kill();
    let project_id = "acme".parse().unwrap();
    let failed = log.read_work(&project_id, endpoint_id(1), 1, 10, 1000).await;
    assert!(matches!(failed, Err(LogError::Unavailable(_))), "{failed:?}");
}
