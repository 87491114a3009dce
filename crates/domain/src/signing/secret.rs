//! Signing secrets and public keys, and their texts.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use rand::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What the text of a symmetric secret starts with.
const SYMMETRIC_PREFIX: &str = "whsec_";
/// What the text of an ed25519 key starts with.
const PRIVATE_PREFIX: &str = "whsk_";
/// What the text of an ed25519 public key starts with.
const PUBLIC_PREFIX: &str = "whpk_";
/// Bytes of a symmetric secret, fewest and most.
pub(super) const SYMMETRIC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of a generated secret, and of the seed of an ed25519 key.
const GENERATED_BYTES: usize = 32;

/// Secrets come from other systems too, not all of which pad.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a secret signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// HMAC-SHA256 with a secret that the receiver knows too: `v1`.
    HmacSha256,
    /// ed25519; the receiver knows the public key only: `v1a`.
    Ed25519,
}

/// A text is not the name of a signature scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `hmac-sha256` or `ed25519`")]
pub struct InvalidScheme;

impl SignatureScheme {
    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::HmacSha256, Self::Ed25519];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// What its signatures start with in `webhook-signature`.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::HmacSha256 => "v1,",
            Self::Ed25519 => "v1a,",
        }
    }
}

impl FromStr for SignatureScheme {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Self, InvalidScheme> {
        let named = Self::ALL.into_iter().find(|scheme| scheme.as_str() == text);
        named.ok_or(InvalidScheme)
    }
}

/// A text is not a signing secret. Says what it must be, never what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and that of an ed25519 seed of 32 bytes"
)]
pub struct InvalidSecret;

/// A signing secret: 24 to 64 bytes for HMAC-SHA256, or an ed25519 private key. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningSecret(Material);

#[derive(Clone)]
pub(super) enum Material {
    Symmetric(Zeroizing<Vec<u8>>),
    /// Boxed, so that a move leaves no copy behind.
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl SigningSecret {
    /// A new symmetric secret of 32 bytes from `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::generate_for(SignatureScheme::HmacSha256, rng)
    }

    /// A new secret of 32 bytes from `rng`.
    pub fn generate_for(scheme: SignatureScheme, rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; GENERATED_BYTES]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self::from_bytes(scheme, bytes.as_slice()).expect("32 bytes are a secret of either scheme")
    }

    /// The secret of `text`, in standard base64, padded or not: 24 to 64 bytes, with or without `whsec_` before it, or
    /// `whsk_` and an ed25519 seed of 32 bytes, which its public key may follow.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let (scheme, encoded) = match text.strip_prefix(PRIVATE_PREFIX) {
            Some(encoded) => (SignatureScheme::Ed25519, encoded),
            None => (
                SignatureScheme::HmacSha256,
                text.strip_prefix(SYMMETRIC_PREFIX).unwrap_or(text),
            ),
        };
        // On the stack and of one size, so that no reallocation leaves a copy behind.
        let mut buffer = Zeroizing::new([0; 72]);
        let len = LENIENT
            .decode_slice(encoded, buffer.as_mut_slice())
            .map_err(|_| InvalidSecret)?;
        Self::from_bytes(scheme, &buffer[..len])
    }

    /// The secret of these bytes. A public key that follows an ed25519 seed must be its own.
    pub(crate) fn from_bytes(scheme: SignatureScheme, bytes: &[u8]) -> Result<Self, InvalidSecret> {
        let material = match scheme {
            SignatureScheme::HmacSha256 if SYMMETRIC_BYTES.contains(&bytes.len()) => {
                Material::Symmetric(Zeroizing::new(bytes.to_vec()))
            }
            SignatureScheme::HmacSha256 => return Err(InvalidSecret),
            SignatureScheme::Ed25519 => Material::Ed25519(Box::new(match bytes.len() {
                64 => {
                    let pair = bytes.try_into().map_err(|_| InvalidSecret)?;
                    ed25519_dalek::SigningKey::from_keypair_bytes(pair).map_err(|_| InvalidSecret)?
                }
                _ => bytes.try_into().map_err(|_| InvalidSecret)?,
            })),
        };
        Ok(Self(material))
    }

    /// The symmetric secret's bytes, or the ed25519 key's seed.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Material::Symmetric(bytes) => bytes,
            Material::Ed25519(key) => key.as_bytes(),
        }
    }

    pub(super) fn material(&self) -> &Material {
        &self.0
    }

    /// How it signs.
    pub fn scheme(&self) -> SignatureScheme {
        match self.0 {
            Material::Symmetric(_) => SignatureScheme::HmacSha256,
            Material::Ed25519(_) => SignatureScheme::Ed25519,
        }
    }

    /// What its signatures are verified with, if that is not the secret itself.
    pub fn public_key(&self) -> Option<PublicKey> {
        match &self.0 {
            Material::Symmetric(_) => None,
            Material::Ed25519(key) => Some(PublicKey(key.verifying_key().to_bytes())),
        }
    }

    /// The secret's text, `whsec_` or `whsk_` and base64. For the one answer that shows it.
    pub fn expose(&self) -> Zeroizing<String> {
        let prefix = match self.scheme() {
            SignatureScheme::HmacSha256 => SYMMETRIC_PREFIX,
            SignatureScheme::Ed25519 => PRIVATE_PREFIX,
        };
        let bytes = self.as_bytes();
        // Sized up front, so that no reallocation leaves a copy behind.
        let mut text = String::with_capacity(prefix.len() + bytes.len().div_ceil(3) * 4);
        text.push_str(prefix);
        STANDARD.encode_string(bytes, &mut text);
        Zeroizing::new(text)
    }
}

impl PartialEq for SigningSecret {
    /// In time that depends on the schemes and lengths only.
    fn eq(&self, other: &Self) -> bool {
        self.scheme() == other.scheme() && bool::from(self.as_bytes().ct_eq(other.as_bytes()))
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

/// A text or bytes are not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `whpk_` and the base64 of the 32 bytes of an ed25519 public key")]
pub struct InvalidPublicKey;

/// An ed25519 public key, as text `whpk_` and base64: what a receiver verifies `v1a` signatures with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these 32 bytes, which must be a point of the curve, and not one under which anybody can sign.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidPublicKey> {
        let bytes = bytes.try_into().map_err(|_| InvalidPublicKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| InvalidPublicKey)?;
        if key.is_weak() {
            return Err(InvalidPublicKey);
        }
        Ok(Self(bytes))
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `signature` is the private key's of `content`.
    pub(super) fn accepts(&self, content: &[u8], signature: &[u8]) -> bool {
        let key = VerifyingKey::from_bytes(&self.0);
        key.and_then(|key| key.verify_strict(content, &Signature::from_slice(signature)?))
            .is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or(InvalidPublicKey)?;
        let bytes = LENIENT.decode(encoded).map_err(|_| InvalidPublicKey)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}
