//! Accepting: what is acknowledged is in the log, once, for every endpoint that subscribes.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream;
use chrono::DateTime;
use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, DeliveryRef, Origin, Requested, Unmatched};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_log::{Claim, Intent, Log, LogConfig};
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliverRequest};
use harness::app::{PROJECT, TestApp, event};
use harness::eventually::{eventually, is};
use harness::grpc::refused;
use harness::receiver::Receiver;
use harness::roles::RoleProcess;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Request};

async fn stored(app: &TestApp, sequence: u64) -> jetstream::message::StreamMessage {
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("WEBHOOKS").await.unwrap();
    stream.get_raw_message(sequence).await.unwrap()
}

#[tokio::test]
async fn an_acknowledged_event_is_in_the_log_before_anything_else_happens() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let endpoint = app
        .create_endpoint_at("http://127.0.0.1:9/unused".into())
        .await
        .endpoint
        .unwrap();

    let accepted = app.deliver("budget.exceeded", &json!({"amount": 12})).await;

    assert!(accepted.message_id.starts_with("msg_"), "{accepted:?}");
    assert!(!accepted.duplicate);
    assert_eq!(accepted.deliveries.len(), 1);
    assert_eq!(accepted.deliveries[0].endpoint_id, endpoint.id);
    let message = stored(&app, accepted.log_sequence).await;
    assert_eq!(
        message.headers.get("Nats-Msg-Id").unwrap().as_str(),
        accepted.deliveries[0].id
    );
    let subject: Vec<_> = message.subject.split('.').collect();
    assert_eq!(
        (subject[0], subject[1], subject[3], subject[5]),
        ("webhooks", "work", PROJECT, "requested")
    );
}

#[tokio::test]
async fn an_event_goes_to_every_endpoint_whose_patterns_match_and_to_no_other() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let mut expected = HashSet::new();
    for (patterns, matches) in [
        (vec!["budget.exceeded"], true),
        (vec!["budget.*"], true),
        (vec!["*"], true),
        (vec![], true),
        (vec!["api_key.revoked", "budget.exceeded"], true),
        (vec!["budget.threshold_reached"], false),
        (vec!["budgets.*"], false),
    ] {
        let request = CreateEndpointRequest {
            url: "http://127.0.0.1:9/unused".into(),
            event_types: patterns.into_iter().map(str::to_owned).collect(),
            ..Default::default()
        };
        let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
        if matches {
            expected.insert(endpoint.id);
        }
    }

    let accepted = app.deliver("budget.exceeded", &json!({})).await;

    let reached: HashSet<_> = accepted
        .deliveries
        .iter()
        .map(|delivery| delivery.endpoint_id.clone())
        .collect();
    assert_eq!(reached, expected);
    assert_eq!(accepted.deliveries.len(), expected.len());
}

#[tokio::test]
async fn an_event_for_one_endpoint_goes_there_whatever_it_subscribes_to() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let url = || "http://127.0.0.1:9/unused".to_owned();
    app.create_endpoint_at(url()).await;
    let event_types = vec!["other.type".to_owned()];
    let request = CreateEndpointRequest {
        url: url(),
        event_types,
        ..Default::default()
    };
    let chosen = app.create_endpoint(request).await.endpoint.unwrap().id;

    let request = DeliverRequest {
        endpoint_id: chosen.clone(),
        ..event("budget.exceeded", "{}")
    };
    let accepted = app.messages().deliver(request).await.unwrap().into_inner();

    let reached: Vec<_> = accepted
        .deliveries
        .iter()
        .map(|delivery| &delivery.endpoint_id)
        .collect();
    assert_eq!(reached, [&chosen]);
}

#[tokio::test]
async fn an_event_that_matches_nothing_is_kept() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let event_types = vec!["other.type".to_owned()];
    let url = "http://127.0.0.1:9/unused".to_owned();
    app.create_endpoint(CreateEndpointRequest {
        url,
        event_types,
        ..Default::default()
    })
    .await;

    let accepted = app.deliver("budget.exceeded", &json!({"kept": true})).await;

    assert_eq!(accepted.deliveries, []);
    let message = stored(&app, accepted.log_sequence).await;
    assert_eq!(
        message.subject.as_str(),
        format!("webhooks.message.{PROJECT}.unmatched")
    );
    assert!(
        message
            .payload
            .windows(13)
            .any(|window| window == br#"{"kept":true}"#)
    );
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_answer_and_changes_nothing() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let keyed = DeliverRequest {
        idempotency_key: "order-17".into(),
        ..event("order.paid", r#"{"n":17}"#)
    };

    let first = app.messages().deliver(keyed.clone()).await.unwrap().into_inner();
    let again = app.messages().deliver(keyed.clone()).await.unwrap().into_inner();
    let mut by_metadata = Request::new(event("order.paid", r#"{"n":17}"#));
    by_metadata
        .metadata_mut()
        .insert("idempotency-key", "order-17".parse().unwrap());
    let by_metadata = app.messages().deliver(by_metadata).await.unwrap().into_inner();

    assert!(!first.duplicate);
    for repeated in [again, by_metadata] {
        assert!(repeated.duplicate);
        assert_eq!(repeated.message_id, first.message_id);
        assert_eq!(repeated.deliveries, first.deliveries);
        assert_eq!(repeated.log_sequence, first.log_sequence);
    }
    let other = DeliverRequest {
        payload: r#"{"n":18}"#.into(),
        ..keyed
    };
    let refusal = refused(app.messages().deliver(other).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED")
    );
    // An event without a key behind the others: once it has arrived, a duplicate would have.
    let last = app.deliver("order.paid", &json!({"n": 19})).await;
    app.ended(&last.deliveries[0].id).await;
    app.ended(&first.deliveries[0].id).await;
    assert_eq!(receiver.ids("/hook").len(), 2);
    assert_eq!(receiver.requests("/hook").len(), 2);
}

/// The same event under any key.
fn keyed(key: &str) -> DeliverRequest {
    DeliverRequest {
        idempotency_key: key.into(),
        ..event("order.paid", r#"{"n":1}"#)
    }
}

#[tokio::test]
async fn a_keyed_event_whose_caller_goes_away_is_accepted_all_the_same() {
    let mut app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let mut client = app.messages();
    client.deliver(keyed("order-1")).await.unwrap();

    // On the open connection the call is with the API at once, which waits for the log when the caller has had enough.
    app.nats.pause().await;
    let given_up = timeout(Duration::from_secs(1), client.deliver(keyed("order-2"))).await;
    assert!(given_up.is_err(), "{given_up:?}");
    app.nats.go_on();

    receiver.received("/hook", 2).await;
    let repeated = client.deliver(keyed("order-2")).await.unwrap().into_inner();
    assert!(repeated.duplicate);
    assert!(receiver.ids("/hook").contains_key(&repeated.message_id));
    // Once an event behind the others has arrived, a duplicate would have.
    let last = app.deliver("order.paid", &json!({"n": 3})).await;
    app.ended(&last.deliveries[0].id).await;
    assert_eq!(receiver.ids("/hook").len(), 3);
    assert_eq!(receiver.requests("/hook").len(), 3);
}

#[tokio::test]
async fn a_shutdown_waits_for_keyed_events_whose_callers_are_gone() {
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let mut client = app.messages();
    client.deliver(keyed("order-1")).await.unwrap();
    let api = app.url().trim_start_matches("http://").to_owned();

    app.nats.pause().await;
    let given_up = timeout(Duration::from_secs(1), client.deliver(keyed("order-2"))).await;
    assert!(given_up.is_err(), "{given_up:?}");
    drop(client);
    let (roles, nats) = (&mut app.roles, &mut app.nats);
    let (ended, ()) = tokio::join!(roles[0].stop(), async {
        eventually("the API takes no more calls", || async {
            is(TcpStream::connect(&api).await.is_err(), true)
        })
        .await;
        nats.go_on();
    });

    assert!(ended.success(), "{ended}");
    receiver.received("/hook", 2).await;
}

/// The request that delivers `intent` to one of its endpoints.
fn request_to(intent: &Intent, endpoint_id: EndpointId, event: &DeliverRequest) -> Requested {
    Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(intent.message_id, endpoint_id),
            message_id: intent.message_id,
            project_id: event.project_id.parse().unwrap(),
            endpoint_id,
            event_type: event.event_type.parse().unwrap(),
        },
        content_type: "application/json".into(),
        payload: event.payload.clone(),
        requested_at: intent.requested_at,
        origin: Origin::Event,
        replay_of: None,
        traceparent: String::new(),
        deadline: intent.requested_at + DEFAULT_DEADLINE,
    }
}

#[tokio::test]
async fn a_keyed_event_that_was_cut_off_is_completed_by_its_repetition_however_late() {
    let app = TestApp::builder().set("log.duplicate_window", "1s").start().await;
    let receiver = Receiver::start();
    for path in ["/one", "/two"] {
        app.create_endpoint_at(receiver.url(path)).await;
    }
    app.messages().deliver(keyed("whole")).await.unwrap();

    // Another call with the same event records what it will do, reaches one of two endpoints, and is gone.
    let log = Log::connect(LogConfig {
        url: app.nats.url(),
        ..LogConfig::default()
    })
    .await
    .unwrap();
    let keys = log.idempotency().await.unwrap();
    let project = PROJECT.parse().unwrap();
    let message_id = |seed| MessageId::new(DateTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(seed));
    let any = Intent {
        message_id: message_id(1),
        endpoint_ids: Vec::new(),
        fingerprint: [0; 32],
        requested_at: DateTime::UNIX_EPOCH,
    };
    let Ok(Claim::Existing { record: whole, .. }) = keys.claim(&project, "whole", &any).await else {
        panic!("the event is not recorded")
    };
    let cut_off = Intent {
        message_id: message_id(2),
        ..whole.intent
    };
    assert_eq!(keys.claim(&project, "half", &cut_off).await, Ok(Claim::New));
    let reached = request_to(&cut_off, cut_off.endpoint_ids[0], &keyed("half"));
    let sequence = log
        .append_requested(std::slice::from_ref(&reached))
        .await
        .unwrap()[0];
    // When another message can be stored twice, so can this one, which is older.
    let other = Unmatched {
        message_id: message_id(3),
        project_id: project,
        event_type: reached.delivery.event_type,
        content_type: reached.content_type,
        payload: reached.payload,
        requested_at: reached.requested_at,
        traceparent: String::new(),
    };
    let first = log.append_unmatched(&other).await.unwrap();
    eventually("the log forgets what it has stored", || async {
        is(log.append_unmatched(&other).await.unwrap() > first, true)
    })
    .await;

    let repeated = app.messages().deliver(keyed("half")).await.unwrap().into_inner();

    assert!(repeated.duplicate);
    assert_eq!(repeated.message_id, cut_off.message_id.to_string());
    assert_eq!(repeated.deliveries.len(), 2);
    assert!(repeated.log_sequence > sequence);
    let again = app.messages().deliver(keyed("half")).await.unwrap().into_inner();
    assert_eq!(again, repeated);
    let last = app.deliver("order.paid", &json!({"n": 2})).await;
    for delivery in repeated.deliveries.iter().chain(&last.deliveries) {
        app.ended(&delivery.id).await;
    }
    for path in ["/one", "/two"] {
        let ids = receiver.ids(path);
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert!(ids.values().all(|&times| times == 1), "{ids:?}");
    }
}

#[tokio::test]
async fn what_is_accepted_while_no_dispatcher_runs_is_delivered_when_one_does() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let mut expected = HashSet::new();
    for number in 0..20 {
        expected.insert(
            app.deliver("order.paid", &json!({ "number": number }))
                .await
                .message_id,
        );
    }
    assert_eq!(receiver.requests("/hook").len(), 0);

    let _dispatcher = RoleProcess::start("dispatcher", &app.settings).await;

    receiver.received("/hook", 20).await;
    assert_eq!(
        receiver.ids("/hook").into_keys().collect::<HashSet<_>>(),
        expected
    );
}

#[tokio::test]
async fn while_the_log_is_down_nothing_is_acknowledged_and_after_its_return_all_is_well() {
    let mut app = TestApp::builder().set("log.request_timeout", "1s").start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    app.nats.kill9();

    let refusal = refused(app.messages().deliver(event("order.paid", "{}")).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::Unavailable, "LOG_UNAVAILABLE")
    );

    app.nats.restart().await;
    let accepted = eventually("the API accepts again", || async {
        app.messages()
            .deliver(event("order.paid", r#"{"after":true}"#))
            .await
    })
    .await
    .into_inner();
    eventually("it arrives", || async {
        is(receiver.ids("/hook").contains_key(&accepted.message_id), true)
    })
    .await;
    // The refused one was not acknowledged; whether the log has it is left open.
    let ids = receiver.ids("/hook");
    assert!((1..=2).contains(&ids.len()), "{ids:?}");
}
