//! Who calls: API keys, and what a caller may do.
//!
//! Every method of [`App`](crate::App) that needs a caller takes a [`Caller`], and only [`Keys::authenticate`] makes one,
//! so a door cannot forget to ask for a key.

use std::fmt;
use std::sync::Arc;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::api_key::KeyDigest;
pub(crate) use cuitty_webhooks_domain::api_key::Scope;
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::ids::ApiKeyId;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use cuitty_webhooks_log::ApiKeys;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::AppError;

/// Lengths of a configured admin key, in bytes.
const ADMIN_KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// Somebody who showed a good key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Recorded with every change.
    pub(crate) actor: Actor,
    /// The one project that the key is bound to; `None` means all.
    pub(crate) project: Option<ProjectId>,
    /// What the key is good for.
    pub(crate) scopes: Vec<Scope>,
    /// The key; `None` for the configured one.
    pub(crate) key: Option<ApiKeyId>,
}

impl Caller {
    /// Refuses a caller whose key is not good for `scope`.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), AppError> {
        if scope.is_in(&self.scopes) {
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

/// The admin key of the configuration, as its SHA-256.
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
        if !ADMIN_KEY_BYTES.contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
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
pub(crate) struct Keys {
    configured: Option<(AdminKey, Arc<Caller>)>,
    issued: Option<Issued>,
}

/// The keys that were made here, and what tells the time of their use.
struct Issued {
    keys: ApiKeys,
    clock: Clock,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Lets in the key of the configuration only.
    pub(crate) fn configured(admin_key: Option<AdminKey>) -> Self {
        let actor = Actor {
            id: "admin".into(),
            process: String::new(),
        };
        let caller = Caller {
            actor,
            project: None,
            scopes: vec![Scope::Admin],
            key: None,
        };
        Self {
            configured: admin_key.map(|admin_key| (admin_key, Arc::new(caller))),
            issued: None,
        }
    }

    /// Lets in every key that was made and is not revoked, too.
    pub(crate) fn and_issued(self, keys: ApiKeys, clock: Clock) -> Self {
        Self {
            issued: Some(Issued { keys, clock }),
            ..self
        }
    }

    /// Whether the configuration holds an admin key.
    pub(crate) fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// The caller whose key stands in `headers` (HTTP headers and gRPC metadata alike). Keys are found and compared by their
    /// hashes, and these in constant time: nothing is learned of a key by trying.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, AppError> {
        let key = bearer(headers).ok_or(AppError::MissingKey)?;
        let caller = self.configured_caller(key).or_else(|| self.issued_caller(key));
        caller.ok_or(AppError::WrongKey)
    }

    fn configured_caller(&self, key: &[u8]) -> Option<Arc<Caller>> {
        let (admin_key, caller) = self.configured.as_ref()?;
        if !ADMIN_KEY_BYTES.contains(&key.len()) {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(key).into();
        bool::from(digest.ct_eq(&admin_key.0)).then(|| Arc::clone(caller))
    }

    fn issued_caller(&self, key: &[u8]) -> Option<Arc<Caller>> {
        let Issued { keys, clock } = self.issued.as_ref()?;
        let digest = KeyDigest::of(key).ok()?;
        let entry = keys.find(&digest)?;
        let key = &entry.key;
        if !bool::from(digest.as_bytes().ct_eq(key.digest.as_bytes())) || !key.is_live() {
            return None;
        }
        let at = clock();
        if keys.note_use(key.id, at) {
            let (keys, id) = (keys.clone(), key.id);
            // Once an hour and key. Nobody waits for it, and what is lost shows as an earlier use.
            tokio::spawn(async move {
                if let Err(error) = keys.save_use(id, at).await {
                    tracing::warn!(key.id = %id, %error, "use of an API key not saved");
                }
            });
        }
        Some(Arc::new(Caller {
            actor: Actor {
                id: key.id.to_string(),
                process: String::new(),
            },
            project: key.project_id.clone(),
            scopes: key.scopes.clone(),
            key: Some(key.id),
        }))
    }

    /// Resolves when the caller's key is not let in any more; never for the configured one. What lasts longer than a call
    /// ends then.
    pub(crate) fn revoked(&self, caller: &Caller) -> impl Future<Output = ()> + Send + use<> {
        let keys = self.issued.as_ref().map(|issued| issued.keys.clone());
        let watched = caller.key.zip(keys);
        async move {
            if let Some((id, keys)) = watched {
                let mut changes = keys.changes();
                let is_gone = |_: &u64| keys.get(id).is_none_or(|entry| !entry.key.is_live());
                if changes.wait_for(is_gone).await.is_ok() {
                    return;
                }
            }
            std::future::pending::<()>().await;
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
        Keys::configured(AdminKey::new(KEY).ok()).authenticate(&headers)
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
        let none = Keys::configured(AdminKey::new(KEY).ok()).authenticate(&HeaderMap::new());
        assert!(matches!(none, Err(AppError::MissingKey)));
    }

    #[test]
    fn without_keys_nobody_is_let_in() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {KEY}").parse().unwrap());
        let refused = Keys::configured(None).authenticate(&headers);
        assert!(matches!(refused, Err(AppError::WrongKey)));
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
            key: None,
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
