//! A detached lane goes from one dispatcher to another.

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::books::Books;
use harness::receiver::{Receiver, Reply};
use harness::traffic::{hand_over, nothing_is_pending};

use super::{FAILURES, PATIENCE, are_probes, at_least, endpoint, installation, lanes_are};

const DISPATCHERS: [usize; 2] = [1, 2];

#[tokio::test]
async fn a_detached_lane_goes_from_hand_to_hand_and_nothing_is_repeated() {
    const EVENTS: usize = 1500;
    let receiver = Receiver::start();
    let mut app = installation(2).start().await;
    receiver.script("/dead", [Reply::status(500)]);
    let settings = CreateEndpointRequest {
        max_in_flight: 16,
        ..Default::default()
    };
    let dead = endpoint(&app, &receiver, "/dead", settings).await;
    hand_over(&app, &dead, EVENTS).await;
    let first = app.owner(&DISPATCHERS).await;
    lanes_are(&app, first, 1, 1).await;
    at_least(&receiver, "/dead", FAILURES + 2).await;

    // While it is down: the next owner knows that it is, and goes on probing.
    assert!(app.roles[first].stop().await.success());
    let second = DISPATCHERS.into_iter().find(|&index| index != first).unwrap();
    app.owner(&[second]).await;
    let probes = receiver.count("/dead");
    lanes_are(&app, second, 1, 1).await;
    at_least(&receiver, "/dead", probes + 3).await;
    are_probes(&receiver.requests("/dead"));

    // While it drains.
    app.roles[first].start_again();
    app.roles[first].ready().await;
    let answer = Reply::status(200).after(Duration::from_millis(50));
    receiver.script("/dead", [answer]);
    let failed = receiver.count("/dead");
    at_least(&receiver, "/dead", failed + EVENTS / 5).await;
    let owner = app.owner(&DISPATCHERS).await;
    assert!(
        receiver.count("/dead") < failed + EVENTS,
        "there is something left to hand over"
    );
    assert!(app.roles[owner].stop().await.success());

    nothing_is_pending(&app, PATIENCE).await;
    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!(books.len(), EVENTS);
    books.check_delivered();
    assert_eq!(books.repeated(), []);
}
