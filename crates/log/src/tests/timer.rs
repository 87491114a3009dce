use std::time::{Duration, SystemTime};

use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use chrono::{DateTime, SecondsFormat, Utc};
use cuitty_webhooks_domain::delivery::{DeliveryEvent, Due};
use tokio::time::timeout;

use super::fixtures::{due, read_events, requested};
use crate::append::Outgoing;
use crate::codec;
use crate::subjects::{Subject, partition_of};
use crate::testing::{NatsServer, SOON, eventually, never_within};
use crate::{EventBody, Log, WorkEvent, WorkStream};

/// nats-server fires by the real clock.
#[expect(clippy::disallowed_methods, reason = "timers fire by the real clock")]
fn real_now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(DateTime::<Utc>::from(SystemTime::now()).timestamp_micros()).unwrap()
}

async fn work_of(log: &Log, endpoint: u64) -> WorkStream {
    log.work(partition_of(super::fixtures::endpoint_id(endpoint), 4))
        .await
        .unwrap()
}

async fn next_event(work: &mut WorkStream) -> WorkEvent {
    let item = timeout(SOON, async {
        loop {
            if let Ok(item) = work.next().await {
                return item;
            }
        }
    });
    let item = item.await.unwrap();
    item.acker.ack().await.unwrap();
    item.event
}

#[tokio::test]
async fn a_timer_fires_once_at_its_time() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let timer = due(&requested(1, 1), real_now() + Duration::from_millis(700));
    log.arm_timer(&timer).await.unwrap();
    let mut work = work_of(&log, 1).await;
    never_within(Duration::from_millis(300), "the timer fired early", work.next()).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(timer.clone()));
    assert!(real_now() >= timer.due_at);
    never_within(Duration::from_millis(500), "the timer fired twice", work.next()).await;
    // The timer itself is gone, what it fired is a fact.
    let event = read_events(&mut log.read(1), 1).await.remove(0);
    assert_eq!(event.body, EventBody::Event(DeliveryEvent::Due(timer)));
}

#[tokio::test]
async fn arming_again_replaces_and_a_past_time_fires_at_once() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    log.arm_timer(&due(&requested(1, 1), real_now() + Duration::from_hours(1)))
        .await
        .unwrap();
    let past = due(&requested(1, 1), real_now() - Duration::from_mins(1));
    log.arm_timer(&past).await.unwrap();
    let mut work = work_of(&log, 1).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(past));
    never_within(
        Duration::from_millis(300),
        "the replaced timer fired",
        work.next(),
    )
    .await;
}

/// An attempt that is repeated late arms its retry again. That must not take the place of a later retry.
#[tokio::test]
async fn the_timers_of_two_attempts_do_not_touch_each_other() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let later = Due {
        attempt_number: 3,
        ..due(&requested(1, 1), real_now() + Duration::from_millis(700))
    };
    let stale = due(&requested(1, 1), real_now() + Duration::from_millis(300));
    log.arm_timer(&later).await.unwrap();
    log.arm_timer(&stale).await.unwrap();
    let mut work = work_of(&log, 1).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(stale));
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(later));
}

#[tokio::test]
async fn a_cancelled_timer_does_not_fire_and_the_others_do() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let cancelled = due(&requested(1, 1), real_now() + Duration::from_millis(500));
    let kept = Due {
        attempt_number: 3,
        ..due(&requested(1, 1), real_now() + Duration::from_millis(700))
    };
    log.arm_timer(&cancelled).await.unwrap();
    log.arm_timer(&kept).await.unwrap();
    let delivery_id = cancelled.delivery.delivery_id;
    log.cancel_timer(delivery_id, 2).await.unwrap();
    // There is none any more, which is as good.
    log.cancel_timer(delivery_id, 2).await.unwrap();
    let mut work = work_of(&log, 1).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(kept));
    never_within(
        Duration::from_millis(300),
        "the cancelled timer fired",
        work.next(),
    )
    .await;
}

/// Arms a timer as it was when a delivery had a single one.
async fn arm_unnumbered(log: &Log, timer: &Due) -> u64 {
    let delivery = &timer.delivery;
    let subject = Subject::Timer {
        delivery_id: delivery.delivery_id,
        attempt: None,
    };
    let target = Subject::Work {
        partition: partition_of(delivery.endpoint_id, 4),
        project_id: delivery.project_id.clone(),
        endpoint_id: delivery.endpoint_id,
        due: true,
    };
    let at = timer.due_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let message = Outgoing {
        headers: vec![
            (NATS_SCHEDULE, format!("@at {at}")),
            (NATS_SCHEDULE_TARGET, target.to_string()),
        ],
        ..Outgoing::new(subject, codec::encode_due(timer))
    };
    log.append(message).await.unwrap().sequence
}

/// A delivery once had a single timer; those that wait since then are read and fire as ever.
#[tokio::test]
async fn a_timer_without_an_attempt_in_its_subject_fires_too() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let timer = due(&requested(1, 1), real_now() + Duration::from_millis(500));
    let sequence = arm_unnumbered(&log, &timer).await;
    assert_eq!(log.get(sequence).await.unwrap().unwrap().body, EventBody::Timer);
    let mut work = work_of(&log, 1).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(timer));
}

#[tokio::test]
async fn a_timer_outlives_a_killed_server() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let timer = due(&requested(1, 1), real_now() + Duration::from_millis(400));
    log.arm_timer(&timer).await.unwrap();
    server.kill();
    eventually("the timer's time passes", async || real_now() > timer.due_at).await;
    server.restart().await;
    let mut work = work_of(&log, 1).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(timer));
}

#[tokio::test]
async fn all_timers_of_a_cancelled_delivery_are_removed_and_no_others() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let soon = real_now() + Duration::from_millis(700);
    let (second, other) = (due(&requested(1, 1), soon), due(&requested(2, 1), soon));
    let third = Due {
        attempt_number: 3,
        ..second.clone()
    };
    for timer in [&second, &third, &other] {
        log.arm_timer(timer).await.unwrap();
    }
    arm_unnumbered(&log, &second).await;
    let (delivery_id, other_id) = (second.delivery.delivery_id, other.delivery.delivery_id);
    for (attempt, waits) in [(1, false), (2, true), (3, true)] {
        assert_eq!(log.has_timer(delivery_id, attempt).await, Ok(waits), "{attempt}");
    }
    log.cancel_timers(delivery_id).await.unwrap();
    for attempt in [2, 3] {
        assert_eq!(log.has_timer(delivery_id, attempt).await, Ok(false), "{attempt}");
    }
    assert_eq!(log.has_timer(other_id, 2).await, Ok(true));
    // There are none any more, which is as good.
    log.cancel_timers(delivery_id).await.unwrap();
    let mut work = work_of(&log, 1).await;
    assert_eq!(next_event(&mut work).await, WorkEvent::Due(other));
    never_within(Duration::from_millis(300), "a removed timer fired", work.next()).await;
    assert_eq!(log.has_timer(other_id, 2).await, Ok(false));
}
