//! An endpoint made ready to be called: its destination parsed, its secrets opened, its headers built; once per revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{HeaderName, HeaderValue, USER_AGENT};
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{AttemptError, ErrorClass};
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::endpoint::{Endpoint, EndpointKind, EndpointSettings};
use cuitty_webhooks_domain::ids::{EndpointId, SecretId};
use cuitty_webhooks_domain::retry::RetrySchedule;
use cuitty_webhooks_domain::seal::{KeyRing, SealError};
use cuitty_webhooks_domain::signing::SigningKey;
use moka::sync::Cache;
use tracing::error;

use crate::destination::Destination;

/// What every request calls itself.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("cuitty-webhooks/", env!("CARGO_PKG_VERSION")));
/// Most targets that are kept ready.
const KEPT: u64 = 10_000;
/// How long one is kept that nothing is sent to: opened secrets are not left lying about.
const KEPT_IDLE: Duration = Duration::from_mins(10);
/// Seconds between two lines about secrets that do not open, at least.
const TOLD_EVERY: i64 = 60;

/// An endpoint made ready to be called.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) kind: EndpointKind,
    pub(crate) destination: Destination,
    /// The headers that are the same in every request.
    pub(crate) headers: HeaderMap,
    pub(crate) signature_headers: Option<SignatureHeaders>,
    pub(crate) envelope: bool,
    pub(crate) timeout: Duration,
    keys: Vec<Key>,
}

/// The headers for the plain signature.
#[derive(Debug)]
pub(crate) struct SignatureHeaders {
    pub(crate) current: HeaderName,
    /// For the value of the secret before, during an overlap.
    pub(crate) previous: HeaderName,
}

/// A secret, opened.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) id: SecretId,
    pub(crate) signing: SigningKey,
    expires_at: Option<DateTime<Utc>>,
}

/// The targets that were used lately.
pub(crate) struct Targets {
    ring: KeyRing,
    policy: EgressPolicy,
    ready: Cache<EndpointId, Arc<Prepared>>,
    /// When it was last told that a secret does not open, in seconds since the Unix epoch.
    told_at: AtomicI64,
}

/// What was made of one revision of an endpoint.
#[derive(Debug)]
pub(crate) struct Prepared {
    revision: u64,
    pub(crate) schedule: RetrySchedule,
    /// The target, or why every attempt fails.
    pub(crate) target: Result<Target, AttemptError>,
}

impl Targets {
    pub(crate) fn new(ring: KeyRing, policy: EgressPolicy) -> Self {
        let ready = Cache::builder()
            .max_capacity(KEPT)
            .time_to_idle(KEPT_IDLE)
            .build();
        Self {
            ring,
            policy,
            ready,
            told_at: AtomicI64::new(i64::MIN),
        }
    }

    /// A secret does not open: that is nothing of the endpoint's. Every attempt shows it; the log does, too, once a minute at most.
    fn tell(&self, error: &SealError, endpoint: &Endpoint, now: DateTime<Utc>) {
        let (now, told_at) = (now.timestamp(), self.told_at.load(Ordering::Relaxed));
        if now >= told_at.saturating_add(TOLD_EVERY) {
            self.told_at.store(now, Ordering::Relaxed);
            error!(%error, endpoint.id = %endpoint.id, "attempts fail: a signing secret does not open");
        }
    }

    /// `endpoint`, ready to be called at `now` or later.
    pub(crate) fn prepare(&self, endpoint: &Endpoint, now: DateTime<Utc>) -> Arc<Prepared> {
        if let Some(prepared) = self.ready.get(&endpoint.id)
            && prepared.revision == endpoint.revision
        {
            return prepared;
        }
        let prepared = Arc::new(Prepared {
            revision: endpoint.revision,
            schedule: endpoint.settings.retry_schedule(),
            target: self.target(endpoint, now),
        });
        self.ready.insert(endpoint.id, prepared.clone());
        prepared
    }

    fn target(&self, endpoint: &Endpoint, now: DateTime<Utc>) -> Result<Target, AttemptError> {
        let settings = &endpoint.settings;
        // The policy may have changed since the endpoint was made.
        let destination = Destination::prepare(endpoint, &self.policy)?;
        let keys = endpoint
            .live_secrets(now)
            .map(|secret| {
                let opened = self.ring.open(&secret.sealed, endpoint.id, secret.id);
                let opened = opened.map_err(|error| {
                    self.tell(&error, endpoint, now);
                    unusable(format!("secret {}: {error}", secret.id))
                })?;
                Ok(Key {
                    id: secret.id,
                    signing: SigningKey::new(&opened),
                    expires_at: secret.expires_at,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Target {
            kind: settings.kind,
            destination,
            headers: fixed_headers(settings)?,
            signature_headers: settings
                .signature_header
                .as_deref()
                .map(SignatureHeaders::new)
                .transpose()?,
            envelope: settings.envelope,
            timeout: settings.timeout,
            keys,
        })
    }
}

impl Target {
    /// The secrets that sign at `now`, newest first.
    pub(crate) fn live_keys(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Key> + Clone {
        self.keys
            .iter()
            .filter(move |key| key.expires_at.is_none_or(|expires_at| now < expires_at))
    }
}

impl SignatureHeaders {
    fn new(name: &str) -> Result<Self, AttemptError> {
        let parse = |name: &str| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|error| unusable(format!("signature_header cannot be sent: {error}")))
        };
        Ok(Self {
            current: parse(name)?,
            previous: parse(&format!("{name}-previous"))?,
        })
    }
}

fn fixed_headers(settings: &EndpointSettings) -> Result<HeaderMap, AttemptError> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, AGENT);
    for header in &settings.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok();
        let value = HeaderValue::from_str(&header.value).ok();
        let (Some(name), Some(value)) = (name, value) else {
            return Err(unusable(format!(
                "header {} cannot be sent",
                header.name.escape_default()
            )));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

pub(crate) fn unusable(message: String) -> AttemptError {
    AttemptError {
        class: ErrorClass::Configuration,
        message,
    }
}

#[cfg(test)]
pub(crate) mod tests;
