use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::{Instant, timeout};

use super::fixtures::{due, now, read_events, request_of, requested};
use crate::testing::{NatsServer, eventually};
use crate::{CodecError, EventBody};

#[tokio::test]
async fn a_batch_ends_at_its_bound_or_at_the_tail() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..30).map(|number| requested(number, 1)).collect();
    log.append_requested(&requests).await.unwrap();
    let mut reader = log.read(11);
    let wait = Duration::from_secs(10);
    let started = Instant::now();
    let first: Vec<_> = reader
        .next_batch(15, wait)
        .await
        .unwrap()
        .iter()
        .map(request_of)
        .collect();
    assert_eq!(first, requests[10..25]);
    let second: Vec<_> = reader
        .next_batch(15, wait)
        .await
        .unwrap()
        .iter()
        .map(request_of)
        .collect();
    assert_eq!(second, requests[25..]);
    assert!(
        started.elapsed() < wait / 2,
        "a batch waited for more than there was"
    );
    assert_eq!(
        reader.next_batch(15, Duration::from_millis(50)).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn the_tail_gives_new_events_only() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.append_requested(&[requested(1, 1), requested(2, 1)])
        .await
        .unwrap();
    let mut tail = log.tail().await.unwrap();
    log.append_requested(&[requested(3, 1)]).await.unwrap();
    let events = read_events(&mut tail, 1).await;
    assert_eq!((events[0].sequence, request_of(&events[0])), (3, requested(3, 1)));
}

#[tokio::test]
async fn where_the_log_stood_at_a_time_is_told() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let long_ago = now() - TimeDelta::days(365);
    assert_eq!(log.first_since(long_ago).await.unwrap(), None);
    for number in 1..=3 {
        log.append_requested(&[requested(number, 1)]).await.unwrap();
    }
    assert_eq!(log.first_since(long_ago).await.unwrap(), Some(1));
    for sequence in 1..=3 {
        let stored_at = log.get(sequence).await.unwrap().unwrap().stored_at;
        let just_after = stored_at + TimeDelta::nanoseconds(1);
        assert_eq!(log.first_since(stored_at).await.unwrap(), Some(sequence));
        let next = (sequence < 3).then_some(sequence + 1);
        assert_eq!(log.first_since(just_after).await.unwrap(), next);
    }
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let mut reader = log.read(0);
    let requests: Vec<_> = (0..200).map(|number| requested(number, 1)).collect();
    let appending = tokio::spawn({
        let (log, requests) = (log.clone(), requests.clone());
        async move {
            for request in requests {
                log.append_requested(&[request]).await.unwrap();
            }
        }
    });
    let mut read = Vec::new();
    let deadline = Instant::now() + crate::testing::SOON;
    while read.len() < requests.len() {
        assert!(Instant::now() < deadline, "only {} events came", read.len());
        let batch = timeout(
            Duration::from_micros(700),
            reader.next_batch(1000, Duration::from_secs(1)),
        )
        .await;
        read.extend(
            batch
                .map(Result::unwrap)
                .unwrap_or_default()
                .iter()
                .map(request_of),
        );
    }
    appending.await.unwrap();
    assert_eq!(read, requests);
}

#[tokio::test]
async fn timers_and_poison_are_told_apart_from_facts() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let mut reader = log.read(1);
    log.arm_timer(&due(&requested(1, 1), now() + Duration::from_hours(24 * 365)))
        .await
        .unwrap();
    for (subject, body) in [
        ("webhooks.message.acme.unmatched", "\u{1}"),
        ("webhooks.work.0.acme.ep_x.requested", ""),
        ("webhooks.message.acme.unmatched", ""),
    ] {
        log.jetstream()
            .publish(subject, body.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let bodies: Vec<_> = read_events(&mut reader, 4)
        .await
        .into_iter()
        .map(|event| event.body)
        .collect();
    assert_eq!(bodies[0], EventBody::Timer);
    assert!(
        matches!(bodies[1], EventBody::Unreadable(CodecError::Malformed(_))),
        "{:?}",
        bodies[1]
    );
    assert!(
        matches!(bodies[2], EventBody::Unreadable(CodecError::Subject(_))),
        "{:?}",
        bodies[2]
    );
    assert!(
        matches!(
            bodies[3],
            EventBody::Unreadable(CodecError::Invalid {
                field: "message_id",
                ..
            })
        ),
        "{:?}",
        bodies[3]
    );
}

/// Payloads whose sum is far beyond what is pulled ahead.
#[tokio::test]
async fn large_messages_are_all_read() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..150)
        .map(|number| {
            let mut request = requested(number, 1);
            request.payload = vec![number as u8; 256 * 1024].into();
            request
        })
        .collect();
    log.append_requested(&requests).await.unwrap();
    let read = read_events(&mut log.read(1), 150).await;
    assert!(read.iter().map(request_of).eq(requests));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_out_when_the_server_is_killed_in_the_middle() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..3000).map(|number| requested(number, number % 7)).collect();
    let appending = tokio::spawn({
        let (log, requests) = (log.clone(), requests.clone());
        async move {
            for chunk in requests.chunks(50) {
                log.append_requested(chunk).await.unwrap();
            }
        }
    });
    let mut reader = log.read(1);
    let mut read = read_events(&mut reader, 700).await;
    server.kill();
    eventually("the loss is noticed", async || !log.is_connected()).await;
    server.restart().await;
    read.extend(read_events(&mut reader, 900).await);
    server.restart().await;
    read.extend(read_events(&mut reader, 1400).await);
    appending.await.unwrap();
    let sequences: Vec<_> = read.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=3000).collect::<Vec<u64>>());
    let mut ids: Vec<_> = read
        .iter()
        .map(|event| request_of(event).delivery.delivery_id)
        .collect();
    let mut expected: Vec<_> = requests
        .iter()
        .map(|request| request.delivery.delivery_id)
        .collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
}
