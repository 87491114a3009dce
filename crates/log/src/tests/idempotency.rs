use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{DeliveryEvent, Unmatched};
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_domain::names::ProjectId;

use super::fixtures::{endpoint_id, message_id, now, read_events, requested};
use crate::testing::{NatsServer, eventually};
use crate::{Claim, EventBody, Idempotency, Intent, Log, LogConfig, LogError, Record};

/// What is remembered under a key that was used before.
fn existing(claim: Result<Claim, LogError>) -> Record {
    match claim {
        Ok(Claim::Existing { record, .. }) => record,
        other => panic!("{other:?}"),
    }
}

fn unmatched(number: u64) -> Unmatched {
    let request = requested(number, 1);
    Unmatched {
        message_id: request.delivery.message_id,
        project_id: request.delivery.project_id,
        event_type: request.delivery.event_type,
        content_type: request.content_type,
        payload: request.payload,
        requested_at: request.requested_at,
        traceparent: request.traceparent,
    }
}

fn intent(number: u64) -> Intent {
    Intent {
        message_id: message_id(number),
        endpoint_ids: vec![endpoint_id(1), endpoint_id(2)],
        fingerprint: [number as u8; 32],
        requested_at: now(),
    }
}

#[tokio::test]
async fn a_key_belongs_to_its_first_request() {
    let server = NatsServer::start().await;
    let keys = server.log().await.idempotency().await.unwrap();
    let project: ProjectId = "acme".parse().unwrap();
    let key = "any text: ä *.> \u{7f} \n";
    assert_eq!(keys.claim(&project, key, &intent(1)).await, Ok(Claim::New));
    let intended = Record {
        intent: intent(1),
        log_sequence: None,
    };
    assert_eq!(existing(keys.claim(&project, key, &intent(2)).await), intended);
    assert_eq!(keys.recall(&project, key).await, Ok(Some(intended)));
    keys.complete(&project, key, &intent(1), 42).await.unwrap();
    let complete = Record {
        intent: intent(1),
        log_sequence: Some(42),
    };
    assert_eq!(existing(keys.claim(&project, key, &intent(2)).await), complete);
    assert_eq!(keys.recall(&project, key).await, Ok(Some(complete)));
    let other: ProjectId = "other".parse().unwrap();
    assert_eq!(keys.recall(&other, key).await, Ok(None), "another project's");
    assert_eq!(keys.claim(&other, key, &intent(3)).await, Ok(Claim::New));
    assert_eq!(
        keys.claim(&project, "another key", &intent(3)).await,
        Ok(Claim::New)
    );
}

#[tokio::test]
async fn of_many_claims_at_once_one_is_first() {
    let server = NatsServer::start().await;
    let keys = server.log().await.idempotency().await.unwrap();
    let project: ProjectId = "acme".parse().unwrap();
    let claims = (0..20).map(|number| {
        let (keys, project) = (keys.clone(), project.clone());
        async move { (number, keys.claim(&project, "k", &intent(number)).await.unwrap()) }
    });
    let claims = futures_util::future::join_all(claims).await;
    let winners: Vec<_> = claims
        .iter()
        .filter(|(_, claim)| *claim == Claim::New)
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(winners.len(), 1);
    let expected = Record {
        intent: intent(winners[0]),
        log_sequence: None,
    };
    for (_, claim) in claims.into_iter().filter(|(number, _)| *number != winners[0]) {
        assert_eq!(existing(Ok(claim)), expected);
    }
}

/// A claim is made again when its answer was lost; meanwhile somebody else may have carried it out.
#[tokio::test]
async fn a_claim_that_finds_itself_is_new() {
    let server = NatsServer::start().await;
    let keys = server.log().await.idempotency().await.unwrap();
    let project: ProjectId = "acme".parse().unwrap();
    for _ in 0..2 {
        assert_eq!(keys.claim(&project, "k", &intent(1)).await, Ok(Claim::New));
    }
    keys.complete(&project, "k", &intent(1), 42).await.unwrap();
    assert_eq!(keys.claim(&project, "k", &intent(1)).await, Ok(Claim::New));
}

/// A log that forgets the ids of what it stored almost at once, and an intent that was recorded in it.
async fn forgetful(server: &NatsServer) -> (Log, Idempotency, DateTime<Utc>) {
    let log = Log::connect(LogConfig {
        duplicate_window: Duration::from_millis(100),
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    let keys = log.idempotency().await.unwrap();
    let project: ProjectId = "acme".parse().unwrap();
    assert_eq!(keys.claim(&project, "k", &intent(1)).await, Ok(Claim::New));
    let Ok(Claim::Existing { recorded_at, .. }) = keys.claim(&project, "k", &intent(2)).await else {
        panic!("the key is free")
    };
    (log, keys, recorded_at)
}

/// Waits until the log would store what it has stored so far a second time.
async fn forgotten(log: &Log) {
    let probe = unmatched(1_000_000);
    let first = log.append_unmatched(&probe).await.unwrap();
    eventually("the id is forgotten", async || {
        log.append_unmatched(&probe).await.unwrap() > first
    })
    .await;
}

/// How often each delivery was requested.
async fn stored_requests(log: &Log) -> BTreeMap<DeliveryId, usize> {
    let (_, last) = log.bounds().await.unwrap();
    let events = read_events(&mut log.read(1), last as usize).await;
    let mut count = BTreeMap::new();
    for event in events {
        if let EventBody::Event(DeliveryEvent::Requested(request)) = event.body {
            *count.entry(request.delivery.delivery_id).or_default() += 1;
        }
    }
    count
}

#[tokio::test]
async fn only_what_an_interrupted_call_did_not_append_is_appended_whenever_it_is_repeated() {
    let server = NatsServer::start().await;
    let (log, keys, recorded_at) = forgetful(&server).await;
    let wanted: Vec<_> = (1..=20).map(|endpoint| requested(1, endpoint)).collect();
    // Others' messages to the same endpoints lie around those that the interrupted call appended.
    let traffic = |numbers: std::ops::Range<u64>| -> Vec<_> {
        numbers
            .flat_map(|number| (1..=20).map(move |endpoint| requested(number, endpoint)))
            .collect()
    };
    log.append_requested(&traffic(100..110)).await.unwrap();
    let appended = log.append_requested(&wanted[..12]).await.unwrap();
    log.append_requested(&traffic(110..120)).await.unwrap();
    forgotten(&log).await;

    let found = keys.resume_requested(&wanted[..12], recorded_at).await;
    assert_eq!(found, Ok(appended[11]), "nothing is appended");
    let (_, last) = log.bounds().await.unwrap();
    assert_eq!(keys.resume_requested(&wanted, recorded_at).await, Ok(last + 8));
    forgotten(&log).await;
    assert_eq!(keys.resume_requested(&wanted, recorded_at).await, Ok(last + 8));

    let stored = stored_requests(&log).await;
    assert_eq!(stored.len(), 20 * 21);
    assert!(stored.values().all(|&times| times == 1), "{stored:?}");
}

#[tokio::test]
async fn calls_that_repeat_the_same_at_the_same_time_append_it_once() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let keys = log.idempotency().await.unwrap();
    let wanted: Vec<_> = (1..=3).map(|endpoint| requested(1, endpoint)).collect();
    let calls = (0..20).map(|_| keys.resume_requested(&wanted, now()));
    let highest = futures_util::future::join_all(calls).await;
    assert!(highest.iter().all(|highest| *highest == Ok(3)), "{highest:?}");
    assert_eq!(
        stored_requests(&log).await.into_values().collect::<Vec<_>>(),
        [1, 1, 1]
    );
}

#[tokio::test]
async fn an_unmatched_message_is_found_too() {
    let server = NatsServer::start().await;
    let (log, keys, recorded_at) = forgetful(&server).await;
    let first = log.append_unmatched(&unmatched(1)).await.unwrap();
    log.append_unmatched(&unmatched(2)).await.unwrap();
    forgotten(&log).await;
    assert_eq!(keys.resume_unmatched(&unmatched(1), recorded_at).await, Ok(first));
    let (_, last) = log.bounds().await.unwrap();
    assert_eq!(
        keys.resume_unmatched(&unmatched(3), recorded_at).await,
        Ok(last + 1)
    );
}

#[tokio::test]
async fn while_the_log_is_away_nothing_is_taken_for_missing() {
    let mut server = NatsServer::start().await;
    let log = Log::connect(LogConfig {
        request_timeout: Duration::from_secs(1),
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    let keys = log.idempotency().await.unwrap();
    server.kill();
    let refused = keys.resume_requested(&[requested(1, 1)], now()).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
}
