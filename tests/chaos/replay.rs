//! A bulk replay of what an outage has left, while everything that takes part in it is killed.

use std::collections::HashMap;
use std::time::Duration;

use cuitty_webhooks_domain::delivery::{Conclusion, DeliveryEvent, Origin};
use cuitty_webhooks_log::EventBody;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, Endpoint, GetReplayRequest, Replay, StartReplayRequest,
};
use harness::app::{PROJECT, TestApp};
use harness::books::{Books, Moment};
use harness::eventually::{eventually, eventually_within};
use harness::log::stored;
use harness::receiver::{Receiver, Reply};
use harness::traffic::{hand_over, nothing_is_pending};

use crate::load::attempts_are_in_flight;

const ENDPOINTS: usize = 10;
const FAILED: usize = 50_000;
/// How long the receiver takes for an answer: long enough that a kill meets attempts in flight.
const ANSWER: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_mins(3);
/// Places of the processes in [`TestApp::roles`].
const API: usize = 0;
const DISPATCHER: usize = 1;
const PROJECTOR: usize = 2;

async fn endpoint(app: &TestApp, receiver: &Receiver, path: &str) -> Endpoint {
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        max_in_flight: 20,
        ..Default::default()
    };
    app.create_endpoint(request).await.endpoint.unwrap()
}

async fn get(app: &TestApp, id: &str) -> Result<Replay, String> {
    let replay_id = id.to_owned();
    let replay = app.deliveries().get_replay(GetReplayRequest { replay_id }).await;
    replay
        .map(tonic::Response::into_inner)
        .map_err(|status| status.to_string())
}

/// Waits until `percent` of the replay are recorded.
async fn reaches(app: &TestApp, id: &str, percent: usize) {
    eventually_within(PATIENCE, &format!("{percent} % are replayed"), || async {
        let replay = get(app, id).await?;
        if replay.replayed as usize * 100 >= FAILED * percent {
            Ok(())
        } else {
            Err(format!("{replay:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_replay_of_50000_sends_each_once_while_api_projector_and_dispatcher_are_killed() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher", "projector"])
        .set("projector.replay.max_outstanding", 2000)
        .start()
        .await;
    // The outage: every endpoint says that it is gone, and what comes after that fails without an attempt.
    let mut endpoints = Vec::new();
    for number in 0..ENDPOINTS {
        let path = format!("/endpoint/{number}");
        receiver.script(&path, [Reply::status(410)]);
        endpoints.push(endpoint(&app, &receiver, &path).await);
    }
    for endpoint in &endpoints {
        hand_over(&app, &endpoint.id, FAILED / ENDPOINTS).await;
    }
    nothing_is_pending(&app, PATIENCE).await;
    let before = Moment::now();
    for (number, endpoint) in endpoints.iter().enumerate() {
        receiver.script(&format!("/endpoint/{number}"), [Reply::status(200).after(ANSWER)]);
        app.set_active(&endpoint.id, true).await;
    }

    let request = StartReplayRequest {
        project_id: PROJECT.into(),
        rate_per_second: 10_000,
        ..Default::default()
    };
    let started = app.deliveries().start_replay(request).await.unwrap().into_inner();
    assert_eq!(started.total as usize, FAILED);
    reaches(&app, &started.id, 15).await;
    app.roles[PROJECTOR].kill9();
    app.roles[PROJECTOR].start_again();
    reaches(&app, &started.id, 35).await;
    attempts_are_in_flight(&receiver).await;
    app.roles[DISPATCHER].kill9();
    let killed = Moment::now();
    app.roles[DISPATCHER].start_again();
    reaches(&app, &started.id, 55).await;
    app.roles[API].kill9();
    app.roles[PROJECTOR].kill9();
    app.roles[API].start_again();
    app.roles[PROJECTOR].start_again();
    let ended = eventually_within(PATIENCE, "the replay ends", || async {
        let replay = get(&app, &started.id).await?;
        if replay.state == "running" {
            Err(format!("{replay:?}"))
        } else {
            Ok(replay)
        }
    })
    .await;
    assert_eq!(
        (&*ended.state, ended.replayed as usize, ended.skipped),
        ("done", FAILED, 0)
    );
    nothing_is_pending(&app, PATIENCE).await;

    // By the log: each was requested again once, and delivered.
    let (mut replays, mut delivered) = (HashMap::new(), HashMap::new());
    for event in stored(&app.nats.url()).await {
        match event.body {
            EventBody::Event(DeliveryEvent::Requested(requested)) if requested.origin == Origin::Replay => {
                let original = requested.replay_of.expect("a delivery");
                let before = replays.insert(original, requested.delivery.delivery_id);
                assert_eq!(before, None, "{original} was requested twice");
            }
            EventBody::Event(DeliveryEvent::Concluded(concluded))
                if concluded.conclusion == Conclusion::Succeeded =>
            {
                *delivered.entry(concluded.delivery.delivery_id).or_insert(0) += 1;
            }
            _ => {}
        }
    }
    assert_eq!(replays.len(), FAILED);
    assert!(replays.values().all(|id| delivered.get(id) == Some(&1)));
    // By the receiver: each arrived once, but for what was in flight at the kill.
    let arrived = receiver.all_requests();
    let arrived = arrived.iter().filter(|request| request.at > before.at).count();
    let books = Books::read(&app.nats.url(), &receiver).await;
    let (in_flight, repeated) = books.check_repeated(killed);
    println!("{FAILED} replayed; {in_flight} attempts were in flight at the kill, {repeated} were repeated");
    assert_eq!(arrived, FAILED + repeated);
    assert!(in_flight > 0, "the kill met nothing");
    eventually("nothing is in flight any more", || async {
        harness::eventually::is(receiver.in_flight(), 0)
    })
    .await;
}
