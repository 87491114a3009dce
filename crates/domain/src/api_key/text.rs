//! The text of a key, as its owner holds it: `cwk_`, 52 random characters, 6 check characters.
//!
//! It is found in sources by its prefix, selected by a double click, and what is not one of ours is refused before anything
//! is looked up.

use std::fmt;

use rand::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::ids::ALPHABET;

/// What every key starts with.
const PREFIX: &str = "cwk_";
/// Random characters of 5 bits each: 260 bits.
const SECRET_CHARS: usize = 52;
/// Check characters of 5 bits each.
const CHECK_CHARS: usize = 6;
const LEN: usize = PREFIX.len() + SECRET_CHARS + CHECK_CHARS;

/// A text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a key as it was shown: `cwk_` and 58 characters")]
pub struct InvalidKey;

/// A key's text. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct KeyText(Zeroizing<String>);

impl KeyText {
    /// A new key of 260 random bits.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut random = Zeroizing::new([0; SECRET_CHARS]);
        rng.fill_bytes(&mut *random);
        // Never grown: growing would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(LEN));
        text.push_str(PREFIX);
        text.extend(random.iter().map(|&byte| character(byte)));
        let check = check(text.as_bytes());
        text.extend(check);
        Self(text)
    }

    /// The text, to be shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(..)")
    }
}

/// The SHA-256 of a key's text: all that is kept of it. A key is random enough to need no salt and no slow hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a text that is well formed, whether or not such a key was ever made.
    pub fn of(text: &[u8]) -> Result<Self, InvalidKey> {
        let (body, check_chars) = text
            .split_at_checked(LEN - CHECK_CHARS)
            .filter(|_| text.len() == LEN)
            .ok_or(InvalidKey)?;
        let secret = body.strip_prefix(PREFIX.as_bytes()).ok_or(InvalidKey)?;
        let is_ours = secret.iter().all(|byte| ALPHABET.contains(byte))
            && check(body)
                .zip(check_chars)
                .all(|(c, &byte)| c == char::from(byte));
        if is_ours {
            Ok(Self(Sha256::digest(text).into()))
        } else {
            Err(InvalidKey)
        }
    }

    /// The digest as it is stored.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest that was stored.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

/// The check characters of what stands before them.
fn check(body: &[u8]) -> impl Iterator<Item = char> + use<> {
    Sha256::digest(body).into_iter().take(CHECK_CHARS).map(character)
}

/// 32 divides 256: every character is as likely.
fn character(byte: u8) -> char {
    char::from(ALPHABET[usize::from(byte & 31)])
}
