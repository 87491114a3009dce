//! Signatures by Standard Webhooks 1.0, symmetric, and the plain hex HMAC of the body that older receivers know.
//!
//! The signed content is `{webhook-id}.{webhook-timestamp}.{body}`, keyed with the secret's bytes. The plain form signs
//! the body alone, keyed with the secret's text as it is shown.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

type HmacSha256 = Hmac<Sha256>;

/// What the text of a secret starts with.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a secret, fewest and most.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of a generated secret.
const GENERATED_BYTES: usize = 32;
/// Version tag of a symmetric signature.
const VERSION: &str = "v1,";
/// Bytes of one signature in the header: the tag and 32 bytes in base64.
const SIGNATURE_LEN: usize = VERSION.len() + 44;

/// Secrets come from other systems too, not all of which pad.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A text is not a signing secret. Says what it must be, never what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `whsec_` and the base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

/// A symmetric signing secret: 24 to 64 bytes, wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl SigningSecret {
    /// A new secret of 32 bytes from `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new(vec![0; GENERATED_BYTES]);
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The secret of `text`: standard base64 of 24 to 64 bytes, padded or not, with or without `whsec_` before it.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        // On the stack and of one size, so that no reallocation leaves a copy behind.
        let mut buffer = Zeroizing::new([0; 72]);
        let len = LENIENT
            .decode_slice(encoded, buffer.as_mut_slice())
            .map_err(|_| InvalidSecret)?;
        Self::from_bytes(&buffer[..len])
    }

    /// The secret of these bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(InvalidSecret);
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret's text, `whsec_` and base64. For the one answer that shows it.
    pub fn expose(&self) -> Zeroizing<String> {
        // Sized up front, so that no reallocation leaves a copy behind.
        let mut text = String::with_capacity(SECRET_PREFIX.len() + self.0.len().div_ceil(3) * 4);
        text.push_str(SECRET_PREFIX);
        STANDARD.encode_string(self.0.as_slice(), &mut text);
        Zeroizing::new(text)
    }
}

impl PartialEq for SigningSecret {
    /// In time that depends on the lengths only.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

/// A secret made ready to sign: the keyed HMAC states, computed once and copied for each signature.
///
/// As secret as the secret itself; wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningKey {
    /// Keyed with the secret's bytes.
    bytes: HmacSha256,
    /// Keyed with the secret's text.
    text: HmacSha256,
}

impl SigningKey {
    /// The key of `secret`.
    pub fn new(secret: &SigningSecret) -> Self {
        Self {
            bytes: keyed(secret.as_bytes()),
            text: keyed(secret.expose().as_bytes()),
        }
    }

    /// The Standard Webhooks signature, without its version tag and encoding.
    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> [u8; 32] {
        let mut mac = self.bytes.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The value of `webhook-signature`: one `v1,<base64>` per key, in their order, separated by spaces.
///
/// `timestamp` is the value of `webhook-timestamp`, in seconds since 1970; `body` the exact bytes sent.
pub fn sign_header<'a>(
    id: &str,
    timestamp: i64,
    body: &[u8],
    keys: impl IntoIterator<Item = &'a SigningKey>,
) -> String {
    let keys = keys.into_iter();
    let timestamp = timestamp.to_string();
    let mut header = String::with_capacity((SIGNATURE_LEN + 1) * keys.size_hint().0.max(1));
    for key in keys {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str(VERSION);
        STANDARD.encode_string(key.sign(id, &timestamp, body), &mut header);
    }
    header
}

/// The plain signature: lower-case hex HMAC-SHA256 of `body`, keyed with the secret's text as it is shown.
pub fn hex_signature(key: &SigningKey, body: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = key.text.clone().chain_update(body).finalize().into_bytes();
    let mut hex = String::with_capacity(2 * digest.len());
    for byte in digest {
        hex.push(DIGITS[usize::from(byte >> 4)].into());
        hex.push(DIGITS[usize::from(byte & 15)].into());
    }
    hex
}

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
    /// `webhook-signature` holds no signature of version 1.
    #[error("webhook-signature must hold a v1 signature")]
    NoSignature,
    /// No signature is one of ours: another secret, or the request was altered.
    #[error("webhook-signature does not match")]
    Mismatch,
}

/// Checks that a request was signed with one of `secrets`, no more than `tolerance` before or after `now`.
///
/// Every signature is compared with every secret's in full, so the time taken tells nothing about either.
pub fn verify(
    headers: SignedHeaders<'_>,
    body: &[u8],
    secrets: &[SigningSecret],
    now: DateTime<Utc>,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    if headers.id.is_empty() || headers.id.contains('.') {
        return Err(VerifyError::MalformedId);
    }
    check_timestamp(headers.timestamp, now, tolerance)?;

    let mut versioned = headers
        .signature
        .split_ascii_whitespace()
        .filter_map(|entry| entry.strip_prefix(VERSION))
        .peekable();
    if versioned.peek().is_none() {
        return Err(VerifyError::NoSignature);
    }
    let expected: Vec<[u8; 32]> = secrets
        .iter()
        .map(|secret| SigningKey::new(secret).sign(headers.id, headers.timestamp, body))
        .collect();
    let mut matched = Choice::from(0);
    for encoded in versioned {
        let Ok(given) = STANDARD.decode(encoded) else {
            continue;
        };
        for digest in &expected {
            matched |= given.ct_eq(digest);
        }
    }
    if bool::from(matched) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch)
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

#[cfg(test)]
mod tests;
