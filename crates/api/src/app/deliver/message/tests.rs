use cuitty_webhooks_domain::ids::MessageId;

use super::*;
use crate::app::Accepted;
use crate::testing::{caller, endpoint, now};

fn message() -> NewMessage {
    NewMessage {
        project_id: "acme".into(),
        event_type: "budget.exceeded".into(),
        payload: Bytes::from_static(br#" {"a": 1.50, "b":"\u00e9"} "#),
        ..NewMessage::default()
    }
}

fn refused(message: NewMessage) -> Vec<String> {
    match message.read(&caller(None)) {
        Err(Rejection::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_well_formed_message_keeps_its_payload() {
    let given = message();
    let read = given.clone().read(&caller(None)).unwrap();
    assert_eq!(read.payload, given.payload);
    assert_eq!(read.payload.as_ptr(), given.payload.as_ptr());
    assert_eq!(read.content_type, "application/json");
    assert_eq!(read.endpoint_id, None);
}

#[test]
fn the_project_of_a_bound_key_is_the_default() {
    let given = NewMessage {
        project_id: String::new(),
        ..message()
    };
    assert_eq!(
        given
            .clone()
            .read(&caller(Some("acme")))
            .unwrap()
            .project_id
            .as_str(),
        "acme"
    );
    assert_eq!(refused(given), ["project_id"]);
}

#[test]
fn fields_at_fault_are_all_named() {
    let given = NewMessage {
        project_id: "a b".into(),
        event_type: "a..b".into(),
        payload: Bytes::from_static(b"{"),
        endpoint_id: "msg_01h455vb4pex5vsknk084sn02q".into(),
        idempotency_key: "k".repeat(257),
        ..NewMessage::default()
    };
    assert_eq!(
        refused(given),
        [
            "project_id",
            "event_type",
            "endpoint_id",
            "idempotency_key",
            "payload"
        ]
    );
    assert_eq!(
        refused(NewMessage {
            event_type: String::new(),
            ..message()
        }),
        ["event_type"]
    );
    assert_eq!(
        refused(NewMessage {
            idempotency_key: "a\nb".into(),
            ..message()
        }),
        ["idempotency_key"]
    );
}

#[test]
fn json_must_be_json() {
    let with = |payload: &'static [u8]| NewMessage {
        payload: Bytes::from_static(payload),
        ..message()
    };
    for payload in [
        &b""[..],
        b"{",
        b"{} {}",
        b"nope",
        b"\"\xff\"",
        b"{\"a\":\x00}",
        b"\xef\xbb\xbf{}",
    ] {
        assert_eq!(refused(with(payload)), ["payload"], "{payload:?}");
    }
    for payload in [
        &b"null"[..],
        b"[]",
        b" 1e400 ",
        br#"{"a":1,"a":2}"#,
        "\"\u{1f980}\"".as_bytes(),
    ] {
        assert!(with(payload).read(&caller(None)).is_ok(), "{payload:?}");
    }
    // Depth costs nothing: no tree is built.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(
        NewMessage {
            payload: deep.into(),
            ..message()
        }
        .read(&caller(None))
        .is_ok()
    );
}

#[test]
fn other_content_types_are_taken_as_they_are() {
    let with = |content_type: &str| NewMessage {
        payload: Bytes::from_static(b"<x/>"),
        content_type: content_type.into(),
        ..message()
    };
    assert_eq!(
        with("text/xml; charset=utf-8")
            .read(&caller(None))
            .unwrap()
            .content_type,
        "text/xml; charset=utf-8"
    );
    for json in [
        "application/json; charset=utf-8",
        "application/cloudevents+json",
        "Application/JSON",
    ] {
        assert_eq!(refused(with(json)), ["payload"], "{json}");
    }
    for text in [
        "json",
        "text/",
        "/xml",
        "text/x y",
        "text/xml\r\nx: y",
        "a/b; é",
        &format!("a/{}", "b".repeat(127)),
    ] {
        assert_eq!(refused(with(text)), ["content_type"], "{text}");
    }
}

#[test]
fn payloads_are_bounded() {
    let with = |len: usize| NewMessage {
        payload: vec![b'1'; len].into(),
        ..message()
    };
    assert!(with(limits::PAYLOAD_BYTES).read(&caller(None)).is_ok());
    let refused = with(limits::PAYLOAD_BYTES + 1).read(&caller(None)).unwrap_err();
    assert_eq!(
        refused,
        Rejection::PayloadTooLarge {
            actual: 262_145,
            limit: 262_144
        }
    );
}

#[test]
fn fingerprints_tell_requests_apart() {
    let of = |message: NewMessage| message.read(&caller(None)).unwrap().fingerprint();
    let id = endpoint(1).id.to_string();
    let different = [
        message(),
        NewMessage {
            project_id: "other".into(),
            ..message()
        },
        NewMessage {
            event_type: "budget.exceede".into(),
            ..message()
        },
        NewMessage {
            endpoint_id: id,
            ..message()
        },
        NewMessage {
            payload: Bytes::from_static(b"{}"),
            ..message()
        },
        NewMessage {
            content_type: "application/x+json".into(),
            ..message()
        },
    ];
    let fingerprints: Vec<_> = different.iter().cloned().map(of).collect();
    for (index, fingerprint) in fingerprints.iter().enumerate() {
        assert_eq!(*fingerprint, of(different[index].clone()));
        assert!(!fingerprints[..index].contains(fingerprint), "{index}");
    }
    // Neither the key nor the trace belongs to what is asked for.
    let traced = NewMessage {
        idempotency_key: "k".into(),
        traceparent: "00-…".into(),
        ..message()
    };
    assert_eq!(of(traced), fingerprints[0]);
}

#[test]
fn a_repeated_intent_requests_the_same_facts() {
    let message = message().read(&caller(None)).unwrap();
    let endpoint_ids = vec![endpoint(1).id, endpoint(2).id];
    let message_id = MessageId::from_uuid(endpoint(3).id.uuid());
    let intent = Intent {
        message_id,
        endpoint_ids,
        fingerprint: [0; 32],
        requested_at: now(),
    };
    let requested = message.requested(&intent);
    assert_eq!(requested, message.requested(&intent));
    assert_eq!(requested[1].deadline, now() + DEFAULT_DEADLINE);
    let ids: Vec<_> = requested
        .iter()
        .map(|r| (r.delivery.delivery_id, r.delivery.endpoint_id))
        .collect();
    assert_eq!(Accepted::new(&intent, 7).deliveries, ids);
}

#[test]
fn a_test_event_is_the_same_request_at_whatever_time_it_comes_and_says_when_it_was_accepted() {
    let endpoint = endpoint(1);
    let test = |event_type: &str, key: &str| {
        Message::test(endpoint.project_id.clone(), endpoint.id, event_type, key.into())
    };
    let message = test("budget.exceeded", "k").unwrap();
    assert_eq!(
        message.fingerprint(),
        test("budget.exceeded", "other").unwrap().fingerprint()
    );
    assert_ne!(
        message.fingerprint(),
        test("budget.reset", "k").unwrap().fingerprint()
    );
    let intent = Intent {
        message_id: MessageId::from_uuid(endpoint.id.uuid()),
        endpoint_ids: vec![endpoint.id],
        fingerprint: [0; 32],
        requested_at: now(),
    };
    let requested = message.requested(&intent).remove(0);
    assert_eq!(requested.origin, Origin::Test);
    assert_eq!(
        requested.payload,
        r#"{"type":"budget.exceeded","timestamp":"2026-11-21T10:00:00.250Z","data":{"test":true}}"#
    );

    let refused = test("not a type", "a\nb").unwrap_err();
    let Rejection::Invalid(fields) = refused else {
        panic!("{refused:?}")
    };
    let fields: Vec<_> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["event_type", "idempotency_key"]);
}
