//! An endpoint is dead for a while with thousands of deliveries waiting for it.

use std::collections::HashMap;
use std::time::Duration;

use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeleteEndpointRequest, DeliveryStatus};
use harness::app::TestApp;
use harness::books::{Books, Moment};
use harness::eventually::eventually;
use harness::grpc::refused;
use harness::receiver::{Receiver, Reply};
use harness::traffic::{hand_over, latencies, nothing_is_pending, numbered, offer, quantile, tally};
use tokio::time::Instant;
use tonic::Code;

use super::{
    FAILURES, FIRST_WINDOW, PATIENCE, are_probes, at_least, endpoint, installation, lanes_are,
    nothing_is_unacknowledged,
};

const DISPATCHER: usize = 1;
/// How long an event may take to a neighbour of the dead endpoint: half of them, and any of them.
const LATENCY: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(2));

/// Every event of an endpoint was delivered, as far as the history knows.
async fn all_delivered(app: &TestApp, endpoint_id: &str, count: usize) {
    nothing_is_pending(app, PATIENCE).await;
    let delivered = (DeliveryStatus::Delivered, String::new());
    assert_eq!(tally(app, endpoint_id).await, HashMap::from([(delivered, count)]));
}

#[tokio::test]
async fn a_dead_endpoint_with_3000_waiting_gets_its_probes_only_and_nobody_else_feels_it() {
    const EVENTS: usize = 3000;
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    receiver.script("/dead", [Reply::status(500)]);
    let dead = endpoint(&app, &receiver, "/dead", CreateEndpointRequest::default()).await;
    let neighbour = endpoint(&app, &receiver, "/neighbour", CreateEndpointRequest::default()).await;

    // The neighbour's events come while the backlog builds up, and while it waits.
    let steady = offer(&app, 50, Duration::from_secs(5), |number| {
        numbered(&neighbour, number)
    });
    let (sent, ()) = tokio::join!(steady, hand_over(&app, &dead, EVENTS));
    lanes_are(&app, DISPATCHER, 1, 1).await;
    nothing_is_unacknowledged(&app).await;
    at_least(&receiver, "/dead", FAILURES + 4).await;
    are_probes(&receiver.requests("/dead"));
    let took = latencies(&sent, &receiver, ["/neighbour"]);
    println!(
        "the neighbour's events took {:?}, at most {:?}",
        quantile(&took, 0.5),
        took.last()
    );
    assert!(
        quantile(&took, 0.5) < LATENCY.0 && quantile(&took, 1.0) < LATENCY.1,
        "{took:?}"
    );

    receiver.script("/dead", [Reply::status(200)]);
    all_delivered(&app, &dead, EVENTS).await;
    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!(books.len(), EVENTS + sent.len());
    books.check_delivered();
    assert_eq!(books.repeated(), []);

    // At the tail, the lane is fed by the consumer again.
    lanes_are(&app, DISPATCHER, 0, 0).await;
    let arrived = receiver.count("/dead");
    app.messages().deliver(numbered(&dead, EVENTS)).await.unwrap();
    receiver.received("/dead", arrived + 1).await;
    nothing_is_unacknowledged(&app).await;
}

#[tokio::test]
async fn a_dispatcher_killed_while_a_backlog_drains_loses_nothing_and_repeats_what_was_in_flight() {
    const EVENTS: usize = 1500;
    const CAP: usize = 16;
    let receiver = Receiver::start();
    let mut app = installation(1).start().await;
    receiver.script("/dead", [Reply::status(500)]);
    let settings = CreateEndpointRequest {
        max_in_flight: CAP as u32,
        ..Default::default()
    };
    let dead = endpoint(&app, &receiver, "/dead", settings).await;
    hand_over(&app, &dead, EVENTS).await;
    lanes_are(&app, DISPATCHER, 1, 1).await;
    nothing_is_unacknowledged(&app).await;

    receiver.script("/dead", [Reply::status(200).after(Duration::from_millis(50))]);
    let failed = receiver.count("/dead");
    at_least(&receiver, "/dead", failed + EVENTS / 3).await;
    eventually("its cap is reached", || async {
        let in_flight = receiver.in_flight();
        if in_flight >= CAP / 2 {
            Ok(())
        } else {
            Err(in_flight)
        }
    })
    .await;
    app.roles[DISPATCHER].kill9();
    let killed = Moment::now();
    app.roles[DISPATCHER].start_again();

    all_delivered(&app, &dead, EVENTS).await;
    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!(books.len(), EVENTS);
    books.check_delivered();
    let (in_flight, _) = books.check_repeated(killed);
    assert!((1..=CAP).contains(&in_flight), "{in_flight}");
    assert_eq!(receiver.peak_in_flight("/dead"), CAP);
}

#[tokio::test]
async fn an_endpoint_disabled_with_a_backlog_ends_all_of_it_at_once() {
    const EVENTS: usize = 2000;
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    receiver.script("/dead", [Reply::status(500)]);
    let dead = endpoint(&app, &receiver, "/dead", CreateEndpointRequest::default()).await;
    hand_over(&app, &dead, EVENTS).await;
    lanes_are(&app, DISPATCHER, 1, 1).await;

    app.set_active(&dead, false).await;
    let (disabled, requests) = (Instant::now(), receiver.count("/dead"));
    nothing_is_pending(&app, PATIENCE).await;

    println!("{EVENTS} deliveries had ended after {:.1?}", disabled.elapsed());
    assert!(
        disabled.elapsed() < Duration::from_secs(15),
        "{:?}",
        disabled.elapsed()
    );
    let ended = (DeliveryStatus::Failed, "endpoint_disabled".to_owned());
    assert_eq!(tally(&app, &dead).await, HashMap::from([(ended, EVENTS)]));
    // The dispatcher may have begun a probe before it learned of it.
    let after = receiver.count("/dead") - requests;
    assert!(after <= FIRST_WINDOW, "{after} requests after it was disabled");
    // Nothing has shown that it is well, so its breaker stays as it is; of a disabled endpoint it does not count.
    lanes_are(&app, DISPATCHER, 0, 0).await;
    nothing_is_unacknowledged(&app).await;
}

#[tokio::test]
async fn an_endpoint_deleted_with_a_backlog_still_gets_all_of_it_and_nothing_new() {
    const EVENTS: usize = 1000;
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    receiver.script("/dead", [Reply::status(500)]);
    let dead = endpoint(&app, &receiver, "/dead", CreateEndpointRequest::default()).await;
    hand_over(&app, &dead, EVENTS).await;
    lanes_are(&app, DISPATCHER, 1, 1).await;

    let request = DeleteEndpointRequest {
        endpoint_id: dead.clone(),
    };
    app.endpoints().delete_endpoint(request).await.unwrap();
    let refusal = refused(app.messages().deliver(numbered(&dead, EVENTS)).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::NotFound, "ENDPOINT_NOT_FOUND")
    );
    receiver.script("/dead", [Reply::status(200)]);
    all_delivered(&app, &dead, EVENTS).await;
    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!((books.len(), books.repeated()), (EVENTS, vec![]));
    books.check_delivered();
    lanes_are(&app, DISPATCHER, 0, 0).await;
    nothing_is_unacknowledged(&app).await;
}
