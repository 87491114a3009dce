//! Endpoints as REST shows them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::{DisabledReason, Endpoint, Secret};
use cuitty_webhooks_domain::signing::{SignatureScheme, SigningSecret};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{EndpointHealth, Rotated};

/// An endpoint. Its secrets are told by id; their values are shown only when they are made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(crate) struct EndpointBody {
    #[schema(example = "ep_01h455vb4pex5vsknk084sn02q")]
    id: String,
    project_id: String,
    /// `http`, `slack` or `nats`.
    kind: &'static str,
    url: String,
    /// Exact names, `budget.*`, or `*`; empty means all.
    event_types: Vec<String>,
    description: String,
    active: bool,
    /// Why it is not active: `manual`, `gone` or `failing`.
    disabled_reason: Option<&'static str>,
    /// Added to every request.
    headers: BTreeMap<String, String>,
    /// Header for the plain hex HMAC-SHA256 of the body.
    signature_header: Option<String>,
    timeout_ms: u32,
    max_in_flight: u32,
    /// 0 means unlimited.
    rate_limit_per_second: u32,
    ordered: bool,
    /// Delays before the 2nd, 3rd, … attempt; empty means the default schedule.
    retry_schedule_seconds: Vec<u32>,
    envelope: bool,
    /// That of the current secret.
    signature_scheme: Scheme,
    /// Those that still sign, newest first.
    secrets: Vec<SecretBody>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    revision: u64,
    health: HealthBody,
    /// The delivery that an ordered endpoint's others wait for.
    blocked_by: Option<BlockedByBody>,
}

/// How an endpoint's deliveries fare, as its dispatcher recorded it last: when the breaker opens or closes at once,
/// everything else within about a second.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointHealth)]
struct HealthBody {
    /// `healthy`; `degraded` while deliveries wait behind others; `failing` while the breaker is not closed.
    state: &'static str,
    /// `closed`: attempts are made; `open`: none before `next_probe_at`; `half_open`: one at a time, until one succeeds.
    breaker: &'static str,
    /// Since when the endpoint has been failing, or has not; null when nothing was ever recorded.
    since: Option<DateTime<Utc>>,
    /// Since the last success; 0 unless failing.
    consecutive_failures: u32,
    /// When an open breaker lets the next attempt through; null for a disabled endpoint, too.
    next_probe_at: Option<DateTime<Utc>>,
    /// Whether deliveries wait in the log until those before them are done.
    waiting: bool,
}

/// A delivery that failed and will be attempted again before any other one of its endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BlockedBy)]
struct BlockedByBody {
    delivery_id: String,
    /// Made so far.
    attempts: u32,
    next_attempt_at: DateTime<Utc>,
}

/// How a secret signs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = SignatureScheme)]
pub(crate) enum Scheme {
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "ed25519")]
    Ed25519,
}

impl From<SignatureScheme> for Scheme {
    fn from(scheme: SignatureScheme) -> Self {
        match scheme {
            SignatureScheme::HmacSha256 => Self::HmacSha256,
            SignatureScheme::Ed25519 => Self::Ed25519,
        }
    }
}

impl From<Scheme> for SignatureScheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::HmacSha256 => Self::HmacSha256,
            Scheme::Ed25519 => Self::Ed25519,
        }
    }
}

/// A signing secret without its value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Secret)]
struct SecretBody {
    id: String,
    created_at: DateTime<Utc>,
    /// When it stops signing; null for the current one.
    expires_at: Option<DateTime<Utc>>,
    scheme: Scheme,
    /// Of an ed25519 key: what receivers verify with, `whpk_` and base64.
    public_key: Option<String>,
}

impl EndpointBody {
    /// The endpoint as it is shown at `now`.
    pub(crate) fn new(endpoint: &Endpoint, health: EndpointHealth, now: DateTime<Utc>) -> Self {
        let settings = &endpoint.settings;
        let secret = |secret: &Secret| SecretBody {
            id: secret.id.to_string(),
            created_at: secret.created_at,
            expires_at: secret.expires_at,
            scheme: secret.sealed.scheme().into(),
            public_key: secret.sealed.public_key.map(|key| key.to_string()),
        };
        Self {
            id: endpoint.id.to_string(),
            project_id: endpoint.project_id.to_string(),
            kind: settings.kind.as_str(),
            url: settings.url.clone(),
            event_types: settings.event_types.iter().map(ToString::to_string).collect(),
            description: settings.description.clone(),
            active: endpoint.is_active(),
            disabled_reason: endpoint.disabled_reason.map(DisabledReason::as_str),
            headers: settings
                .headers
                .iter()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect(),
            signature_header: settings.signature_header.clone(),
            timeout_ms: settings.timeout.as_millis() as u32,
            max_in_flight: settings.max_in_flight,
            rate_limit_per_second: settings.rate_limit_per_second.unwrap_or_default(),
            ordered: settings.ordered,
            retry_schedule_seconds: settings.retry_schedule_seconds.clone(),
            envelope: settings.envelope,
            signature_scheme: endpoint.signature_scheme().into(),
            secrets: endpoint.live_secrets(now).map(secret).collect(),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            revision: endpoint.revision,
            health: HealthBody {
                state: health.state.as_str(),
                breaker: health.breaker.as_str(),
                since: health.since,
                consecutive_failures: health.consecutive_failures,
                next_probe_at: health.next_probe_at,
                waiting: health.waiting,
            },
            blocked_by: health.blocked_by.map(|blocked| BlockedByBody {
                delivery_id: blocked.delivery_id.to_string(),
                attempts: blocked.attempts,
                next_attempt_at: blocked.next_attempt_at,
            }),
        }
    }
}

/// A page of endpoints, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EndpointList {
    pub(crate) data: Vec<EndpointBody>,
    /// Pass it as `cursor` for the next page; null on the last one.
    pub(crate) next_cursor: Option<String>,
}

/// An endpoint that was just made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreatedEndpoint)]
pub(crate) struct CreatedBody {
    #[serde(flatten)]
    pub(crate) endpoint: EndpointBody,
    /// Shown here and never again: `whsec_`, or `whsk_` of an ed25519 key, and base64.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub(crate) signing_secret: String,
}

impl CreatedBody {
    pub(crate) fn new(endpoint: EndpointBody, secret: &SigningSecret) -> Self {
        Self {
            endpoint,
            signing_secret: secret.expose().to_string(),
        }
    }
}

/// The new secret. It is shown here and never again.
#[derive(Serialize, ToSchema)]
#[schema(as = RotatedSecret)]
pub(crate) struct RotatedBody {
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub(crate) signing_secret: String,
    pub(crate) secret_id: String,
    /// Of an ed25519 key: what receivers verify with.
    pub(crate) public_key: Option<String>,
    pub(crate) previous_expires_at: DateTime<Utc>,
}

impl From<&Rotated> for RotatedBody {
    fn from(rotated: &Rotated) -> Self {
        let secret = &rotated.signing_secret;
        Self {
            signing_secret: secret.expose().to_string(),
            secret_id: rotated.secret_id.to_string(),
            public_key: secret.public_key().map(|key| key.to_string()),
            previous_expires_at: rotated.previous_expires_at,
        }
    }
}
