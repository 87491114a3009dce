mod api_key;
mod event_type;
mod golden;
mod replay;
mod round_trip;

use bytes::Bytes;
use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_proto::events::v1 as stored;
use prost::Message;

use super::*;
use crate::subjects::Kind;

/// A kind and the bytes stored for an event of it.
fn encode(event: &DeliveryEvent) -> (Kind, Bytes) {
    match event {
        DeliveryEvent::Requested(event) => (Kind::Requested, encode_requested(event, &event.traceparent)),
        DeliveryEvent::Due(event) => (Kind::Due, encode_due(event)),
        DeliveryEvent::Concluded(event) => (outcome_of(&event.conclusion).kind(), encode_concluded(event)),
        DeliveryEvent::Unmatched(event) => (Kind::Unmatched, encode_unmatched(event, &event.traceparent)),
    }
}

/// Alters a stored message.
fn altered<M: Message + Default>(body: &Bytes, alter: impl FnOnce(&mut M)) -> Bytes {
    let mut message = M::decode(body.clone()).unwrap();
    alter(&mut message);
    message.encode_to_vec().into()
}

fn unknown(field: &'static str, value: i32) -> CodecError {
    CodecError::Invalid {
        field,
        message: format!("has the unknown value {value}"),
    }
}

#[test]
fn values_that_a_later_version_wrote_are_errors() {
    let (_, body) = encode(&golden::requested());
    let body = altered::<stored::Requested>(&body, |message| message.origin = 99);
    assert_eq!(decode_event(Kind::Requested, body), Err(unknown("origin", 99)));

    let (_, body) = encode(&golden::failed());
    let body = altered::<stored::AttemptConcluded>(&body, |message| message.failure_reason = 0);
    assert_eq!(
        decode_event(Kind::Failed, body),
        Err(unknown("failure_reason", 0))
    );

    let (_, body) = encode(&golden::attempted());
    let body = altered::<stored::AttemptConcluded>(&body, |message| {
        message.attempt.as_mut().unwrap().error.as_mut().unwrap().class = 99;
    });
    assert_eq!(
        decode_event(Kind::Attempted, body),
        Err(unknown("attempt.error.class", 99))
    );

    let body = altered::<stored::EndpointChanged>(&golden::endpoint(), |message| {
        message.state.as_mut().unwrap().kind = 99;
    });
    assert_eq!(decode_endpoint(body), Err(unknown("state.kind", 99)));

    let body = altered::<stored::EndpointChanged>(&golden::endpoint(), |message| {
        message.state.as_mut().unwrap().secrets[0].scheme = 99;
    });
    assert_eq!(decode_endpoint(body), Err(unknown("state.secrets.scheme", 99)));
}

#[test]
fn missing_parts_are_named() {
    let missing = |kind, body| match decode_event(kind, body) {
        Err(CodecError::Missing(field)) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        missing(
            Kind::Requested,
            altered::<stored::Requested>(&encode(&golden::requested()).1, |m| m.delivery = None)
        ),
        "delivery"
    );
    let (_, attempted) = encode(&golden::attempted());
    let body = altered::<stored::AttemptConcluded>(&attempted, |m| m.next_attempt_at_us = None);
    assert_eq!(missing(Kind::Attempted, body), "next_attempt_at_us");
    let body = altered::<stored::AttemptConcluded>(&attempted, |m| m.attempt = None);
    assert_eq!(missing(Kind::Succeeded, body), "attempt");
    let body = altered::<stored::EndpointChanged>(&golden::endpoint(), |m| m.state = None);
    assert_eq!(decode_endpoint(body), Err(CodecError::Missing("state")));
}

#[test]
fn ill_formed_fields_are_named() {
    let field = |kind, body| match decode_event(kind, body) {
        Err(CodecError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let (_, body) = encode(&golden::requested());
    let with = |alter: fn(&mut stored::Requested)| field(Kind::Requested, altered(&body, alter));
    assert_eq!(
        with(|m| m.delivery.as_mut().unwrap().endpoint_id = "ep_1".into()),
        "delivery.endpoint_id"
    );
    assert_eq!(
        with(|m| m.delivery.as_mut().unwrap().project_id = "a.b".into()),
        "delivery.project_id"
    );
    assert_eq!(with(|m| m.deadline_us = i64::MAX), "deadline_us");
    let (_, body) = encode(&golden::attempted());
    let with = |alter: fn(&mut stored::Attempt)| {
        let body = altered::<stored::AttemptConcluded>(&body, |m| alter(m.attempt.as_mut().unwrap()));
        field(Kind::Attempted, body)
    };
    assert_eq!(
        with(|m| m.remote_address = "somewhere".into()),
        "attempt.remote_address"
    );
    assert_eq!(
        with(|m| m.response.as_mut().unwrap().status = 70_000),
        "attempt.response.status"
    );
    let body = altered::<stored::EndpointChanged>(&golden::endpoint(), |message| {
        let secret = &mut message.state.as_mut().unwrap().secrets[0];
        secret.scheme = stored::SignatureScheme::Ed25519.into();
    });
    let Err(CodecError::Invalid { field, .. }) = decode_endpoint(body) else {
        panic!("an ed25519 key was read without its public key")
    };
    assert_eq!(field, "state.secrets.public_key");
}

#[test]
fn an_endpoint_is_no_fact_about_a_delivery() {
    assert!(matches!(
        decode_event(Kind::Endpoint, golden::endpoint()),
        Err(CodecError::Invalid { field: "kind", .. })
    ));
}

/// A change that only a later version knows, to this state.
pub(crate) fn unknown_change(body: &Bytes, alter: impl FnOnce(&mut stored::EndpointState)) -> Bytes {
    let known = altered::<stored::EndpointChanged>(body, |message| {
        message.change = None;
        alter(message.state.as_mut().unwrap());
    });
    let mut body = known.to_vec();
    // Field 13, a message of three bytes.
    body.extend([13 << 3 | 2, 3, 0x0a, 1, b'x']);
    body.into()
}

#[test]
fn the_state_after_a_change_of_an_unknown_kind_is_read() {
    let body = golden::endpoint();
    let expected = decode_endpoint(body.clone()).unwrap().endpoint;
    assert_eq!(decode_endpoint_state(body.clone()), Ok(expected.clone()));

    let later = unknown_change(&body, |state| state.revision += 1);
    assert_eq!(decode_endpoint(later.clone()), Err(CodecError::Missing("change")));
    let expected = Endpoint {
        revision: expected.revision + 1,
        ..expected
    };
    assert_eq!(decode_endpoint_state(later), Ok(expected));
    assert_eq!(
        decode_endpoint_state(altered::<stored::EndpointChanged>(&body, |m| m.state = None)),
        Err(CodecError::Missing("state"))
    );
}
