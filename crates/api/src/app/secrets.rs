//! Signing secrets of endpoints: made or imported, rotated, revoked. Their values are sealed before they are stored.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::{self, Endpoint, EndpointCommand, Secret};
use cuitty_webhooks_domain::ids::{EndpointId, SecretId};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::rejection::FieldViolation;
use cuitty_webhooks_domain::signing::{SignatureScheme, SigningSecret};

use super::input::Violations;
use super::keyed::{Answer, Keyed, Terms, Turn, fingerprint};
use super::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// How a secret shall be rotated.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    /// How long the previous secret keeps signing; `None` means 24 h.
    pub(crate) overlap_seconds: Option<u32>,
    /// A secret to import; empty makes one.
    pub(crate) signing_secret: String,
    /// `None` means what an imported secret is, else that of the current one.
    pub(crate) signature_scheme: Option<SignatureScheme>,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

/// A new secret. It is shown here and never again.
pub(crate) struct Rotated {
    pub(crate) signing_secret: SigningSecret,
    pub(crate) secret_id: SecretId,
    pub(crate) previous_expires_at: DateTime<Utc>,
    /// The endpoint's, with the new secret.
    pub(crate) revision: u64,
}

impl App {
    /// Makes a new secret current; the previous one keeps signing until the overlap ends.
    #[tracing::instrument(name = "api.rotate_secret", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn rotate_secret(
        &self,
        caller: &Caller,
        id: EndpointId,
        rotation: Rotation,
        terms: Terms,
    ) -> Result<Answer<Rotated>, AppError> {
        observed("rotate_secret", async {
            caller.require(Scope::Manage)?;
            let fingerprint = fingerprint("rotate_secret", &(id, &rotation));
            let mut violations = Violations::after(rotation.faults);
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
            violations.idempotency_key(&terms.idempotency_key);
            violations.finish(Some(()))?;
            let overlap = Duration::from_secs(overlap.into());
            let known = self.known_endpoint(caller, id)?;
            let keyed = Keyed {
                project_id: &known.endpoint.project_id,
                key: &terms.idempotency_key,
                fingerprint,
            };
            let scheme = scheme_of(imported.as_ref(), rotation.signature_scheme)
                .unwrap_or_else(|| known.endpoint.signature_scheme());
            let checks = async {
                let current = self.endpoint(caller, id)?;
                terms.check(&current.endpoint)?;
                endpoint::check_rotation(&current.endpoint, scheme, overlap, self.now())?;
                Ok(())
            };
            let turn = self.take_turn(&keyed, checks).await?;
            let work = match turn {
                Turn::Done(intent, sequence) => {
                    let secret_id = SecretId::created_by(intent.message_id);
                    let endpoint = self.endpoint_at(id, sequence).await?;
                    return Ok(Answer::replayed(self.rotated(&endpoint, secret_id)?));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let secret_id = SecretId::created_by(work.intent.message_id);
            let made_at = work.intent.requested_at;
            let secret = self.seal(id, secret_id, &self.secret(imported, scheme), made_at);
            let rotate = |endpoint: &Endpoint| {
                // A call with the same key has done it already.
                if holds(endpoint, secret_id) {
                    return Ok(None);
                }
                terms.check(endpoint)?;
                Ok(Some(EndpointCommand::RotateSecret {
                    secret: secret.clone(),
                    overlap,
                }))
            };
            let endpoint = self.change(caller, id, &work, rotate).await?;
            Ok(work.answer(self.rotated(&endpoint, secret_id)?))
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
        terms: Terms,
    ) -> Result<Answer<Endpoint>, AppError> {
        observed("revoke_secret", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            violations.idempotency_key(&terms.idempotency_key);
            violations.finish(Some(()))?;
            let known = self.known_endpoint(caller, id)?;
            let keyed = Keyed {
                project_id: &known.endpoint.project_id,
                key: &terms.idempotency_key,
                fingerprint: fingerprint("revoke_secret", &(id, secret_id)),
            };
            let command = EndpointCommand::RevokeSecret { secret_id };
            let checks = async {
                let current = self.endpoint(caller, id)?;
                terms.check(&current.endpoint)?;
                endpoint::decide(&current.endpoint, command.clone(), self.now())?;
                Ok(())
            };
            let turn = self.take_turn(&keyed, checks).await?;
            // What is revoked stays revoked: it may be asked for as often as one likes.
            let work = match self.settled(&keyed, turn).await? {
                Turn::Done(_, sequence) => {
                    return Ok(Answer::replayed(self.endpoint_at(id, sequence).await?));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let revoke = |endpoint: &Endpoint| {
                terms.check(endpoint)?;
                Ok(Some(command.clone()))
            };
            Ok(work.answer(self.change(caller, id, &work, revoke).await?))
        })
        .await
    }

    /// What the rotation to this secret answers, of the endpoint after it.
    fn rotated(&self, endpoint: &Endpoint, secret_id: SecretId) -> Result<Rotated, AppError> {
        let mut older = endpoint
            .secrets
            .iter()
            .skip_while(|secret| secret.id != secret_id);
        let previous = older.nth(1).and_then(|previous| previous.expires_at);
        Ok(Rotated {
            signing_secret: self.opened(endpoint, secret_id)?,
            secret_id,
            previous_expires_at: previous.unwrap_or(endpoint.updated_at),
            revision: endpoint.revision,
        })
    }

    /// The value of an endpoint's secret, to be shown to who made it.
    pub(super) fn opened(&self, endpoint: &Endpoint, id: SecretId) -> Result<SigningSecret, AppError> {
        let secret = endpoint.secrets.iter().find(|secret| secret.id == id);
        let secret =
            secret.ok_or_else(|| AppError::internal("an endpoint lacks a secret that it was given"))?;
        self.key_ring
            .open(&secret.sealed, endpoint.id, id)
            .map_err(AppError::internal)
    }

    /// The secret given, or a new one.
    pub(super) fn secret(&self, imported: Option<SigningSecret>, scheme: SignatureScheme) -> SigningSecret {
        imported.unwrap_or_else(|| self.with_rng(|rng| SigningSecret::generate_for(scheme, rng)))
    }

    pub(super) fn seal(
        &self,
        endpoint_id: EndpointId,
        id: SecretId,
        secret: &SigningSecret,
        created_at: DateTime<Utc>,
    ) -> Secret {
        Secret {
            id,
            sealed: self.with_rng(|rng| self.key_ring.seal(secret, endpoint_id, id, rng)),
            created_at,
            expires_at: None,
        }
    }
}

fn holds(endpoint: &Endpoint, id: SecretId) -> bool {
    endpoint.secrets.iter().any(|secret| secret.id == id)
}

/// The secret to import, if there is one. Its text tells its scheme; another one that is asked for contradicts it.
pub(super) fn read_secret(
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
pub(super) fn scheme_of(
    imported: Option<&SigningSecret>,
    asked: Option<SignatureScheme>,
) -> Option<SignatureScheme> {
    imported.map(SigningSecret::scheme).or(asked)
}
