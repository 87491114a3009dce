//! How fast an endpoint is called: its rate limit, and what it asks for itself.

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::receiver::{Receiver, Reply};
use harness::traffic::{hand_over, numbered, offer};

use super::{SLACK, at_least, endpoint, installation};

#[tokio::test]
async fn a_rate_limit_of_50_is_kept_within_5_percent_under_ten_times_as_much() {
    const RATE: u32 = 50;
    const OBSERVED: Duration = Duration::from_secs(6);
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    let settings = CreateEndpointRequest {
        rate_limit_per_second: RATE,
        ..Default::default()
    };
    let limited = endpoint(&app, &receiver, "/limited", settings).await;

    offer(&app, 10 * RATE, OBSERVED, |number| numbered(&limited, number)).await;
    at_least(
        &receiver,
        "/limited",
        1 + (RATE * OBSERVED.as_secs() as u32) as usize,
    )
    .await;

    let requests = receiver.requests("/limited");
    let since = |index: usize| requests[index].at - requests[0].at;
    let observed = (0..requests.len())
        .filter(|&index| since(index) < OBSERVED)
        .count();
    let expected = f64::from(RATE) * OBSERVED.as_secs_f64();
    println!("{observed} requests in {OBSERVED:?}, {expected} expected");
    assert!(
        (observed as f64 - expected).abs() <= expected * 0.05,
        "{observed}"
    );
    // Nor is it made up of bursts.
    for (index, first) in requests.iter().enumerate() {
        let within = requests[index..]
            .iter()
            .take_while(|next| next.at - first.at < Duration::from_secs(1));
        assert!(within.count() <= RATE as usize * 5 / 4, "from request {index} on");
    }
}

#[tokio::test]
async fn retry_after_leaves_the_endpoint_alone_even_when_others_in_flight_succeed() {
    const CAP: usize = 8;
    const ASKED: Duration = Duration::from_secs(2);
    let receiver = Receiver::start();
    let app = installation(1).start().await;
    let answer = Reply::status(200).after(Duration::from_millis(200));
    let asks = Reply::status(503).header("retry-after", ASKED.as_secs().to_string());
    // By then the endpoint has earned its cap, so that others are in flight when it asks.
    let warm = std::iter::repeat_n(answer.clone(), 8 * CAP);
    receiver.script("/busy", warm.chain([asks, answer]));
    let settings = CreateEndpointRequest {
        max_in_flight: CAP as u32,
        ..Default::default()
    };
    let busy = endpoint(&app, &receiver, "/busy", settings).await;

    hand_over(&app, &busy, 16 * CAP).await;
    at_least(&receiver, "/busy", 8 * CAP + 1 + CAP).await;

    let requests = receiver.requests("/busy");
    let asked = requests[8 * CAP].at;
    // Its answer is on its way for a moment.
    let meanwhile: Vec<_> = requests[8 * CAP + 1..]
        .iter()
        .map(|request| request.at - asked)
        .filter(|after| (SLACK..ASKED).contains(after))
        .collect();
    assert!(meanwhile.is_empty(), "requests after {meanwhile:?}");
    assert_eq!(receiver.peak_in_flight("/busy"), CAP);
}

#[tokio::test]
async fn answers_of_429_slow_an_endpoint_down_and_successes_speed_it_up_again() {
    const CAP: usize = 8;
    let receiver = Receiver::start();
    // The failures here must not open the breaker.
    let app = installation(1)
        .set("dispatcher.breaker.consecutive_failures", 100)
        .start()
        .await;
    let quick = Reply::status(200).after(Duration::from_millis(50));
    let full = Reply::status(429).after(Duration::from_millis(50));
    let answer = Duration::from_millis(300);
    let slow = Reply::status(200).after(answer);
    let warm = std::iter::repeat_n(quick, 4 * CAP).chain(std::iter::repeat_n(full, CAP));
    receiver.script("/busy", warm.chain([slow]));
    let settings = CreateEndpointRequest {
        max_in_flight: CAP as u32,
        ..Default::default()
    };
    let busy = endpoint(&app, &receiver, "/busy", settings).await;

    hand_over(&app, &busy, 12 * CAP).await;
    at_least(&receiver, "/busy", 12 * CAP).await;

    let requests = receiver.requests("/busy");
    assert_eq!(receiver.peak_in_flight("/busy"), CAP);
    let (before, after) = requests.split_at(5 * CAP);
    let last = before[before.len() - 1].at;
    // Without `Retry-After`, it is left alone for a second.
    let gap = after[0].at - last;
    assert!(gap >= Duration::from_secs(1), "{gap:?}");
    // Halved by each of its failures: one at a time, then twice as many with each round of answers.
    let rounds: Vec<_> = (0..3)
        .map(|round| {
            let begins = after[0].at + answer * round;
            let arrived = after
                .iter()
                .filter(|request| request.at < begins + answer - SLACK);
            arrived.filter(|request| request.at >= begins).count()
        })
        .collect();
    assert!(rounds[0] == 1 && rounds[1] <= 2 && rounds[2] <= 4, "{rounds:?}");
}
