//! NATS: notifications on subjects of the endpoint's own project.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use async_nats::{Client, HeaderMap, Message, Subscriber, jetstream};
use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, CreateEndpointResponse, EndpointKind, Header, ReplayDeliveryRequest,
};
use futures_util::StreamExt;
use harness::app::{PROJECT, TestApp};
use harness::eventually::{eventually, is};
use harness::receiver::Captured;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{create_refused, outcome, send, verified};
use crate::deliver;

/// How long a notification may take.
const SOON: Duration = Duration::from_secs(20);

fn subject(name: &str) -> String {
    format!("cuitty.notifications.{PROJECT}.{name}")
}

/// An endpoint that publishes there, and is retried every second.
async fn endpoint(app: &TestApp, address: &str) -> CreateEndpointResponse {
    app.create_endpoint(CreateEndpointRequest {
        url: format!("nats:{}", subject(address)),
        retry_schedule_seconds: vec![1; 10],
        ..Default::default()
    })
    .await
}

async fn client(app: &TestApp) -> Client {
    async_nats::connect(app.nats.url()).await.unwrap()
}

async fn subscribe(client: &Client, name: &str) -> Subscriber {
    let subscriber = client.subscribe(subject(name)).await.unwrap();
    // The round trip: who listens is known to nats-server.
    let inbox = client.new_inbox();
    let mut back = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    timeout(SOON, back.next()).await.unwrap().unwrap();
    subscriber
}

async fn next(subscriber: &mut Subscriber) -> Message {
    timeout(SOON, subscriber.next()).await.expect("in time").unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .unwrap_or_else(|| panic!("{name}: {headers:?}"))
        .as_str()
}

/// The message as a request, for what checks requests.
fn as_request(message: &Message) -> Captured {
    let headers = message.headers.as_ref().unwrap().iter();
    Captured {
        method: hyper::Method::POST,
        uri: "/".parse().unwrap(),
        headers: headers
            .map(|(name, values)| {
                let name = HeaderName::try_from(name.to_string()).unwrap();
                (name, HeaderValue::try_from(values[0].as_str()).unwrap())
            })
            .collect(),
        body: message.payload.clone(),
        at: Instant::now(),
    }
}

#[tokio::test]
async fn a_subscriber_gets_what_a_receiver_gets_and_the_history_shows_it() {
    let app = TestApp::start().await;
    let client = client(&app).await;
    let mut subscriber = subscribe(&client, "billing").await;
    let created = app
        .create_endpoint(CreateEndpointRequest {
            url: format!("nats:{}", subject("billing")),
            headers: vec![Header {
                name: "X-Team".into(),
                value: "core".into(),
            }],
            signature_header: "X-Cuitty-Signature".into(),
            envelope: true,
            ..Default::default()
        })
        .await;
    let secret = [SigningSecret::parse(&created.signing_secret).unwrap()];
    let created = created.endpoint.unwrap();
    assert_eq!(created.kind(), EndpointKind::Nats);

    let delivery = send(&app, &created, "budget.exceeded", &json!({"spent": 12})).await;

    let message = next(&mut subscriber).await;
    let request = as_request(&message);
    assert!(deliver::verified(&request, &secret));
    let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]),
        (&json!("budget.exceeded"), &json!({"spent": 12}))
    );
    let detail = verified(&app, &delivery).await;
    assert_eq!(outcome(&detail), ("DELIVERED", "", vec![("", "")]));
    let attempt = &detail.attempts[0];
    assert_eq!((&attempt.response, &*attempt.remote_address), (&None, ""));
    let timing = attempt.timing.as_ref().unwrap();
    let answered = timing.first_byte_ms.unwrap();
    assert!(answered > 0.0 && answered <= attempt.duration_ms, "{attempt:?}");
    assert_eq!(
        (timing.dns_ms, timing.connect_ms, timing.tls_ms),
        (None, None, None)
    );
    let recorded = attempt.request.as_ref().unwrap();
    assert_eq!(recorded.url, created.url);
    let headers = message.headers.as_ref().unwrap();
    for Header { name, value } in &recorded.headers {
        assert_eq!(header(headers, name), value, "{name}");
    }
    // And the one by which a stream tells repetitions.
    assert_eq!(headers.len(), recorded.headers.len() + 1);
    assert_eq!(header(headers, "Nats-Msg-Id"), delivery);
    for (name, value) in [
        ("x-cuitty-event-type", "budget.exceeded"),
        ("x-cuitty-delivery-id", &delivery),
        ("x-cuitty-attempt", "1"),
        ("x-team", "core"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(header(headers, name), value);
    }
    assert_eq!(header(headers, "x-cuitty-signature").len(), 64);

    // A replay is another delivery of the same message.
    let replay = ReplayDeliveryRequest {
        delivery_id: delivery.clone(),
        ..Default::default()
    };
    app.deliveries().replay_delivery(replay).await.unwrap();
    let again = next(&mut subscriber).await;
    let headers = again.headers.as_ref().unwrap();
    assert_eq!(header(headers, "webhook-id"), request.header("webhook-id"));
    assert_ne!(header(headers, "x-cuitty-delivery-id"), delivery);
    let body: serde_json::Value = serde_json::from_slice(&again.payload).unwrap();
    assert_eq!(body["data"], json!({"spent": 12}));
}

#[tokio::test]
async fn what_nobody_hears_is_published_again_in_order_until_somebody_does() {
    let app = TestApp::start().await;
    let client = client(&app).await;
    let request = CreateEndpointRequest {
        url: format!("nats:{}", subject("late")),
        retry_schedule_seconds: vec![1; 10],
        ordered: true,
        ..Default::default()
    };
    let created = app.create_endpoint(request).await.endpoint.unwrap();
    let mut sent = Vec::new();
    for number in 0..3 {
        sent.push(send(&app, &created, "order.paid", &json!({"number": number})).await);
    }
    eventually("the first one has failed", || async {
        is(app.delivery(&sent[0]).await.attempts.is_empty(), false)
    })
    .await;

    let mut subscriber = subscribe(&client, "late").await;

    for (number, delivery) in sent.iter().enumerate() {
        let message = next(&mut subscriber).await;
        assert_eq!(message.payload, json!({"number": number}).to_string());
        assert_eq!(
            header(message.headers.as_ref().unwrap(), "x-cuitty-delivery-id"),
            delivery
        );
    }
    let detail = verified(&app, &sent[0]).await;
    let (status, _, errors) = outcome(&detail);
    let (last, failed) = errors.split_last().unwrap();
    assert_eq!((status, *last), ("DELIVERED", ("", "")));
    let silence = ("connect", "nobody listens on the subject");
    assert!(
        !failed.is_empty() && failed.iter().all(|error| *error == silence),
        "{errors:?}"
    );
}

#[tokio::test]
async fn where_a_reply_is_wanted_a_stream_or_a_subscriber_has_to_answer() {
    let app = TestApp::start().await;
    let client = client(&app).await;
    let streams = jetstream::new(client.clone());
    let config = Config {
        name: "BILLING".into(),
        subjects: vec![subject("kept.>")],
        max_messages: 1,
        discard: jetstream::stream::DiscardPolicy::New,
        ..Config::default()
    };
    let mut stream = streams.create_stream(config).await.unwrap();
    let kept = endpoint(&app, "kept.all?reply").await.endpoint.unwrap();
    let delivery = send(&app, &kept, "order.paid", &json!({"number": 1})).await;
    assert_eq!(outcome(&verified(&app, &delivery).await).0, "DELIVERED");
    let stored = stream.get_raw_message(1).await.unwrap();
    assert_eq!(stored.payload, r#"{"number":1}"#);

    // Full, the stream says no; purged, it takes the next attempt.
    let delivery = send(&app, &kept, "order.paid", &json!({"number": 2})).await;
    eventually("the stream has refused it", || async {
        is(app.delivery(&delivery).await.attempts.is_empty(), false)
    })
    .await;
    stream.purge().await.unwrap();
    let detail = verified(&app, &delivery).await;
    let (status, _, errors) = outcome(&detail);
    assert_eq!((status, errors[0].0), ("DELIVERED", "status"));
    assert!(
        errors[0].1.starts_with("refused: maximum messages exceeded"),
        "{errors:?}"
    );
    assert_eq!(stream.info().await.unwrap().state.messages, 1);

    // A subscriber that keeps silent at first, and answers the second time.
    let mut subscriber = subscribe(&client, "asked").await;
    let request = CreateEndpointRequest {
        url: format!("nats:{}?reply", subject("asked")),
        retry_schedule_seconds: vec![1],
        timeout_ms: 1_000,
        ..Default::default()
    };
    let asked = app.create_endpoint(request).await.endpoint.unwrap();
    let delivery = send(&app, &asked, "order.paid", &json!({})).await;
    next(&mut subscriber).await;
    let second = next(&mut subscriber).await;
    assert_eq!(header(second.headers.as_ref().unwrap(), "x-cuitty-attempt"), "2");
    client
        .publish(second.reply.unwrap(), "thanks".into())
        .await
        .unwrap();
    let detail = verified(&app, &delivery).await;
    let errors = vec![("timeout", "no reply within 1s"), ("", "")];
    assert_eq!(outcome(&detail), ("DELIVERED", "", errors));
}

#[tokio::test]
async fn a_notification_whose_outcome_died_with_its_dispatcher_is_published_again() {
    let mut app = TestApp::builder()
        .processes(["api,projector", "dispatcher"])
        .start()
        .await;
    let client = client(&app).await;
    let mut subscriber = subscribe(&client, "asked").await;
    let asked = endpoint(&app, "asked?reply").await.endpoint.unwrap();
    let delivery = send(&app, &asked, "order.paid", &json!({})).await;

    // Published, and as nobody has replied, not recorded.
    let first = next(&mut subscriber).await;
    app.roles[1].kill9();
    app.roles[1].start_again();
    let second = next(&mut subscriber).await;
    client
        .publish(second.reply.unwrap(), "thanks".into())
        .await
        .unwrap();

    let [first, second] = [first.headers.unwrap(), second.headers.unwrap()];
    for name in ["webhook-id", "x-cuitty-delivery-id", "x-cuitty-attempt"] {
        assert_eq!(header(&first, name), header(&second, name), "{name}");
    }
    let detail = verified(&app, &delivery).await;
    assert_eq!(outcome(&detail), ("DELIVERED", "", vec![("", "")]));
}

#[tokio::test]
async fn an_endpoint_has_subjects_of_its_own_project_only() {
    let app = TestApp::builder()
        .set("dispatcher.nats_prefix", "out.v1")
        .start()
        .await;
    let refused = async |url: String| {
        let request = CreateEndpointRequest {
            url,
            ..Default::default()
        };
        create_refused(&app, request).await
    };
    let foreign = format!("must name a subject below out.v1.{PROJECT}.");
    for subject in [
        format!("cuitty.notifications.{PROJECT}.x"),
        "out.v1.other.x".into(),
        format!("out.v1.{PROJECT}"),
        format!("out.v1.{PROJECT}2.x"),
        "webhooks.work.0.acme.ep.requested".into(),
        format!("cuitty.events.{PROJECT}.order.paid"),
        "_INBOX.x".into(),
    ] {
        let fields = refused(format!("nats:{subject}")).await;
        assert_eq!(fields, [("url".to_owned(), foreign.clone())], "{subject}");
    }
    for subject in [
        format!("out.v1.{PROJECT}.*"),
        format!("out.v1.{PROJECT}.>"),
        "$JS.API.INFO".into(),
    ] {
        let fields = refused(format!("nats:{subject}")).await;
        assert_eq!(fields.len(), 1, "{subject}");
        assert!(
            fields[0].0 == "url" && fields[0].1.contains("letters, digits"),
            "{fields:?}"
        );
    }
    let reserved = CreateEndpointRequest {
        url: format!("nats:out.v1.{PROJECT}.x"),
        headers: vec![Header {
            name: "Nats-Rollup".into(),
            value: "all".into(),
        }],
        ..Default::default()
    };
    let fields = create_refused(&app, reserved).await;
    assert_eq!(
        fields,
        [("headers.nats-rollup".to_owned(), "name is reserved".to_owned())]
    );
    let fine = CreateEndpointRequest {
        url: format!("nats:out.v1.{PROJECT}.x"),
        ..Default::default()
    };
    let created = app.create_endpoint(fine).await.endpoint.unwrap();
    assert_eq!(
        (created.kind(), &*created.url),
        (EndpointKind::Nats, "nats:out.v1.acme.x")
    );
}
