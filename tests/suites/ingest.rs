//! Publishing on NATS: what is published becomes deliveries as what the API is given does, once, or is rejected with its reason.

mod rejects;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{ConnectOptions, HeaderMap, jetstream::context::PublishAckFuture};
use chrono::DateTime;
use cuitty_webhooks_domain::delivery::{DeliveryEvent, Unmatched};
use cuitty_webhooks_domain::ids::MessageId;
use cuitty_webhooks_log::{EventBody, StoredEvent};
use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::{PROJECT, TestApp};
use harness::eventually::{eventually, eventually_within, is};
use harness::nats::NatsServer;
use harness::python;
use harness::receiver::Receiver;
use harness::roles::{ADMIN_KEY, RoleProcess, Settings};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const SUBJECT: &str = "cuitty.events.acme.order.paid";

/// Somebody who publishes.
struct Publisher {
    client: async_nats::Client,
    stream: jetstream::Context,
}

impl Publisher {
    async fn new(url: &str) -> Self {
        Self::over(async_nats::connect(url).await.unwrap())
    }

    fn over(client: async_nats::Client) -> Self {
        let stream = jetstream::new(client.clone());
        Self { client, stream }
    }

    /// Publishes, and waits until the stream has stored it.
    async fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: impl Into<bytes::Bytes>) {
        self.send(subject, headers, payload).await.await.unwrap();
    }

    async fn send(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: impl Into<bytes::Bytes>,
    ) -> PublishAckFuture {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let sending = self
            .stream
            .publish_with_headers(subject.to_owned(), map, payload.into());
        sending.await.unwrap()
    }

    /// Waits until nothing that was published is left.
    async fn taken(&self, patience: Duration) {
        eventually_within(patience, "all that was published is taken", || async {
            let stream = self.stream.get_stream("WEBHOOKS_INGEST").await;
            let info = stream.map_err(|error| error.to_string())?;
            is(info.cached_info().state.messages, 0)
        })
        .await;
    }
}

/// How often each delivery was requested, and how often each message without one was stored.
async fn accepted(url: &str) -> (HashMap<String, usize>, HashMap<String, usize>) {
    let (mut requested, mut unmatched) = (HashMap::new(), HashMap::new());
    for StoredEvent { body, .. } in harness::log::stored(url).await {
        match body {
            EventBody::Event(DeliveryEvent::Requested(request)) => {
                *requested
                    .entry(request.delivery.delivery_id.to_string())
                    .or_default() += 1;
            }
            EventBody::Event(DeliveryEvent::Unmatched(message)) => {
                *unmatched.entry(message.message_id.to_string()).or_default() += 1;
            }
            _ => {}
        }
    }
    (requested, unmatched)
}

#[tokio::test]
async fn what_is_published_arrives_as_what_the_api_is_given_does() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let subscribed = |path: &str, event_type: &str| CreateEndpointRequest {
        url: receiver.url(path),
        event_types: vec![event_type.to_owned()],
        ..Default::default()
    };
    app.create_endpoint(subscribed("/orders", "order.*")).await;
    let chosen = app.create_endpoint(subscribed("/chosen", "nothing")).await;
    let chosen = chosen.endpoint.unwrap().id;
    let publisher = Publisher::new(&app.nats.url()).await;

    let payload = "{ \"b\":1,\t\"a\" : [1.0] }\n";
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    publisher
        .publish(SUBJECT, &[("traceparent", &traceparent)], payload)
        .await;
    let arrived = receiver.received("/orders", 1).await.remove(0);
    assert_eq!(arrived.body, payload);
    assert_eq!(arrived.header("x-cuitty-event-type"), "order.paid");
    assert!(arrived.header("webhook-id").starts_with("msg_"));
    assert!(arrived.header("traceparent").contains(trace));
    let detail = app.ended(arrived.header("x-cuitty-delivery-id")).await;
    assert_eq!(detail.payload, payload);

    // To one endpoint only, whatever it subscribes to; header names in any case.
    let headers = [("cuitty-endpoint-id", &*chosen), ("content-type", "text/plain")];
    publisher.publish(SUBJECT, &headers, "not JSON").await;
    let arrived = receiver.received("/chosen", 1).await.remove(0);
    assert_eq!(
        (&arrived.body[..], arrived.header("content-type")),
        (&b"not JSON"[..], "text/plain")
    );

    publisher
        .publish("cuitty.events.acme.nobody.listens", &[], "{}")
        .await;
    publisher.taken(Duration::from_secs(30)).await;
    let (requested, unmatched) = accepted(&app.nats.url()).await;
    assert_eq!((requested.len(), unmatched.len()), (2, 1));
    assert_eq!(receiver.arrived(), 2);
}

#[tokio::test]
async fn one_id_of_two_projects_is_two_messages() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    for project in ["acme", "globex"] {
        let subscribed = CreateEndpointRequest {
            project_id: project.into(),
            url: receiver.url(&format!("/{project}")),
            ..Default::default()
        };
        app.endpoints().create_endpoint(subscribed).await.unwrap();
    }
    let publisher = Publisher::new(&app.nats.url()).await;
    let headers = [("Nats-Msg-Id", "order-17")];
    publisher.publish(SUBJECT, &headers, "{}").await;
    // Within a tenth of a second nats-server takes it for the same message.
    eventually("nats-server stores the second one", || async {
        let sent = publisher
            .send("cuitty.events.globex.order.paid", &headers, "{}")
            .await;
        is(sent.await.unwrap().duplicate, false)
    })
    .await;
    for path in ["/acme", "/globex"] {
        receiver.received(path, 1).await;
    }
}

#[tokio::test]
async fn an_id_is_the_same_key_as_the_apis() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let publisher = Publisher::new(&app.nats.url()).await;
    let by_api = cuitty_webhooks_proto::v1::DeliverRequest {
        idempotency_key: "order-17".into(),
        ..harness::app::event("order.paid", "{}")
    };
    let first = app.messages().deliver(by_api.clone()).await.unwrap().into_inner();

    publisher
        .publish(SUBJECT, &[("Nats-Msg-Id", "order-17")], "{}")
        .await;
    publisher
        .publish(SUBJECT, &[("Nats-Msg-Id", "order-18")], "{}")
        .await;
    publisher.taken(Duration::from_secs(30)).await;

    let by_api = cuitty_webhooks_proto::v1::DeliverRequest {
        idempotency_key: "order-18".into(),
        ..by_api
    };
    let second = app.messages().deliver(by_api).await.unwrap().into_inner();
    assert!(second.duplicate);
    let (requested, _) = accepted(&app.nats.url()).await;
    let expected = [&first, &second].map(|answer| (answer.deliveries[0].id.clone(), 1));
    assert_eq!(requested, expected.into());
    receiver.received("/hook", 2).await;
}

/// Waits until the log does not recognise any more what is stored now.
async fn the_log_forgets(url: &str) {
    let log = harness::log::connect(url).await;
    let other = Unmatched {
        message_id: MessageId::new(DateTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(1)),
        project_id: "other".parse().unwrap(),
        event_type: "a.b".parse().unwrap(),
        content_type: "application/json".into(),
        payload: "{}".into(),
        requested_at: DateTime::UNIX_EPOCH,
        traceparent: String::new(),
    };
    let first = log.append_unmatched(&other).await.unwrap();
    eventually("the log forgets what it has stored", || async {
        is(log.append_unmatched(&other).await.unwrap() > first, true)
    })
    .await;
}

#[tokio::test]
async fn a_process_killed_between_append_and_acknowledgement_changes_nothing() {
    let nats = NatsServer::start_with_mute().await;
    let dir = tempfile::tempdir().unwrap();
    let history = format!("sqlite:{}", dir.path().join("history.db").display());
    let settings = Settings::new(&nats.url_of("all"), &history)
        .set("log.duplicate_window", "1s")
        .set("log.ack_wait", "900ms")
        .set("dispatcher.progress_interval", "300ms");
    let main = RoleProcess::start("api,dispatcher,projector", &settings).await;
    let receiver = Receiver::start();
    let rest = harness::rest::RestClient::new(main.url(), Some(ADMIN_KEY));
    for path in ["/one", "/two"] {
        let endpoint = json!({"project_id": PROJECT, "url": receiver.url(path), "event_types": ["order.*"]});
        assert_eq!(
            rest.post("/manage/v1/webhooks/endpoints", &endpoint).await.status,
            201
        );
    }
    // What it says of a message is not heard: it is as if it had been killed before.
    let mut mute = RoleProcess::start("ingest", &settings.clone().set("log.url", nats.url_of("mute"))).await;
    let (status, readiness) = mute.readiness().await;
    assert_eq!((status, &readiness["ingest"]), (200, &json!("attached")));
    assert_eq!(readiness.get("history"), None, "it needs none");

    let login = ConnectOptions::with_user_and_password("all".into(), "all".into());
    let publisher = Publisher::over(login.connect(nats.url()).await.unwrap());
    publisher.publish(SUBJECT, &[], r#"{"n":1}"#).await;
    publisher
        .publish(SUBJECT, &[("Nats-Msg-Id", "two")], r#"{"n":2}"#)
        .await;
    publisher
        .publish("cuitty.events.acme.other", &[], r#"{"n":3}"#)
        .await;
    let url = nats.url_of("all");
    eventually("all of it is in the log", || async {
        let (requested, unmatched) = accepted(&url).await;
        is((requested.len(), unmatched.len()), (4, 1))
    })
    .await;
    mute.kill9();
    the_log_forgets(&url).await;
    // Who subscribes only now gets nothing of it.
    let late = json!({"project_id": PROJECT, "url": receiver.url("/late")});
    assert_eq!(
        rest.post("/manage/v1/webhooks/endpoints", &late).await.status,
        201
    );

    let again = RoleProcess::start("ingest", &settings).await;
    publisher.taken(Duration::from_secs(30)).await;

    assert!(again.metric("webhooks_ingest_redelivered_total").await >= 3.0);
    let (requested, mut unmatched) = accepted(&url).await;
    assert_eq!(requested.len(), 4);
    assert!(requested.values().all(|&times| times == 1), "{requested:?}");
    unmatched.retain(|id, _| !id.starts_with("msg_000000000"));
    assert_eq!(unmatched.into_values().collect::<Vec<_>>(), [1]);
    for path in ["/one", "/two"] {
        receiver.received(path, 2).await;
        assert_eq!(receiver.ids(path).into_values().collect::<Vec<_>>(), [1, 1]);
    }
    assert!(receiver.ids("/late").is_empty());
}

#[tokio::test]
async fn processes_share_what_is_published_and_none_that_ends_loses_or_repeats_any() {
    const COUNT: usize = 3000;
    let mut app = TestApp::builder()
        .processes(["api,dispatcher,projector", "ingest", "ingest"])
        .set("log.ack_wait", "1500ms")
        .set("dispatcher.progress_interval", "500ms")
        .start()
        .await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let publisher = Publisher::new(&app.nats.url()).await;
    let mut sent = Vec::new();
    for number in 0..COUNT {
        sent.push(
            publisher
                .send(SUBJECT, &[], json!({ "n": number }).to_string())
                .await,
        );
    }
    for ack in sent {
        ack.await.unwrap();
    }
    eventually("both have taken some", || async {
        let mut all = true;
        for process in &app.roles[1..] {
            all &= process.metric("webhooks_ingest_messages_total").await > 0.0;
        }
        is(all, true)
    })
    .await;
    app.roles[1].kill9();
    let ended = app.roles[2].stop().await;
    assert!(ended.success(), "{ended}");
    app.roles[2].start_again();

    publisher.taken(Duration::from_mins(1)).await;
    let (requested, unmatched) = accepted(&app.nats.url()).await;
    assert_eq!((requested.len(), unmatched.len()), (COUNT, 0));
    assert!(requested.values().all(|&times| times == 1));
}

#[tokio::test]
async fn ten_thousand_events_that_nats_py_publishes_half_of_them_twice_are_ten_thousand_deliveries() {
    const COUNT: usize = 10_000;
    // So short that nats-server itself has forgotten most of what comes a second time.
    let app = TestApp::builder().set("log.duplicate_window", "1s").start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let publisher = Publisher::new(&app.nats.url()).await;

    let (url, count) = (app.nats.url(), COUNT.to_string());
    let told = python::run("suites/ingest/publish.py", &[&url, SUBJECT, &count]).await;
    let [stored, known] = ["stored", "known"].map(|name| told[name].as_u64().unwrap() as usize);
    assert_eq!(stored + known, COUNT + COUNT / 2);
    assert!(stored > COUNT, "no key of ours was needed: {told}");

    publisher.taken(Duration::from_mins(2)).await;
    let (requested, unmatched) = accepted(&url).await;
    assert_eq!((requested.len(), unmatched.len()), (COUNT, 0));
    assert!(requested.values().all(|&times| times == 1));
    eventually_within(Duration::from_mins(2), "every event arrives", || async {
        is(receiver.ids("/hook").len(), COUNT)
    })
    .await;
    let numbers: HashSet<u64> = receiver
        .requests("/hook")
        .iter()
        .map(|request| {
            serde_json::from_slice::<Value>(&request.body).unwrap()["number"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(numbers.len(), COUNT);
    assert_eq!(receiver.count("/hook"), COUNT);
}
