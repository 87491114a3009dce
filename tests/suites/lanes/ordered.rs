//! Ordered endpoints: strictly in the order of the log, one at a time, whatever fails and whoever is killed.

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::TestApp;
use harness::books::{Books, Moment};
use harness::eventually::{eventually, is};
use harness::receiver::{Receiver, Reply};
use harness::traffic::{nothing_is_pending, number, numbered};

use super::{PATIENCE, PROBE, at_least, endpoint, installation};

const DISPATCHER: usize = 1;
const EVENTS: usize = 60;
/// The events that fail twice each.
const FAILING: [usize; 2] = [10, 30];
/// How long the receiver takes for an answer: two attempts at a time would meet.
const ANSWER: Duration = Duration::from_millis(20);
/// Retries come after 80 % of what the schedule says, or later.
const EARLIEST_RETRY: Duration = Duration::from_millis(PROBE.as_millis() as u64 * 8 / 10);

/// An ordered endpoint with all of its events accepted, one after the other. Each attempt of `FAILING` fails but the third.
async fn start(app: &TestApp, receiver: &Receiver) -> String {
    let reply = |status| Reply::status(status).after(ANSWER);
    let replies = (0..EVENTS).flat_map(|number| {
        let failures = if FAILING.contains(&number) { 2 } else { 0 };
        std::iter::repeat_n(reply(500), failures).chain([reply(200)])
    });
    receiver.script("/ordered", replies);
    let settings = CreateEndpointRequest {
        ordered: true,
        ..Default::default()
    };
    let ordered = endpoint(app, receiver, "/ordered", settings).await;
    for number in 0..EVENTS {
        app.messages().deliver(numbered(&ordered, number)).await.unwrap();
    }
    ordered
}

/// Everything arrived in the order in which it was accepted, one at a time, and no retry came early.
async fn all_in_order(app: &TestApp, receiver: &Receiver) -> Books {
    nothing_is_pending(app, PATIENCE).await;
    let requests = receiver.requests("/ordered");
    let mut numbers: Vec<_> = requests.iter().map(number).collect();
    for (before, next) in requests.iter().zip(&requests[1..]) {
        let retried = number(before) == number(next)
            && before.header("x-cuitty-attempt") != next.header("x-cuitty-attempt");
        let gap = next.at - before.at;
        assert!(
            !retried || gap >= EARLIEST_RETRY,
            "{}: again after {gap:?}",
            number(next)
        );
    }
    numbers.dedup();
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
    assert_eq!(receiver.peak_in_flight("/ordered"), 1);
    let books = Books::read(&app.nats.url(), receiver).await;
    books.check_delivered();
    books
}

/// Waits until the first failing event has failed once and that is recorded, so that nothing is in flight.
async fn is_blocked(app: &TestApp, receiver: &Receiver) {
    eventually("the head has failed once", || async {
        is(receiver.count("/ordered"), FAILING[0] + 1)
    })
    .await;
    eventually("its failure is recorded", || async {
        let failed = app.roles[DISPATCHER].metric("webhooks_attempts_in_flight").await;
        is((failed as usize, receiver.in_flight()), (0, 0))
    })
    .await;
}

#[tokio::test]
async fn heads_that_fail_hold_up_their_own_lane_and_nothing_else() {
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    let neighbour = endpoint(&app, &receiver, "/neighbour", CreateEndpointRequest::default()).await;
    start(&app, &receiver).await;

    is_blocked(&app, &receiver).await;
    app.messages().deliver(numbered(&neighbour, 0)).await.unwrap();
    receiver.received("/neighbour", 1).await;
    assert_eq!(
        receiver.count("/ordered"),
        FAILING[0] + 1,
        "the head is held up still"
    );

    let books = all_in_order(&app, &receiver).await;
    assert_eq!(receiver.count("/ordered"), EVENTS + 2 * FAILING.len());
    assert_eq!(books.repeated(), []);
}

#[tokio::test]
async fn a_dispatcher_killed_while_a_head_waits_for_its_retry_repeats_nothing() {
    let receiver = Receiver::start();
    let mut app = installation(1).start().await;
    start(&app, &receiver).await;

    is_blocked(&app, &receiver).await;
    app.roles[DISPATCHER].kill9();
    app.roles[DISPATCHER].start_again();

    let books = all_in_order(&app, &receiver).await;
    assert_eq!(books.repeated(), []);
}

#[tokio::test]
async fn a_dispatcher_killed_at_work_repeats_the_one_that_was_in_flight_and_keeps_the_order() {
    let receiver = Receiver::start();
    let mut app = installation(1).start().await;
    start(&app, &receiver).await;

    at_least(&receiver, "/ordered", EVENTS / 2).await;
    eventually("an attempt is in flight", || async {
        is(receiver.in_flight(), 1)
    })
    .await;
    app.roles[DISPATCHER].kill9();
    let killed = Moment::now();
    app.roles[DISPATCHER].start_again();

    let books = all_in_order(&app, &receiver).await;
    let (in_flight, repeated) = books.check_repeated(killed);
    assert!(in_flight <= 1 && repeated <= 1, "{in_flight}, {repeated}");
}
