//! Signatures by Standard Webhooks 1.0, symmetric and asymmetric, and the plain hex HMAC of the body that older receivers
//! know.
//!
//! The signed content is `{webhook-id}.{webhook-timestamp}.{body}`: with the secret's bytes as the key of an HMAC-SHA256
//! (`v1`), or with an ed25519 key (`v1a`). The plain form signs the body alone, keyed with the symmetric secret's text as it
//! is shown.

mod check;
mod secret;
mod verify;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use self::check::{SignatureCheck, Unverifiable, check_signatures};
use self::secret::Material;
pub use self::secret::{
    InvalidPublicKey, InvalidScheme, InvalidSecret, PublicKey, SignatureScheme, SigningSecret,
};
pub use self::verify::{SignedHeaders, VerificationKey, VerifyError, verify};

type HmacSha256 = Hmac<Sha256>;

/// Bytes of the longest signature in the header: the tag and 64 bytes in base64.
const SIGNATURE_LEN: usize = "v1a,".len() + 88;

/// A secret made ready to sign: the keyed HMAC states, computed once and copied for each signature, or the ed25519 key.
///
/// As secret as the secret itself; wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningKey(Ready);

#[derive(Clone)]
enum Ready {
    Symmetric {
        /// Keyed with the secret's bytes.
        bytes: HmacSha256,
        /// Keyed with the secret's text.
        text: HmacSha256,
    },
    Ed25519(ed25519_dalek::SigningKey),
}

impl SigningKey {
    /// The key of `secret`.
    pub fn new(secret: &SigningSecret) -> Self {
        Self(match secret.material() {
            Material::Symmetric(bytes) => Ready::Symmetric {
                bytes: keyed(bytes),
                text: keyed(secret.expose().as_bytes()),
            },
            Material::Ed25519(key) => Ready::Ed25519((**key).clone()),
        })
    }

    /// Appends the Standard Webhooks signature, with its tag.
    fn sign(&self, id: &str, timestamp: &str, body: &[u8], header: &mut String) {
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        match &self.0 {
            Ready::Symmetric { bytes, .. } => {
                let mut mac = bytes.clone();
                for part in parts {
                    mac.update(part);
                }
                header.push_str(SignatureScheme::HmacSha256.tag());
                STANDARD.encode_string(mac.finalize().into_bytes(), header);
            }
            Ready::Ed25519(key) => {
                header.push_str(SignatureScheme::Ed25519.tag());
                // ed25519 reads what it signs twice, so it must lie in one piece.
                STANDARD.encode_string(key.sign(&parts.concat()).to_bytes(), header);
            }
        }
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

/// The value of `webhook-signature`: one `v1,<base64>` or `v1a,<base64>` per key, in their order, separated by spaces.
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
        key.sign(id, &timestamp, body, &mut header);
    }
    header
}

/// The plain signature: lower-case hex HMAC-SHA256 of `body`, keyed with the secret's text as it is shown. `None` with an
/// ed25519 key, which makes none.
pub fn hex_signature(key: &SigningKey, body: &[u8]) -> Option<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let Ready::Symmetric { text, .. } = &key.0 else {
        return None;
    };
    let digest = text.clone().chain_update(body).finalize().into_bytes();
    let mut hex = String::with_capacity(2 * digest.len());
    for byte in digest {
        hex.push(DIGITS[usize::from(byte >> 4)].into());
        hex.push(DIGITS[usize::from(byte & 15)].into());
    }
    Some(hex)
}

#[cfg(test)]
mod tests;
