use std::time::Duration;

use cuitty_webhooks_domain::delivery::Requested;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::fixtures::{concluded, due, now, requested};
use crate::testing::{NatsServer, SOON, eventually};
use crate::{Log, LogConfig, LogError};

/// The smallest budget that the configuration allows.
const BYTES: u32 = 1 << 20;

async fn small_log(server: &NatsServer, request_timeout: Duration) -> Log {
    let log = Log::connect(LogConfig {
        max_append_bytes: BYTES,
        request_timeout,
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    log
}

/// Message `message` with `payload` bytes to 300 endpoints.
fn fan_out(message: u64, payload: usize) -> Vec<Requested> {
    let body = bytes::Bytes::from(vec![b'x'; payload]);
    let requests = (0..300).map(|endpoint| Requested {
        payload: body.clone(),
        ..requested(message, endpoint)
    });
    requests.collect()
}

/// More messages than fit into all pipelines together: no call may hold what another one waits for while it waits itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_fan_outs_at_once_all_complete_within_the_budget() {
    let server = NatsServer::start().await;
    let log = small_log(&server, SOON).await;
    let calls = (0..100).map(|message| {
        let log = log.clone();
        tokio::spawn(async move { log.append_requested(&fan_out(message, 4096)).await })
    });
    let mut calls = std::pin::pin!(join_all(calls));
    let share = &log.budget().accepted;
    let (mut most, mut slowest) = (0, Duration::ZERO);
    let deadline = Instant::now() + 3 * SOON;
    let done = loop {
        assert!(Instant::now() < deadline, "the calls wait for one another");
        most = most.max(share.taken());
        // What is not a message to deliver does not wait behind them.
        let started = Instant::now();
        let timer = due(&requested(7, 7), now() + Duration::from_hours(24 * 365));
        log.arm_timer(&timer).await.unwrap();
        slowest = slowest.max(started.elapsed());
        if let Ok(done) = timeout(Duration::from_millis(1), &mut calls).await {
            break done;
        }
    };
    for call in done {
        assert_eq!(call.unwrap().map(|sequences| sequences.len()), Ok(300));
    }
    assert!(
        (BYTES as usize / 2..=BYTES as usize).contains(&most),
        "{most} bytes were under way"
    );
    assert_eq!(share.taken(), 0);
    assert!(slowest < Duration::from_secs(3), "a timer took {slowest:?}");
}

#[tokio::test]
async fn a_message_that_finds_no_room_in_time_is_refused_and_others_are_appended() {
    let server = NatsServer::start().await;
    let log = small_log(&server, Duration::from_secs(2)).await;
    let share = &log.budget().accepted;
    let all = share.try_take(BYTES as usize);
    let started = Instant::now();
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.append_requested(&[requested(1, 1)]).await }
    });
    eventually("the message waits", async || share.try_take(0).is_none()).await;
    assert!(
        log.append_concluded(&concluded(&requested(2, 2), 1))
            .await
            .is_ok()
    );
    assert!(
        started.elapsed() < log.config().request_timeout,
        "the outcome waited"
    );
    let refused = waiting.await.unwrap();
    let why = "too many appends before this one are not acknowledged";
    assert_eq!(refused, Err(LogError::Unavailable(why.into())));
    drop(all);
    assert_eq!(log.append_requested(&[requested(3, 3)]).await, Ok(vec![2]));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_its_room() {
    let server = NatsServer::start().await;
    let log = small_log(&server, SOON).await;
    let share = &log.budget().accepted;
    let requests = fan_out(1, 64 * 1024);
    let mut appending = Box::pin(log.append_requested(&requests));
    eventually("the call waits for acknowledgements", async || {
        assert!(futures_util::poll!(&mut appending).is_pending());
        share.taken() > 0
    })
    .await;
    drop(appending);
    assert_eq!(share.taken(), 0);
}

/// Handed to a connection that is not there, it would stay in memory, and be stored after its caller was told that it is
/// not.
#[tokio::test]
async fn what_was_given_up_while_the_server_was_away_is_not_stored_later() {
    let mut server = NatsServer::start().await;
    let log = Log::connect(LogConfig {
        request_timeout: Duration::from_millis(200),
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    server.kill();
    eventually("the loss is noticed", async || !log.is_connected()).await;
    let (requests, started) = (fan_out(1, 1024), Instant::now());
    let calls = requests.chunks(30).map(|requests| log.append_requested(requests));
    for refused in join_all(calls).await {
        assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    }
    // A call takes one timeout, however many its messages are.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    server.restart().await;
    eventually("the next is stored", async || {
        log.append_requested(&[requested(2, 2)]).await.is_ok()
    })
    .await;
    assert_eq!(log.bounds().await.unwrap(), (1, 1));
}
