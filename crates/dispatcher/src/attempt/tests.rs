use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, DeliveryRef, Origin};
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::endpoint::{DisabledReason, EndpointDraft};
use cuitty_webhooks_domain::ids::{DeliveryId, MessageId};
use cuitty_webhooks_domain::signing::{SignedHeaders, SigningKey, SigningSecret, verify};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::target::Targets;
use crate::target::tests::{draft, endpoint, now, ring, rotated};

fn requested(endpoint: &Endpoint) -> Requested {
    let message_id = MessageId::new(now(), &mut StdRng::seed_from_u64(9));
    Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint.id),
            message_id,
            project_id: "acme".parse().unwrap(),
            endpoint_id: endpoint.id,
            event_type: "budget.exceeded".parse().unwrap(),
        },
        content_type: "application/json".into(),
        payload: Bytes::from_static(b"{\"spent\": 12}"),
        requested_at: now(),
        origin: Origin::Event,
        replay_of: None,
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        deadline: now() + DEFAULT_DEADLINE,
    }
}

fn build(endpoint: &Endpoint, requested: &Requested, now: DateTime<Utc>) -> Outgoing {
    let targets = Targets::new(ring(), EgressPolicy::default());
    let prepared = targets.prepare(endpoint, now);
    let trace = TraceContext::child_of(TraceContext::parse(&requested.traceparent), 1, 2);
    Outgoing::build(prepared.target.as_ref().unwrap(), requested, 3, trace, now)
}

fn header<'a>(outgoing: &'a Outgoing, name: &str) -> Option<&'a str> {
    outgoing.headers.get(name).map(|value| value.to_str().unwrap())
}

fn verifies(outgoing: &Outgoing, secret: &SigningSecret) -> bool {
    let headers = SignedHeaders {
        id: header(outgoing, "webhook-id").unwrap(),
        timestamp: header(outgoing, "webhook-timestamp").unwrap(),
        signature: header(outgoing, "webhook-signature").unwrap(),
    };
    verify(
        headers,
        &outgoing.body,
        std::slice::from_ref(secret),
        now(),
        Duration::from_mins(5),
    )
    .is_ok()
}

#[test]
fn a_request_carries_what_a_receiver_is_promised() {
    let (endpoint, secret) = endpoint(EndpointDraft {
        headers: vec![("X-Tenant".into(), "7".into())],
        ..draft()
    });
    let requested = requested(&endpoint);
    let outgoing = build(&endpoint, &requested, now());
    let delivery = &requested.delivery;
    for (name, expected) in [
        ("content-type", "application/json".to_owned()),
        (
            "user-agent",
            format!("cuitty-webhooks/{}", env!("CARGO_PKG_VERSION")),
        ),
        ("webhook-id", delivery.message_id.to_string()),
        ("webhook-timestamp", now().timestamp().to_string()),
        ("x-cuitty-event-type", "budget.exceeded".into()),
        ("x-cuitty-delivery-id", delivery.delivery_id.to_string()),
        ("x-cuitty-attempt", "3".into()),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000002-01".into(),
        ),
        ("x-tenant", "7".into()),
    ] {
        assert_eq!(header(&outgoing, name), Some(expected.as_str()), "{name}");
    }
    assert_eq!(
        outgoing.headers.len(),
        10,
        "nine and the signature: {:?}",
        outgoing.headers
    );
    assert_eq!(outgoing.body, requested.payload);
    assert!(verifies(&outgoing, &secret));

    let record = outgoing.record(&endpoint.settings.url);
    assert_eq!(
        (record.url, record.signed_with),
        (endpoint.settings.url, vec![endpoint.secrets[0].id])
    );
    let sent: Vec<_> = outgoing
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let recorded: Vec<_> = record
        .headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_str()))
        .collect();
    assert_eq!(recorded, sent);
}

#[test]
fn every_live_secret_signs_and_the_plain_signature_shows_two() {
    let (endpoint, old) = endpoint(EndpointDraft {
        signature_header: "X-Modelux-Signature".into(),
        ..draft()
    });
    let (rotated, new) = rotated(endpoint.clone());
    let requested = requested(&rotated);
    let plain = |secret: &SigningSecret| hex_signature(&SigningKey::new(secret), &requested.payload).unwrap();

    let before = build(&endpoint, &requested, now());
    assert_eq!(header(&before, "x-modelux-signature"), Some(plain(&old).as_str()));
    assert_eq!(header(&before, "x-modelux-signature-previous"), None);

    let during = build(&rotated, &requested, now());
    assert!(verifies(&during, &old) && verifies(&during, &new));
    assert_eq!(during.signed_with.len(), 2);
    assert_eq!(header(&during, "x-modelux-signature"), Some(plain(&new).as_str()));
    assert_eq!(
        header(&during, "x-modelux-signature-previous"),
        Some(plain(&old).as_str())
    );

    let after = build(&rotated, &requested, now() + Duration::from_hours(1));
    assert_eq!(after.signed_with, [rotated.secrets[0].id]);
    assert_eq!(header(&after, "x-modelux-signature-previous"), None);
}

#[test]
fn an_envelope_wraps_json_and_is_what_is_signed() {
    let (endpoint, secret) = endpoint(EndpointDraft {
        envelope: true,
        ..draft()
    });
    let mut requested = requested(&endpoint);
    let outgoing = build(&endpoint, &requested, now());
    assert_eq!(
        outgoing.body,
        &br#"{"type":"budget.exceeded","timestamp":"2026-11-21T10:00:00.000Z","data":{"spent": 12}}"#[..]
    );
    assert!(verifies(&outgoing, &secret));
    requested.content_type = "text/plain; charset=utf-8".into();
    let outgoing = build(&endpoint, &requested, now());
    assert_eq!(
        (&outgoing.body, header(&outgoing, "content-type")),
        (&requested.payload, Some("text/plain; charset=utf-8"))
    );
}

#[test]
fn a_slack_endpoint_is_sent_a_message_as_json_and_it_is_what_is_signed() {
    let (endpoint, secret) = endpoint(EndpointDraft {
        url: "https://hooks.slack.com/services/T0/B0/x".into(),
        ..draft()
    });
    let mut requested = requested(&endpoint);
    requested.content_type = "text/plain".into();
    let outgoing = build(&endpoint, &requested, now());
    assert_eq!(header(&outgoing, "content-type"), Some("application/json"));
    assert!(
        outgoing.body.starts_with(br#"{"text":"Budget exceeded\n"#),
        "{:?}",
        outgoing.body
    );
    assert!(verifies(&outgoing, &secret));
}

#[test]
fn deliveries_end_unattempted_for_their_endpoint_or_their_age() {
    let (mut endpoint, _) = endpoint(draft());
    let requested = requested(&endpoint);
    let late = requested.deadline + Duration::from_secs(1);
    assert_eq!(refusal(&endpoint, &requested, requested.deadline), None);
    assert_eq!(refusal(&endpoint, &requested, late), Some(FailureReason::Expired));
    endpoint.deleted_at = Some(now());
    assert_eq!(refusal(&endpoint, &requested, now()), None, "accepted before");
    endpoint.deleted_at = Some(now() - Duration::from_secs(1));
    assert_eq!(
        refusal(&endpoint, &requested, now()),
        Some(FailureReason::EndpointDeleted)
    );
    endpoint.deleted_at = None;
    endpoint.disabled_reason = Some(DisabledReason::Gone);
    assert_eq!(
        refusal(&endpoint, &requested, now()),
        Some(FailureReason::EndpointDisabled)
    );
}

#[test]
fn a_delivery_just_accepted_for_a_disabled_endpoint_is_looked_at_again() {
    let (endpoint, _) = endpoint(draft());
    let requested = requested(&endpoint);
    let after = |millis| requested.requested_at + Duration::from_millis(millis);
    let disabled = FailureReason::EndpointDisabled;
    assert!(is_perhaps_outdated(disabled, &requested, after(0)));
    assert!(is_perhaps_outdated(disabled, &requested, after(4_999)));
    assert!(!is_perhaps_outdated(disabled, &requested, after(5_000)));
    assert!(!is_perhaps_outdated(FailureReason::Expired, &requested, after(0)));
}
