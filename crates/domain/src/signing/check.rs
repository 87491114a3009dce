//! Checking afterwards whether an attempt was signed as its record says.

use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::verify::{matches, signed_content};
use super::{SignatureScheme, SigningKey, VerificationKey, hex_signature};
use crate::attempt::AttemptRequest;
use crate::ids::SecretId;

/// The header of the Standard Webhooks signatures.
const SIGNATURE: &str = "webhook-signature";

/// Whether one stored signature of an attempt matches what is stored of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureCheck {
    /// The secret that signed, by the attempt's record.
    pub secret_id: SecretId,
    /// How it signs; `None` when the secret is gone.
    pub scheme: Option<SignatureScheme>,
    /// The header that holds the signature, in lower case.
    pub header: String,
    /// Whether it matches, or why that cannot be told.
    pub valid: Result<bool, Unverifiable>,
}

/// Why it cannot be told whether a signature matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverifiable {
    /// The endpoint does not know the secret any more.
    SecretGone,
    /// The symmetric secret does not open: its sealing key is not in the ring.
    SecretSealed,
}

impl Unverifiable {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SecretGone => "secret_gone",
            Self::SecretSealed => "secret_sealed",
        }
    }
}

/// Checks every signature that an attempt's record says was sent: that of each secret in `webhook-signature`, and the plain
/// ones in `signature_header`, the endpoint's header for them, as far as the request carried it.
///
/// `bodies` are the forms in which the body may have been sent: a signature of any of them matches. `key` gives the secret
/// of an id, live or retired, or of an asymmetric one the public key.
pub fn check_signatures(
    request: &AttemptRequest,
    bodies: &[Bytes],
    signature_header: Option<&str>,
    key: impl Fn(SecretId) -> Result<VerificationKey, Unverifiable>,
) -> Vec<SignatureCheck> {
    let stored = |name: &str| {
        let header = request.headers.iter().find(|header| header.name == name);
        header.map_or("", |header| header.value.as_str())
    };
    let (id, timestamp) = (stored("webhook-id"), stored("webhook-timestamp"));
    let contents: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| signed_content(id, timestamp, body))
        .collect();
    let signed_with: Vec<_> = request.signed_with.iter().map(|&id| (id, key(id))).collect();

    let standard = signed_with.iter().map(|(id, key)| {
        let is_signed = |key: &VerificationKey| {
            let matches = |content: &Vec<u8>| bool::from(matches(stored(SIGNATURE), content, key));
            contents.iter().any(matches)
        };
        check(*id, key, SIGNATURE.to_owned(), is_signed)
    });
    // The plain signatures are those of the two newest symmetric secrets.
    let symmetric = signed_with
        .iter()
        .filter(|(_, key)| scheme_of(key) != Some(SignatureScheme::Ed25519));
    let names = signature_header.map(str::to_ascii_lowercase).map(|name| {
        let previous = format!("{name}-previous");
        [name, previous]
    });
    let plain = names
        .into_iter()
        .flatten()
        .zip(symmetric)
        .filter(|(name, _)| !stored(name).is_empty())
        .map(|(name, (id, key))| {
            let value = stored(&name).to_owned();
            check(*id, key, name, |key| {
                bodies.iter().any(|body| is_plain(&value, key, body))
            })
        });
    standard.chain(plain).collect()
}

fn check(
    secret_id: SecretId,
    key: &Result<VerificationKey, Unverifiable>,
    header: String,
    is_signed: impl Fn(&VerificationKey) -> bool,
) -> SignatureCheck {
    SignatureCheck {
        secret_id,
        scheme: scheme_of(key),
        header,
        valid: key.as_ref().map(is_signed).map_err(|reason| *reason),
    }
}

/// How a secret signs. One that does not open is symmetric: of the others the public key is enough.
fn scheme_of(key: &Result<VerificationKey, Unverifiable>) -> Option<SignatureScheme> {
    match key {
        Ok(key) => Some(key.scheme()),
        Err(Unverifiable::SecretSealed) => Some(SignatureScheme::HmacSha256),
        Err(Unverifiable::SecretGone) => None,
    }
}

/// Whether `value` is the plain signature of `body`.
fn is_plain(value: &str, key: &VerificationKey, body: &[u8]) -> bool {
    let VerificationKey::Secret(secret) = key else {
        return false;
    };
    let expected = hex_signature(&SigningKey::new(secret), body);
    expected.is_some_and(|expected| expected.as_bytes().ct_eq(value.as_bytes()).into())
}

#[cfg(test)]
mod tests;
