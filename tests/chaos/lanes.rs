//! Lanes at scale: receivers that hang beside receivers that do not, and a rate limit across a change of owner.

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use futures_util::{TryStreamExt, stream};
use harness::app::{PROJECT, TestApp, event};
use harness::books::Books;
use harness::eventually::{eventually, eventually_within, is};
use harness::receiver::{Receiver, Reply};
use harness::traffic::{latencies, nothing_is_pending, numbered, offer, quantile};
use serde_json::json;
use tokio::time::sleep;

/// Creates endpoint 0, 1, … that `make` makes, many at a time, and waits until all are accepted.
pub(crate) async fn create_endpoints(
    app: &TestApp,
    count: usize,
    make: impl Fn(usize) -> CreateEndpointRequest,
) {
    let client = app.endpoints();
    let requests = (0..count).map(|number| {
        let mut request = make(number);
        request.project_id = PROJECT.into();
        Ok(request)
    });
    stream::iter(requests)
        .try_for_each_concurrent(16, |request| {
            let mut client = client.clone();
            async move { client.create_endpoint(request).await.map(drop) }
        })
        .await
        .expect("every endpoint is created");
}

#[tokio::test]
async fn a_thousand_endpoints_that_hang_take_nothing_from_a_hundred_that_do_not() {
    const HANGING: usize = 1000;
    const HEALTHY: usize = 100;
    /// Events per second, to all healthy endpoints together.
    const RATE: u32 = 200;
    const DURATION: Duration = Duration::from_secs(20);
    /// How long an attempt at an endpoint that hangs holds its slot.
    const TIMEOUT_MS: u32 = 5000;
    /// How long an event may take to a healthy endpoint: half of them, and any of them. Less than if they waited for slots
    /// that hanging attempts hold; how much less, the bench tells.
    const LATENCY: (Duration, Duration) = (Duration::from_millis(2500), Duration::from_secs(20));
    /// How long what has piled up may take once the endpoints have mended.
    const PATIENCE: Duration = Duration::from_mins(3);
    let hanging_path = |number: usize| format!("/hanging/{number}");
    let healthy_path = |number: usize| format!("/healthy/{number}");
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let app = TestApp::builder()
        .processes(["api", "projector", "dispatcher"])
        .start()
        .await;
    for number in 0..HANGING {
        receiver.script(&hanging_path(number), [Reply::hang()]);
    }
    create_endpoints(&app, HANGING, |number| CreateEndpointRequest {
        url: receiver.url(&hanging_path(number)),
        event_types: vec!["hanging".into()],
        timeout_ms: TIMEOUT_MS,
        retry_schedule_seconds: vec![2; 10],
        ..Default::default()
    })
    .await;
    create_endpoints(&app, HEALTHY, |number| CreateEndpointRequest {
        url: receiver.url(&healthy_path(number)),
        event_types: vec![format!("healthy.n{number}")],
        ..Default::default()
    })
    .await;

    // One event a second goes to each endpoint that hangs.
    let to_hanging = offer(&app, 1, DURATION, |_| event("hanging", json!({}).to_string()));
    let to_healthy = offer(&app, RATE, DURATION, |number| {
        event(&format!("healthy.n{}", number % HEALTHY), json!({}).to_string())
    });
    let (to_hanging, to_healthy) = tokio::join!(to_hanging, to_healthy);
    let healthy: Vec<_> = (0..HEALTHY).map(healthy_path).collect();
    let arrived = || healthy.iter().map(|path| receiver.count(path)).sum::<usize>();
    eventually("every event of a healthy endpoint arrives", || async {
        is(arrived(), to_healthy.len())
    })
    .await;

    let took = latencies(&to_healthy, &receiver, healthy.iter().map(String::as_str));
    let (half, most, all) = (quantile(&took, 0.5), quantile(&took, 0.99), quantile(&took, 1.0));
    println!("beside {HANGING} that hang: p50 {half:.1?}, p99 {most:.1?}, at most {all:.1?}");
    assert!(half < LATENCY.0 && all < LATENCY.1, "p50 {half:?}, max {all:?}");
    for number in 0..HANGING {
        let peak = receiver.peak_in_flight(&hanging_path(number));
        assert!((1..=2).contains(&peak), "{peak} at a time at endpoint {number}");
    }

    // Nothing of what waited is lost, and nothing was made twice.
    for number in 0..HANGING {
        receiver.script(&hanging_path(number), [Reply::status(200)]);
    }
    nothing_is_pending(&app, PATIENCE).await;
    let books = Books::read(&app.nats.url(), &receiver).await;
    assert_eq!(books.len(), to_hanging.len() * HANGING + to_healthy.len());
    books.check_delivered();
    assert_eq!(books.repeated(), []);
    assert_eq!(arrived(), to_healthy.len());
}

#[tokio::test]
async fn a_rate_limit_of_100_is_kept_within_5_percent_over_30_seconds_and_a_change_of_owner() {
    const RATE: u32 = 100;
    const OBSERVED: Duration = Duration::from_secs(30);
    const DISPATCHERS: [usize; 2] = [1, 2];
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher", "dispatcher"])
        .set("log.partitions", 1)
        .start()
        .await;
    let request = CreateEndpointRequest {
        url: receiver.url("/limited"),
        rate_limit_per_second: RATE,
        ..Default::default()
    };
    let limited = app.create_endpoint(request).await.endpoint.unwrap().id;
    let owner = app.owner(&DISPATCHERS).await;

    let mut leaving = app.roles.remove(owner);
    let change = async {
        sleep(OBSERVED / 3).await;
        assert!(leaving.stop().await.success());
    };
    let make = |number| numbered(&limited, number);
    let (sent, ()) = tokio::join!(offer(&app, 10 * RATE, OBSERVED, make), change);
    let expected = RATE as usize * OBSERVED.as_secs() as usize;
    eventually_within(OBSERVED, "the time of observation is over", || async {
        let arrived = receiver.requests("/limited");
        let elapsed = arrived
            .last()
            .map(|last| last.at - arrived[0].at)
            .unwrap_or_default();
        if elapsed >= OBSERVED { Ok(()) } else { Err(elapsed) }
    })
    .await;

    assert_eq!(sent.len(), 10 * expected);
    let requests = receiver.requests("/limited");
    let since = |index: usize| requests[index].at - requests[0].at;
    let observed = (0..requests.len())
        .filter(|&index| since(index) < OBSERVED)
        .count();
    let pause = requests.windows(2).map(|pair| pair[1].at - pair[0].at).max();
    println!("{observed} requests in {OBSERVED:?}, {expected} expected; the longest pause took {pause:.1?}");
    assert!(observed.abs_diff(expected) * 20 <= expected, "{observed}");
    let ids = receiver.ids("/limited");
    assert_eq!(
        ids.values().filter(|&&times| times > 1).count(),
        0,
        "nothing is repeated"
    );
}
