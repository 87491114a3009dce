//! A backup that is made while everything is at work, restored elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use cuitty_webhooks_domain::delivery::{Conclusion, DeliveryEvent};
use cuitty_webhooks_log::{EventBody, StoredEvent};
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliverRequest, DeliverResponse, DeliveryDetail};
use futures_util::{StreamExt, stream};
use harness::app::{PROJECT, TestApp, event};
use harness::eventually::{eventually, is};
use harness::grpc::Authorized;
use harness::log::stored;
use harness::receiver::{Captured, Receiver, Reply};
use harness::rest::RestClient;
use harness::roles::command;
use harness::traffic::nothing_is_pending;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{empty_place, succeeds};

/// Calls a second.
const RATE: u32 = 200;
/// What is published on NATS a second.
const PUBLISHED_RATE: u32 = 50;
/// How long there is traffic before the backup, and after it.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(1);
/// How long everything may take in the end.
const PATIENCE: Duration = Duration::from_mins(2);
/// Calls that wait for their answer at the same time.
const IN_FLIGHT: usize = 64;
/// The endpoints, by the event type that each takes.
const PATHS: [&str; 4] = ["well", "flaky", "ordered", "dead"];

/// The processes.
const ROLES: [&str; 3] = ["api,ingest", "dispatcher", "projector"];

/// An event that was accepted.
#[derive(Debug)]
struct Call {
    number: usize,
    answer: DeliverResponse,
    answered_at: Instant,
}

/// How many deliveries were requested for each event, by the number in its payload.
type Requests = BTreeMap<usize, Vec<String>>;

fn keyed(number: usize) -> DeliverRequest {
    DeliverRequest {
        idempotency_key: format!("key-{number}"),
        ..event(
            &format!("load.{}", PATHS[number % PATHS.len()]),
            json!({ "number": number }).to_string(),
        )
    }
}

/// Fails the first attempt of one in `every` events.
fn second_time(request: &Captured, every: usize) -> Reply {
    let is_late = number_of(&request.body).is_some_and(|number| number % every < PATHS.len());
    let is_first = request.header("x-cuitty-attempt") == "1";
    Reply::status(if is_late && is_first { 500 } else { 200 })
}

fn number_of(payload: &[u8]) -> Option<usize> {
    let payload: Value = serde_json::from_slice(payload).ok()?;
    Some(payload["number"].as_u64()? as usize)
}

fn published_number(payload: &[u8]) -> Option<usize> {
    let payload: Value = serde_json::from_slice(payload).ok()?;
    Some(payload["published"].as_u64()? as usize)
}

/// Does something with 0, 1, 2, … at a rate, until it is stopped. Returns what that gave.
struct Steady<T> {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<T>>,
}

impl<T: Send + 'static> Steady<T> {
    fn start<F>(rate: u32, make: impl Fn(usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (start, mut calls) = (Instant::now(), JoinSet::new());
            for number in 0.. {
                sleep_until(start + Duration::from_secs(number as u64) / rate).await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                calls.spawn(make(number));
            }
            calls.join_all().await
        });
        Self { stop, task }
    }

    async fn end(self) -> Vec<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("nothing is refused")
    }
}

/// Everything that every delivery was attempted, and how it ended.
#[derive(Default)]
struct Told {
    by_call: Requests,
    by_publishing: Requests,
    requested: HashSet<String>,
    /// Attempts that have their outcome.
    attempted: HashSet<(String, u32)>,
    ended: HashSet<String>,
    retried: HashSet<String>,
}

fn tell<'a>(events: impl IntoIterator<Item = &'a StoredEvent>) -> Told {
    let mut told = Told::default();
    for event in events {
        match &event.body {
            EventBody::Event(DeliveryEvent::Requested(request)) => {
                let id = request.delivery.delivery_id.to_string();
                told.requested.insert(id.clone());
                if let Some(number) = number_of(&request.payload) {
                    told.by_call.entry(number).or_default().push(id);
                } else if let Some(number) = published_number(&request.payload) {
                    told.by_publishing.entry(number).or_default().push(id);
                }
            }
            EventBody::Event(DeliveryEvent::Concluded(concluded)) => {
                let id = concluded.delivery.delivery_id.to_string();
                let number = concluded.attempt.as_ref().map_or(0, |attempt| attempt.number);
                told.attempted.insert((id.clone(), number));
                match concluded.conclusion {
                    Conclusion::Retry { .. } => told.retried.insert(id),
                    _ => told.ended.insert(id),
                };
            }
            _ => {}
        }
    }
    told
}

fn attempt_of(request: &Captured) -> (String, u32) {
    let number = request.header("x-cuitty-attempt").parse().unwrap();
    (request.header("x-cuitty-delivery-id").to_owned(), number)
}

async fn details(app: &TestApp, ids: &BTreeSet<&String>) -> Vec<DeliveryDetail> {
    let mut details = Vec::new();
    for id in ids {
        details.push(app.delivery(id).await);
    }
    details
}

/// Endpoints that answer, that fail at first, and that are dead.
async fn make_endpoints(app: &TestApp, receiver: &Receiver) {
    // Too few failures for a breaker to open.
    receiver.judge("/flaky", |request| second_time(request, 12));
    receiver.judge("/ordered", |request| second_time(request, 100));
    receiver.script("/dead", [Reply::status(500)]);
    for (path, ordered, schedule) in [
        ("well", false, vec![1]),
        ("flaky", false, vec![5, 5]),
        ("ordered", true, vec![1, 1]),
        ("dead", false, vec![3; 8]),
    ] {
        let settings = CreateEndpointRequest {
            url: receiver.url(&format!("/{path}")),
            event_types: vec![format!("load.{path}")],
            ordered,
            retry_schedule_seconds: schedule,
            ..Default::default()
        };
        app.create_endpoint(settings).await;
    }
}

/// What of the `restored` log is as in the `original` one: all of it but timers that have fired here or there.
fn kept<'a>(restored: &'a [StoredEvent], original: &[StoredEvent]) -> Vec<&'a StoredEvent> {
    let by_sequence: HashMap<u64, &StoredEvent> =
        original.iter().map(|event| (event.sequence, event)).collect();
    let is_kept = |event: &&StoredEvent| by_sequence.get(&event.sequence) == Some(event);
    let (kept, fired): (Vec<_>, Vec<_>) = restored.iter().partition(is_kept);
    for event in fired {
        let is_timer = matches!(
            event.body,
            EventBody::Timer | EventBody::Event(DeliveryEvent::Due(_))
        );
        assert!(is_timer, "{event:?}");
    }
    kept
}

/// Makes every call again. What is restored is answered as it was the first time.
async fn repeat(app: &TestApp, calls: &[Call], restored: &Told) {
    let client = app.messages();
    stream::iter(calls)
        .for_each_concurrent(IN_FLIGHT, |call| {
            let mut client = client.clone();
            async move {
                let again = client.deliver(keyed(call.number)).await;
                let again = again.expect("it is accepted").into_inner();
                if restored.by_call.contains_key(&call.number) {
                    assert_eq!(again.message_id, call.answer.message_id);
                    assert_eq!(again.deliveries, call.answer.deliveries);
                }
            }
        })
        .await;
}

/// The attempts that arrived more than once.
fn repeated(receiver: &Receiver) -> HashSet<(String, u32)> {
    let mut seen = HashSet::new();
    let requests = receiver.all_requests();
    let attempts = requests.iter().map(attempt_of);
    attempts.filter(|attempt| !seen.insert(attempt.clone())).collect()
}

async fn nats(app: &TestApp) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(app.nats.url()).await.unwrap())
}

#[tokio::test]
async fn a_backup_under_load_restores_what_was_there_and_what_was_under_way_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let app = TestApp::builder().processes(ROLES).start().await;
    make_endpoints(&app, &receiver).await;
    let key = app.create_key(PROJECT, &["read"]).await.secret;

    let client = app.messages();
    let calls = Steady::start(RATE, move |number| call(client.clone(), number));
    let jetstream = nats(&app).await;
    let published = Steady::start(PUBLISHED_RATE, move |number| publish(jetstream.clone(), number));
    let start = Instant::now();
    eventually("the dead endpoint's lane is detached", || async {
        let detached = app.roles[1].metric("webhooks_detached_lanes").await;
        if detached >= 1.0 { Ok(()) } else { Err(detached) }
    })
    .await;
    sleep_until(start + BEFORE).await;
    let (backup, began) = (dir.path().join("backup"), Instant::now());
    let said = succeeds("backup", &backup, &app.settings).await;
    println!("{said}backed up within {:.1?}", began.elapsed());
    sleep_until(Instant::now() + AFTER).await;
    let (calls, published) = (calls.end().await, published.end().await);

    // Elsewhere, and nothing runs there yet.
    let (elsewhere, settings, history_url) = empty_place(dir.path()).await;
    println!("{}", succeeds("restore", &backup, &settings).await);
    let (restored, original) = (stored(&elsewhere.url()).await, stored(&app.nats.url()).await);
    let told = tell(kept(&restored, &original));
    let missing = calls
        .iter()
        .find(|call| call.answered_at < began && !told.by_call.contains_key(&call.number));
    assert!(missing.is_none(), "{missing:?}");
    let pending = told.requested.difference(&told.ended).count();
    assert!(!told.retried.is_empty() && pending > 100, "{pending} are pending");
    println!(
        "restored {} deliveries of {}; {} ended, {pending} pending",
        told.requested.len(),
        tell(&original).requested.len(),
        told.ended.len(),
    );

    // The history's rows, field by field.
    let ended: BTreeSet<&String> = told.ended.iter().collect();
    let before = details(&app, &ended).await;
    drop(app);
    let arrived: HashSet<_> = receiver.all_requests().iter().map(attempt_of).collect();
    let app = TestApp::builder()
        .processes(ROLES)
        .history_at(&history_url)
        .start_on(elsewhere)
        .await;
    assert_eq!(details(&app, &ended).await, before);
    let reader = RestClient::new(app.url(), Some(&key));
    let read = reader.get("/manage/v1/webhooks/endpoints").await;
    assert_eq!(read.status.as_u16(), 200);

    // Every caller who does not know repeats what it asked for. What was published before the backup needs nobody.
    receiver.script("/dead", [Reply::status(200)]);
    repeat(&app, &calls, &told).await;
    let jetstream = nats(&app).await;
    for &(number, _) in published.iter().filter(|(_, stored_at)| *stored_at >= began) {
        publish(jetstream.clone(), number).await;
    }
    eventually("the queue is empty", || async {
        let queue = jetstream.get_stream("WEBHOOKS_INGEST").await;
        let queue = queue.map_err(|error| error.to_string())?;
        is(queue.cached_info().state.messages, 0)
    })
    .await;
    nothing_is_pending(&app, PATIENCE).await;

    // Each event was requested once, and has ended.
    let end = tell(&stored(&app.nats.url()).await);
    for (requests, count) in [(&end.by_call, calls.len()), (&end.by_publishing, published.len())] {
        let once = requests.values().filter(|ids| ids.len() == 1).count();
        assert_eq!((requests.len(), once), (count, count));
    }
    assert_eq!(end.ended, end.requested);

    // What had its outcome was not sent again.
    let again = repeated(&receiver);
    println!(
        "{} attempts were made again: they had no outcome at the backup point",
        again.len()
    );
    let done: Vec<_> = again.intersection(&told.attempted).collect();
    assert!(
        done.is_empty(),
        "sent again though the log has their outcome: {done:?}"
    );
    assert!(again.is_subset(&arrived), "repeated without need");

    let verified = command(&["projection", "verify"], &app.settings);
    assert!(verified.status.success(), "{verified:?}");
}

async fn call(mut client: MessageServiceClient<Authorized>, number: usize) -> Call {
    let answer = client.deliver(keyed(number)).await.expect("it is accepted");
    Call {
        number,
        answer: answer.into_inner(),
        answered_at: Instant::now(),
    }
}

/// Publishes event `number`. Returns when the queue had stored it.
async fn publish(jetstream: async_nats::jetstream::Context, number: usize) -> (usize, Instant) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("published-{number}"));
    let payload = json!({ "published": number }).to_string();
    let subject = format!("cuitty.events.{PROJECT}.load.well");
    let sent = jetstream
        .publish_with_headers(subject, headers, payload.into())
        .await;
    sent.expect("it is sent").await.expect("it is stored");
    (number, Instant::now())
}
