//! Verifying what was received.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::Mac;
use subtle::{Choice, ConstantTimeEq};

use super::{InvalidSecret, PublicKey, SignatureScheme, SigningSecret, keyed};

/// The headers of a received request that its signature is made of, as they came.
#[derive(Debug, Clone, Copy)]
pub struct SignedHeaders<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// `webhook-signature`.
    pub signature: &'a str,
}

/// Why a received request is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// `webhook-id` is empty, or holds a dot and so could shift what is signed.
    #[error("webhook-id must not be empty and must not hold a dot")]
    MalformedId,
    /// `webhook-timestamp` is not a number of seconds.
    #[error("webhook-timestamp must be seconds since 1970")]
    MalformedTimestamp,
    /// The request is too old, or was kept to be sent again.
    #[error("webhook-timestamp is too far in the past")]
    TooOld,
    /// The request comes from the future: one of the clocks is wrong.
    #[error("webhook-timestamp is too far in the future")]
    TooNew,
    /// `webhook-signature` holds no signature of a scheme that any of the keys is for.
    #[error("webhook-signature must hold a v1 signature for a secret, a v1a signature for a public key")]
    NoSignature,
    /// No signature is one of ours: another secret, or the request was altered.
    #[error("webhook-signature does not match")]
    Mismatch,
}

/// What a request is verified with: the shared secret, or the public key of the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerificationKey {
    /// A secret; of an ed25519 key its public half is used.
    Secret(SigningSecret),
    /// A public key.
    Public(PublicKey),
}

impl VerificationKey {
    /// The key of `text`: what [`PublicKey`] or [`SigningSecret::parse`] reads.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        text.parse()
            .map(Self::Public)
            .or_else(|_| SigningSecret::parse(text).map(Self::Secret))
    }

    /// How what it verifies was signed.
    pub fn scheme(&self) -> SignatureScheme {
        match self {
            Self::Secret(secret) => secret.scheme(),
            Self::Public(_) => SignatureScheme::Ed25519,
        }
    }
}

impl From<SigningSecret> for VerificationKey {
    fn from(secret: SigningSecret) -> Self {
        Self::Secret(secret)
    }
}

impl From<&SigningSecret> for VerificationKey {
    fn from(secret: &SigningSecret) -> Self {
        Self::Secret(secret.clone())
    }
}

impl From<PublicKey> for VerificationKey {
    fn from(key: PublicKey) -> Self {
        Self::Public(key)
    }
}

impl From<&PublicKey> for VerificationKey {
    fn from(key: &PublicKey) -> Self {
        Self::Public(*key)
    }
}

impl From<&VerificationKey> for VerificationKey {
    fn from(key: &VerificationKey) -> Self {
        key.clone()
    }
}

/// Checks that a request was signed with one of `keys` ([`SigningSecret`]s, [`PublicKey`]s, or [`VerificationKey`]s of both
/// kinds), no more than `tolerance` before or after `now`.
///
/// Every signature is compared with every key's of its scheme in full, so the time taken tells nothing about either.
pub fn verify(
    headers: SignedHeaders<'_>,
    body: &[u8],
    keys: impl IntoIterator<Item: Into<VerificationKey>>,
    now: DateTime<Utc>,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    if headers.id.is_empty() || headers.id.contains('.') {
        return Err(VerifyError::MalformedId);
    }
    check_timestamp(headers.timestamp, now, tolerance)?;

    let content = signed_content(headers.id, headers.timestamp, body);
    let keys: Vec<VerificationKey> = keys.into_iter().map(Into::into).collect();
    let schemes = SignatureScheme::ALL.into_iter();
    let used: Vec<SignatureScheme> = schemes
        .filter(|scheme| keys.is_empty() || keys.iter().any(|key| key.scheme() == *scheme))
        .collect();
    if used
        .iter()
        .all(|&scheme| signatures(headers.signature, scheme).next().is_none())
    {
        return Err(VerifyError::NoSignature);
    }
    let matched = keys.iter().fold(Choice::from(0), |matched, key| {
        matched | matches(headers.signature, &content, key)
    });
    if bool::from(matched) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch)
    }
}

/// What is signed.
pub(super) fn signed_content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

/// The signatures of a scheme in a `webhook-signature` header, without their tags.
fn signatures(header: &str, scheme: SignatureScheme) -> impl Iterator<Item = &str> {
    header
        .split_ascii_whitespace()
        .filter_map(move |entry| entry.strip_prefix(scheme.tag()))
}

/// Whether a `webhook-signature` header holds a signature of `content` that `key` accepts.
pub(super) fn matches(header: &str, content: &[u8], key: &VerificationKey) -> Choice {
    let (public_key, secret) = match key {
        VerificationKey::Secret(secret) => (secret.public_key(), secret.as_bytes()),
        VerificationKey::Public(key) => (Some(*key), &[][..]),
    };
    let given = signatures(header, key.scheme()).filter_map(|encoded| STANDARD.decode(encoded).ok());
    let none = Choice::from(0);
    if let Some(key) = public_key {
        let accepts = |given: &[u8]| Choice::from(u8::from(key.accepts(content, given)));
        given.fold(none, |matched, given| matched | accepts(&given))
    } else {
        let digest = keyed(secret).chain_update(content).finalize().into_bytes();
        given.fold(none, |matched, given| matched | given.ct_eq(&digest))
    }
}

fn check_timestamp(timestamp: &str, now: DateTime<Utc>, tolerance: Duration) -> Result<(), VerifyError> {
    // Digits only: a sign or a dot could shift what is signed.
    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(VerifyError::MalformedTimestamp);
    }
    let seconds: i64 = timestamp.parse().map_err(|_| VerifyError::MalformedTimestamp)?;
    let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
    let age = now.timestamp().saturating_sub(seconds);
    if age > tolerance {
        Err(VerifyError::TooOld)
    } else if age < -tolerance {
        Err(VerifyError::TooNew)
    } else {
        Ok(())
    }
}
