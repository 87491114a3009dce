//! Retries at scale: 100,000 timers wait in the log while everything that serves them is killed, and nats-server stands still
//! while they fire. How late they fire is reported, not judged: that depends on what else the machine does.

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::{TestApp, event};
use harness::books::{Books, Moment, Retry};
use harness::eventually::{eventually_within, is};
use harness::log::lag;
use harness::receiver::{Receiver, Reply};
use harness::traffic::{nothing_is_pending, quantile};
use tokio::time::{Instant, sleep, sleep_until};

use crate::lanes::create_endpoints;

const ENDPOINTS: usize = 1000;
/// Events, each of which goes to every endpoint.
const EVENTS: usize = 100;
const RETRIES: usize = ENDPOINTS * EVENTS;
/// Events that may be on their way at the same time: more would pile up, and what is measured is not that.
const AHEAD: usize = 3;
/// The same for other endpoints before, to see how fast this machine is.
const WARM_UP: (usize, usize) = (100, 50);
/// How much longer all first attempts may take than the warm-up lets expect.
const MARGIN: f64 = 2.0;
/// How far jitter moves a retry from its time.
const JITTER: f64 = 0.2;
/// How many seconds' worth of retries become due while nothing runs.
const DOWN: Duration = Duration::from_secs(5);
/// How long all first attempts, and all retries once they are due, may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Until when what became due meanwhile is made up for after a restart. The leases of the killed dispatchers expire first.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long nats-server stands still while retries fire: so long that all leases expire and all work in flight comes again.
const STALL: Duration = Duration::from_secs(12);
/// Places of the processes in [`TestApp::roles`].
const DISPATCHERS: [usize; 2] = [1, 2];

/// Hands `events` events of a type over that `endpoints` endpoints take, and waits until all of them have arrived. How long
/// that took.
async fn arrive(
    app: &TestApp,
    receiver: &Receiver,
    event_type: &str,
    events: usize,
    endpoints: usize,
) -> Duration {
    let (begin, before) = (Instant::now(), receiver.arrived());
    for number in 1..=events {
        app.messages()
            .deliver(event(event_type, "{}"))
            .await
            .expect("it is accepted");
        let ahead = if number < events { AHEAD } else { 0 };
        let least = before + number.saturating_sub(ahead) * endpoints;
        eventually_within(PATIENCE, "they arrive", || async {
            let arrived = receiver.arrived();
            if arrived >= least { Ok(()) } else { Err(arrived) }
        })
        .await;
    }
    begin.elapsed()
}

/// Waits until the log has no work that is not acknowledged.
async fn nothing_is_left_to_do(app: &TestApp) {
    eventually_within(PATIENCE, "no work is left", || async {
        let lags = lag(&app.nats.url()).await;
        is(lags.iter().map(|lag| lag.pending + lag.in_flight).sum(), 0u64)
    })
    .await;
}

/// How late retries were, sorted.
fn late<'a>(retries: impl Iterator<Item = &'a Retry>, by: impl Fn(&Retry) -> Duration) -> Vec<Duration> {
    let mut late: Vec<_> = retries.map(by).collect();
    late.sort();
    late
}

fn describe(late: &[Duration]) -> String {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(late, share));
    format!("p50 {p50:.2?}, p99 {p99:.2?}, at most {max:.2?}")
}

#[tokio::test]
async fn a_hundred_thousand_pending_retries_all_fire_once_after_nats_server_and_dispatchers_are_killed() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    // Every first attempt fails, and no lane is to stop for that.
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher", "dispatcher"])
        .set("dispatcher.breaker.consecutive_failures", 1_000_000)
        .set("dispatcher.breaker.min_attempts", 1_000_000)
        .start()
        .await;
    let (endpoints, events) = WARM_UP;
    create_endpoints(&app, endpoints, |endpoint| CreateEndpointRequest {
        url: receiver.url(&format!("/warm-up/{endpoint}")),
        event_types: vec!["warm.up".into()],
        ..Default::default()
    })
    .await;
    let took = arrive(&app, &receiver, "warm.up", events, endpoints).await;
    let expected = took.mul_f64(RETRIES as f64 / (endpoints * events) as f64);
    let delay = Duration::from_secs((expected.as_secs_f64() * MARGIN / (1.0 - JITTER)).ceil() as u64);
    create_endpoints(&app, ENDPOINTS, |endpoint| {
        let path = format!("/endpoint/{endpoint}");
        let failures = std::iter::repeat_n(Reply::status(500), EVENTS);
        receiver.script(&path, failures.chain([Reply::status(200)]));
        CreateEndpointRequest {
            url: receiver.url(&path),
            event_types: vec!["order.paid".into()],
            retry_schedule_seconds: vec![delay.as_secs() as u32],
            ..Default::default()
        }
    })
    .await;

    let begin = Instant::now();
    let took = arrive(&app, &receiver, "order.paid", EVENTS, ENDPOINTS).await;
    nothing_is_left_to_do(&app).await;
    println!("{RETRIES} deliveries failed within {took:.1?}, their retries come after {delay:?}");
    for index in DISPATCHERS {
        app.roles[index].kill9();
    }
    app.nats.kill9();
    let killed = Moment::now();
    sleep_until(begin + delay.mul_f64(1.0 - JITTER) + DOWN).await;
    app.nats.restart().await;
    let back = Moment::now();
    for index in DISPATCHERS {
        app.roles[index].start_again();
    }
    let until_arrived = async |what, least| {
        eventually_within(delay + PATIENCE, what, || async {
            let arrived = receiver.arrived();
            if arrived >= least { Ok(()) } else { Err(arrived) }
        })
        .await;
    };
    let all = events * endpoints + 2 * RETRIES;
    until_arrived("a quarter of the retries arrive", all - RETRIES / 4 * 3).await;
    app.nats.pause().await;
    let stalled = Moment::now();
    sleep(STALL).await;
    app.nats.go_on();
    until_arrived("every retry arrives", all).await;
    nothing_is_left_to_do(&app).await;
    nothing_is_pending(&app, PATIENCE).await;

    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!(books.len(), events * endpoints + RETRIES);
    books.check_delivered();
    // What had been sent, and could not be recorded before the lease expired.
    let (in_flight, repeated) = books.check_repeated(stalled);
    println!("{in_flight} in flight when nats-server stood still, {repeated} repeated");
    assert_eq!(receiver.arrived(), all + repeated);
    // By their timers, not because the projector found them missing.
    assert_eq!(
        app.roles[0].metric("webhooks_swept_deliveries_total").await as usize,
        0
    );

    let retries = books.retries(killed);
    assert_eq!(retries.len(), RETRIES);
    let is_pending = |retry: &&Retry| retry.promised_at <= killed.wall && killed.wall < retry.due_at;
    let pending = retries.iter().filter(is_pending).count();
    assert_eq!(pending, RETRIES, "all of them wait when the kill comes");
    let recovered = back.wall + RECOVERY;
    let spans = [
        ("due while nothing ran", killed.wall, back.wall),
        ("due in the first 30 s after the restart", back.wall, recovered),
        ("due later", recovered, recovered + delay),
    ];
    for (what, from, to) in spans {
        let retries = || {
            retries
                .iter()
                .filter(|retry| from < retry.due_at && retry.due_at <= to)
        };
        println!("{what}: {} retries", retries().count());
        println!(
            "  fired late by {}",
            describe(&late(retries(), |retry| retry.fired_after))
        );
        println!(
            "  arrived late by {}",
            describe(&late(retries(), |retry| retry.arrived_after))
        );
    }
}
