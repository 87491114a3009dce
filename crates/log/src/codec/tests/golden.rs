//! The bytes of every kind as the first version that knew it stored them. They never change: what is in somebody's log must be
//! readable for ever, and what is written must be readable by what runs beside it.

use std::time::Duration;

use cuitty_webhooks_domain::attempt::{
    Attempt, AttemptError, AttemptRequest, AttemptResponse, ErrorClass, Header, Timing,
};
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DeliveryRef, Due, FailureReason, Origin, Requested, Unmatched,
};
use cuitty_webhooks_domain::endpoint::{
    Actor, DisabledReason, Endpoint, EndpointChange, EndpointKind, EndpointSettings, Secret,
};
use cuitty_webhooks_domain::seal::SealedSecret;
use cuitty_webhooks_domain::signing::PublicKey;

use super::*;

fn delivery() -> DeliveryRef {
    DeliveryRef {
        delivery_id: "dlv_01h455vb4pex5vsknk084sn02q".parse().unwrap(),
        message_id: "msg_01h455vb4pex5vsknk084sn02r".parse().unwrap(),
        project_id: "acme".parse().unwrap(),
        endpoint_id: "ep_01h455vb4pex5vsknk084sn02s".parse().unwrap(),
        event_type: "budget.exceeded".parse().unwrap(),
    }
}

pub(super) fn at(text: &str) -> chrono::DateTime<chrono::Utc> {
    text.parse().unwrap()
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.into(),
        value: value.into(),
    }
}

pub(super) fn requested() -> DeliveryEvent {
    DeliveryEvent::Requested(Requested {
        delivery: delivery(),
        content_type: "application/json".into(),
        payload: br#"{"limit":100}"#.as_slice().into(),
        requested_at: at("2026-11-21T10:00:00.000001Z"),
        origin: Origin::Replay,
        replay_of: Some("dlv_01h455vb4pex5vsknk084sn02t".parse().unwrap()),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        deadline: at("2026-11-22T10:00:00Z"),
    })
}

fn due() -> DeliveryEvent {
    DeliveryEvent::Due(Due {
        delivery: delivery(),
        requested_sequence: 7,
        attempt_number: 2,
        due_at: at("2026-11-21T10:00:05Z"),
    })
}

fn attempt() -> Attempt {
    Attempt {
        number: 1,
        started_at: at("2026-11-21T10:00:00.5Z"),
        duration: Duration::from_micros(12_345),
        request: AttemptRequest {
            url: "https://example.com/hook".into(),
            headers: vec![
                header("content-type", "application/json"),
                header("webhook-id", "msg_x"),
            ],
            signed_with: vec!["sec_01h455vb4pex5vsknk084sn02q".parse().unwrap()],
        },
        response: Some(AttemptResponse {
            status: 503,
            headers: vec![header("retry-after", "7")],
            body: b"busy".as_slice().into(),
            body_truncated: true,
        }),
        error: Some(AttemptError {
            class: ErrorClass::Status,
            message: "status 503".into(),
        }),
        timing: Timing {
            queue: Duration::from_micros(10),
            dns: Some(Duration::from_micros(20)),
            connect: Some(Duration::ZERO),
            tls: None,
            first_byte: Some(Duration::from_millis(12)),
        },
        remote_address: Some("[2001:db8::1]:443".parse().unwrap()),
        endpoint_revision: 3,
        dispatcher_id: "d1".into(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
    }
}

fn concluded(attempt: Option<Attempt>, conclusion: Conclusion) -> DeliveryEvent {
    let at = at("2026-11-21T10:00:00.6Z");
    DeliveryEvent::Concluded(Box::new(Concluded {
        delivery: delivery(),
        requested_sequence: 7,
        attempt,
        conclusion,
        at,
    }))
}

pub(super) fn attempted() -> DeliveryEvent {
    concluded(
        Some(attempt()),
        Conclusion::Retry {
            next_attempt_at: at("2026-11-21T10:00:07.6Z"),
        },
    )
}

fn succeeded() -> DeliveryEvent {
    let response = AttemptResponse {
        status: 204,
        headers: Vec::new(),
        body: Bytes::new(),
        body_truncated: false,
    };
    concluded(
        Some(Attempt {
            response: Some(response),
            error: None,
            ..attempt()
        }),
        Conclusion::Succeeded,
    )
}

pub(super) fn failed() -> DeliveryEvent {
    concluded(
        None,
        Conclusion::Failed {
            reason: FailureReason::EndpointDisabled,
        },
    )
}

fn aborted() -> DeliveryEvent {
    let reason = FailureReason::Aborted;
    concluded(Some(attempt()), Conclusion::Failed { reason })
}

fn unmatched() -> DeliveryEvent {
    DeliveryEvent::Unmatched(Unmatched {
        message_id: "msg_01h455vb4pex5vsknk084sn02r".parse().unwrap(),
        project_id: "acme".parse().unwrap(),
        event_type: "budget.exceeded".parse().unwrap(),
        content_type: "text/plain".into(),
        payload: b"hello".as_slice().into(),
        requested_at: at("2026-11-21T10:00:00Z"),
        traceparent: String::new(),
    })
}

fn secret(id: &str, expires_at: Option<&str>) -> Secret {
    Secret {
        id: id.parse().unwrap(),
        sealed: SealedSecret {
            sealing_key_id: "k1".into(),
            nonce: [7; 24],
            ciphertext: vec![1, 2, 3],
            public_key: None,
        },
        created_at: at("2026-11-21T09:00:00Z"),
        expires_at: expires_at.map(at),
    }
}

fn state() -> Endpoint {
    Endpoint {
        id: "ep_01h455vb4pex5vsknk084sn02s".parse().unwrap(),
        project_id: "acme".parse().unwrap(),
        settings: EndpointSettings {
            kind: EndpointKind::Http,
            url: "https://example.com/hook".into(),
            event_types: vec!["budget.*".parse().unwrap(), "api_key.revoked".parse().unwrap()],
            description: "for the budget".into(),
            headers: vec![header("x-tenant", "7")],
            signature_header: Some("X-Cuitty-Signature".into()),
            timeout: Duration::from_secs(15),
            max_in_flight: 64,
            rate_limit_per_second: Some(100),
            ordered: true,
            retry_schedule_seconds: vec![5, 30],
            envelope: true,
        },
        disabled_reason: Some(DisabledReason::Manual),
        enabled_at: None,
        secrets: vec![
            secret("sec_01h455vb4pex5vsknk084sn02r", None),
            secret("sec_01h455vb4pex5vsknk084sn02q", Some("2026-11-22T10:00:00Z")),
        ],
        created_at: at("2026-11-21T09:00:00Z"),
        updated_at: at("2026-11-21T10:00:00Z"),
        revision: 4,
        deleted_at: Some(at("2026-11-21T11:00:00Z")),
    }
}

type ChangeSample = (
    &'static str,
    &'static [&'static str],
    EndpointChange,
    &'static str,
);

/// Names of changes, the fields told with them, and what is stored.
fn changes() -> [ChangeSample; 7] {
    let settings = Box::new(state().settings);
    let [newest, oldest] = state().secrets.try_into().unwrap();
    let previous_expires_at = at("2026-11-22T10:00:00Z");
    [
        (
            "created",
            &[],
            EndpointChange::Created {
                settings: settings.clone(),
                secret: oldest,
            },
            include_str!("../golden/endpoint_created.hex"),
        ),
        (
            "updated",
            &["url", "ordered"],
            EndpointChange::Updated {
                settings: settings.clone(),
                disabled_reason: Some(DisabledReason::Manual),
            },
            include_str!("../golden/endpoint_updated.hex"),
        ),
        (
            "updated and switched off",
            &["url", "active"],
            EndpointChange::Updated {
                settings,
                disabled_reason: Some(DisabledReason::Manual),
            },
            include_str!("../golden/endpoint_updated_active.hex"),
        ),
        (
            "disabled",
            &[],
            EndpointChange::Disabled(DisabledReason::Manual),
            include_str!("../golden/endpoint_disabled.hex"),
        ),
        (
            "enabled",
            &[],
            EndpointChange::Enabled,
            include_str!("../golden/endpoint_enabled.hex"),
        ),
        (
            "secret_rotated",
            &[],
            EndpointChange::SecretRotated {
                secret: newest,
                previous_expires_at,
            },
            include_str!("../golden/endpoint_secret_rotated.hex"),
        ),
        (
            "deleted",
            &[],
            EndpointChange::Deleted,
            include_str!("../golden/endpoint_deleted.hex"),
        ),
    ]
}

/// The changes, each with the state after it and what is stored.
fn stored_changes() -> Vec<(
    &'static str,
    &'static [&'static str],
    EndpointRecord,
    &'static str,
)> {
    let record = |change, endpoint| EndpointRecord {
        change,
        actor: actor(),
        endpoint,
    };
    let first =
        changes().map(|(name, fields, change, golden)| (name, fields, record(change, state()), golden));
    let secret_id = state().secrets[1].id;
    let enabled = Endpoint {
        disabled_reason: None,
        enabled_at: Some(at("2026-11-21T09:30:00Z")),
        deleted_at: None,
        ..state()
    };
    let revoked = record(EndpointChange::SecretRevoked { secret_id }, enabled);
    let golden = include_str!("../golden/endpoint_secret_revoked.hex");
    let mut moved = state();
    // The public key of RFC 8032, section 7.1, test 1.
    let public_key = unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    moved.secrets[0].sealed.public_key = Some(PublicKey::from_bytes(&public_key).unwrap());
    let to_ed25519 = EndpointChange::SecretRotated {
        secret: moved.secrets[0].clone(),
        previous_expires_at: at("2026-11-22T10:00:00Z"),
    };
    let later = [
        ("secret_revoked", &[][..], revoked, golden),
        (
            "secret_rotated to ed25519",
            &[][..],
            record(to_ed25519, moved),
            include_str!("../golden/endpoint_secret_rotated_ed25519.hex"),
        ),
    ];
    first.into_iter().chain(later).collect()
}

pub(super) fn actor() -> Actor {
    Actor {
        id: "key_01h455vb4pex5vsknk084sn02q".into(),
        process: "api-1".into(),
    }
}

pub(super) fn endpoint() -> Bytes {
    encode_endpoint(&EndpointChange::Enabled, &[], &state(), &actor())
}

pub(super) fn hex(bytes: &Bytes) -> String {
    format!("{bytes:x}")
}

pub(super) fn unhex(text: &str) -> Bytes {
    let digits = text.trim().as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn events() -> [(DeliveryEvent, &'static str); 7] {
    [
        (requested(), include_str!("../golden/requested.hex")),
        (due(), include_str!("../golden/due.hex")),
        (attempted(), include_str!("../golden/attempted.hex")),
        (succeeded(), include_str!("../golden/succeeded.hex")),
        (failed(), include_str!("../golden/failed.hex")),
        (aborted(), include_str!("../golden/failed_aborted.hex")),
        (unmatched(), include_str!("../golden/unmatched.hex")),
    ]
}

#[test]
fn every_kind_is_stored_and_read_as_ever() {
    for (event, golden) in events() {
        let (kind, body) = encode(&event);
        assert_eq!(hex(&body), golden.trim(), "{}", kind.as_str());
        assert_eq!(decode_event(kind, unhex(golden)), Ok(event), "{}", kind.as_str());
    }
}

#[test]
fn every_change_is_stored_and_read_as_ever() {
    for (name, fields, record, golden) in stored_changes() {
        let body = encode_endpoint(&record.change, fields, &record.endpoint, &record.actor);
        assert_eq!(hex(&body), golden.trim(), "{name}");
        assert_eq!(decode_endpoint(unhex(golden)), Ok(record), "{name}");
    }
}

#[test]
fn fields_that_a_later_version_adds_are_passed_over() {
    for (event, golden) in events() {
        let (kind, _) = encode(&event);
        assert_eq!(
            decode_event(kind, with_unknown_fields(&unhex(golden))),
            Ok(event),
            "{}",
            kind.as_str()
        );
    }
    for (name, _, record, golden) in stored_changes() {
        assert_eq!(
            decode_endpoint(with_unknown_fields(&unhex(golden))),
            Ok(record),
            "{name}"
        );
    }
}

/// Appends unknown fields of every wire type.
pub(super) fn with_unknown_fields(body: &Bytes) -> Bytes {
    let mut body = body.to_vec();
    for wire_type in [0u64, 1, 2, 5] {
        prost::encoding::encode_varint(1000 << 3 | wire_type, &mut body);
        match wire_type {
            0 => prost::encoding::encode_varint(u64::MAX, &mut body),
            1 => body.extend([0xff; 8]),
            2 => body.extend([3, 1, 2, 3]),
            _ => body.extend([0xff; 4]),
        }
    }
    body.into()
}
