//! What a breaker lets through while it is half-open, and after it has closed.

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::receiver::{Receiver, Reply};
use harness::traffic::hand_over;
use tokio::time::Instant;

use super::{FAILURES, SLACK, are_probes, at_least, endpoint, installation, lanes_are};

#[tokio::test]
async fn one_probe_goes_alone_and_a_recovery_is_no_stampede() {
    const CAP: usize = 16;
    const EVENTS: usize = 400;
    /// How long the endpoint takes for an answer once it has mended.
    const ANSWER: Duration = Duration::from_millis(300);
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    receiver.script("/dead", [Reply::status(500).after(ANSWER)]);
    let settings = CreateEndpointRequest {
        max_in_flight: CAP as u32,
        ..Default::default()
    };
    let dead = endpoint(&app, &receiver, "/dead", settings).await;
    hand_over(&app, &dead, EVENTS).await;
    lanes_are(&app, 1, 1, 1).await;
    at_least(&receiver, "/dead", FAILURES + 3).await;
    are_probes(&receiver.requests("/dead"));

    receiver.script("/dead", [Reply::status(200).after(ANSWER)]);
    let failed = receiver.count("/dead");
    at_least(&receiver, "/dead", failed + EVENTS / 2).await;

    let requests = receiver.requests("/dead");
    let recovery = &requests[failed..];
    // In flight at each arrival, itself among them: what arrived within the time of an answer.
    let in_flight: Vec<_> = (0..recovery.len())
        .map(|index| {
            let answered = |at: Instant| at + ANSWER <= recovery[index].at + SLACK;
            recovery[..=index]
                .iter()
                .filter(|request| !answered(request.at))
                .count()
        })
        .collect();
    let next_ones = recovery[1..]
        .iter()
        .take_while(|request| request.at - recovery[1].at < SLACK);
    assert!(
        recovery[1].at - recovery[0].at >= ANSWER,
        "the probe that succeeds is alone"
    );
    assert!(next_ones.count() <= 2, "it is followed by two at most");
    // Each success makes room for one more: at request n no more are in flight than half of what has arrived, and one.
    for (index, &count) in in_flight.iter().enumerate() {
        assert!(
            count <= index / 2 + 2,
            "{count} in flight at request {index}: {in_flight:?}"
        );
    }
    assert_eq!(in_flight.iter().max(), Some(&CAP));
}
