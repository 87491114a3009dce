//! Who calls: API keys, and what a caller may do.
//!
//! Every method of [`App`](crate::App) that needs a caller takes a [`Caller`], and only [`Keys::authenticate`] makes one,
//! so a door cannot forget to ask for a key.

use std::fmt;
use std::sync::Arc;

use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::AppError;

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Deliver messages.
    Deliver,
    /// Read endpoints and deliveries.
    Read,
    /// Create and change endpoints.
    Manage,
    /// Everything, in every way.
    Admin,
}

impl Scope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }
}

/// Somebody who showed a good key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Recorded with every change.
    pub(crate) actor: Actor,
    /// The one project that the key is bound to; `None` means all.
    pub(crate) project: Option<ProjectId>,
    /// What the key is good for.
    pub(crate) scopes: Vec<Scope>,
}

impl Caller {
    /// Refuses a caller whose key is not good for `scope`.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), AppError> {
        if self
            .scopes
            .iter()
            .any(|&held| held == scope || held == Scope::Admin)
        {
            Ok(())
        } else {
            Err(AppError::MissingScope(scope))
        }
    }

    /// Refuses a project that the key is not bound to, as if it did not exist.
    pub(crate) fn require_project(&self, project: &ProjectId) -> Result<(), AppError> {
        if self.sees(project) {
            return Ok(());
        }
        Err(Rejection::NotFound {
            resource: Resource::Project,
            id: project.to_string(),
        }
        .into())
    }

    /// Whether the caller may know of `project`.
    pub(crate) fn sees(&self, project: &ProjectId) -> bool {
        self.project.as_ref().is_none_or(|bound| bound == project)
    }
}

/// The bootstrap admin key, as its SHA-256.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminKey([u8; 32]);

/// A text cannot be an admin key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 16 to 256 visible ASCII characters")]
pub struct InvalidAdminKey;

impl AdminKey {
    /// The key that callers send as `Authorization: Bearer <key>`.
    pub fn new(key: &str) -> Result<Self, InvalidAdminKey> {
        if !(16..=256).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidAdminKey);
        }
        Ok(Self(Sha256::digest(key).into()))
    }
}

impl TryFrom<String> for AdminKey {
    type Error = InvalidAdminKey;

    fn try_from(key: String) -> Result<Self, InvalidAdminKey> {
        Self::new(&key)
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(..)")
    }
}

/// Every key that is let in.
#[derive(Debug)]
pub(crate) struct Keys {
    admin_key: AdminKey,
    admin: Arc<Caller>,
}

impl Keys {
    pub(crate) fn new(admin_key: AdminKey) -> Self {
        let actor = Actor {
            id: "admin".into(),
            process: String::new(),
        };
        let admin = Arc::new(Caller {
            actor,
            project: None,
            scopes: vec![Scope::Admin],
        });
        Self { admin_key, admin }
    }

    /// The caller whose key stands in `headers` (HTTP headers and gRPC metadata alike). Hashes are compared in constant
    /// time, so nothing is learned of the key by trying.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, AppError> {
        let key = bearer(headers).ok_or(AppError::MissingKey)?;
        let digest: [u8; 32] = Sha256::digest(key).into();
        if bool::from(digest.ct_eq(&self.admin_key.0)) {
            Ok(Arc::clone(&self.admin))
        } else {
            Err(AppError::WrongKey)
        }
    }
}

/// The token of `Authorization: Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .as_bytes()
        .split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "test-admin-key-0001";

    fn authenticate(value: &str) -> Result<Arc<Caller>, AppError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        Keys::new(AdminKey::new(KEY).unwrap()).authenticate(&headers)
    }

    #[test]
    fn only_the_key_itself_is_let_in() {
        for value in [
            format!("Bearer {KEY}"),
            format!("bearer {KEY}"),
            format!("BEARER   {KEY} "),
        ] {
            assert_eq!(authenticate(&value).unwrap().actor.id, "admin", "{value}");
        }
        for value in ["Bearer", "Bearer ", "Basic dGVzdA==", KEY, ""] {
            assert!(
                matches!(authenticate(value), Err(AppError::MissingKey)),
                "{value}"
            );
        }
        for value in [
            "Bearer wrong",
            &format!("Bearer {KEY}x"),
            &format!("Bearer {}", &KEY[1..]),
        ] {
            assert!(matches!(authenticate(value), Err(AppError::WrongKey)), "{value}");
        }
        let none = Keys::new(AdminKey::new(KEY).unwrap()).authenticate(&HeaderMap::new());
        assert!(matches!(none, Err(AppError::MissingKey)));
    }

    #[test]
    fn weak_keys_are_refused_and_good_ones_are_not_shown() {
        for key in [
            "",
            "short",
            "fifteen-chars-x",
            "has a space in the middle",
            &"x".repeat(257),
        ] {
            assert_eq!(AdminKey::new(key), Err(InvalidAdminKey), "{key}");
        }
        let shown = format!("{:?}", AdminKey::new(KEY).unwrap());
        assert_eq!(shown, "AdminKey(..)");
    }

    #[test]
    fn scopes_and_projects_bound_a_caller() {
        let bound = Caller {
            actor: Actor::system("t"),
            project: Some("acme".parse().unwrap()),
            scopes: vec![Scope::Read],
        };
        assert!(bound.require(Scope::Read).is_ok());
        assert!(matches!(
            bound.require(Scope::Deliver),
            Err(AppError::MissingScope(Scope::Deliver))
        ));
        assert!(bound.require_project(&"acme".parse().unwrap()).is_ok());
        let other = bound.require_project(&"other".parse().unwrap());
        assert!(matches!(
            other,
            Err(AppError::Rejected(Rejection::NotFound {
                resource: Resource::Project,
                ..
            }))
        ));
    }
}
