//! Signing secrets under a key ring: what the log stores of them.
//!
//! XChaCha20-Poly1305; the nonce is random, 192 bits make a repeat negligible. The associated data is
//! `<endpoint id>/<secret id>`, and `/ed25519` after it for a key of that scheme, so a sealed secret opens only where and as
//! what it was made for.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use rand::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use crate::ids::{EndpointId, SecretId};
use crate::signing::{PublicKey, SignatureScheme, SigningSecret};

/// Bytes of a sealing key.
const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 24;
/// Longest id of a sealing key, in bytes.
const KEY_ID_BYTES: usize = 64;

/// A signing secret as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The key of the ring that sealed it.
    pub sealing_key_id: String,
    /// Drawn anew for each sealing.
    pub nonce: [u8; NONCE_BYTES],
    /// The secret's bytes (of an ed25519 key the seed) and the 16 bytes of their tag.
    pub ciphertext: Vec<u8>,
    /// The public key that belongs to it; `None` for a symmetric secret.
    pub public_key: Option<PublicKey>,
}

impl SealedSecret {
    /// How the secret signs.
    pub fn scheme(&self) -> SignatureScheme {
        match self.public_key {
            None => SignatureScheme::HmacSha256,
            Some(_) => SignatureScheme::Ed25519,
        }
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSecret")
            .field("sealing_key_id", &self.sealing_key_id)
            .finish_non_exhaustive()
    }
}

/// Why a key ring cannot be made or a secret not opened. Names keys, never their material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Nothing could be sealed.
    #[error("the key ring must hold at least one key")]
    NoKey,
    /// A key's id cannot be stored.
    #[error("a sealing key's id must be 1 to {KEY_ID_BYTES} letters, digits, `_`, `-` or `.`")]
    InvalidKeyId,
    /// It would not be known which of them opens.
    #[error("sealing key `{0}` is given twice")]
    DuplicateKey(String),
    /// A key is of another length or not base64.
    #[error("sealing key `{0}` must be the base64 of {KEY_BYTES} bytes")]
    InvalidKey(String),
    /// The secret was sealed with a key that the ring does not hold: add it.
    #[error("the key ring does not hold sealing key `{0}`")]
    UnknownKey(String),
    /// The sealed bytes were altered or belong elsewhere, or the ring holds another key of the same id.
    #[error("a secret sealed with key `{0}` does not open: it was altered, moved, or the key is another one")]
    Tampered(String),
}

/// The keys that seal secrets: the first one seals, all of them open. Cheap to clone; wiped when the last clone drops.
#[derive(Clone)]
pub struct KeyRing(Arc<[SealingKey]>);

struct SealingKey {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl KeyRing {
    /// A ring of these keys, by id, in the order given. The bytes are wiped.
    pub fn new(mut keys: Vec<(String, [u8; KEY_BYTES])>) -> Result<Self, SealError> {
        let ring = Self::build(keys.iter().map(|(id, key)| (id.as_str(), key)));
        for (_, key) in &mut keys {
            key.zeroize();
        }
        ring
    }

    /// A ring of keys as configured: pairs of an id and the standard base64 of 32 bytes.
    pub fn parse(keys: &[(impl AsRef<str>, impl AsRef<str>)]) -> Result<Self, SealError> {
        let mut parsed = Vec::with_capacity(keys.len());
        for (id, text) in keys {
            let key =
                decode_key(text.as_ref()).ok_or_else(|| SealError::InvalidKey(id.as_ref().to_owned()))?;
            parsed.push((id.as_ref(), key));
        }
        Self::build(parsed.iter().map(|(id, key)| (*id, &**key)))
    }

    fn build<'a>(keys: impl Iterator<Item = (&'a str, &'a [u8; KEY_BYTES])>) -> Result<Self, SealError> {
        let mut ring: Vec<SealingKey> = Vec::new();
        for (id, key) in keys {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            if id.is_empty() || id.len() > KEY_ID_BYTES || !id.bytes().all(is_allowed) {
                return Err(SealError::InvalidKeyId);
            }
            if ring.iter().any(|known| known.id == id) {
                return Err(SealError::DuplicateKey(id.to_owned()));
            }
            ring.push(SealingKey {
                id: id.to_owned(),
                cipher: XChaCha20Poly1305::new(key.into()),
            });
        }
        if ring.is_empty() {
            Err(SealError::NoKey)
        } else {
            Ok(Self(ring.into()))
        }
    }

    /// Whether it has a key of this id.
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// A new key from `rng`, in the form that [`KeyRing::parse`] takes.
    pub fn generate_key(rng: &mut impl CryptoRng) -> Zeroizing<String> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(key.as_mut_slice());
        Zeroizing::new(STANDARD.encode(key.as_slice()))
    }

    /// Seals `secret` with the first key, for this place only.
    pub fn seal(
        &self,
        secret: &SigningSecret,
        endpoint_id: EndpointId,
        secret_id: SecretId,
        rng: &mut impl CryptoRng,
    ) -> SealedSecret {
        let key = &self.0[0];
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let aad = associated_data(endpoint_id, secret_id, secret.scheme());
        let ciphertext = key
            .cipher
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: secret.as_bytes(),
                    aad: aad.as_bytes(),
                },
            )
            .expect("a secret is far below the cipher's limit of 256 GiB");
        SealedSecret {
            sealing_key_id: key.id.clone(),
            nonce,
            ciphertext,
            public_key: secret.public_key(),
        }
    }

    /// Opens a secret that was sealed for this place.
    pub fn open(
        &self,
        sealed: &SealedSecret,
        endpoint_id: EndpointId,
        secret_id: SecretId,
    ) -> Result<SigningSecret, SealError> {
        let id = &sealed.sealing_key_id;
        let key = self
            .0
            .iter()
            .find(|key| key.id == *id)
            .ok_or_else(|| SealError::UnknownKey(id.clone()))?;
        let aad = associated_data(endpoint_id, secret_id, sealed.scheme());
        let bytes = key
            .cipher
            .decrypt(
                &sealed.nonce.into(),
                Payload {
                    msg: &sealed.ciphertext,
                    aad: aad.as_bytes(),
                },
            )
            .map(Zeroizing::new)
            .map_err(|_| SealError::Tampered(id.clone()))?;
        // A public key that is not the secret's own would be shown to receivers.
        SigningSecret::from_bytes(sealed.scheme(), &bytes)
            .ok()
            .filter(|secret| secret.public_key() == sealed.public_key)
            .ok_or_else(|| SealError::Tampered(id.clone()))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|key| key.id.as_str()).collect();
        f.debug_tuple("KeyRing").field(&ids).finish()
    }
}

fn decode_key(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    // On the stack and one byte longer, as base64 decodes in groups of three.
    let mut buffer = Zeroizing::new([0; KEY_BYTES + 1]);
    let len = STANDARD.decode_slice(text.trim(), buffer.as_mut_slice()).ok()?;
    buffer[..len].try_into().ok().map(Zeroizing::new)
}

fn associated_data(endpoint_id: EndpointId, secret_id: SecretId, scheme: SignatureScheme) -> String {
    match scheme {
        SignatureScheme::HmacSha256 => format!("{endpoint_id}/{secret_id}"),
        SignatureScheme::Ed25519 => format!("{endpoint_id}/{secret_id}/ed25519"),
    }
}

#[cfg(test)]
mod tests;
