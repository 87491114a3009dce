//! Samples for tests.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{
    Attempt, AttemptError, AttemptRequest, AttemptResponse, ErrorClass, Header, Timing,
};
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DEFAULT_DEADLINE, DeliveryRef, Origin, Requested,
};
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::endpoint::{self, Actor, Endpoint, EndpointDraft, Secret};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId, SecretId};
use cuitty_webhooks_domain::seal::SealedSecret;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::auth::{Caller, Scope};

pub(crate) fn now() -> DateTime<Utc> {
    "2026-11-21T10:00:00.25Z".parse().unwrap()
}

/// Somebody who may do everything, in one project or in all.
pub(crate) fn caller(project: Option<&str>) -> Caller {
    let project = project.map(|project| project.parse().unwrap());
    Caller {
        actor: Actor::system("test"),
        project,
        scopes: vec![Scope::Admin],
        key: None,
    }
}

/// An endpoint of project `acme`; the seed makes its id.
pub(crate) fn endpoint(seed: u64) -> Endpoint {
    let mut rng = StdRng::seed_from_u64(seed);
    let id = EndpointId::new(now(), &mut rng);
    let draft = EndpointDraft {
        url: "https://hooks.example.com/in".into(),
        event_types: vec!["budget.*".into()],
        headers: vec![("x-team".into(), "finance".into())],
        ..EndpointDraft::default()
    };
    let settings = draft.validate(&EgressPolicy::default(), None).unwrap();
    let sealed = SealedSecret {
        sealing_key_id: "k1".into(),
        nonce: [0; 24],
        ciphertext: vec![1],
        public_key: None,
    };
    let secret = Secret {
        id: SecretId::new(now(), &mut rng),
        sealed,
        created_at: now(),
        expires_at: None,
    };
    endpoint::create(id, "acme".parse().unwrap(), settings, secret, now()).1
}

pub(crate) fn requested() -> Requested {
    let mut rng = StdRng::seed_from_u64(7);
    let message_id = MessageId::new(now(), &mut rng);
    let endpoint_id = endpoint(1).id;
    Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint_id),
            message_id,
            project_id: "acme".parse().unwrap(),
            endpoint_id,
            event_type: "budget.exceeded".parse().unwrap(),
        },
        content_type: "application/json".into(),
        payload: Bytes::from_static(b"{}"),
        requested_at: now(),
        origin: Origin::Event,
        replay_of: None,
        traceparent: String::new(),
        deadline: now() + DEFAULT_DEADLINE,
    }
}

/// An attempt that was answered with 500.
pub(crate) fn attempt() -> Attempt {
    Attempt {
        number: 1,
        started_at: now(),
        duration: Duration::from_micros(12_500),
        request: AttemptRequest {
            url: "https://hooks.example.com/in".into(),
            headers: vec![Header {
                name: "webhook-id".into(),
                value: "msg_1".into(),
            }],
            signed_with: vec![endpoint(1).secrets[0].id],
        },
        response: Some(AttemptResponse {
            status: 500,
            headers: Vec::new(),
            body: Bytes::from_static(b"oops"),
            body_truncated: false,
        }),
        error: Some(AttemptError {
            class: ErrorClass::Status,
            message: "answered 500".into(),
        }),
        timing: Timing {
            queue: Duration::from_millis(2),
            connect: Some(Duration::from_millis(1)),
            ..Timing::default()
        },
        remote_address: Some("192.0.2.7:443".parse().unwrap()),
        endpoint_revision: 1,
        dispatcher_id: "d1".into(),
        trace_id: String::new(),
    }
}

pub(crate) fn concluded(conclusion: Conclusion) -> Concluded {
    let attempt = Some(attempt());
    Concluded {
        delivery: requested().delivery,
        requested_sequence: 7,
        attempt,
        conclusion,
        at: now(),
    }
}
