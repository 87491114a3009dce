//! Lanes: endpoints that are dead, slow, limited or ordered, each at its own pace, and what their neighbours and the log
//! feel of it. The bounds of what waits in memory are small here, so that a few thousand deliveries are far too many.

mod breaker;
mod hand_over;
mod ordered;
mod outage;
mod pace;

use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::{Builder, TestApp};
use harness::eventually::{eventually, is};
use harness::log::lag;
use harness::receiver::{Captured, Receiver};

/// Most retries that a schedule may hold.
const RETRIES: usize = 24;
/// Time between the probes of an endpoint that [`endpoint`] made.
const PROBE: Duration = Duration::from_secs(1);
/// Failures in a row that open a breaker.
const FAILURES: usize = 3;
/// Attempts at a time that an endpoint gets that has shown nothing yet.
const FIRST_WINDOW: usize = 2;
/// How much earlier than due a request may seem to arrive: the one before it may have been noted late.
const SLACK: Duration = Duration::from_millis(100);
/// How long a few thousand deliveries may take, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The roles as processes, with so many dispatchers behind the API, on a log with a single partition.
fn installation(dispatchers: usize) -> Builder {
    let roles = std::iter::once("api,projector").chain(std::iter::repeat_n("dispatcher", dispatchers));
    TestApp::builder()
        .processes(roles)
        .set("log.partitions", 1)
        .set("log.lease_ttl", "3s")
        .set("dispatcher.lanes.max_items", 64)
        .set("dispatcher.lanes.total_items", 256)
        .set("dispatcher.lanes.window_items", 32)
        .set("dispatcher.breaker.consecutive_failures", FAILURES)
}

/// Makes an endpoint at `path` and returns its id. Unless `settings` says otherwise, retries and probes come every second.
async fn endpoint(app: &TestApp, receiver: &Receiver, path: &str, settings: CreateEndpointRequest) -> String {
    let mut request = CreateEndpointRequest {
        url: receiver.url(path),
        ..settings
    };
    if request.retry_schedule_seconds.is_empty() {
        request.retry_schedule_seconds = vec![PROBE.as_secs() as u32; RETRIES];
    }
    app.create_endpoint(request).await.endpoint.unwrap().id
}

/// Waits until the dispatcher at this place in [`TestApp::roles`] has so many lanes that are detached, and so many whose
/// breaker is not closed.
async fn lanes_are(app: &TestApp, dispatcher: usize, detached: usize, open: usize) {
    eventually("lanes detach and breakers open", || async {
        let process = &app.roles[dispatcher];
        let seen = (
            process.metric("webhooks_detached_lanes").await as usize,
            process.metric("webhooks_open_breakers").await as usize,
        );
        is(seen, (detached, open))
    })
    .await;
}

/// Waits until dispatchers have pulled all work and have acknowledged all of it.
async fn nothing_is_unacknowledged(app: &TestApp) {
    eventually("nothing stays unacknowledged", || async {
        let lags = lag(&app.nats.url()).await;
        let held: Vec<_> = lags.iter().map(|lag| (lag.pending, lag.in_flight)).collect();
        is(held, vec![(0, 0)])
    })
    .await;
}

/// Waits until so many requests have arrived on `path`, or more.
async fn at_least(receiver: &Receiver, path: &str, count: usize) {
    eventually(&format!("{count} requests on {path}"), || async {
        let seen = receiver.count(path);
        if seen >= count { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// What arrived at an endpoint that failed every request: what opened its breaker, then probes on schedule, and nothing
/// else.
fn are_probes(requests: &[Captured]) {
    // Of what was in flight when the breaker opened, some may have arrived before the failure that opened it.
    let probes = &requests[FAILURES + FIRST_WINDOW - 2..];
    for (before, probe) in probes.iter().zip(&probes[1..]) {
        let gap = probe.at - before.at;
        assert!(gap + SLACK >= PROBE, "a probe after {gap:?}");
    }
}
