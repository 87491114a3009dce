//! The endpoint aggregate: pure `decide` and `evolve`.
//!
//! A command is decided against the current state and gives the change that is stored; folding the change gives the
//! next state. Both are stored (`EndpointChanged` carries the whole new state), so the control stream is the audit log
//! and its last message per subject the current state.

mod draft;

use std::time::Duration;

use chrono::{DateTime, Utc};

pub use self::draft::{EndpointDraft, SETTING_FIELDS};
use crate::attempt::Header;
use crate::ids::{EndpointId, SecretId};
use crate::limits;
use crate::names::{EventTypePattern, ProjectId};
use crate::rejection::{Rejection, Resource};
use crate::retry::RetrySchedule;
use crate::seal::SealedSecret;
use crate::signing::SignatureScheme;

/// What carries the message to the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointKind {
    /// An HTTP endpoint.
    Http,
    /// A Slack-compatible incoming webhook.
    Slack,
    /// A NATS subject.
    Nats,
}

impl EndpointKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Http, Self::Slack, Self::Nats];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Slack => "slack",
            Self::Nats => "nats",
        }
    }
}

/// Why an endpoint is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisabledReason {
    /// Somebody switched it off.
    Manual,
    /// It answered 410 Gone or what its kind has for that, or asked to be disabled.
    Gone,
    /// All its deliveries failed for too long.
    Failing,
}

impl DisabledReason {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

/// What a person configures of an endpoint, valid: made from an [`EndpointDraft`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    /// What carries the message.
    pub kind: EndpointKind,
    /// Where it goes, normalised: http or https without userinfo, or `nats:` and a subject.
    pub url: String,
    /// Which event types it takes; empty means all.
    pub event_types: Vec<EventTypePattern>,
    /// For people.
    pub description: String,
    /// Added to every request.
    pub headers: Vec<Header>,
    /// Header for the plain hex HMAC-SHA256 of the body.
    pub signature_header: Option<String>,
    /// Total time of one attempt, body included.
    pub timeout: Duration,
    /// Attempts at the same time.
    pub max_in_flight: u32,
    /// Attempts per second; `None` means unlimited.
    pub rate_limit_per_second: Option<u32>,
    /// Deliver strictly in log order, one at a time.
    pub ordered: bool,
    /// Delays before the 2nd, 3rd, … attempt, in seconds; empty means the default schedule.
    pub retry_schedule_seconds: Vec<u32>,
    /// Wrap the payload as `{"type","timestamp","data"}`; never with [`EndpointKind::Slack`].
    pub envelope: bool,
}

impl EndpointSettings {
    /// The schedule that its deliveries are retried on.
    pub fn retry_schedule(&self) -> RetrySchedule {
        if self.retry_schedule_seconds.is_empty() {
            RetrySchedule::default()
        } else {
            RetrySchedule::from_seconds(&self.retry_schedule_seconds)
        }
    }
}

/// A signing secret of an endpoint, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its id, which attempts record.
    pub id: SecretId,
    /// Its value under the key ring.
    pub sealed: SealedSecret,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops signing; `None` while it is the current one.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Secret {
    /// Whether it signs at `now`.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// An endpoint's whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The project that owns it.
    pub project_id: ProjectId,
    /// What a person configures of it.
    pub settings: EndpointSettings,
    /// Why it is not active; `None` while it is.
    pub disabled_reason: Option<DisabledReason>,
    /// When it was last enabled; `None` when it never was, as it is created active.
    pub enabled_at: Option<DateTime<Utc>>,
    /// Newest first; retired ones stay.
    pub secrets: Vec<Secret>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// 1 when created, one more with each change.
    pub revision: u64,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Endpoint {
    /// Whether deliveries to it are attempted.
    pub fn is_active(&self) -> bool {
        self.disabled_reason.is_none()
    }

    /// The secrets that sign at `now`, newest first.
    pub fn live_secrets(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Secret> {
        self.secrets.iter().filter(move |secret| secret.is_live(now))
    }

    /// The scheme of the current secret, which a new one has unless another is asked for.
    pub fn signature_scheme(&self) -> SignatureScheme {
        let current = self.secrets.first();
        current.map_or(SignatureScheme::HmacSha256, |secret| secret.sealed.scheme())
    }

    fn not_found(&self) -> Rejection {
        Rejection::NotFound {
            resource: Resource::Endpoint,
            id: self.id.to_string(),
        }
    }

    fn conflict(&self, message: impl Into<String>) -> Rejection {
        Rejection::Conflict {
            resource: Resource::Endpoint,
            id: self.id.to_string(),
            message: message.into(),
        }
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `key_…` of the API key, `admin` for the bootstrap key, `system` for the service itself.
    pub id: String,
    /// The process that acted for the system; empty otherwise.
    pub process: String,
}

impl Actor {
    /// The service itself, acting in the named process.
    pub fn system(process: impl Into<String>) -> Self {
        Self {
            id: "system".into(),
            process: process.into(),
        }
    }
}

/// What somebody wants of an existing endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointCommand {
    /// Change its settings, switch it off or on, or both in one change.
    Update {
        /// All settings after the change.
        settings: Box<EndpointSettings>,
        /// Whether its deliveries are to be attempted; `None` leaves that as it is.
        active: Option<bool>,
        /// Refuse unless the endpoint is still at this revision.
        expected_revision: Option<u64>,
    },
    /// Stop attempting its deliveries.
    Disable(DisabledReason),
    /// Attempt its deliveries again.
    Enable,
    /// Make a new secret current.
    RotateSecret {
        /// The new secret; its `expires_at` is `None`.
        secret: Secret,
        /// How long the one that was current keeps signing.
        overlap: Duration,
    },
    /// End the overlap of a secret now. The current one cannot be revoked: nothing would sign.
    RevokeSecret {
        /// The secret.
        secret_id: SecretId,
    },
    /// Take no new deliveries.
    Delete,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointChange {
    /// It came to be.
    Created {
        /// Its first settings.
        settings: Box<EndpointSettings>,
        /// Its first secret.
        secret: Secret,
    },
    /// Its settings changed, and it may have been switched off or on with them.
    Updated {
        /// All settings after the change.
        settings: Box<EndpointSettings>,
        /// Why it is not active after the change; `None` while it is.
        disabled_reason: Option<DisabledReason>,
    },
    /// Its deliveries are not attempted any more.
    Disabled(DisabledReason),
    /// Its deliveries are attempted again.
    Enabled,
    /// Another secret is current.
    SecretRotated {
        /// The new secret.
        secret: Secret,
        /// When the one that was current stops signing.
        previous_expires_at: DateTime<Utc>,
    },
    /// A secret that was current before stopped signing ahead of its time.
    SecretRevoked {
        /// The secret.
        secret_id: SecretId,
    },
    /// It takes no new deliveries.
    Deleted,
}

/// Creates an endpoint.
pub fn create(
    id: EndpointId,
    project_id: ProjectId,
    settings: EndpointSettings,
    secret: Secret,
    now: DateTime<Utc>,
) -> (EndpointChange, Endpoint) {
    let endpoint = Endpoint {
        id,
        project_id,
        settings: settings.clone(),
        disabled_reason: None,
        enabled_at: None,
        secrets: vec![secret.clone()],
        created_at: now,
        updated_at: now,
        revision: 1,
        deleted_at: None,
    };
    (
        EndpointChange::Created {
            settings: Box::new(settings),
            secret,
        },
        endpoint,
    )
}

/// Refuses, in the name of `field`, a `signature_header` beside a secret that cannot make its signature.
pub fn check_signature_header(
    settings: &EndpointSettings,
    scheme: SignatureScheme,
    field: &str,
) -> Result<(), Rejection> {
    if settings.signature_header.is_some() && scheme == SignatureScheme::Ed25519 {
        let message = "the hex HMAC of a signature_header needs a symmetric secret, not an ed25519 key";
        return Err(Rejection::field(field, message));
    }
    Ok(())
}

/// Refuses to make a secret of this scheme current while others keep signing, as [`decide`] does.
pub fn check_rotation(
    endpoint: &Endpoint,
    scheme: SignatureScheme,
    overlap: Duration,
    now: DateTime<Utc>,
) -> Result<(), Rejection> {
    check_signature_header(&endpoint.settings, scheme, "signature_scheme")?;
    if overlap > Duration::from_secs(limits::OVERLAP_SECONDS.into()) {
        let message = format!("must be 0 to {}", limits::OVERLAP_SECONDS);
        return Err(Rejection::field("overlap_seconds", message));
    }
    let stays = usize::from(!overlap.is_zero());
    let expiring = endpoint
        .live_secrets(now)
        .filter(|secret| secret.expires_at.is_some())
        .count();
    if expiring + stays + 1 > limits::LIVE_SECRETS {
        let message = format!(
            "has {} live secrets; wait until one expires, or revoke one",
            expiring + 1
        );
        return Err(endpoint.conflict(message));
    }
    Ok(())
}

/// Decides what `command` changes about `endpoint`; `None` when it is so already.
pub fn decide(
    endpoint: &Endpoint,
    command: EndpointCommand,
    now: DateTime<Utc>,
) -> Result<Option<EndpointChange>, Rejection> {
    if endpoint.deleted_at.is_some() {
        return Err(endpoint.not_found());
    }
    Ok(match command {
        EndpointCommand::Update {
            settings,
            active,
            expected_revision,
        } => {
            if let Some(expected) = expected_revision.filter(|&expected| expected != endpoint.revision) {
                let message = format!("is at revision {}, not {expected}", endpoint.revision);
                return Err(endpoint.conflict(message));
            }
            check_signature_header(&settings, endpoint.signature_scheme(), "signature_header")?;
            update(endpoint, settings, active)
        }
        EndpointCommand::Disable(reason) => endpoint.is_active().then_some(EndpointChange::Disabled(reason)),
        EndpointCommand::Enable => (!endpoint.is_active()).then_some(EndpointChange::Enabled),
        EndpointCommand::RotateSecret { secret, overlap } => {
            check_rotation(endpoint, secret.sealed.scheme(), overlap, now)?;
            Some(EndpointChange::SecretRotated {
                secret,
                previous_expires_at: now + overlap,
            })
        }
        EndpointCommand::RevokeSecret { secret_id } => revoke(endpoint, secret_id, now)?,
        EndpointCommand::Delete => Some(EndpointChange::Deleted),
    })
}

fn revoke(
    endpoint: &Endpoint,
    secret_id: SecretId,
    now: DateTime<Utc>,
) -> Result<Option<EndpointChange>, Rejection> {
    let secret = endpoint.secrets.iter().find(|secret| secret.id == secret_id);
    let secret = secret.ok_or_else(|| Rejection::NotFound {
        resource: Resource::Secret,
        id: secret_id.to_string(),
    })?;
    if secret.expires_at.is_none() {
        return Err(Rejection::Conflict {
            resource: Resource::Secret,
            id: secret_id.to_string(),
            message: "is the current one; rotate first".into(),
        });
    }
    Ok(secret
        .is_live(now)
        .then_some(EndpointChange::SecretRevoked { secret_id }))
}

/// One change, whatever of it is new. An endpoint that is not active keeps its first reason.
fn update(
    endpoint: &Endpoint,
    settings: Box<EndpointSettings>,
    active: Option<bool>,
) -> Option<EndpointChange> {
    let disabled_reason = match active {
        Some(true) => None,
        Some(false) => endpoint.disabled_reason.or(Some(DisabledReason::Manual)),
        None => endpoint.disabled_reason,
    };
    if *settings != endpoint.settings {
        Some(EndpointChange::Updated {
            settings,
            disabled_reason,
        })
    } else if disabled_reason != endpoint.disabled_reason {
        Some(disabled_reason.map_or(EndpointChange::Enabled, EndpointChange::Disabled))
    } else {
        None
    }
}

/// Folds `change`, made at `at`, into `endpoint`.
pub fn evolve(mut endpoint: Endpoint, change: &EndpointChange, at: DateTime<Utc>) -> Endpoint {
    match change {
        EndpointChange::Created { settings, secret } => {
            endpoint.settings = (**settings).clone();
            endpoint.secrets = vec![secret.clone()];
        }
        EndpointChange::Updated {
            settings,
            disabled_reason,
        } => {
            if !endpoint.is_active() && disabled_reason.is_none() {
                endpoint.enabled_at = Some(at);
            }
            endpoint.settings = (**settings).clone();
            endpoint.disabled_reason = *disabled_reason;
        }
        EndpointChange::Disabled(reason) => endpoint.disabled_reason = Some(*reason),
        EndpointChange::Enabled => {
            endpoint.disabled_reason = None;
            endpoint.enabled_at = Some(at);
        }
        EndpointChange::SecretRotated {
            secret,
            previous_expires_at,
        } => {
            for previous in &mut endpoint.secrets {
                previous.expires_at.get_or_insert(*previous_expires_at);
            }
            endpoint.secrets.insert(0, secret.clone());
        }
        EndpointChange::SecretRevoked { secret_id } => {
            let revoked = endpoint.secrets.iter_mut().find(|secret| secret.id == *secret_id);
            if let Some(secret) = revoked {
                secret.expires_at = Some(at);
            }
        }
        EndpointChange::Deleted => endpoint.deleted_at = Some(at),
    }
    endpoint.updated_at = at;
    endpoint.revision += 1;
    endpoint
}

#[cfg(test)]
pub(crate) mod tests;
