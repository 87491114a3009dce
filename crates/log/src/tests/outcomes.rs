use std::time::Duration;

use cuitty_webhooks_domain::delivery::{Concluded, Requested};

use super::fixtures::{append_all, cancelled, endpoint_id, now, requested, retry, success};
use crate::testing::NatsServer;
use crate::{LastOutcome, Log, LogError, Outcomes, codec};

fn waiting(attempts: u32) -> LastOutcome {
    LastOutcome {
        attempts,
        next_attempt_at: Some(now() + Duration::from_secs(attempts.into())),
    }
}

fn ended(attempts: u32) -> LastOutcome {
    LastOutcome {
        attempts,
        next_attempt_at: None,
    }
}

async fn outcomes_after(log: &Log, endpoint: u64, sequence: u64) -> Outcomes {
    let project_id = "acme".parse().unwrap();
    log.outcomes_after(&project_id, endpoint_id(endpoint), sequence)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_last_outcome_of_each_delivery_is_told() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests = [0, 1, 2, 3].map(|message| requested(message, 1));
    let [waits, delivered, dropped, late] = &requests;
    append_all(
        &log,
        &[
            retry(waits, 1),
            retry(delivered, 1),
            cancelled(dropped),
            success(&requested(0, 2), 1),
            success(delivered, 2),
            retry(waits, 2),
            // What was repeated after all and came too late.
            success(late, 3),
            retry(late, 4),
        ],
    )
    .await;
    let outcomes = outcomes_after(&log, 1, 0).await;
    let expected = [waiting(2), ended(2), ended(0), ended(3)];
    let of = requests
        .clone()
        .map(|request| outcomes.of[&request.delivery.delivery_id]);
    assert_eq!((of, outcomes.of.len(), outcomes.to), (expected, 4, 8));
    let later = outcomes_after(&log, 1, 5).await;
    assert_eq!(
        (later.of.len(), later.of[&waits.delivery.delivery_id]),
        (2, waiting(2))
    );
    let none = Outcomes {
        to: 8,
        ..Outcomes::default()
    };
    assert_eq!(outcomes_after(&log, 1, 8).await, none);
}

#[tokio::test]
async fn an_attempt_that_came_out_of_order_does_not_put_a_delivery_back() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let request = requested(1, 1);
    append_all(&log, &[retry(&request, 3), retry(&request, 2)]).await;
    let outcomes = outcomes_after(&log, 1, 0).await;
    assert_eq!(outcomes.of[&request.delivery.delivery_id], waiting(3));
}

#[tokio::test]
async fn many_outcomes_are_read_part_by_part() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let requests: Vec<_> = (0..2100).map(|message| requested(message, 1)).collect();
    for request in &requests {
        let event = codec::encode_concluded(&retry(request, 1));
        let subject = format!("webhooks.outcome.acme.{}.attempted", endpoint_id(1));
        drop(log.jetstream().publish(subject, event).await.unwrap());
    }
    append_all(&log, &[success(&requests[0], 2)]).await;
    let outcomes = outcomes_after(&log, 1, 0).await;
    assert_eq!((outcomes.of.len(), outcomes.to), (2100, 2101));
    assert_eq!(outcomes.of[&requests[0].delivery.delivery_id], ended(2));
    let last = requests.last().unwrap();
    assert!(
        log.attempted(&last.delivery, 0, 1).await.unwrap(),
        "on the third page"
    );
}

#[tokio::test]
async fn the_outcomes_of_one_delivery_are_told_in_order() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let (request, other) = (requested(1, 1), requested(2, 1));
    let of_it = [retry(&request, 1), cancelled(&request), success(&request, 2)];
    append_all(&log, &of_it[..1]).await;
    append_all(&log, &[retry(&other, 1)]).await;
    append_all(&log, &of_it[1..]).await;
    append_all(&log, &[success(&other, 2)]).await;
    let of = async |after| log.outcomes_of(&request.delivery, after).await.unwrap();
    assert_eq!(of(0).await, of_it);
    assert_eq!(of(1).await, of_it[1..]);
    assert_eq!(of(4).await, []);
}

#[tokio::test]
async fn what_failed_for_good_can_be_passed_over() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let project_id = "acme".parse().unwrap();
    let last = async || log.last_not_failed(&project_id, endpoint_id(1)).await.unwrap();
    append_all(&log, &[cancelled(&requested(0, 1))]).await;
    assert_eq!(last().await, None);
    for (event, sequence) in [(success(&requested(1, 1), 1), 2), (retry(&requested(2, 1), 1), 3)] {
        append_all(&log, std::slice::from_ref(&event)).await;
        assert_eq!(last().await, Some((sequence, event)));
    }
    append_all(&log, &[cancelled(&requested(3, 1))]).await;
    assert_eq!(last().await.unwrap().0, 3);
}

#[tokio::test]
async fn the_endpoints_last_outcome_is_found_whatever_it_was() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let project_id = "acme".parse().unwrap();
    let last = async || log.last_outcome(&project_id, endpoint_id(1)).await.unwrap();
    assert_eq!(last().await, None);
    let events = [
        retry(&requested(0, 1), 1),
        cancelled(&requested(1, 1)),
        success(&requested(0, 1), 2),
        Concluded {
            requested_sequence: 77,
            ..retry(&requested(2, 1), 1)
        },
    ];
    for (event, sequence) in events.into_iter().zip(1..) {
        append_all(&log, std::slice::from_ref(&event)).await;
        assert_eq!(last().await, Some((sequence, event)));
    }
    append_all(&log, &[success(&requested(0, 2), 1)]).await;
    assert_eq!(last().await.unwrap().0, 4, "another endpoint's");
    let subject = format!("webhooks.outcome.acme.{}.failed", endpoint_id(1));
    let stored = log.jetstream().publish(subject, "\u{1}".into()).await.unwrap();
    stored.await.unwrap();
    let unreadable = log.last_outcome(&project_id, endpoint_id(1)).await;
    assert!(matches!(unreadable, Err(LogError::Codec(_))), "{unreadable:?}");
    assert_eq!(
        outcomes_after(&log, 1, 0).await.of.len(),
        3,
        "the others are read"
    );
}

#[tokio::test]
async fn an_attempt_counts_as_made_when_it_or_what_came_after_it_is_stored() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let (request, other, dropped) = (requested(1, 1), requested(2, 1), requested(3, 1));
    append_all(
        &log,
        &[
            retry(&request, 1),
            retry(&other, 5),
            retry(&request, 2),
            cancelled(&dropped),
        ],
    )
    .await;
    let attempted = async |request: &Requested, after, number| {
        log.attempted(&request.delivery, after, number).await.unwrap()
    };
    assert!(attempted(&request, 0, 1).await);
    assert!(attempted(&request, 0, 2).await);
    assert!(!attempted(&request, 0, 3).await, "it is due");
    assert!(attempted(&request, 1, 1).await, "a later one is stored");
    assert!(!attempted(&request, 3, 1).await, "nothing is stored after that");
    assert!(attempted(&dropped, 0, 4).await, "it has ended");
    assert!(!attempted(&requested(1, 2), 0, 1).await, "of another endpoint");
}
