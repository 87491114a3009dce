//! What is mended in a log that was restored.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use cuitty_webhooks_domain::delivery::Concluded;
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::replay::{ReplayChange, ReplayCursor, ReplayFilter, Selection, evolve, start};
use tokio_util::sync::CancellationToken;

use super::fixtures::{append_all, due, now, retry, success};
use super::work::{next, requests};
use crate::backup::SnapshotState;
use crate::backup::mend::rewind_replays;
use crate::idempotency::{Claim, Intent};
use crate::testing::{NatsServer, eventually, never_within};
use crate::topology::{CONTROL_STREAM, STREAM};
use crate::{Log, Replays, WorkEvent, WorkStream};

/// The deliveries that come, and the attempts that are asked for, until nothing more comes.
async fn work_left(log: &Log, work: &mut WorkStream, count: usize) -> BTreeSet<(String, u32)> {
    let mut left = BTreeSet::new();
    for _ in 0..count {
        let item = next(work).await;
        item.acker.ack().await.unwrap();
        left.insert(match item.event {
            WorkEvent::Requested(request) => (request.delivery.delivery_id.to_string(), 1),
            WorkEvent::Due(due) => (due.delivery.delivery_id.to_string(), due.attempt_number),
            WorkEvent::Unreadable(error) => panic!("{error}"),
        });
    }
    let ack_wait = log.config().ack_wait;
    never_within(ack_wait * 3 / 2, "work came that is done", work.next()).await;
    left
}

#[tokio::test]
async fn without_consumers_only_work_without_an_outcome_comes_again() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests = requests(9);
    log.append_requested(&requests).await.unwrap();
    // 0 to 2 succeeded at once, 3 to 5 are to be tried again; of those, 3 has been, and 4 is about to be.
    let outcomes: Vec<Concluded> = (0..3)
        .map(|number| success(&requests[number], 1))
        .chain((3..6).map(|number| retry(&requests[number], 1)))
        .collect();
    append_all(&log, &outcomes).await;
    for request in &requests[3..5] {
        log.arm_timer(&due(request, now())).await.unwrap();
    }
    eventually("the timers fire", async || {
        let timers = futures_util::future::join_all(
            requests[3..5]
                .iter()
                .map(|request| log.has_timer(request.delivery.delivery_id, 2)),
        );
        timers.await.into_iter().all(|waits| waits == Ok(false))
    })
    .await;
    append_all(&log, &[success(&requests[3], 2)]).await;
    let lost = log.jetstream().delete_consumer_from_stream("dispatch-2", STREAM);
    lost.await.unwrap();

    assert_eq!(log.settle_floors().await, Ok(7));
    assert_eq!(log.settle_floors().await, Ok(0), "all is known by now");
    let other = server.log().await;
    let mut work = other.work(2).await.unwrap();
    let id = |number: usize| requests[number].delivery.delivery_id.to_string();
    let expected = BTreeSet::from([(id(6), 1), (id(7), 1), (id(8), 1), (id(4), 2)]);
    assert_eq!(work_left(&other, &mut work, 4).await, expected);
}

#[tokio::test]
async fn a_key_of_an_event_that_is_not_in_the_log_is_open_again_and_no_other() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let keys = log.idempotency().await.unwrap();
    let project = "acme".parse().unwrap();
    let requests = requests(4);
    let appended = log.append_requested(&requests).await.unwrap();
    // Told: as it is; at a place where by now another message is; where there is none.
    for (number, sequence) in [(0, appended[0]), (1, appended[1]), (2, appended[3]), (3, 1000)] {
        let key = format!("key-{number}");
        let intent = Intent {
            message_id: requests[number].delivery.message_id,
            endpoint_ids: Vec::new(),
            fingerprint: [0; 32],
            requested_at: now(),
        };
        let claimed = keys.claim(&project, &key, &intent).await;
        assert_eq!(claimed, Ok(Claim::New));
        let completed = keys.complete(&project, &key, &intent, sequence).await;
        completed.unwrap();
    }
    let at = log.get(appended[0]).await.unwrap().unwrap().stored_at;
    // What was written long before the log was taken is not looked at.
    let later = at + Duration::from_hours(1);
    assert_eq!(log.reopen_keys(appended[0], later).await, Ok(0));
    assert_eq!(log.reopen_keys(appended[0], at).await, Ok(2));
    let mut sequences = Vec::new();
    for number in 0..4 {
        let record = keys.recall(&project, &format!("key-{number}")).await.unwrap();
        sequences.push(record.unwrap().log_sequence);
    }
    assert_eq!(sequences, [Some(appended[0]), Some(appended[1]), None, None]);
    assert_eq!(log.reopen_keys(appended[0], at).await, Ok(0));
}

#[tokio::test]
async fn a_bulk_replay_goes_back_to_where_it_was_when_the_log_was_taken() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let actor = Actor {
        id: "system".into(),
        process: "p".into(),
    };
    let selection = Selection {
        filter: ReplayFilter::failed("acme".parse().unwrap()),
        disabled_at: None,
        through_sequence: 9,
        before: now(),
    };
    let id = "rpl_01h455vb4pex5vsknk084sn02q".parse().unwrap();
    let (started, replay) = start(id, selection, None, 100, now()).unwrap();
    let mut sequence = log
        .append_replay(&started, &replay, &actor, now(), 0)
        .await
        .unwrap();
    let mut states = vec![replay];
    for replayed in 1..=3 {
        let change = ReplayChange::Advanced {
            cursor: ReplayCursor::Unmatched(None),
            replayed,
            skipped: 0,
        };
        let replay = evolve(states.last().unwrap().clone(), &change, now());
        let appended = log.append_replay(&change, &replay, &actor, now(), sequence);
        sequence = appended.await.unwrap();
        states.push(replay);
    }
    let taken = |last_at| SnapshotState {
        messages: 1,
        bytes: 1,
        first_sequence: 1,
        last_sequence: 1,
        last_at,
    };
    let known = async || {
        let replays = Replays::start(&log, CancellationToken::new()).await.unwrap();
        replays.get(id).unwrap().replay.clone()
    };
    // Within the clocks' differences, all of it is as late as the log.
    let last = log.last_message(CONTROL_STREAM, "webhooks.replay.>").await;
    let last = last.unwrap().unwrap().time.unix_timestamp_nanos();
    let at = DateTime::from_timestamp_nanos(i64::try_from(last).unwrap());
    let later = taken(at + Duration::from_secs(6));
    assert_eq!(rewind_replays(&log, &later).await, Ok(0));
    assert_eq!(known().await, states[3]);
    assert_eq!(rewind_replays(&log, &taken(at)).await, Ok(3));
    assert_eq!(known().await, states[0]);

    // Whoever takes it up goes on from there.
    let change = ReplayChange::Completed;
    let done = evolve(states[0].clone(), &change, now());
    log.append_replay(&change, &done, &actor, now(), 1).await.unwrap();
    assert_eq!(known().await, done);
}
