//! What becomes of a dispatcher's work when it ends, at a scale where every delivery can be accounted for.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::TestApp;
use harness::eventually::{PATIENCE, eventually, is};
use harness::receiver::{Receiver, Reply};
use harness::traffic::nothing_is_pending;
use serde_json::json;
use tokio::time::Instant;

use crate::TAKEOVER;

const ENDPOINTS: usize = 16;
/// Attempts at the same time per endpoint: what one gets that has shown nothing yet.
const CAP: usize = 2;
const EVENTS: usize = 20;
/// How long the receiver keeps the first requests of each endpoint waiting: past the kill.
const HELD: Duration = Duration::from_secs(10);

fn path(endpoint: usize) -> String {
    format!("/endpoint/{endpoint}")
}

/// The attempts in flight in the dispatchers at these places.
async fn in_flight(app: &TestApp, dispatchers: [usize; 2]) -> [usize; 2] {
    let mut counts = [0; 2];
    for (count, index) in counts.iter_mut().zip(dispatchers) {
        *count = app.roles[index].metric("webhooks_attempts_in_flight").await as usize;
    }
    counts
}

#[tokio::test]
async fn a_killed_dispatchers_work_arrives_and_only_what_was_in_flight_twice() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher", "dispatcher"])
        .start()
        .await;
    for endpoint in 0..ENDPOINTS {
        let held = std::iter::repeat_n(Reply::status(200).after(HELD), CAP);
        receiver.script(&path(endpoint), held.chain([Reply::status(200)]));
        let request = CreateEndpointRequest {
            url: receiver.url(&path(endpoint)),
            max_in_flight: CAP as u32,
            ..Default::default()
        };
        app.create_endpoint(request).await;
    }
    let mut expected = HashSet::new();
    for number in 0..EVENTS {
        let accepted = app.deliver("order.paid", &json!({ "number": number })).await;
        expected.insert(accepted.message_id);
    }
    // All at their caps, so that until the receiver answers nothing begins and nothing ends.
    let [doomed, _] = eventually("attempts are in flight in both dispatchers", || async {
        let counts = in_flight(&app, [1, 2]).await;
        let is_full = counts.iter().sum::<usize>() == ENDPOINTS * CAP && !counts.contains(&0);
        if is_full { Ok(counts) } else { Err(counts) }
    })
    .await;

    app.roles[1].kill9();
    let killed = Instant::now();
    let before: Vec<_> = (0..ENDPOINTS)
        .map(|endpoint| receiver.ids(&path(endpoint)))
        .collect();

    eventually("everything arrives", || async {
        let whole = |endpoint: &usize| receiver.ids(&path(*endpoint)).into_keys().collect::<HashSet<_>>();
        is(
            (0..ENDPOINTS)
                .filter(|endpoint| whole(endpoint) == expected)
                .count(),
            ENDPOINTS,
        )
    })
    .await;
    nothing_is_pending(&app, PATIENCE).await;

    let (mut repeated, mut last) = (0, Duration::ZERO);
    for (endpoint, before) in before.iter().enumerate() {
        let after = receiver.ids(&path(endpoint));
        let twice: HashMap<_, _> = after.into_iter().filter(|(_, times)| *times > 1).collect();
        // An endpoint has one owner: the killed one, which had all of these in flight, or the other one.
        if twice.is_empty() {
            continue;
        }
        let expected = before.keys().map(|id| (id.clone(), 2)).collect();
        assert_eq!(twice, expected, "endpoint {endpoint}");
        repeated += twice.len();
        let arrived = receiver.requests(&path(endpoint)).pop().unwrap().at;
        last = last.max(arrived.saturating_duration_since(killed));
    }
    println!(
        "{doomed} in flight at the kill, {repeated} repeated, its last delivery arrived {last:.1?} after it"
    );
    assert_eq!(repeated, doomed);
    assert!(last <= TAKEOVER, "{last:?}");
}

#[tokio::test]
async fn sigterm_lets_what_is_in_flight_end_and_repeats_nothing() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(200).after(Duration::from_millis(400))]);
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher"])
        .start()
        .await;
    app.create_endpoint_at(receiver.url("/hook")).await;
    for number in 0..30 {
        app.deliver("order.paid", &json!({ "number": number })).await;
    }
    eventually("attempts are in flight", || async {
        is(receiver.peak_in_flight("/hook") > 0, true)
    })
    .await;

    assert!(app.roles[1].stop().await.success());
    app.roles[1].start_again();

    eventually("everything arrives", || async {
        is(receiver.ids("/hook").len(), 30)
    })
    .await;
    nothing_is_pending(&app, PATIENCE).await;
    assert_eq!(receiver.requests("/hook").len(), 30);
}
