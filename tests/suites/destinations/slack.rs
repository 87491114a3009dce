//! Slack: messages that it takes, and what becomes of those that it does not.

use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, CreateEndpointResponse, DeliverRequest, DeliveryStatus, EndpointKind,
    SendTestEventRequest,
};
use harness::app::{TestApp, event, summary};
use harness::receiver::{Receiver, Reply};
use harness::slack;
use serde_json::{Value, json};

use super::{create_refused, examples, get, outcome, send, verified};
use crate::deliver;

/// An endpoint of kind `slack` that is retried after a second, twice.
async fn endpoint(app: &TestApp, url: String) -> CreateEndpointResponse {
    app.create_endpoint(CreateEndpointRequest {
        url,
        kind: EndpointKind::Slack.into(),
        retry_schedule_seconds: vec![1, 1],
        ..Default::default()
    })
    .await
}

#[tokio::test]
async fn slack_takes_a_message_for_every_type_of_event() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.judge("/hook", slack::answer);
    let created = endpoint(&app, receiver.url("/hook")).await;
    let secret = [SigningSecret::parse(&created.signing_secret).unwrap()];
    let created = created.endpoint.unwrap();
    let examples = examples();
    assert_eq!(examples.len(), 10);

    for (event_type, payload) in &examples {
        let delivery = send(&app, &created, event_type, payload).await;
        let detail = verified(&app, &delivery).await;
        assert_eq!(
            outcome(&detail),
            ("DELIVERED", "", vec![("", "")]),
            "{event_type}"
        );
        let response = detail.attempts[0].response.as_ref().unwrap();
        assert_eq!((response.status, &response.body[..]), (200, &b"ok"[..]));
    }
    let test = SendTestEventRequest {
        endpoint_id: created.id.clone(),
        event_type: "budget.exceeded".into(),
        ..Default::default()
    };
    let test = app.endpoints().send_test_event(test).await.unwrap().into_inner();
    verified(&app, &test.delivery.unwrap().id).await;

    let requests = receiver.received("/hook", 11).await;
    for request in &requests {
        assert!(deliver::verified(request, &secret));
    }
    let message_of = |event_type: &str| {
        let request = requests
            .iter()
            .find(|request| request.header("x-cuitty-event-type") == event_type);
        serde_json::from_slice::<Value>(&request.unwrap().body).unwrap()
    };
    let anomaly = message_of("request.anomaly_detected");
    assert_eq!(anomaly["blocks"][0]["text"]["text"], "Request anomaly detected");
    let said = anomaly.to_string();
    assert!(
        said.contains("then tell &lt;!channel&gt; and &lt;@U012AB3CD&gt;"),
        "{said}"
    );
}

#[tokio::test]
async fn slack_takes_whatever_an_event_may_hold() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.judge("/hook", slack::answer);
    let created = endpoint(&app, receiver.url("/hook")).await.endpoint.unwrap();
    let object = |count: usize| -> Value {
        let fields = (0..count).map(|n| (format!("key<{n}>"), json!("&".repeat(60))));
        Value::Object(fields.collect())
    };
    for payload in [
        json!({}),
        json!([]),
        json!(null),
        json!(""),
        json!({"": {"": [{}]}}),
        json!({"all": "\u{1f600}".repeat(60_000)}),
        json!(vec!["<@U1>"; 30_000]),
        object(3_000),
    ] {
        let delivery = send(&app, &created, "a.b", &payload).await;
        assert_eq!(
            outcome(&verified(&app, &delivery).await).0,
            "DELIVERED",
            "{payload:.200}"
        );
    }
    for (content_type, payload) in [
        ("text/plain", b"<!channel> deploy done\0".to_vec()),
        ("text/plain", Vec::new()),
        ("application/octet-stream", vec![0xff; 262_144]),
    ] {
        let request = DeliverRequest {
            endpoint_id: created.id.clone(),
            content_type: content_type.into(),
            ..event("a.b", payload)
        };
        let accepted = app.messages().deliver(request).await.unwrap().into_inner();
        let detail = verified(&app, &accepted.deliveries[0].id).await;
        assert_eq!(outcome(&detail).0, "DELIVERED", "{content_type}");
    }
}

#[tokio::test]
async fn slacks_words_say_what_becomes_of_the_delivery_and_of_the_endpoint() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let mut sent = Vec::new();
    for (word, status, reason) in [
        ("no_service", 404, "gone"),
        ("no_active_hooks", 404, "gone"),
        ("channel_not_found", 404, "gone"),
        ("channel_is_archived", 410, "gone"),
        ("user_not_found", 400, "gone"),
        ("invalid_payload", 400, "aborted"),
        ("no_text", 400, "aborted"),
        ("too_many_attachments", 400, "aborted"),
        ("action_prohibited", 403, "aborted"),
        ("posting_to_general_channel_denied", 403, "aborted"),
    ] {
        let path = format!("/{word}");
        receiver.script(&path, [Reply::status(status).body(word)]);
        let created = endpoint(&app, receiver.url(&path)).await.endpoint.unwrap();
        let delivery = send(&app, &created, "budget.exceeded", &json!({})).await;
        sent.push((word, status, reason, created, delivery));
    }
    for (word, status, reason, endpoint, delivery) in sent {
        let detail = verified(&app, &delivery).await;
        let (ended, failure, errors) = outcome(&detail);
        assert_eq!((ended, failure, errors.len()), ("FAILED", reason, 1), "{word}");
        let (class, message) = errors[0];
        assert_eq!(class, "status");
        assert!(
            message.starts_with(&format!("status {status}: {word}, ")),
            "{message}"
        );
        let after = get(&app, &endpoint.id).await;
        let disabled = if reason == "gone" { "gone" } else { "" };
        assert_eq!(
            (&*after.disabled_reason, after.active),
            (disabled, disabled.is_empty()),
            "{word}"
        );
    }
}

#[tokio::test]
async fn what_slack_cannot_do_just_now_is_tried_again() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let replies = [
        Reply::status(500).body("rollup_error"),
        Reply::status(429).header("retry-after", "1").body("rate_limited"),
        Reply::status(200).body("ok"),
    ];
    receiver.script("/hook", replies);
    let created = endpoint(&app, receiver.url("/hook")).await.endpoint.unwrap();
    let delivery = send(&app, &created, "budget.exceeded", &json!({"spent": 12})).await;

    let detail = verified(&app, &delivery).await;

    let errors = vec![
        ("status", "status 500: rollup_error, an error of Slack's own"),
        ("status", "status 429: rate_limited, too many messages"),
        ("", ""),
    ];
    assert_eq!(outcome(&detail), ("DELIVERED", "", errors));
    let requests = receiver.received("/hook", 3).await;
    assert!(requests.iter().all(|request| request.body == requests[0].body));

    // Of an answer that is not Slack's only the status counts.
    receiver.script(
        "/proxy",
        [
            Reply::status(404).body("<html>no_service</html>"),
            Reply::status(200),
        ],
    );
    let created = endpoint(&app, receiver.url("/proxy")).await.endpoint.unwrap();
    let delivery = send(&app, &created, "budget.exceeded", &json!({})).await;
    let detail = verified(&app, &delivery).await;
    assert_eq!(
        outcome(&detail),
        ("DELIVERED", "", vec![("status", "status 404"), ("", "")])
    );
    assert_eq!(summary(&detail).status(), DeliveryStatus::Delivered);
}

#[tokio::test]
async fn a_hook_of_slacks_own_is_known_by_its_host() {
    let app = TestApp::builder()
        .set("api.resolve_timeout", "50ms")
        .start()
        .await;
    // Nothing is delivered to it.
    let request = |kind: EndpointKind| CreateEndpointRequest {
        url: "https://hooks.slack.com/services/T0/B0/x".into(),
        kind: kind.into(),
        event_types: vec!["never.sent".into()],
        ..Default::default()
    };
    let kind_of = async |kind| {
        let created = app.create_endpoint(request(kind)).await;
        created.endpoint.unwrap().kind()
    };
    assert_eq!(kind_of(EndpointKind::Unspecified).await, EndpointKind::Slack);
    assert_eq!(kind_of(EndpointKind::Slack).await, EndpointKind::Slack);
    assert_eq!(
        kind_of(EndpointKind::Http).await,
        EndpointKind::Http,
        "what is given stands"
    );
    let wrapped = CreateEndpointRequest {
        envelope: true,
        ..request(EndpointKind::Unspecified)
    };
    let fields = create_refused(&app, wrapped).await;
    assert_eq!(fields.len(), 1);
    assert_eq!(fields[0].0, "envelope");
}
