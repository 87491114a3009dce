use cuitty_webhooks_domain::attempt::Header;
use cuitty_webhooks_domain::endpoint::{
    DisabledReason, EndpointCommand, EndpointDraft, Secret, create, decide, evolve,
};
use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_domain::subject::NatsAddress;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

pub(crate) fn now() -> DateTime<Utc> {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

pub(crate) fn ring() -> KeyRing {
    KeyRing::new(vec![("k1".into(), [7; 32])]).unwrap()
}

/// An endpoint with one secret, and the secret.
pub(crate) fn endpoint(draft: EndpointDraft) -> (Endpoint, SigningSecret) {
    let mut rng = StdRng::seed_from_u64(1);
    let id = EndpointId::new(now(), &mut rng);
    let (secret, value) = secret(id, 2);
    let settings = draft
        .validate(&EgressPolicy::default(), Some(&"acme".parse().unwrap()))
        .unwrap();
    (
        create(id, "acme".parse().unwrap(), settings, secret, now()).1,
        value,
    )
}

pub(crate) fn secret(endpoint_id: EndpointId, seed: u64) -> (Secret, SigningSecret) {
    let mut rng = StdRng::seed_from_u64(seed);
    let id = SecretId::new(now(), &mut rng);
    let value = SigningSecret::generate(&mut rng);
    let sealed = ring().seal(&value, endpoint_id, id, &mut rng);
    (
        Secret {
            id,
            sealed,
            created_at: now(),
            expires_at: None,
        },
        value,
    )
}

pub(crate) fn draft() -> EndpointDraft {
    EndpointDraft {
        url: "https://receiver.example/hook?a=1".into(),
        ..EndpointDraft::default()
    }
}

/// `endpoint` with a new secret, the one before signing for an hour more.
pub(crate) fn rotated(endpoint: Endpoint) -> (Endpoint, SigningSecret) {
    let (secret, value) = secret(endpoint.id, 3);
    let command = EndpointCommand::RotateSecret {
        secret,
        overlap: Duration::from_hours(1),
    };
    let change = decide(&endpoint, command, now()).unwrap().unwrap();
    (evolve(endpoint, &change, now()), value)
}

fn targets(policy: EgressPolicy) -> Targets {
    Targets::new(ring(), policy)
}

#[test]
fn a_target_is_prepared_once_per_revision() {
    let targets = targets(EgressPolicy::default());
    let (endpoint, _) = endpoint(draft());
    let first = targets.prepare(&endpoint, now());
    assert!(Arc::ptr_eq(&first, &targets.prepare(&endpoint, now())));
    let command = EndpointCommand::Disable(DisabledReason::Manual);
    let change = decide(&endpoint, command, now()).unwrap().unwrap();
    let changed = targets.prepare(&evolve(endpoint, &change, now()), now());
    assert!(!Arc::ptr_eq(&first, &changed));
    assert_eq!(
        first.target.as_ref().unwrap().destination,
        Destination::Http("https://receiver.example/hook?a=1".parse().unwrap())
    );
}

#[test]
fn a_secret_stops_signing_when_its_overlap_is_over() {
    let (endpoint, _) = endpoint(draft());
    let old = endpoint.secrets[0].id;
    let (endpoint, _) = rotated(endpoint);
    let new = endpoint.secrets[0].id;
    let prepared = targets(EgressPolicy::default()).prepare(&endpoint, now());
    let target = prepared.target.as_ref().unwrap();
    let live = |seconds| {
        target
            .live_keys(now() + Duration::from_secs(seconds))
            .map(|key| key.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(live(3599), [new, old]);
    assert_eq!(live(3600), [new]);
}

#[test]
fn what_cannot_be_called_says_why() {
    let (endpoint, _) = endpoint(EndpointDraft {
        headers: vec![("x-tenant".into(), "7".into())],
        ..draft()
    });
    let class = |targets: &Targets, endpoint: &Endpoint| {
        targets
            .prepare(endpoint, now())
            .target
            .as_ref()
            .err()
            .map(|error| error.class)
    };
    let strict = targets(EgressPolicy::default());
    assert_eq!(class(&strict, &endpoint), None);

    let other_ring = KeyRing::new(vec![("k2".into(), [8; 32])]).unwrap();
    let without_key = Targets::new(other_ring, EgressPolicy::default());
    assert_eq!(class(&without_key, &endpoint), Some(ErrorClass::Configuration));
    let other_ports = targets(EgressPolicy {
        ports: vec![8443],
        ..EgressPolicy::default()
    });
    assert_eq!(class(&other_ports, &endpoint), Some(ErrorClass::Configuration));

    let mut private = endpoint.clone();
    private.settings.url = "http://10.0.0.1/".into();
    private.revision = 2;
    assert_eq!(class(&strict, &private), Some(ErrorClass::BlockedAddress));
    let mut broken = endpoint.clone();
    broken.settings.headers = vec![Header {
        name: "a b".into(),
        value: String::new(),
    }];
    broken.revision = 3;
    assert_eq!(class(&strict, &broken), Some(ErrorClass::Configuration));
    let mut slack = private;
    slack.settings.kind = EndpointKind::Slack;
    slack.revision = 4;
    assert_eq!(class(&strict, &slack), Some(ErrorClass::BlockedAddress));
}

#[test]
fn a_subject_is_prepared_under_the_prefix_of_now() {
    let (endpoint, _) = endpoint(EndpointDraft {
        url: "nats:cuitty.notifications.acme.billing?reply".into(),
        ..draft()
    });
    let prepared = targets(EgressPolicy::default()).prepare(&endpoint, now());
    let expected = NatsAddress {
        subject: "cuitty.notifications.acme.billing".into(),
        wants_reply: true,
    };
    let destination = &prepared.target.as_ref().unwrap().destination;
    assert_eq!(*destination, Destination::Nats(expected));

    let moved = targets(EgressPolicy {
        nats_prefix: "elsewhere".parse().unwrap(),
        ..EgressPolicy::default()
    });
    let error = moved
        .prepare(&endpoint, now())
        .target
        .as_ref()
        .unwrap_err()
        .clone();
    assert_eq!(
        (error.class, &*error.message),
        (
            ErrorClass::Configuration,
            "url must name a subject below elsewhere.acme."
        )
    );
}
