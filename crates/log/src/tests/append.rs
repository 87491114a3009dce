use std::time::Duration;

use cuitty_webhooks_domain::delivery::{Concluded, Conclusion, Unmatched};
use cuitty_webhooks_domain::endpoint::{
    self, Actor, EndpointCommand, EndpointKind, EndpointSettings, Secret,
};
use cuitty_webhooks_domain::ids::SecretId;
use cuitty_webhooks_domain::seal::SealedSecret;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::fixtures::{concluded, endpoint_id, message_id, now, read_events, request_of, requested};
use crate::testing::{NatsServer, eventually};
use crate::{Appended, EventBody, Log, LogConfig, LogError, codec};
use cuitty_webhooks_domain::delivery::DeliveryEvent;

#[tokio::test]
async fn requests_are_stored_in_order_and_once() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..600).map(|endpoint| requested(1, endpoint)).collect();
    let sequences = log.append_requested(&requests).await.unwrap();
    assert_eq!(sequences, (1..=600).collect::<Vec<u64>>());
    assert_eq!(log.append_requested(&requests).await.unwrap(), sequences);
    assert_eq!(log.bounds().await.unwrap(), (1, 600));
    let stored = log.get(17).await.unwrap().unwrap();
    assert_eq!(request_of(&stored), requests[16]);
    assert_eq!(
        stored.traceparent.as_deref(),
        Some(requests[16].traceparent.as_str())
    );
    assert_eq!(log.get(601).await.unwrap(), None);
}

#[tokio::test]
async fn a_trace_context_that_would_break_the_headers_is_left_out_of_them() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let mut request = requested(1, 1);
    request.traceparent = "00\r\nNats-Expected-Last-Sequence: 77".into();
    let sequence = log.append_requested(&[request.clone()]).await.unwrap()[0];
    let stored = log.get(sequence).await.unwrap().unwrap();
    assert_eq!((stored.traceparent.clone(), request_of(&stored)), (None, request));
}

#[tokio::test]
async fn an_outcome_is_stored_once_per_attempt_number() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let first = concluded(&requested(1, 1), 1);
    let appended = |sequence, duplicate| Appended { sequence, duplicate };
    assert_eq!(log.append_concluded(&first).await, Ok(appended(1, false)));
    assert_eq!(log.append_concluded(&first).await, Ok(appended(1, true)));
    assert_eq!(
        log.append_concluded(&concluded(&requested(1, 1), 2)).await,
        Ok(appended(2, false))
    );
    let stored = log.get(1).await.unwrap().unwrap();
    assert_eq!(
        stored.body,
        EventBody::Event(DeliveryEvent::Concluded(Box::new(first)))
    );
}

#[tokio::test]
async fn a_final_outcome_is_stored_beside_the_retry_of_the_same_attempt() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let retried = concluded(&requested(1, 1), 2);
    let succeeded = Concluded {
        conclusion: Conclusion::Succeeded,
        ..retried.clone()
    };
    let appended = |sequence, duplicate| Appended { sequence, duplicate };
    assert_eq!(log.append_concluded(&retried).await, Ok(appended(1, false)));
    // The duplicate tells where the original is, although it has another subject.
    assert_eq!(log.append_concluded(&succeeded).await, Ok(appended(1, true)));
    assert_eq!(log.append_final(&succeeded).await, Ok(appended(2, false)));
    assert_eq!(log.append_final(&succeeded).await, Ok(appended(2, true)));
    for (sequence, expected) in [(1, retried), (2, succeeded)] {
        assert_eq!(
            log.get(sequence).await.unwrap().unwrap().body,
            EventBody::Event(DeliveryEvent::Concluded(Box::new(expected)))
        );
    }
}

#[tokio::test]
async fn a_message_without_endpoints_is_kept() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let message = Unmatched {
        message_id: message_id(1),
        project_id: "acme".parse().unwrap(),
        event_type: "budget.exceeded".parse().unwrap(),
        content_type: "application/json".into(),
        payload: "{}".into(),
        requested_at: now(),
        traceparent: String::new(),
    };
    let sequence = log.append_unmatched(&message).await.unwrap();
    let stored = log.get(sequence).await.unwrap().unwrap();
    assert_eq!(stored.body, EventBody::Event(DeliveryEvent::Unmatched(message)));
    assert_eq!(stored.traceparent, None);
}

#[tokio::test]
async fn changes_of_an_endpoint_follow_one_another() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let actor = Actor {
        id: "admin".into(),
        process: String::new(),
    };
    let secret = Secret {
        id: SecretId::new(now(), &mut StdRng::seed_from_u64(1)),
        sealed: SealedSecret {
            sealing_key_id: "k1".into(),
            nonce: [7; 24],
            ciphertext: vec![1, 2, 3],
            public_key: None,
        },
        created_at: now(),
        expires_at: None,
    };
    let settings = EndpointSettings {
        kind: EndpointKind::Http,
        url: "https://example.com/hook".into(),
        event_types: Vec::new(),
        description: String::new(),
        headers: Vec::new(),
        signature_header: None,
        timeout: Duration::from_secs(15),
        max_in_flight: 64,
        rate_limit_per_second: None,
        ordered: false,
        retry_schedule_seconds: Vec::new(),
        envelope: false,
    };
    let (created, state) = endpoint::create(
        endpoint_id(1),
        "acme".parse().unwrap(),
        settings.clone(),
        secret,
        now(),
    );
    let first = log.append_endpoint(&created, &state, &actor, 0).await.unwrap();
    // The acknowledgement of the first append was lost: the same change again is the same change.
    assert_eq!(log.append_endpoint(&created, &state, &actor, 0).await, Ok(first));

    let settings = EndpointSettings {
        ordered: true,
        max_in_flight: 1,
        ..settings
    };
    let command = EndpointCommand::Update {
        settings: Box::new(settings),
        active: Some(false),
        expected_revision: None,
    };
    let change = endpoint::decide(&state, command, now()).unwrap().unwrap();
    let updated = endpoint::evolve(state.clone(), &change, now());
    let second = log
        .append_endpoint(&change, &updated, &actor, first)
        .await
        .unwrap();
    let stored = log
        .message_at(crate::topology::CONTROL_STREAM, second)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        stored.subject.as_str(),
        format!("webhooks.endpoint.acme.{}", endpoint_id(1))
    );
    let record = codec::decode_endpoint(stored.payload.clone()).unwrap();
    assert_eq!(
        (record.change, record.actor, record.endpoint),
        (change.clone(), actor.clone(), updated.clone())
    );
    let expected = codec::encode_endpoint(&change, &["max_in_flight", "ordered", "active"], &updated, &actor);
    assert_eq!(stored.payload, expected);

    let late = endpoint::decide(&state, EndpointCommand::Delete, now())
        .unwrap()
        .unwrap();
    let deleted = endpoint::evolve(state, &late, now());
    let refused = log.append_endpoint(&late, &deleted, &actor, first).await;
    let subject = stored.subject.to_string();
    assert_eq!(
        refused,
        Err(LogError::Conflict {
            subject,
            expected: first
        })
    );
}

#[tokio::test]
async fn a_full_log_refuses_new_messages_and_keeps_the_old_ones() {
    let server = NatsServer::start_with("max_file_store: 1MB").await;
    let log = Log::connect(LogConfig {
        compression: false,
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    let mut stored = 0;
    let refused = loop {
        match log.append_requested(&[requested(stored, 1)]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Full(_)), "{refused:?}");
    assert!(stored > 50, "{stored}");
    assert_eq!(log.bounds().await.unwrap(), (1, stored));
}

#[tokio::test]
async fn a_message_beyond_the_servers_limit_is_refused_at_once() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let mut request = requested(1, 1);
    request.payload = vec![b'x'; 2 << 20].into();
    let refused = log.append_requested(&[request]).await;
    assert!(matches!(refused, Err(LogError::TooLarge(_))), "{refused:?}");
}

#[tokio::test]
async fn without_streams_an_append_says_so() {
    let server = NatsServer::start().await;
    let log = Log::connect(server.config()).await.unwrap();
    let refused = log.append_requested(&[requested(1, 1)]).await;
    assert_eq!(
        refused,
        Err(LogError::NoTopology {
            stream: "WEBHOOKS".into()
        })
    );
}

/// Eight callers append one request after the other while nats-server is killed and started again. No call fails, and
/// every one is stored exactly once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_outlive_a_restart_of_the_server() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let mut reader = log.read(1);
    let callers = (0..8u64).map(|caller| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in 0..400 {
                let request = requested(caller * 1000 + number, caller);
                log.append_requested(&[request]).await.unwrap();
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    eventually("half of it is stored", async || {
        log.bounds().await.unwrap().1 > 1600
    })
    .await;
    server.kill();
    eventually("the loss is noticed", async || !log.is_connected()).await;
    server.restart().await;
    for finished in join_all(callers).await {
        finished.unwrap();
    }
    let events = read_events(&mut reader, 3200).await;
    let mut ids: Vec<_> = events
        .iter()
        .map(|event| request_of(event).delivery.delivery_id)
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3200);
    assert_eq!(log.bounds().await.unwrap(), (1, 3200));
}

#[tokio::test]
async fn without_a_server_an_append_fails_after_its_time() {
    let mut server = NatsServer::start().await;
    let config = LogConfig {
        request_timeout: Duration::from_millis(500),
        ..server.config()
    };
    let log = Log::connect(config).await.unwrap();
    log.ensure().await.unwrap();
    server.kill();
    let started = Instant::now();
    let refused = log.append_requested(&[requested(1, 1)]).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    let took = started.elapsed();
    assert!(
        (Duration::from_millis(400)..Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
}

/// Not a benchmark: a tenth of what the log is to carry, so that a lost pipeline shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_one_pipeline() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let started = Instant::now();
    let callers: Vec<_> = (0..200u64)
        .map(|caller| {
            let log = log.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    log.append_requested(&[requested(caller * 1000 + number, caller)])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for finished in join_all(callers).await {
        finished.unwrap();
    }
    let rate = 10_000.0 / started.elapsed().as_secs_f64();
    assert_eq!(log.bounds().await.unwrap(), (1, 10_000));
    assert!(rate > 2_000.0, "{rate:.0} appends/s");
}
