//! Endpoints: commands decided against the directory's state and appended with the sequence that they were decided on.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::endpoint::{
    self, Endpoint, EndpointCommand, EndpointDraft, EndpointSettings, Secret,
};
use cuitty_webhooks_domain::ids::{EndpointId, SecretId};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_domain::signing::{SignatureScheme, SigningSecret};
use cuitty_webhooks_log::LogError;
use cuitty_webhooks_log::directory::Entry;
use tokio::sync::broadcast::error::RecvError;

use super::input::{PageInput, Violations};
use super::page::{IdCursor, page_of};
use super::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// How often a change is decided anew when somebody else was faster.
const DECISIONS: usize = 16;
/// How long the directory may take to learn of a write that was faster, or of our own.
const DIRECTORY_WAIT: Duration = Duration::from_secs(2);

/// An endpoint as a caller wants it.
#[derive(Debug, Default)]
pub(crate) struct NewEndpoint {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) draft: EndpointDraft,
    /// A secret to import; empty makes one.
    pub(crate) signing_secret: String,
    /// `None` means what an imported secret is, else HMAC-SHA256.
    pub(crate) signature_scheme: Option<SignatureScheme>,
}

/// What shall change about an endpoint.
#[derive(Debug, Default)]
pub(crate) struct EndpointUpdate {
    /// Holds the new values of `fields`.
    pub(crate) draft: EndpointDraft,
    /// New value of `active`, if that is in `fields`.
    pub(crate) active: bool,
    /// Names of the fields to change.
    pub(crate) fields: Vec<String>,
    /// Refuse unless the endpoint is still at this revision.
    pub(crate) expected_revision: Option<u64>,
}

/// How a secret shall be rotated.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    /// How long the previous secret keeps signing; `None` means 24 h.
    pub(crate) overlap_seconds: Option<u32>,
    /// A secret to import; empty makes one.
    pub(crate) signing_secret: String,
    /// `None` means what an imported secret is, else that of the current one.
    pub(crate) signature_scheme: Option<SignatureScheme>,
}

/// A new endpoint. The secret is shown here and never again.
pub(crate) struct Created {
    pub(crate) endpoint: Endpoint,
    pub(crate) signing_secret: SigningSecret,
    pub(crate) log_sequence: u64,
}

/// A new secret. It is shown here and never again.
pub(crate) struct Rotated {
    pub(crate) signing_secret: SigningSecret,
    pub(crate) secret_id: SecretId,
    pub(crate) previous_expires_at: DateTime<Utc>,
}

impl App {
    /// Creates an endpoint with its first secret.
    #[tracing::instrument(name = "api.create_endpoint", skip_all)]
    pub(crate) async fn create_endpoint(
        &self,
        caller: &Caller,
        new: NewEndpoint,
    ) -> Result<Created, AppError> {
        observed("create_endpoint", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            let project_id = violations.project(caller, &new.project_id);
            let settings = violations.absorb(new.draft.validate(&self.policy, project_id.as_ref()))?;
            let imported = read_secret(&new.signing_secret, new.signature_scheme, &mut violations);
            let scheme =
                scheme_of(imported.as_ref(), new.signature_scheme).unwrap_or(SignatureScheme::HmacSha256);
            if let Some(settings) = &settings {
                violations.absorb(endpoint::check_signature_header(
                    settings,
                    scheme,
                    "signature_header",
                ))?;
            }
            let (project_id, settings) = violations.finish(project_id.zip(settings))?;
            let signing_secret = self.secret(imported, scheme);
            caller.require_project(&project_id)?;
            self.vet_subscriptions(&project_id, &settings.event_types, &[])?;
            self.host_check.vet(&settings.url).await?;

            let now = self.now();
            let id = self.with_rng(|rng| EndpointId::new(now, rng));
            let secret = self.seal(id, &signing_secret);
            let (change, endpoint) = endpoint::create(id, project_id, settings, secret, now);
            let log_sequence = self
                .log
                .append_endpoint(&change, &endpoint, &caller.actor, 0)
                .await?;
            self.directory.wait_for(log_sequence, DIRECTORY_WAIT).await;
            tracing::info!(endpoint.id = %id, log.seq = log_sequence, "endpoint created");
            Ok(Created {
                endpoint,
                signing_secret,
                log_sequence,
            })
        })
        .await
    }

    /// One endpoint.
    #[tracing::instrument(name = "api.get_endpoint", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn get_endpoint(&self, caller: &Caller, id: EndpointId) -> Result<Arc<Entry>, AppError> {
        observed("get_endpoint", async {
            caller.require(Scope::Read)?;
            self.endpoint(caller, id)
        })
        .await
    }

    /// A page of a project's endpoints, newest first, and where the next page begins.
    #[tracing::instrument(name = "api.list_endpoints", skip_all)]
    pub(crate) async fn list_endpoints(
        &self,
        caller: &Caller,
        project_id: &str,
        page: &PageInput,
    ) -> Result<(Vec<Arc<Entry>>, Option<String>), AppError> {
        observed("list_endpoints", async {
            caller.require(Scope::Read)?;
            let mut violations = Violations::default();
            let project_id = violations.project(caller, project_id);
            let limit = page.limit(&mut violations) as usize;
            let cursor = violations.parse_some::<IdCursor<EndpointId>>("cursor", &page.cursor);
            let project_id = violations.finish(project_id)?;
            caller.require_project(&project_id)?;
            let entries = self.endpoints_of(&project_id)?;
            Ok(page_of(entries, |entry| entry.endpoint.id, cursor, limit))
        })
        .await
    }

    /// Changes the fields named in the update, all in one change. Everything is checked before anything is written.
    #[tracing::instrument(name = "api.update_endpoint", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn update_endpoint(
        &self,
        caller: &Caller,
        id: EndpointId,
        update: EndpointUpdate,
    ) -> Result<Endpoint, AppError> {
        observed("update_endpoint", async {
            caller.require(Scope::Manage)?;
            check_fields(&update.fields)?;
            let current = self.endpoint(caller, id)?;
            let moved = update.names("url") || update.names("kind");
            if moved || update.names("event_types") {
                let endpoint = &current.endpoint;
                let settings = update.settings(endpoint, &self.policy)?;
                if moved {
                    self.host_check.vet(&settings.url).await?;
                }
                let known = &endpoint.settings.event_types;
                self.vet_subscriptions(&endpoint.project_id, &settings.event_types, known)?;
            }
            self.change(caller, id, |endpoint| update.command(endpoint, &self.policy))
                .await
        })
        .await
    }

    /// Deletes an endpoint: it takes no new deliveries, those accepted before are still made.
    #[tracing::instrument(name = "api.delete_endpoint", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn delete_endpoint(&self, caller: &Caller, id: EndpointId) -> Result<(), AppError> {
        observed("delete_endpoint", async {
            caller.require(Scope::Manage)?;
            self.change(caller, id, |_| Ok(EndpointCommand::Delete)).await?;
            Ok(())
        })
        .await
    }

    /// Makes a new secret current; the previous one keeps signing until the overlap ends.
    #[tracing::instrument(name = "api.rotate_secret", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn rotate_secret(
        &self,
        caller: &Caller,
        id: EndpointId,
        rotation: Rotation,
    ) -> Result<Rotated, AppError> {
        observed("rotate_secret", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            let imported = read_secret(
                &rotation.signing_secret,
                rotation.signature_scheme,
                &mut violations,
            );
            let overlap = rotation
                .overlap_seconds
                .unwrap_or(limits::DEFAULT_OVERLAP_SECONDS);
            if overlap > limits::OVERLAP_SECONDS {
                violations.add(
                    "overlap_seconds",
                    format!("must be 0 to {}", limits::OVERLAP_SECONDS),
                );
            }
            violations.finish(Some(()))?;
            let current = self.endpoint(caller, id)?;
            let scheme = scheme_of(imported.as_ref(), rotation.signature_scheme)
                .unwrap_or_else(|| current.endpoint.signature_scheme());
            let signing_secret = self.secret(imported, scheme);
            let secret = self.seal(id, &signing_secret);
            let secret_id = secret.id;
            let overlap = Duration::from_secs(overlap.into());
            let rotate = |_: &Endpoint| {
                Ok(EndpointCommand::RotateSecret {
                    secret: secret.clone(),
                    overlap,
                })
            };
            let endpoint = self.change(caller, id, rotate).await?;
            // The change was made at the endpoint's new `updated_at`.
            let previous_expires_at = endpoint.updated_at + overlap;
            Ok(Rotated {
                signing_secret,
                secret_id,
                previous_expires_at,
            })
        })
        .await
    }

    /// Ends the overlap of a previous secret now.
    #[tracing::instrument(name = "api.revoke_secret", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn revoke_secret(
        &self,
        caller: &Caller,
        id: EndpointId,
        secret_id: SecretId,
    ) -> Result<Endpoint, AppError> {
        observed("revoke_secret", async {
            caller.require(Scope::Manage)?;
            self.change(caller, id, |_| Ok(EndpointCommand::RevokeSecret { secret_id }))
                .await
        })
        .await
    }

    /// Decides a command against the endpoint's state and appends what it changes, provided that nobody else has changed
    /// the endpoint meanwhile; if so, decides anew on the newer state.
    async fn change(
        &self,
        caller: &Caller,
        id: EndpointId,
        command: impl Fn(&Endpoint) -> Result<EndpointCommand, AppError>,
    ) -> Result<Endpoint, AppError> {
        for _ in 0..DECISIONS {
            let entry = self.endpoint(caller, id)?;
            let now = self.now();
            let Some(change) = endpoint::decide(&entry.endpoint, command(&entry.endpoint)?, now)? else {
                return Ok(entry.endpoint.clone());
            };
            let endpoint = endpoint::evolve(entry.endpoint.clone(), &change, now);
            let appended = self
                .log
                .append_endpoint(&change, &endpoint, &caller.actor, entry.sequence)
                .await;
            match appended {
                Ok(sequence) => {
                    tracing::info!(
                        log.seq = sequence,
                        endpoint.revision = endpoint.revision,
                        "endpoint changed"
                    );
                    self.directory.wait_for(sequence, DIRECTORY_WAIT).await;
                    return Ok(endpoint);
                }
                Err(LogError::Conflict { .. }) => self.await_change(id, entry.sequence).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(AppError::Contended(id.to_string()))
    }

    /// Returns when the directory's state of the endpoint is newer than `sequence`, or after a while.
    async fn await_change(&self, id: EndpointId, sequence: u64) {
        let mut changes = self.directory.changes();
        let newer = async {
            while self
                .directory
                .get(id)
                .is_none_or(|entry| entry.sequence <= sequence)
            {
                if matches!(changes.recv().await, Err(RecvError::Closed)) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(DIRECTORY_WAIT, newer).await;
    }

    /// The secret given, or a new one.
    fn secret(&self, imported: Option<SigningSecret>, scheme: SignatureScheme) -> SigningSecret {
        imported.unwrap_or_else(|| self.with_rng(|rng| SigningSecret::generate_for(scheme, rng)))
    }

    fn seal(&self, endpoint_id: EndpointId, secret: &SigningSecret) -> Secret {
        let created_at = self.now();
        self.with_rng(|rng| {
            let id = SecretId::new(created_at, rng);
            let sealed = self.key_ring.seal(secret, endpoint_id, id, rng);
            Secret {
                id,
                sealed,
                created_at,
                expires_at: None,
            }
        })
    }
}

/// The secret to import, if there is one. Its text tells its scheme; another one that is asked for contradicts it.
fn read_secret(
    given: &str,
    scheme: Option<SignatureScheme>,
    violations: &mut Violations,
) -> Option<SigningSecret> {
    if given.is_empty() {
        return None;
    }
    let secret = SigningSecret::parse(given)
        .map_err(|error| violations.add("signing_secret", error.to_string()))
        .ok()?;
    if let Some(other) = scheme.filter(|&scheme| scheme != secret.scheme()) {
        let is = secret.scheme().as_str();
        let message = format!("is `{}`, but signing_secret is one for `{is}`", other.as_str());
        violations.add("signature_scheme", message);
    }
    Some(secret)
}

/// The scheme of a secret to be: that of the imported one, else the one asked for.
fn scheme_of(imported: Option<&SigningSecret>, asked: Option<SignatureScheme>) -> Option<SignatureScheme> {
    imported.map(SigningSecret::scheme).or(asked)
}

/// Refuses names of fields that cannot be changed.
fn check_fields(fields: &[String]) -> Result<(), Rejection> {
    let mut violations = Violations::default();
    if fields.is_empty() {
        violations.add("update_mask", "must name at least one field");
    }
    for field in fields {
        if field != "active" && !endpoint::SETTING_FIELDS.contains(&field.as_str()) {
            let known = endpoint::SETTING_FIELDS.join(", ");
            let text = format!(
                "has `{}`; what can be changed is active, {known}",
                field.escape_default()
            );
            violations.add("update_mask", text);
        }
    }
    violations.finish(Some(()))
}

impl EndpointUpdate {
    fn names(&self, field: &str) -> bool {
        self.fields.iter().any(|named| named == field)
    }

    /// The settings of `endpoint` with the named fields replaced, unchecked.
    fn apply(&self, endpoint: &Endpoint) -> EndpointDraft {
        let mut draft = EndpointDraft::from(&endpoint.settings);
        let new = self.draft.clone();
        for field in &self.fields {
            match field.as_str() {
                "kind" => draft.kind = new.kind,
                "url" => draft.url.clone_from(&new.url),
                "event_types" => draft.event_types.clone_from(&new.event_types),
                "description" => draft.description.clone_from(&new.description),
                "headers" => draft.headers.clone_from(&new.headers),
                "signature_header" => draft.signature_header.clone_from(&new.signature_header),
                "timeout_ms" => draft.timeout_ms = new.timeout_ms,
                "max_in_flight" => draft.max_in_flight = new.max_in_flight,
                "rate_limit_per_second" => draft.rate_limit_per_second = new.rate_limit_per_second,
                "ordered" => draft.ordered = new.ordered,
                "retry_schedule_seconds" => draft
                    .retry_schedule_seconds
                    .clone_from(&new.retry_schedule_seconds),
                "envelope" => draft.envelope = new.envelope,
                _ => {}
            }
        }
        draft
    }

    /// The settings of `endpoint` after the update.
    fn settings(&self, endpoint: &Endpoint, policy: &EgressPolicy) -> Result<EndpointSettings, Rejection> {
        self.apply(endpoint).validate(policy, Some(&endpoint.project_id))
    }

    /// What to do about `endpoint`. Settings that are not named are not checked again, so that an endpoint which the policy
    /// no longer allows can still be switched off.
    fn command(&self, endpoint: &Endpoint, policy: &EgressPolicy) -> Result<EndpointCommand, AppError> {
        let settings = if self.fields.iter().any(|field| field != "active") {
            self.settings(endpoint, policy)?
        } else {
            endpoint.settings.clone()
        };
        Ok(EndpointCommand::Update {
            settings: Box::new(settings),
            active: self.names("active").then_some(self.active),
            expected_revision: self.expected_revision,
        })
    }
}

#[cfg(test)]
mod tests;
