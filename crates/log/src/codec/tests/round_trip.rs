//! Whatever can be stored comes back the same, and no bytes make reading panic.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{
    Attempt, AttemptError, AttemptRequest, AttemptResponse, ErrorClass, Header, Timing,
};
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DeliveryRef, Due, FailureReason, Origin, Requested, Unmatched,
};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId, SecretId};
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn time() -> impl Strategy<Value = DateTime<Utc>> {
    // 1970 to 2100, to the microsecond.
    (0i64..4_102_444_800_000_000).prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap())
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_micros)
}

fn project_id() -> impl Strategy<Value = ProjectId> {
    "[A-Za-z0-9_-]{1,64}".prop_map(|text| text.parse().unwrap())
}

fn event_type() -> impl Strategy<Value = EventType> {
    "[a-z0-9_-]{1,20}(\\.[a-z0-9_-]{1,20}){0,4}".prop_map(|text| text.parse().unwrap())
}

fn delivery() -> impl Strategy<Value = DeliveryRef> {
    (any::<u64>(), project_id(), event_type()).prop_map(|(seed, project_id, event_type)| {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = DateTime::UNIX_EPOCH;
        let (message_id, endpoint_id) = (MessageId::new(now, &mut rng), EndpointId::new(now, &mut rng));
        let delivery_id = DeliveryId::derive(message_id, endpoint_id);
        DeliveryRef {
            delivery_id,
            message_id,
            project_id,
            endpoint_id,
            event_type,
        }
    })
}

fn secret_id() -> impl Strategy<Value = SecretId> {
    any::<u64>().prop_map(|seed| SecretId::new(DateTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(seed)))
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    vec(
        ("[a-z-]{1,20}", "\\PC{0,40}").prop_map(|(name, value)| Header { name, value }),
        0..5,
    )
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let request =
        ("\\PC{0,80}", headers(), vec(secret_id(), 0..3)).prop_map(|(url, headers, signed_with)| {
            AttemptRequest {
                url,
                headers,
                signed_with,
            }
        });
    let response = (100u16..1000, headers(), bytes(), any::<bool>()).prop_map(
        |(status, headers, body, body_truncated)| AttemptResponse {
            status,
            headers,
            body,
            body_truncated,
        },
    );
    let error = (select(&ErrorClass::ALL[..]), "\\PC{0,80}")
        .prop_map(|(class, message)| AttemptError { class, message });
    let timing = (
        duration(),
        option::of(duration()),
        option::of(duration()),
        option::of(duration()),
        option::of(duration()),
    )
        .prop_map(|(queue, dns, connect, tls, first_byte)| Timing {
            queue,
            dns,
            connect,
            tls,
            first_byte,
        });
    let names = (
        any::<u64>(),
        "[a-z0-9-]{0,20}",
        "([0-9a-f]{32})?",
        option::of(any::<SocketAddr>()),
    );
    (
        (any::<u32>(), time(), duration()),
        request,
        option::of(response),
        option::of(error),
        timing,
        names,
    )
        .prop_map(
            |((number, started_at, duration), request, response, error, timing, names)| Attempt {
                number,
                started_at,
                duration,
                request,
                response,
                error,
                timing,
                endpoint_revision: names.0,
                dispatcher_id: names.1,
                trace_id: names.2,
                // The text of a socket address leaves flow information out.
                remote_address: names
                    .3
                    .map(|address| SocketAddr::new(address.ip(), address.port())),
            },
        )
}

fn concluded() -> impl Strategy<Value = Concluded> {
    let conclusion = prop_oneof![
        time().prop_map(|next_attempt_at| Conclusion::Retry { next_attempt_at }),
        Just(Conclusion::Succeeded),
        select(&FailureReason::ALL[..]).prop_map(|reason| Conclusion::Failed { reason }),
    ];
    (
        delivery(),
        any::<u64>(),
        attempt(),
        any::<bool>(),
        conclusion,
        time(),
    )
        .prop_map(
            |(delivery, requested_sequence, attempt, attempted, conclusion, at)| {
                let needed = !matches!(conclusion, Conclusion::Failed { .. });
                let attempt = (attempted || needed).then_some(attempt);
                Concluded {
                    delivery,
                    requested_sequence,
                    attempt,
                    conclusion,
                    at,
                }
            },
        )
}

fn requested() -> impl Strategy<Value = Requested> {
    let texts = ("[a-z/+;= -]{0,40}", "[0-9a-f-]{0,55}");
    (
        delivery(),
        texts,
        bytes(),
        time(),
        select(&Origin::ALL[..]),
        option::of(delivery()),
        time(),
    )
        .prop_map(
            |(delivery, (content_type, traceparent), payload, requested_at, origin, replayed, deadline)| {
                Requested {
                    delivery,
                    content_type,
                    payload,
                    requested_at,
                    origin,
                    replay_of: replayed.map(|delivery| delivery.delivery_id),
                    traceparent,
                    deadline,
                }
            },
        )
}

fn event() -> impl Strategy<Value = DeliveryEvent> {
    let due = (delivery(), any::<u64>(), any::<u32>(), time()).prop_map(
        |(delivery, requested_sequence, attempt_number, due_at)| Due {
            delivery,
            requested_sequence,
            attempt_number,
            due_at,
        },
    );
    let unmatched = requested().prop_map(|request| Unmatched {
        message_id: request.delivery.message_id,
        project_id: request.delivery.project_id,
        event_type: request.delivery.event_type,
        content_type: request.content_type,
        payload: request.payload,
        requested_at: request.requested_at,
        traceparent: request.traceparent,
    });
    prop_oneof![
        requested().prop_map(DeliveryEvent::Requested),
        due.prop_map(DeliveryEvent::Due),
        concluded().prop_map(|event| DeliveryEvent::Concluded(Box::new(event))),
        unmatched.prop_map(DeliveryEvent::Unmatched),
    ]
}

proptest! {
    #[test]
    fn events_round_trip(event in event()) {
        let (kind, body) = encode(&event);
        prop_assert_eq!(decode_event(kind, body), Ok(event));
    }

    #[test]
    fn no_bytes_make_reading_panic(kind in select(&Kind::ALL[..]), body in bytes()) {
        let _ = decode_event(kind, body.clone());
        let _ = decode_endpoint(body);
    }

    /// What a disk or a bug may do to stored bytes.
    #[test]
    fn no_damage_makes_reading_panic(event in event(), damage in vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()) {
        let (kind, body) = encode(&event);
        let mut body = body.to_vec();
        for (index, byte) in damage {
            let index = index % body.len();
            body[index] = byte;
        }
        body.truncate(cut % (body.len() + 1));
        let _ = decode_event(kind, body.clone().into());
        let _ = decode_endpoint(body.into());
    }
}
