//! Cancelling: a pending delivery ends now, and nothing is attempted of it any more.

use std::time::Duration;

use async_nats::jetstream;
use cuitty_webhooks_domain::delivery::{Conclusion, DeliveryEvent, FailureReason};
use cuitty_webhooks_log::{Cancellations, EventBody};
use cuitty_webhooks_proto::v1::{
    CancelDeliveryRequest, CreateEndpointRequest, Delivery, DeliveryDetail, DeliveryStatus,
    GetEndpointRequest,
};
use harness::app::{TestApp, summary};
use harness::eventually::{eventually, is};
use harness::grpc::{Refusal, refused};
use harness::local::CLOCK;
use harness::log::{connect, stored};
use harness::receiver::{Receiver, Reply};
use harness::traffic::{number, numbered};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

async fn cancel(app: &TestApp, id: &str) -> Result<Delivery, Status> {
    let request = CancelDeliveryRequest {
        delivery_id: id.to_owned(),
    };
    Ok(app.deliveries().cancel_delivery(request).await?.into_inner())
}

fn is_cancelled(delivery: &Delivery) {
    assert_eq!(
        (delivery.status(), delivery.failure_reason.as_str()),
        (DeliveryStatus::Failed, "cancelled")
    );
    assert!(delivery.completed_at.is_some() && delivery.next_attempt_at.is_none());
}

/// An endpoint that retries after `delay` seconds.
async fn endpoint(app: &TestApp, receiver: &Receiver, path: &str, delay: u32, ordered: bool) -> String {
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        retry_schedule_seconds: vec![delay; 8],
        ordered,
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap().id
}

async fn deliver(app: &TestApp, endpoint_id: &str, number: usize) -> String {
    let accepted = app.messages().deliver(numbered(endpoint_id, number)).await;
    accepted.unwrap().into_inner().deliveries.remove(0).id
}

/// The delivery, once so many of its attempts are recorded.
async fn attempted(app: &TestApp, id: &str, count: usize) -> DeliveryDetail {
    eventually(&format!("{count} attempts of {id}"), || async {
        let detail = app.delivery(id).await;
        is(detail.attempts.len(), count).map(|_| detail)
    })
    .await
}

/// How often the log says that the delivery has ended.
async fn ends(app: &TestApp, id: &str) -> Vec<Conclusion> {
    let events = stored(&app.nats.url()).await.into_iter();
    let ended = events.filter_map(|event| match event.body {
        EventBody::Event(DeliveryEvent::Concluded(event))
            if event.delivery.delivery_id.to_string() == id
                && !matches!(event.conclusion, Conclusion::Retry { .. }) =>
        {
            Some(event.conclusion)
        }
        _ => None,
    });
    ended.collect()
}

/// Timers of the delivery that wait. What takes the place of a cancelled one for a second has no time to fire at.
async fn timers(app: &TestApp, id: &str) -> u64 {
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("WEBHOOKS").await.unwrap();
    let filter = format!("webhooks.timer.{id}.>");
    let mut subjects = stream.info_with_subjects(filter).await.unwrap();
    let mut waiting = 0;
    while let Some((subject, _)) = futures_util::TryStreamExt::try_next(&mut subjects).await.unwrap() {
        // It may have gone since.
        if let Ok(last) = stream.get_last_raw_message_by_subject(&subject).await {
            waiting += u64::from(last.headers.get("Nats-Schedule").is_some());
        }
    }
    waiting
}

const CANCELLED: Conclusion = Conclusion::Failed {
    reason: FailureReason::Cancelled,
};

#[tokio::test]
async fn a_delivery_that_waits_for_its_retry_ends_at_once_and_is_not_attempted_again() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(500)]);
    let endpoint = endpoint(&app, &receiver, "/hook", 2, false).await;
    let id = deliver(&app, &endpoint, 0).await;
    attempted(&app, &id, 1).await;
    assert_eq!(timers(&app, &id).await, 1);

    let asked_at = CLOCK();
    let cancelled = cancel(&app, &id).await.unwrap();
    is_cancelled(&cancelled);
    assert_eq!(cancelled.attempt_count, 1);
    assert!(cancelled.completed_at.unwrap().seconds >= asked_at.timestamp());
    assert_eq!(timers(&app, &id).await, 0);
    assert_eq!(cancel(&app, &id).await.unwrap(), cancelled, "again");

    let detail = app.ended(&id).await;
    assert_eq!(summary(&detail), &cancelled, "by the history");
    // A later event of the same endpoint is attempted, and retried, after the time of the retry that was cancelled.
    let later = deliver(&app, &endpoint, 1).await;
    attempted(&app, &later, 3).await;
    let attempts = receiver.requests("/hook");
    assert_eq!(attempts.iter().filter(|request| number(request) == 0).count(), 1);
    assert_eq!(ends(&app, &id).await, [CANCELLED]);
}

#[tokio::test]
async fn a_cancellation_that_was_cut_short_is_carried_out_by_the_dispatcher_or_when_it_is_repeated() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let delays = [2, 600];
    let mut cut_short = Vec::new();
    for delay in delays {
        let path = format!("/after/{delay}");
        receiver.script(&path, [Reply::status(500)]);
        let endpoint = endpoint(&app, &receiver, &path, delay, false).await;
        let id = deliver(&app, &endpoint, 0).await;
        attempted(&app, &id, 1).await;
        cut_short.push((id, path));
    }
    // As an API leaves it that is killed between telling the dispatchers and appending the end.
    let log = connect(&app.nats.url()).await;
    let cancellations = Cancellations::start(&log, CancellationToken::new())
        .await
        .unwrap();
    for event in stored(&app.nats.url()).await {
        if let EventBody::Event(DeliveryEvent::Requested(requested)) = event.body {
            cancellations.cancel(&requested.delivery).await.unwrap();
        }
    }

    let [(soon, _), (late, _)] = &cut_short[..] else {
        panic!("two")
    };
    is_cancelled(summary(&app.ended(soon).await));
    is_cancelled(&cancel(&app, late).await.unwrap());
    for (id, path) in &cut_short {
        assert_eq!(ends(&app, id).await, [CANCELLED]);
        assert_eq!(receiver.count(path), 1);
    }
}

#[tokio::test]
async fn one_that_has_ended_cannot_be_cancelled_and_stays_as_it_is() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/gone", [Reply::status(410)]);
    let delivered = endpoint(&app, &receiver, "/hook", 2, false).await;
    let gone = endpoint(&app, &receiver, "/gone", 2, false).await;
    for (endpoint, state) in [(delivered, "delivered"), (gone, "failed (gone)")] {
        let id = deliver(&app, &endpoint, 0).await;
        let ended = app.ended(&id).await;
        let status = cancel(&app, &id).await.unwrap_err();
        let refusal = Refusal::from(&status);
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::Aborted, "DELIVERY_CONFLICT")
        );
        assert!(status.message().contains(state), "{}", status.message());
        assert_eq!(app.delivery(&id).await, ended);
        assert_eq!(ends(&app, &id).await.len(), 1);
    }
    let unknown = refused(cancel(&app, "dlv_01jd75c1g094s8avcpkyatawp7").await);
    assert_eq!(
        (unknown.code, unknown.reason.as_str()),
        (Code::NotFound, "DELIVERY_NOT_FOUND")
    );
    let ill_formed = refused(cancel(&app, "1").await);
    assert_eq!(ill_formed.field_names(), ["delivery_id"]);
}

#[tokio::test]
async fn an_attempt_in_flight_is_recorded_and_the_cancellation_stands() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let answer = Duration::from_secs(2);
    for (path, status) in [("/succeeds", 200), ("/fails", 500)] {
        receiver.script(path, [Reply::status(status).after(answer)]);
        let endpoint = endpoint(&app, &receiver, path, 1, false).await;
        let id = deliver(&app, &endpoint, 0).await;
        receiver.received(path, 1).await;

        let cancelled = cancel(&app, &id).await.unwrap();
        is_cancelled(&cancelled);
        assert_eq!(receiver.in_flight(), 1, "{path} has not answered yet");
        let detail = attempted(&app, &id, 1).await;
        assert_eq!(summary(&detail), &cancelled);
        assert_eq!(
            detail.attempts[0].response.as_ref().unwrap().status,
            u32::from(status)
        );
        assert_eq!(cancel(&app, &id).await.unwrap(), cancelled);
        assert_eq!(timers(&app, &id).await, 0, "no retry is armed");
        // The next one comes after the retry would have.
        let next = deliver(&app, &endpoint, 1).await;
        attempted(&app, &next, 1).await;
        let zeroth = receiver.requests(path);
        assert_eq!(zeroth.iter().filter(|request| number(request) == 0).count(), 1);
    }
}

#[tokio::test]
async fn cancelling_and_succeeding_at_the_same_time_is_told_the_same_by_the_answer_and_the_history() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = endpoint(&app, &receiver, "/hook", 1, false).await;
    let mut told = [0, 0];
    for number in 0..40 {
        let answer = Duration::from_millis(number as u64 % 20);
        receiver.script("/hook", [Reply::status(200).after(answer)]);
        let id = deliver(&app, &endpoint, number).await;
        let answered = cancel(&app, &id).await;
        let detail = app.ended(&id).await;
        match answered {
            Ok(cancelled) => {
                is_cancelled(&cancelled);
                is_cancelled(summary(&detail));
                told[0] += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Aborted, "{status}");
                assert_eq!(summary(&detail).status(), DeliveryStatus::Delivered);
                told[1] += 1;
            }
        }
    }
    println!("{} were cancelled, {} delivered", told[0], told[1]);
}

#[tokio::test]
async fn the_head_of_an_ordered_endpoint_is_skipped_and_the_next_ones_turn_comes() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/ordered", [Reply::status(500), Reply::status(200)]);
    // Far beyond the patience of the test.
    let endpoint = endpoint(&app, &receiver, "/ordered", 600, true).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(deliver(&app, &endpoint, number).await);
    }
    attempted(&app, &ids[0], 1).await;
    // One that is not at the head, first.
    is_cancelled(&cancel(&app, &ids[2]).await.unwrap());
    assert_eq!(receiver.count("/ordered"), 1);

    let cancelled = cancel(&app, &ids[0]).await.unwrap();
    is_cancelled(&cancelled);
    for id in [&ids[1], &ids[3]] {
        let ended = app.ended(id).await;
        assert_eq!(summary(&ended).status(), DeliveryStatus::Delivered);
    }
    let arrived: Vec<_> = receiver.requests("/ordered").iter().map(number).collect();
    assert_eq!(arrived, [0, 1, 3]);
    assert_eq!(ends(&app, &ids[0]).await, [CANCELLED]);
    assert_eq!(ends(&app, &ids[2]).await, [CANCELLED]);
}

#[tokio::test]
async fn order_is_kept_when_the_dispatcher_dies_after_one_in_the_middle_was_cancelled() {
    let receiver = Receiver::start();
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher"])
        .set("log.partitions", 1)
        .set("log.lease_ttl", "3s")
        // What the dead dispatcher held comes again long after its partition has a new owner.
        .set("log.ack_wait", "15s")
        .start()
        .await;
    let endpoint = endpoint(&app, &receiver, "/ordered", 1, true).await;
    deliver(&app, &endpoint, 0).await;
    let first = receiver.received("/ordered", 1).await;
    assert_eq!(number(&first[0]), 0);
    // From then on the lane keeps no place of its own: its next owner finds it by the outcomes.
    eventually("the lane is saved as live", || async {
        let request = GetEndpointRequest {
            endpoint_id: endpoint.clone(),
        };
        let found = app.endpoints().get_endpoint(request).await.unwrap().into_inner();
        let health = found.health.expect("a health");
        is((health.since.is_some(), health.waiting), (true, false))
    })
    .await;
    receiver.script("/ordered", [Reply::hang()]);
    let mut ids = Vec::new();
    for number in 1..6 {
        ids.push(deliver(&app, &endpoint, number).await);
    }
    receiver.received("/ordered", 2).await;
    is_cancelled(&cancel(&app, &ids[2]).await.unwrap());
    app.roles[1].kill9();
    receiver.script("/ordered", [Reply::status(200)]);
    app.roles[1].start_again();
    // Makes the new owner look for the lane's place.
    ids.push(deliver(&app, &endpoint, 6).await);

    for (index, id) in ids.iter().enumerate() {
        let ended = app.ended(id).await;
        let expected = if index == 2 {
            DeliveryStatus::Failed
        } else {
            DeliveryStatus::Delivered
        };
        assert_eq!(summary(&ended).status(), expected, "{index}");
    }
    let arrived: Vec<_> = receiver.requests("/ordered").iter().map(number).collect();
    assert_eq!(arrived, [0, 1, 1, 2, 4, 5, 6]);
}

#[tokio::test]
async fn one_that_waits_behind_an_open_breaker_is_never_attempted() {
    let app = TestApp::builder()
        .set("dispatcher.breaker.consecutive_failures", 2)
        .start()
        .await;
    let receiver = Receiver::start();
    receiver.script("/dead", [Reply::status(500)]);
    let endpoint = endpoint(&app, &receiver, "/dead", 1, false).await;
    deliver(&app, &endpoint, 0).await;
    deliver(&app, &endpoint, 1).await;
    receiver.received("/dead", 3).await;
    let waiting = deliver(&app, &endpoint, 2).await;
    let cancelled = cancel(&app, &waiting).await.unwrap();
    is_cancelled(&cancelled);
    receiver.script("/dead", [Reply::status(200)]);
    let last = deliver(&app, &endpoint, 3).await;
    app.ended(&last).await;

    let numbers: Vec<_> = receiver.requests("/dead").iter().map(number).collect();
    assert!(!numbers.contains(&2), "{numbers:?}");
    assert_eq!(ends(&app, &waiting).await, [CANCELLED]);
    assert_eq!(app.delivery(&waiting).await.attempts, []);
}
