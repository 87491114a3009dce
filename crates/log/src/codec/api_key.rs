//! Changes of API keys.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::api_key::{ApiKey, ApiKeyChange, KeyDigest, Scope};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_proto::events::v1 as stored;
use prost::Message;
use stored::api_key_changed::Change;

use super::fields::{enumerated, parse, parse_optional, required, time};
use crate::codec::CodecError;

/// A change of an API key as it is stored: what changed, who did it and when, and the whole new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// What changed.
    pub change: ApiKeyChange,
    /// Who did it.
    pub actor: Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// The key after the change.
    pub key: ApiKey,
}

/// The stored form of a change that was made at `at`.
pub fn encode_api_key(change: ApiKeyChange, key: &ApiKey, actor: &Actor, at: DateTime<Utc>) -> Bytes {
    let change = match change {
        ApiKeyChange::Created => Change::Created(stored::ApiKeyCreated {}),
        ApiKeyChange::Revoked => Change::Revoked(stored::ApiKeyRevoked {}),
    };
    let message = stored::ApiKeyChanged {
        change: Some(change),
        actor: Some(stored::Actor {
            id: actor.id.clone(),
            process: actor.process.clone(),
        }),
        at_us: at.timestamp_micros(),
        state: Some(encode_state(key)),
    };
    message.encode_to_vec().into()
}

/// Reads the stored form of a change.
pub fn decode_api_key(body: Bytes) -> Result<ApiKeyRecord, CodecError> {
    let message = stored::ApiKeyChanged::decode(body)?;
    let actor = required("actor", message.actor)?;
    Ok(ApiKeyRecord {
        change: match required("change", message.change)? {
            Change::Created(_) => ApiKeyChange::Created,
            Change::Revoked(_) => ApiKeyChange::Revoked,
        },
        actor: Actor {
            id: actor.id,
            process: actor.process,
        },
        at: time("at_us", message.at_us)?,
        key: decode_state(required("state", message.state)?)?,
    })
}

/// Reads only the state: changes that only later versions know leave it readable.
pub(crate) fn decode_api_key_state(body: Bytes) -> Result<ApiKey, CodecError> {
    let message = stored::ApiKeyChanged::decode(body)?;
    decode_state(required("state", message.state)?)
}

fn encode_state(key: &ApiKey) -> stored::ApiKeyState {
    stored::ApiKeyState {
        id: key.id.to_string(),
        project_id: key
            .project_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        scopes: key
            .scopes
            .iter()
            .map(|&scope| encode_scope(scope).into())
            .collect(),
        description: key.description.clone(),
        digest: Bytes::copy_from_slice(key.digest.as_bytes()),
        created_at_us: key.created_at.timestamp_micros(),
        created_by: key.created_by.clone(),
        revoked_at_us: key.revoked_at.map(|at| at.timestamp_micros()),
    }
}

fn decode_state(state: stored::ApiKeyState) -> Result<ApiKey, CodecError> {
    let digest = state.digest[..].try_into().map_err(|_| CodecError::Invalid {
        field: "state.digest",
        message: format!("is {} bytes, must be 32", state.digest.len()),
    })?;
    Ok(ApiKey {
        id: parse("state.id", &state.id)?,
        project_id: parse_optional("state.project_id", &state.project_id)?,
        scopes: state
            .scopes
            .into_iter()
            .map(|scope| enumerated("state.scopes", scope, decode_scope))
            .collect::<Result<_, _>>()?,
        description: state.description,
        digest: KeyDigest::from_bytes(digest),
        created_at: time("state.created_at_us", state.created_at_us)?,
        created_by: state.created_by,
        revoked_at: state
            .revoked_at_us
            .map(|micros| time("state.revoked_at_us", micros))
            .transpose()?,
    })
}

fn encode_scope(scope: Scope) -> stored::ApiKeyScope {
    match scope {
        Scope::Deliver => stored::ApiKeyScope::Deliver,
        Scope::Read => stored::ApiKeyScope::Read,
        Scope::Manage => stored::ApiKeyScope::Manage,
        Scope::Admin => stored::ApiKeyScope::Admin,
    }
}

fn decode_scope(scope: stored::ApiKeyScope) -> Option<Scope> {
    Some(match scope {
        stored::ApiKeyScope::Unspecified => return None,
        stored::ApiKeyScope::Deliver => Scope::Deliver,
        stored::ApiKeyScope::Read => Scope::Read,
        stored::ApiKeyScope::Manage => Scope::Manage,
        stored::ApiKeyScope::Admin => Scope::Admin,
    })
}
