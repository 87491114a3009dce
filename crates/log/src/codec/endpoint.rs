//! Changes of endpoints.

use std::time::Duration;

use bytes::Bytes;
use cuitty_webhooks_domain::endpoint::{
    Actor, DisabledReason, Endpoint, EndpointChange, EndpointKind, EndpointSettings, Secret,
};
use cuitty_webhooks_domain::seal::SealedSecret;
use cuitty_webhooks_domain::signing::{PublicKey, SignatureScheme};
use cuitty_webhooks_proto::events::v1 as stored;
use prost::Message;
use stored::endpoint_changed::Change;

use super::attempt::{decode_headers, encode_headers};
use super::fields::{enumerated, none_if_empty, parse, required, time};
use crate::codec::CodecError;

/// A change of an endpoint as it is stored: what changed, who did it, and the whole new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// What changed.
    pub change: EndpointChange,
    /// Who did it.
    pub actor: Actor,
    /// The endpoint after the change.
    pub endpoint: Endpoint,
}

/// The stored form of a change. `fields` names what an update changed.
pub fn encode_endpoint(
    change: &EndpointChange,
    fields: &[&str],
    endpoint: &Endpoint,
    actor: &Actor,
) -> Bytes {
    let change = match change {
        EndpointChange::Created { .. } => Change::Created(stored::EndpointCreated {}),
        EndpointChange::Updated { .. } => Change::Updated(stored::EndpointUpdated {
            fields: fields.iter().map(|&field| field.into()).collect(),
        }),
        EndpointChange::Disabled(reason) => Change::Disabled(stored::EndpointDisabled {
            reason: encode_disabled(*reason).into(),
        }),
        EndpointChange::Enabled => Change::Enabled(stored::EndpointEnabled {}),
        EndpointChange::SecretRotated {
            secret,
            previous_expires_at,
        } => Change::SecretRotated(stored::SecretRotated {
            secret_id: secret.id.to_string(),
            previous_secret_id: endpoint
                .secrets
                .get(1)
                .map(|secret| secret.id.to_string())
                .unwrap_or_default(),
            previous_expires_at_us: previous_expires_at.timestamp_micros(),
        }),
        EndpointChange::SecretRevoked { secret_id } => Change::SecretRevoked(stored::SecretRevoked {
            secret_id: secret_id.to_string(),
        }),
        EndpointChange::Deleted => Change::Deleted(stored::EndpointDeleted {}),
    };
    let message = stored::EndpointChanged {
        change: Some(change),
        actor: Some(stored::Actor {
            id: actor.id.clone(),
            process: actor.process.clone(),
        }),
        state: Some(encode_state(endpoint)),
    };
    message.encode_to_vec().into()
}

/// What an update of `before` to `after` changed: the settings by their names in the contract, and `active`.
pub(crate) fn changed_fields(before: &Endpoint, after: &Endpoint) -> Vec<&'static str> {
    let switched = before.disabled_reason != after.disabled_reason;
    let (before, after) = (&before.settings, &after.settings);
    [
        ("kind", before.kind != after.kind),
        ("url", before.url != after.url),
        ("event_types", before.event_types != after.event_types),
        ("description", before.description != after.description),
        ("headers", before.headers != after.headers),
        (
            "signature_header",
            before.signature_header != after.signature_header,
        ),
        ("timeout_ms", before.timeout != after.timeout),
        ("max_in_flight", before.max_in_flight != after.max_in_flight),
        (
            "rate_limit_per_second",
            before.rate_limit_per_second != after.rate_limit_per_second,
        ),
        ("ordered", before.ordered != after.ordered),
        (
            "retry_schedule_seconds",
            before.retry_schedule_seconds != after.retry_schedule_seconds,
        ),
        ("envelope", before.envelope != after.envelope),
        ("active", switched),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// Reads the stored form of a change.
pub fn decode_endpoint(body: Bytes) -> Result<EndpointRecord, CodecError> {
    let message = stored::EndpointChanged::decode(body)?;
    let endpoint = decode_state(required("state", message.state)?)?;
    let actor = required("actor", message.actor)?;
    let change = decode_change(required("change", message.change)?, &endpoint)?;
    Ok(EndpointRecord {
        change,
        actor: Actor {
            id: actor.id,
            process: actor.process,
        },
        endpoint,
    })
}

/// Reads only the endpoint after a change, whatever the change is: it may be of a kind that only later versions know.
pub fn decode_endpoint_state(body: Bytes) -> Result<Endpoint, CodecError> {
    let message = stored::EndpointChanged::decode(body)?;
    decode_state(required("state", message.state)?)
}

/// What a change holds beyond its name stands in the state after it.
fn decode_change(change: Change, endpoint: &Endpoint) -> Result<EndpointChange, CodecError> {
    let settings = || Box::new(endpoint.settings.clone());
    Ok(match change {
        Change::Created(_) => EndpointChange::Created {
            settings: settings(),
            secret: required("state.secrets", endpoint.secrets.last().cloned())?,
        },
        Change::Updated(_) => EndpointChange::Updated {
            settings: settings(),
            disabled_reason: endpoint.disabled_reason,
        },
        Change::Disabled(disabled) => EndpointChange::Disabled(enumerated(
            "change.disabled.reason",
            disabled.reason,
            decode_disabled,
        )?),
        Change::Enabled(_) => EndpointChange::Enabled,
        Change::SecretRotated(rotated) => {
            let id = parse("change.secret_rotated.secret_id", &rotated.secret_id)?;
            let secret = endpoint.secrets.iter().find(|secret| secret.id == id).cloned();
            EndpointChange::SecretRotated {
                secret: required("state.secrets", secret)?,
                previous_expires_at: time(
                    "change.secret_rotated.previous_expires_at_us",
                    rotated.previous_expires_at_us,
                )?,
            }
        }
        Change::SecretRevoked(revoked) => EndpointChange::SecretRevoked {
            secret_id: parse("change.secret_revoked.secret_id", &revoked.secret_id)?,
        },
        Change::Deleted(_) => EndpointChange::Deleted,
    })
}

fn encode_state(endpoint: &Endpoint) -> stored::EndpointState {
    let settings = &endpoint.settings;
    stored::EndpointState {
        id: endpoint.id.to_string(),
        project_id: endpoint.project_id.to_string(),
        kind: encode_kind(settings.kind).into(),
        url: settings.url.clone(),
        event_types: settings.event_types.iter().map(ToString::to_string).collect(),
        description: settings.description.clone(),
        disabled_reason: endpoint
            .disabled_reason
            .map(|reason| encode_disabled(reason).into()),
        headers: encode_headers(&settings.headers),
        signature_header: settings.signature_header.clone().unwrap_or_default(),
        timeout_ms: settings.timeout.as_millis() as u32,
        max_in_flight: settings.max_in_flight,
        rate_limit_per_second: settings.rate_limit_per_second.unwrap_or_default(),
        ordered: settings.ordered,
        retry_schedule_seconds: settings.retry_schedule_seconds.clone(),
        envelope: settings.envelope,
        secrets: endpoint.secrets.iter().map(encode_secret).collect(),
        created_at_us: endpoint.created_at.timestamp_micros(),
        updated_at_us: endpoint.updated_at.timestamp_micros(),
        revision: endpoint.revision,
        deleted_at_us: endpoint.deleted_at.map(|at| at.timestamp_micros()),
        enabled_at_us: endpoint.enabled_at.map(|at| at.timestamp_micros()),
    }
}

fn decode_state(state: stored::EndpointState) -> Result<Endpoint, CodecError> {
    Ok(Endpoint {
        id: parse("state.id", &state.id)?,
        project_id: parse("state.project_id", &state.project_id)?,
        disabled_reason: state
            .disabled_reason
            .map(|reason| enumerated("state.disabled_reason", reason, decode_disabled))
            .transpose()?,
        enabled_at: state
            .enabled_at_us
            .map(|micros| time("state.enabled_at_us", micros))
            .transpose()?,
        secrets: state
            .secrets
            .into_iter()
            .map(decode_secret)
            .collect::<Result<_, _>>()?,
        created_at: time("state.created_at_us", state.created_at_us)?,
        updated_at: time("state.updated_at_us", state.updated_at_us)?,
        revision: state.revision,
        deleted_at: state
            .deleted_at_us
            .map(|micros| time("state.deleted_at_us", micros))
            .transpose()?,
        settings: EndpointSettings {
            kind: enumerated("state.kind", state.kind, decode_kind)?,
            url: state.url,
            event_types: state
                .event_types
                .iter()
                .map(|pattern| parse("state.event_types", pattern))
                .collect::<Result<_, _>>()?,
            description: state.description,
            headers: decode_headers(state.headers),
            signature_header: none_if_empty(state.signature_header),
            timeout: Duration::from_millis(state.timeout_ms.into()),
            max_in_flight: state.max_in_flight,
            rate_limit_per_second: Some(state.rate_limit_per_second).filter(|&rate| rate > 0),
            ordered: state.ordered,
            retry_schedule_seconds: state.retry_schedule_seconds,
            envelope: state.envelope,
        },
    })
}

fn encode_secret(secret: &Secret) -> stored::SealedSecret {
    stored::SealedSecret {
        id: secret.id.to_string(),
        sealing_key_id: secret.sealed.sealing_key_id.clone(),
        nonce: Bytes::copy_from_slice(&secret.sealed.nonce),
        ciphertext: secret.sealed.ciphertext.clone().into(),
        created_at_us: secret.created_at.timestamp_micros(),
        expires_at_us: secret.expires_at.map(|at| at.timestamp_micros()),
        scheme: match secret.sealed.scheme() {
            SignatureScheme::HmacSha256 => stored::SignatureScheme::HmacSha256,
            SignatureScheme::Ed25519 => stored::SignatureScheme::Ed25519,
        }
        .into(),
        public_key: secret
            .sealed
            .public_key
            .map(|key| Bytes::copy_from_slice(key.as_bytes()))
            .unwrap_or_default(),
    }
}

fn decode_secret(secret: stored::SealedSecret) -> Result<Secret, CodecError> {
    let nonce = secret.nonce[..].try_into().map_err(|_| CodecError::Invalid {
        field: "state.secrets.nonce",
        message: format!("is {} bytes, must be 24", secret.nonce.len()),
    })?;
    let public_key = match enumerated("state.secrets.scheme", secret.scheme, Some)? {
        stored::SignatureScheme::HmacSha256 => None,
        stored::SignatureScheme::Ed25519 => {
            let key = PublicKey::from_bytes(&secret.public_key).map_err(|error| CodecError::Invalid {
                field: "state.secrets.public_key",
                message: error.to_string(),
            })?;
            Some(key)
        }
    };
    Ok(Secret {
        id: parse("state.secrets.id", &secret.id)?,
        sealed: SealedSecret {
            sealing_key_id: secret.sealing_key_id,
            nonce,
            ciphertext: secret.ciphertext.into(),
            public_key,
        },
        created_at: time("state.secrets.created_at_us", secret.created_at_us)?,
        expires_at: secret
            .expires_at_us
            .map(|micros| time("state.secrets.expires_at_us", micros))
            .transpose()?,
    })
}

fn encode_kind(kind: EndpointKind) -> stored::EndpointKind {
    match kind {
        EndpointKind::Http => stored::EndpointKind::Http,
        EndpointKind::Slack => stored::EndpointKind::Slack,
        EndpointKind::Nats => stored::EndpointKind::Nats,
    }
}

fn decode_kind(kind: stored::EndpointKind) -> Option<EndpointKind> {
    Some(match kind {
        stored::EndpointKind::Unspecified => return None,
        stored::EndpointKind::Http => EndpointKind::Http,
        stored::EndpointKind::Slack => EndpointKind::Slack,
        stored::EndpointKind::Nats => EndpointKind::Nats,
    })
}

fn encode_disabled(reason: DisabledReason) -> stored::DisabledReason {
    match reason {
        DisabledReason::Manual => stored::DisabledReason::Manual,
        DisabledReason::Gone => stored::DisabledReason::Gone,
        DisabledReason::Failing => stored::DisabledReason::Failing,
    }
}

fn decode_disabled(reason: stored::DisabledReason) -> Option<DisabledReason> {
    Some(match reason {
        stored::DisabledReason::Unspecified => return None,
        stored::DisabledReason::Manual => DisabledReason::Manual,
        stored::DisabledReason::Gone => DisabledReason::Gone,
        stored::DisabledReason::Failing => DisabledReason::Failing,
    })
}
