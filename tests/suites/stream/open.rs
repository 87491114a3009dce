//! Streams while they are open: how they are held up, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_log::{EventBody, StoredEvent};
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::{DeliverStreamRequest, DeliverStreamResponse, RevokeApiKeyRequest};
use futures_util::{Stream, StreamExt, stream};
use harness::eventually::{eventually, is};
use harness::grpc::Authorized;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use super::*;

fn item(tag: u64, item: DeliverRequest) -> DeliverStreamRequest {
    DeliverStreamRequest {
        tag,
        item: Some(item),
    }
}

fn numbered(tag: u64) -> DeliverStreamRequest {
    item(tag, event("order.paid", json!({ "number": tag }).to_string()))
}

/// A stream that is fed by hand.
async fn open(
    client: &mut MessageServiceClient<Authorized>,
) -> Result<
    (
        mpsc::Sender<DeliverStreamRequest>,
        Streaming<DeliverStreamResponse>,
    ),
    Status,
> {
    let (sender, mut receiver) = mpsc::channel(1024);
    let items = stream::poll_fn(move |context| receiver.poll_recv(context));
    let results = client.deliver_stream(items).await?.into_inner();
    Ok((sender, results))
}

/// The results that are left, by tag, and how the stream ended.
async fn rest(
    mut results: Streaming<DeliverStreamResponse>,
) -> (BTreeMap<u64, DeliverResult>, Result<(), Status>) {
    let mut found = BTreeMap::new();
    loop {
        match results.message().await {
            Ok(Some(DeliverStreamResponse { tag, result })) => {
                assert_eq!(found.insert(tag, result.unwrap()), None, "{tag} has two results");
            }
            Ok(None) => return (found, Ok(())),
            Err(status) => return (found, Err(status)),
        }
    }
}

#[tokio::test]
async fn every_item_of_a_stream_has_one_result_and_a_half_closed_stream_ends_well() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let items = (0..500).map(|tag| match tag % 5 {
        3 => item(tag, event("order.paid", BAD)),
        4 => DeliverStreamRequest { tag, item: None },
        _ => numbered(tag),
    });
    let results = app.messages().deliver_stream(stream::iter(items)).await.unwrap();
    let (found, ended) = rest(results.into_inner()).await;

    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(found.len(), 500);
    for (tag, result) in &found {
        match tag % 5 {
            3 => assert_eq!(rejected(result).field, "payload"),
            4 => assert_eq!(rejected(result).field, "item"),
            _ => assert_eq!(accepted(result).deliveries.len(), 1),
        }
    }
    receiver.received("/hook", 300).await;
    assert_eq!(receiver.ids("/hook").len(), 300);
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_ends_the_stream_after_the_results_of_those_before() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let large = event("order.paid", vec![b'1'; limits::BATCH_BYTES]);
    // Larger than a payload may be is an item's own affair, larger than a message may be is not.
    let too_large = event("order.paid", vec![b'1'; limits::BATCH_BYTES - 1000]);
    let items = (0..50)
        .map(numbered)
        .chain([item(50, too_large), item(51, large), numbered(52)]);
    let results = app.messages().deliver_stream(stream::iter(items)).await.unwrap();
    let (found, ended) = rest(results.into_inner()).await;

    assert_eq!(found.len(), 51);
    assert_eq!(rejected(&found[&50]).reason, "PAYLOAD_TOO_LARGE");
    let refusal = Refusal::from(&ended.unwrap_err());
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::InvalidArgument, "PAYLOAD_TOO_LARGE")
    );
}

#[tokio::test]
async fn while_results_are_not_read_no_more_items_are() {
    const COUNT: u64 = 6000;
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    // A window that holds some hundred results.
    let channel = Endpoint::from_shared(app.url().to_owned()).unwrap();
    let channel = channel
        .initial_stream_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let pulled = Arc::new(AtomicUsize::new(0));
    let items = counted(&pulled, COUNT);
    let mut request = Request::new(items);
    let key = format!("Bearer {ADMIN_KEY}").parse().unwrap();
    request.metadata_mut().insert("authorization", key);
    let results = MessageServiceClient::new(channel).deliver_stream(request).await;

    let mut before = usize::MAX;
    let held_up = eventually("the sender is held up", || {
        let now = pulled.load(Ordering::Relaxed);
        let last = std::mem::replace(&mut before, now);
        async move {
            // That nothing moves any more shows only over a while.
            tokio::time::sleep(Duration::from_millis(500)).await;
            if now > 0 && now == last { Ok(now) } else { Err(now) }
        }
    })
    .await;
    assert!(
        held_up < COUNT as usize / 2,
        "{held_up} items were taken, and no result was read"
    );

    let (found, ended) = rest(results.unwrap().into_inner()).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(found.len(), COUNT as usize);
    assert!(
        found
            .values()
            .all(|result| accepted(result).deliveries.len() == 1)
    );
}

/// Items of 2 KiB, and how many were taken of them.
fn counted(pulled: &Arc<AtomicUsize>, count: u64) -> impl Stream<Item = DeliverStreamRequest> + Send + use<> {
    let pulled = Arc::clone(pulled);
    let payload = format!("\"{}\"", "x".repeat(2048));
    stream::iter(0..count).map(move |tag| {
        pulled.fetch_add(1, Ordering::Relaxed);
        item(tag, event("order.paid", payload.clone()))
    })
}

#[tokio::test]
async fn a_shutdown_answers_for_what_was_read_and_ends_the_stream() {
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .start()
        .await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let (sender, mut results) = open(&mut app.messages()).await.unwrap();
    for tag in 0..100 {
        sender.send(numbered(tag)).await.unwrap();
    }
    let first = results.message().await.unwrap().unwrap();
    assert!(first.tag < 100);

    // The caller would go on.
    let ended = app.roles[0].stop().await;

    assert!(ended.success(), "{ended}");
    let (found, ended) = rest(results).await;
    let refusal = Refusal::from(&ended.unwrap_err());
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::Unavailable, "SHUTTING_DOWN")
    );
    let stored = harness::log::stored(&app.nats.url()).await;
    assert_eq!(
        requested(&stored).len(),
        found.len() + 1,
        "each that was read has its result"
    );
}

/// How many deliveries each message has in the log.
fn requested(stored: &[StoredEvent]) -> HashMap<String, usize> {
    let mut messages = HashMap::new();
    for event in stored {
        if let EventBody::Event(DeliveryEvent::Requested(request)) = &event.body {
            *messages
                .entry(request.delivery.message_id.to_string())
                .or_default() += 1;
        }
    }
    messages
}

#[tokio::test]
async fn what_was_read_of_a_cancelled_stream_is_accepted_whole() {
    let app = TestApp::start().await;
    for _ in 0..5 {
        app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    }
    let (sender, mut results) = open(&mut app.messages()).await.unwrap();
    for tag in 0..1000 {
        sender.send(numbered(tag)).await.unwrap();
    }
    let first = accepted(&results.message().await.unwrap().unwrap().result.unwrap()).clone();
    drop((sender, results));

    let url = app.nats.url();
    let messages = eventually("what was read is accepted, for every endpoint", || async {
        let messages = requested(&harness::log::stored(&url).await);
        if messages.values().all(|&deliveries| deliveries == 5) {
            Ok(messages)
        } else {
            Err(messages)
        }
    })
    .await;
    assert!(messages.contains_key(&first.message_id));
    // The service goes on for others.
    let answered = app.deliver("order.paid", &json!({})).await;
    assert_eq!(answered.deliveries.len(), 5);
}

#[tokio::test]
async fn a_stream_ends_with_its_key_and_makes_room_for_another() {
    let app = TestApp::builder().set("api.max_deliver_streams", 1).start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let made = app.create_key(PROJECT, &["deliver"]).await;
    let mut client = MessageServiceClient::new(app.channel(Some(&made.secret)));
    let (sender, mut results) = open(&mut client).await.unwrap();
    sender.send(numbered(7)).await.unwrap();
    assert_eq!(results.message().await.unwrap().unwrap().tag, 7);

    let refusal = refused(open(&mut app.messages()).await.map(drop));
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::ResourceExhausted, "TOO_MANY_STREAMS")
    );

    let id = made.api_key.unwrap().id;
    app.api_keys()
        .revoke_api_key(RevokeApiKeyRequest { id })
        .await
        .unwrap();
    let (found, ended) = rest(results).await;
    assert_eq!(found.len(), 0);
    let refusal = Refusal::from(&ended.unwrap_err());
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::Unauthenticated, "INVALID_API_KEY")
    );
    let (sender, results) = eventually("there is room again", || async {
        open(&mut app.messages()).await
    })
    .await;
    sender.send(numbered(8)).await.unwrap();
    drop(sender);
    let (found, ended) = rest(results).await;
    is((found.len(), ended.is_ok()), (1, true)).unwrap();
}

#[tokio::test]
async fn a_stream_is_not_opened_without_its_scope_or_with_a_key_for_all_items() {
    let app = TestApp::start().await;
    let reader = app.create_key(PROJECT, &["read"]).await.secret;
    let mut client = MessageServiceClient::new(app.channel(Some(&reader)));
    let refusal = refused(open(&mut client).await.map(drop));
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::PermissionDenied, "MISSING_SCOPE")
    );
    let mut with_key = Request::new(stream::empty::<DeliverStreamRequest>());
    with_key
        .metadata_mut()
        .insert("idempotency-key", "k".parse().unwrap());
    let refusal = refused(app.messages().deliver_stream(with_key).await.map(drop));
    assert_eq!(refusal.field_names(), ["idempotency_key"]);
}

#[tokio::test]
async fn a_single_message_is_taken_while_a_stream_waits_for_its_turns() {
    let app = TestApp::builder()
        .set("api.max_concurrent_accepts", 4)
        .start()
        .await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let mut client = app.messages();
    let (sender, mut results) = open(&mut client).await.unwrap();
    let feeding = tokio::spawn(async move {
        let mut tag = 0;
        while sender.send(numbered(tag)).await.is_ok() {
            tag += 1;
        }
    });
    let taking = tokio::spawn(async move {
        let mut taken = 0;
        while let Ok(Some(_)) = results.message().await {
            taken += 1;
            if taken == 2000 {
                break;
            }
        }
        taken
    });
    let mut messages = app.messages();
    let mut delivered = 0;
    while !taking.is_finished() || delivered < 20 {
        messages
            .deliver(event("order.paid", "{}"))
            .await
            .expect("there is a place for it");
        delivered += 1;
    }
    assert_eq!(taking.await.unwrap(), 2000);
    feeding.abort();
}
