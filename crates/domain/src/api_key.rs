//! API keys: what a key is good for, and the aggregate: pure `decide` and `evolve`.
//!
//! A key's text is shown once, when it is made. What is stored is its [`KeyDigest`].

mod text;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::text::{InvalidKey, KeyDigest, KeyText};
use crate::ids::ApiKeyId;
use crate::limits;
use crate::names::ProjectId;
use crate::rejection::{FieldViolation, Rejection};

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Deliver messages.
    Deliver,
    /// Read endpoints and deliveries.
    Read,
    /// Create and change endpoints, send again and cancel.
    Manage,
    /// Everything, API keys among it.
    Admin,
}

/// A text is not the name of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `deliver`, `read`, `manage` or `admin`")]
pub struct InvalidScope;

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Deliver, Self::Read, Self::Manage, Self::Admin];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }

    /// Whether a key with these scopes is good for what needs this one.
    pub fn is_in(self, held: &[Self]) -> bool {
        held.iter().any(|&scope| scope == self || scope == Self::Admin)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let named = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        named.ok_or(InvalidScope)
    }
}

/// What somebody wants a new key to be, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiKeyDraft {
    /// The one project that it is bound to; `None` means all.
    pub project_id: Option<ProjectId>,
    /// Names of [`Scope`]s, at least one.
    pub scopes: Vec<String>,
    /// For people; at most 1,024 bytes.
    pub description: String,
}

/// A key's whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which is no secret.
    pub id: ApiKeyId,
    /// The one project that it is bound to; `None` means all.
    pub project_id: Option<ProjectId>,
    /// What it is good for; sorted, each once, at least one.
    pub scopes: Vec<Scope>,
    /// For people.
    pub description: String,
    /// Of its text.
    pub digest: KeyDigest,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Id of the [`Actor`](crate::endpoint::Actor) that made it.
    pub created_by: String,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// Whether it is let in.
    pub fn is_live(&self) -> bool {
        self.revoked_at.is_none()
    }

    /// Whether it may do everything in every project.
    pub fn is_global_admin(&self) -> bool {
        self.project_id.is_none() && Scope::Admin.is_in(&self.scopes)
    }
}

/// What somebody wants of an existing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyCommand {
    /// Let it in no more, for good.
    Revoke,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyChange {
    /// It came to be.
    Created,
    /// It is not let in any more.
    Revoked,
}

/// The id of the key that is made when there is none: always the same, so that there is one at most.
pub fn first_key_id() -> ApiKeyId {
    ApiKeyId::from_uuid(Uuid::nil())
}

/// Makes a key whose text has this digest.
pub fn create(
    id: ApiKeyId,
    draft: ApiKeyDraft,
    digest: KeyDigest,
    created_by: impl Into<String>,
    now: DateTime<Utc>,
) -> Result<(ApiKeyChange, ApiKey), Rejection> {
    let mut violations = Vec::new();
    let mut scopes = Vec::new();
    // Every scope may be named, and none needs to be named twice.
    let most = Scope::ALL.len();
    if draft.scopes.len() > most {
        violations.push(FieldViolation::new("scopes", format!("must be at most {most}")));
    }
    for (index, name) in draft.scopes.iter().take(most).enumerate() {
        match name.parse() {
            Ok(scope) => scopes.push(scope),
            Err(InvalidScope) => violations.push(FieldViolation::new(
                format!("scopes[{index}]"),
                InvalidScope.to_string(),
            )),
        }
    }
    scopes.sort_unstable();
    scopes.dedup();
    if draft.scopes.is_empty() {
        let text = format!("needs at least one: {InvalidScope}");
        violations.push(FieldViolation::new("scopes", text));
    }
    if draft.description.len() > limits::DESCRIPTION_BYTES {
        let text = format!("must be at most {} bytes", limits::DESCRIPTION_BYTES);
        violations.push(FieldViolation::new("description", text));
    }
    if !violations.is_empty() {
        return Err(Rejection::Invalid(violations));
    }
    let key = ApiKey {
        id,
        project_id: draft.project_id,
        scopes,
        description: draft.description,
        digest,
        created_at: now,
        created_by: created_by.into(),
        revoked_at: None,
    };
    Ok((ApiKeyChange::Created, key))
}

/// Decides what `command` changes about `key`; `None` when it is so already.
pub fn decide(key: &ApiKey, command: ApiKeyCommand) -> Option<ApiKeyChange> {
    match command {
        ApiKeyCommand::Revoke => key.is_live().then_some(ApiKeyChange::Revoked),
    }
}

/// The key after `change`, which was made at `at`.
pub fn evolve(key: ApiKey, change: ApiKeyChange, at: DateTime<Utc>) -> ApiKey {
    match change {
        ApiKeyChange::Created => key,
        ApiKeyChange::Revoked => ApiKey {
            revoked_at: Some(at),
            ..key
        },
    }
}

#[cfg(test)]
mod tests;
