//! Payloads are as the schemas of their types say, or are refused.

use std::fmt::Write as _;

use cuitty_webhooks_proto::v1::{DeliverRequest, SendTestEventRequest};

use super::*;

fn order() -> Value {
    json!({
        "type": "object",
        "required": ["order"],
        "properties": {"order": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string"},
                "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}}
            }
        }}
    })
}

#[tokio::test]
async fn a_payload_that_is_not_as_the_schema_says_is_refused_with_every_place_and_no_value() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    create(&app, event_type("order.paid", &order().to_string()))
        .await
        .unwrap();

    let secret = "sesame-8346";
    let payload = json!({"order": {"id": {"card": secret}, "lines": [{"sku": 1}, {}, secret]}});
    let status = app
        .messages()
        .deliver(event("order.paid", payload.to_string()))
        .await
        .unwrap_err();
    let refusal = refused::<()>(Err(status.clone()));
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::InvalidArgument, "INVALID_FIELDS")
    );
    let expected = [
        ("payload/order/id", "must be of type string"),
        ("payload/order/lines/1/sku", "is required"),
        ("payload/order/lines/2", "must be of type object"),
    ];
    let told: Vec<_> = refusal
        .fields
        .iter()
        .map(|(field, text)| (field.as_str(), text.as_str()))
        .collect();
    assert_eq!(told, expected);
    assert!(!format!("{status:?}").contains(secret));

    let mut many = String::from(r#"{"order":{"id":"1","lines":["#);
    (0..40).for_each(|_| {
        let _ = write!(many, "7,");
    });
    many += "{}]}}";
    assert_eq!(
        refused(app.messages().deliver(event("order.paid", many)).await)
            .fields
            .len(),
        16
    );

    // Long ones are checked, too.
    let long = |id: Value| json!({"order": {"id": id, "note": "x".repeat(200_000)}}).to_string();
    app.messages()
        .deliver(event("order.paid", long("1".into())))
        .await
        .unwrap();
    let refusal = refused(app.messages().deliver(event("order.paid", long(1.into()))).await);
    assert_eq!(refusal.field_names(), ["payload/order/id"]);
    let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    assert_eq!(
        refused(app.messages().deliver(event("order.paid", deep)).await).field_names(),
        ["payload"]
    );
    receiver.received("/hook", 1).await;
    assert_eq!(receiver.count("/hook"), 1);
}

#[tokio::test]
async fn only_json_of_types_that_say_so_is_checked() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    create(&app, event_type("order.paid", &order().to_string()))
        .await
        .unwrap();
    let documented = EventType {
        enforce_schema: false,
        ..event_type("order.sent", &order().to_string())
    };
    create(&app, documented.clone()).await.unwrap();
    let with = |content_type: &str| DeliverRequest {
        content_type: content_type.into(),
        ..event("order.paid", "7")
    };
    app.messages().deliver(event("order.sent", "7")).await.unwrap();
    app.messages().deliver(with("text/plain")).await.unwrap();
    for json in ["application/json; charset=utf-8", "application/cloudevents+json"] {
        assert_eq!(
            refused(app.messages().deliver(with(json)).await).field_names(),
            ["payload"],
            "{json}"
        );
    }
    // What was never created is not checked, whatever its name begins with.
    app.messages()
        .deliver(event("order.paid.late", "7"))
        .await
        .unwrap();

    let enforced = EventType {
        enforce_schema: true,
        ..documented
    };
    update(&app, enforced.clone(), &["enforce_schema"], 0)
        .await
        .unwrap();
    assert_eq!(
        refused(app.messages().deliver(event("order.sent", "7")).await).field_names(),
        ["payload"]
    );
    let other = EventType {
        schema: r#"{"type":"integer"}"#.into(),
        ..enforced
    };
    update(&app, other, &["schema"], 0).await.unwrap();
    app.messages().deliver(event("order.sent", "7")).await.unwrap();
    receiver.received("/hook", 4).await;
}

#[tokio::test]
async fn what_was_accepted_under_a_key_is_answered_the_same_whatever_is_said_of_its_type_since() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let keyed = |key: &str, payload: &'static str| DeliverRequest {
        idempotency_key: key.into(),
        ..event("order.paid", payload)
    };
    let first = app
        .messages()
        .deliver(keyed("k", "7"))
        .await
        .unwrap()
        .into_inner();
    create(&app, event_type("order.paid", &order().to_string()))
        .await
        .unwrap();
    for round in ["enforced", "archived"] {
        let again = app
            .messages()
            .deliver(keyed("k", "7"))
            .await
            .unwrap()
            .into_inner();
        assert!(again.duplicate, "{round}");
        assert_eq!(again.deliveries, first.deliveries, "{round}");
        for (key, payload) in [("k", "8"), ("other", "7")] {
            refused(app.messages().deliver(keyed(key, payload)).await);
        }
        archive(&app, "order.paid").await;
    }
    // A refused message takes no key.
    let restored = event_type("order.paid", "");
    update(&app, restored, &["archived", "schema", "enforce_schema"], 0)
        .await
        .unwrap();
    let fresh = app
        .messages()
        .deliver(keyed("other", "7"))
        .await
        .unwrap()
        .into_inner();
    assert!(!fresh.duplicate);
}

#[tokio::test]
async fn a_test_event_says_what_the_example_of_its_type_says() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = app
        .create_endpoint_at(receiver.url("/hook"))
        .await
        .endpoint
        .unwrap();
    let send = async |name: &str| {
        let request = SendTestEventRequest {
            endpoint_id: endpoint.id.clone(),
            event_type: name.into(),
            idempotency_key: name.into(),
        };
        app.endpoints()
            .send_test_event(request)
            .await
            .unwrap()
            .into_inner()
            .delivery
            .unwrap()
    };
    let example = "{ \"order\" : {\"id\": \"1\"} }";
    let described = EventType {
        example: example.into(),
        ..event_type("order.paid", &order().to_string())
    };
    create(&app, described).await.unwrap();
    let first = send("order.paid").await;
    let arrived = receiver.received("/hook", 1).await;
    assert_eq!(
        (arrived[0].header("webhook-id"), &*arrived[0].body),
        (first.message_id.as_str(), example.as_bytes())
    );
    // The same key is the same request, whatever the example is by then.
    let changed = event_type("order.paid", "");
    update(&app, changed, &["example"], 0).await.unwrap();
    assert_eq!(send("order.paid").await.id, first.id);
    send("order.sent").await;
    let arrived = receiver.received("/hook", 2).await;
    let payload: Value = serde_json::from_slice(&arrived[1].body).unwrap();
    assert_eq!(payload["data"], json!({"test": true}));
}
