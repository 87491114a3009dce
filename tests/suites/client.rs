//! The client crate: its examples, what it does while the service is away, and publishing over NATS.

#[path = "../../crates/client/examples/bulk.rs"]
#[expect(dead_code, reason = "its main is for those who run it")]
mod bulk;
#[path = "../../crates/client/examples/deliver.rs"]
#[expect(dead_code, reason = "its main is for those who run it")]
mod deliver;
#[path = "../../crates/client/examples/publish.rs"]
#[expect(dead_code, reason = "its main is for those who run it")]
mod publish;
#[path = "../../crates/client/examples/receive.rs"]
#[expect(dead_code, reason = "its main is for those who run it")]
mod receive;

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use cuitty_webhooks_client::{Client, ClientError, PublishError, Publisher, v1};
use futures_util::{StreamExt, stream};
use harness::app::{PROJECT, TestApp, event};
use harness::eventually::{eventually, is};
use harness::nats::{NatsServer, nowhere};
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::json;
use tokio::net::TcpListener;

/// What the receiver of the example took.
static TAKEN: Mutex<Vec<(String, Vec<u8>)>> = Mutex::new(Vec::new());

#[tokio::test]
async fn the_examples_deliver_and_receive() {
    let app = TestApp::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let created = app.create_endpoint_at(url.clone()).await;
    #[expect(clippy::disallowed_methods, reason = "the service signs with the real time")]
    let now = SystemTime::now;
    let take = |id: &str, body: &[u8]| {
        TAKEN.lock().unwrap().push((id.to_owned(), body.to_vec()));
        Ok(())
    };
    let router = receive::receiver(&[created.signing_secret], now, take).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });

    let details = deliver::deliver(app.url(), ADMIN_KEY, PROJECT).await.unwrap();

    let delivery = details[0].delivery.as_ref().unwrap();
    assert_eq!(
        (details.len(), delivery.status()),
        (1, v1::DeliveryStatus::Delivered)
    );
    assert_eq!(delivery.response_status, 204);
    // The same once more, under the same idempotency key.
    let again = deliver::deliver(app.url(), ADMIN_KEY, PROJECT).await.unwrap();
    assert_eq!(again[0].delivery.as_ref().unwrap().id, delivery.id);
    let taken = TAKEN.lock().unwrap().clone();
    assert_eq!(
        taken,
        [(delivery.message_id.clone(), details[0].payload.to_vec())]
    );

    // One that is signed with another secret is not believed.
    let rotation = v1::RotateSecretRequest {
        endpoint_id: delivery.endpoint_id.clone(),
        overlap_seconds: Some(0),
        ..Default::default()
    };
    app.endpoints().rotate_secret(rotation).await.unwrap();
    let accepted = app.deliver("order.paid", &json!({})).await;
    let attempt = eventually("an attempt is recorded", || async {
        let detail = app.delivery(&accepted.deliveries[0].id).await;
        detail.attempts.into_iter().next().ok_or("none")
    })
    .await;
    assert_eq!(attempt.response.unwrap().status, 401);
    assert_eq!(TAKEN.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_example_for_many_events_delivers_each_once() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hooks")).await;
    let payloads = (0..2000).map(|number| {
        if number % 100 == 7 {
            "{".into()
        } else {
            format!("[{number}]")
        }
    });
    let told = bulk::deliver(app.url(), ADMIN_KEY, PROJECT, payloads)
        .await
        .unwrap();
    assert_eq!(told, (1980, 20));
    receiver.received("/hooks", 1980).await;
    assert_eq!(receiver.distinct_ids(), 1980);
}

#[tokio::test]
async fn a_batch_has_a_result_for_each() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hooks")).await;
    let client = Client::connect(app.url(), ADMIN_KEY).await.unwrap();
    let results = client
        .deliver_batch(vec![event("a.b", "{}"), event("a.b", "{"), event("a.b", "{}")])
        .await
        .unwrap();
    let accepted: Vec<_> = results
        .into_iter()
        .map(|result| matches!(result.result, Some(v1::deliver_result::Result::Accepted(_))))
        .collect();
    assert_eq!(accepted, [true, false, true]);
    receiver.received("/hooks", 2).await;
}

#[tokio::test]
async fn calls_go_on_while_the_service_is_killed_and_started_again() {
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .start()
        .await;
    let receiver = Receiver::start();
    let client = Client::builder(app.url(), ADMIN_KEY)
        .patience(Duration::from_secs(30))
        .connect()
        .await
        .unwrap();
    let create = v1::CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: receiver.url("/hooks"),
        ..Default::default()
    };
    let endpoint = client.create_endpoint(create).await.unwrap().endpoint.unwrap();
    let hasty = Client::builder(app.url(), ADMIN_KEY)
        .patience(Duration::ZERO)
        .connect()
        .await
        .unwrap();
    // Many at a time, so that each kill meets some on their way.
    let deliver = {
        let client = client.clone();
        tokio::spawn(async move {
            stream::iter(0..3000)
                .map(async |number| client.deliver(event("order.paid", format!("[{number}]"))).await)
                .buffer_unordered(16)
                .map(|accepted| accepted.map(|accepted| accepted.message_id))
                .collect::<Vec<_>>()
                .await
        })
    };
    for _ in 0..2 {
        let before = receiver.arrived();
        eventually("some more have arrived", || async {
            let arrived = receiver.arrived() - before;
            if arrived >= 300 { Ok(()) } else { Err(arrived) }
        })
        .await;
        app.roles[0].kill9();
        assert!(matches!(
            hasty.get_endpoint(&endpoint.id).await,
            Err(ClientError::Unavailable(_))
        ));
        let (read, ()) = tokio::join!(client.get_endpoint(&endpoint.id), async {
            app.roles[0].start_again();
            app.roles[0].ready().await;
        });
        assert_eq!(read.unwrap().id, endpoint.id);
    }

    let ids = deliver.await.unwrap();
    assert_eq!(
        ids.iter().filter(|id| id.is_err()).count(),
        0,
        "{:?}",
        ids.iter().find(|id| id.is_err())
    );
    // Each event became one message, though some calls were made twice.
    let distinct: std::collections::BTreeSet<_> = ids.into_iter().flatten().collect();
    assert_eq!(distinct.len(), 3000);
    eventually("every message arrives", || async {
        is(receiver.distinct_ids(), 3000)
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_not_repeated_and_names_its_fields() {
    let app = TestApp::start().await;
    let client = Client::connect(app.url(), ADMIN_KEY).await.unwrap();
    let started = tokio::time::Instant::now();
    let refused = client.deliver(event("not an event type", "{")).await.unwrap_err();
    let ClientError::Refused { reason, fields, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(reason, "INVALID_FIELDS");
    assert_eq!(
        fields.iter().map(|(name, _)| &**name).collect::<Vec<_>>(),
        ["event_type", "payload"]
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    let nobody = Client::connect("http://127.0.0.1:1", ADMIN_KEY).await.map(|_| ());
    assert!(matches!(nobody, Err(ClientError::Unavailable(_))), "{nobody:?}");
}

#[tokio::test]
async fn a_published_event_is_what_the_service_takes() {
    let app = TestApp::start().await;
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    let mut subscribed = client.subscribe("cuitty.events.>").await.unwrap();
    client.flush().await.unwrap();
    publish::publish(&app.nats.url(), PROJECT, "order.paid", r#"{"id":1}"#)
        .await
        .unwrap();
    let first = subscribed.next().await.unwrap();
    assert_eq!(
        first.subject.as_str(),
        format!("cuitty.events.{PROJECT}.order.paid")
    );
    assert_eq!(first.payload, r#"{"id":1}"#);

    // One of two servers that answers is enough.
    let servers = format!("{}, {}", nowhere(), app.nats.url());
    let publisher = Publisher::connect(&servers).await.unwrap();
    let keyed = v1::DeliverRequest {
        idempotency_key: "order 7".into(),
        endpoint_id: "ep_01h455vb4pex5vsknk084sn02q".into(),
        content_type: "text/plain".into(),
        ..event("order.refunded", "seven")
    };
    publisher.publish(keyed).await.unwrap();
    let second = subscribed.next().await.unwrap();
    assert_eq!(second.payload, "seven");
    for (name, value) in [
        ("Nats-Msg-Id", "order 7"),
        ("Cuitty-Endpoint-Id", "ep_01h455vb4pex5vsknk084sn02q"),
        ("Content-Type", "text/plain"),
    ] {
        let headers = second.headers.as_ref().unwrap();
        let found = headers.get(name).map(async_nats::HeaderValue::as_str);
        assert_eq!(found, Some(value), "{name}");
    }
}

#[tokio::test]
async fn many_are_published_at_the_same_time_though_nats_server_restarts() {
    let mut app = TestApp::start().await;
    let publisher = Publisher::connect(&app.nats.url())
        .await
        .unwrap()
        .patience(Duration::from_mins(1));
    let events = stream::iter((0..5000).map(|number| event("order.paid", format!("[{number}]"))));
    let publishing = tokio::spawn(async move {
        let told: Vec<_> = publisher.publish_all(events).collect().await;
        told
    });
    app.nats.kill9();
    app.nats.restart().await;
    let mut told = publishing.await.unwrap();
    told.sort_unstable_by_key(|(place, _)| *place);
    assert!(told.iter().map(|(place, _)| *place).eq(0..5000));
    let sequences: std::collections::BTreeSet<_> = told
        .into_iter()
        .map(|(place, result)| result.unwrap_or_else(|error| panic!("{place}: {error}")).sequence)
        .collect();
    assert_eq!(sequences.len(), 5000);
}

#[tokio::test]
async fn what_cannot_be_published_is_told() {
    let server = NatsServer::start().await;
    let publisher = Publisher::connect(&server.url())
        .await
        .unwrap()
        .patience(Duration::ZERO);
    let publish = async |event: v1::DeliverRequest| publisher.publish(event).await.unwrap_err();
    let field = |error| match error {
        PublishError::Invalid { field, .. } => field,
        other => panic!("{other:?}"),
    };
    let good = || event("order.paid", "{}");
    let of_project = |project: &str| v1::DeliverRequest {
        project_id: project.into(),
        ..good()
    };
    assert_eq!(field(publish(of_project("a.b")).await), "project_id");
    assert_eq!(field(publish(of_project("")).await), "project_id");
    assert_eq!(field(publish(event("order.*", "{}")).await), "event_type");
    let lines = v1::DeliverRequest {
        idempotency_key: "a\nb".into(),
        ..good()
    };
    assert_eq!(field(publish(lines).await), "idempotency_key");
    assert_eq!(publish(good()).await, PublishError::NoStream);
    let away = Publisher::connect(&nowhere()).await.map(|_| ());
    assert!(matches!(away, Err(PublishError::Unavailable(_))), "{away:?}");
}
