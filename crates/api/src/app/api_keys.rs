//! API keys: made, listed and revoked, by whoever holds one with the scope `admin`.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::api_key::{self, ApiKey, ApiKeyCommand, ApiKeyDraft, KeyText, Scope};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::ids::ApiKeyId;
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use cuitty_webhooks_log::{ApiKeyEntry, LogError};

use super::input::{PageInput, Violations};
use super::page::{Cursor, page_of};
use super::{App, observed};
use crate::auth::Caller;
use crate::error::AppError;

/// How often a revocation is decided anew when somebody else was faster.
const DECISIONS: usize = 16;
/// How long a change of a key may take to be known here.
const KNOWN: Duration = Duration::from_secs(2);
/// Description of the key that is made when there is none.
const FIRST_DESCRIPTION: &str = "the first admin key";

/// A key as a caller wants it.
#[derive(Debug, Default)]
pub(crate) struct NewApiKey {
    /// Empty means the caller's, or all when the caller's key is not bound to one.
    pub(crate) project_id: String,
    /// By their names.
    pub(crate) scopes: Vec<String>,
    pub(crate) description: String,
}

/// A key as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct ListedApiKey {
    pub(crate) entry: Arc<ApiKeyEntry>,
    /// The beginning of the hour in which it was last used.
    pub(crate) last_used_at: Option<DateTime<Utc>>,
}

impl App {
    /// Makes a key. Its text is shown here and never again.
    #[tracing::instrument(name = "api.create_api_key", skip_all)]
    pub(crate) async fn create_api_key(
        &self,
        caller: &Caller,
        new: NewApiKey,
    ) -> Result<(ApiKey, KeyText), AppError> {
        observed("create_api_key", async {
            caller.require(Scope::Admin)?;
            let mut violations = Violations::default();
            let project_id = if new.project_id.is_empty() {
                caller.project.clone()
            } else {
                violations.parse("project_id", &new.project_id)
            };
            let draft = ApiKeyDraft {
                project_id,
                scopes: new.scopes,
                description: new.description,
            };
            let now = self.now();
            let (id, text) = self.with_rng(|rng| (ApiKeyId::new(now, rng), KeyText::generate(rng)));
            let made = api_key::create(id, draft, text.digest(), &caller.actor.id, now);
            let made = violations.absorb(made)?;
            let (change, key) = violations.finish(made)?;
            if let Some(project_id) = &key.project_id {
                caller.require_project(project_id)?;
            }
            let sequence = self
                .log
                .append_api_key(change, &key, &caller.actor, now, 0)
                .await?;
            self.api_keys.wait_for(sequence, KNOWN).await;
            tracing::info!(key.id = %id, log.seq = sequence, "API key created");
            Ok((key, text))
        })
        .await
    }

    /// A page of the keys that the caller may see, newest first, and where the next page begins.
    #[tracing::instrument(name = "api.list_api_keys", skip_all)]
    pub(crate) async fn list_api_keys(
        &self,
        caller: &Caller,
        project_id: &str,
        page: &PageInput,
    ) -> Result<(Vec<ListedApiKey>, Option<String>), AppError> {
        observed("list_api_keys", async {
            caller.require(Scope::Admin)?;
            let mut violations = Violations::default();
            let project_id = violations.parse_some("project_id", project_id);
            let limit = page.limit(&mut violations) as usize;
            let cursor = violations.parse_some::<Cursor<ApiKeyId>>("cursor", &page.cursor);
            violations.finish(Some(()))?;
            if let Some(project_id) = &project_id {
                caller.require_project(project_id)?;
            }
            let mut entries = self.api_keys.all();
            entries.retain(|entry| {
                is_visible(caller, &entry.key) && (project_id.is_none() || entry.key.project_id == project_id)
            });
            let (page, next) = page_of(entries, |entry| entry.key.id, cursor, limit);
            let listed = page.into_iter().map(|entry| self.listed(entry));
            Ok((listed.collect(), next))
        })
        .await
    }

    /// Ends a key for good. The same for one that is revoked already.
    #[tracing::instrument(name = "api.revoke_api_key", skip_all, fields(key.id = %id))]
    pub(crate) async fn revoke_api_key(
        &self,
        caller: &Caller,
        id: ApiKeyId,
    ) -> Result<ListedApiKey, AppError> {
        observed("revoke_api_key", async {
            caller.require(Scope::Admin)?;
            for _ in 0..DECISIONS {
                let entry = self.visible_key(caller, id)?;
                let Some(change) = api_key::decide(&entry.key, ApiKeyCommand::Revoke) else {
                    return Ok(self.listed(entry));
                };
                self.check_others_remain(&entry.key)?;
                let now = self.now();
                let revoked = api_key::evolve(entry.key.clone(), change, now);
                let appended = self
                    .log
                    .append_api_key(change, &revoked, &caller.actor, now, entry.sequence);
                match appended.await {
                    Ok(sequence) => {
                        self.api_keys.wait_for(sequence, KNOWN).await;
                        tracing::info!(key.id = %id, log.seq = sequence, "API key revoked");
                        let key = revoked;
                        return Ok(self.listed(ApiKeyEntry { key, sequence }.into()));
                    }
                    Err(LogError::Conflict { .. }) => {
                        self.api_keys.wait_for(entry.sequence + 1, KNOWN).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(conflict(id, "is being changed by others; try again"))
        })
        .await
    }

    /// Makes the first admin key, if nobody could call without one: none is configured, and no admin key of all projects was
    /// ever made. Its id is always the same, so that the log takes one, whichever process is first. It is shown here and
    /// never again.
    pub(crate) async fn make_first_key(&self) -> Result<Option<KeyText>, LogError> {
        if self.keys.is_configured() || self.has_admin_but(None) {
            return Ok(None);
        }
        let id = api_key::first_key_id();
        let now = self.now();
        let text = self.with_rng(KeyText::generate);
        let draft = ApiKeyDraft {
            project_id: None,
            scopes: vec![Scope::Admin.to_string()],
            description: FIRST_DESCRIPTION.into(),
        };
        let actor = Actor::system("");
        let (change, key) =
            api_key::create(id, draft, text.digest(), &actor.id, now).expect("what it holds is valid");
        match self.log.append_api_key(change, &key, &actor, now, 0).await {
            Ok(sequence) => {
                self.api_keys.wait_for(sequence, KNOWN).await;
                tracing::info!(key.id = %id, log.seq = sequence, "first admin key created");
                Ok(Some(text))
            }
            // Made by another process, now or long ago.
            Err(LogError::Conflict { .. }) => {
                if self.api_keys.get(id).is_some_and(|entry| !entry.key.is_live()) {
                    tracing::warn!(
                        "every admin key is revoked, so nobody can make another one: set api.admin_key"
                    );
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn visible_key(&self, caller: &Caller, id: ApiKeyId) -> Result<Arc<ApiKeyEntry>, AppError> {
        let entry = self
            .api_keys
            .get(id)
            .filter(|entry| is_visible(caller, &entry.key));
        entry.ok_or_else(|| {
            let (resource, id) = (Resource::ApiKey, id.to_string());
            Rejection::NotFound { resource, id }.into()
        })
    }

    fn listed(&self, entry: Arc<ApiKeyEntry>) -> ListedApiKey {
        ListedApiKey {
            last_used_at: self.api_keys.last_used(entry.key.id),
            entry,
        }
    }

    /// Refuses to end the last key that could make another one. Two that are revoked at the same moment may still leave none;
    /// then a key that is configured is the way back in.
    fn check_others_remain(&self, key: &ApiKey) -> Result<(), AppError> {
        if !key.is_global_admin() || self.keys.is_configured() || self.has_admin_but(Some(key.id)) {
            return Ok(());
        }
        Err(conflict(
            key.id,
            "is the last admin key of all projects: make another one first",
        ))
    }

    /// Whether there is an admin key of all projects that is let in, other than this one.
    fn has_admin_but(&self, id: Option<ApiKeyId>) -> bool {
        let keys = self.api_keys.all();
        keys.iter()
            .any(|entry| entry.key.is_live() && entry.key.is_global_admin() && Some(entry.key.id) != id)
    }
}

/// Keys of other projects, and of all projects, are as if they did not exist.
fn is_visible(caller: &Caller, key: &ApiKey) -> bool {
    caller.project.is_none() || caller.project == key.project_id
}

fn conflict(id: ApiKeyId, message: &str) -> AppError {
    Rejection::Conflict {
        resource: Resource::ApiKey,
        id: id.to_string(),
        message: message.to_owned(),
    }
    .into()
}
