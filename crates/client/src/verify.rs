//! What a receiver does with a request before it believes it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::signing::{
    InvalidSecret, SignatureScheme, SignedHeaders, SigningKey, SigningSecret, VerificationKey, VerifyError,
    hex_signature, verify,
};
use subtle::{Choice, ConstantTimeEq};

/// How far the timestamp of a request may be from now, unless told otherwise.
const TOLERANCE: Duration = Duration::from_mins(5);
/// What is added to the name of a plain signature's header for the secret before a rotation.
const PREVIOUS: &str = "-previous";

/// Verifies requests with the secrets and public keys of one endpoint.
///
/// ```
/// use cuitty_webhooks_client::Verifier;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Both secrets while one is being rotated; `whpk_…` for an endpoint that signs with ed25519.
/// let verifier = Verifier::new(["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])?;
/// let headers = [
///     ("webhook-id", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
///     ("webhook-timestamp", "1649367553"),
///     ("webhook-signature", "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
/// ];
/// let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
/// let body = br#"{"email":"test@example.com","username":"test_user"}"#;
/// # let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_649_367_553);
///
/// let verified = verifier.verify(header, body, now)?;
/// assert_eq!(verified.id, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<VerificationKey>,
    tolerance: Duration,
}

/// A request that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<'a> {
    /// `webhook-id`: the same when the message comes again, by which to drop what was taken before.
    pub id: &'a str,
    /// `webhook-timestamp`: when it was sent, in seconds since 1970.
    pub timestamp: i64,
}

/// Why a request is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// A header is missing, or is not text.
    #[error("header {0} is missing")]
    MissingHeader(String),
    /// Headers, time, or signature are not right.
    #[error(transparent)]
    Standard(#[from] VerifyError),
    /// The plain signature is not the hex of 32 bytes.
    #[error("header {0} must be the hex of an HMAC-SHA256: 64 digits")]
    MalformedHex(String),
    /// There is no secret that makes plain signatures: ed25519 keys do not.
    #[error("none of the keys is a shared secret")]
    NoSecret,
    /// The plain signature is made with another secret, or the body was altered.
    #[error("header {0} does not match")]
    PlainMismatch(String),
}

impl Verifier {
    /// With these secrets (`whsec_…`) and public keys (`whpk_…`); any one of them will do.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidSecret> {
        let keys = keys.into_iter().map(VerificationKey::parse);
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            tolerance: TOLERANCE,
        })
    }

    /// With another tolerance than 5 minutes: how old, or how far in the future, a request may be.
    #[must_use]
    pub fn tolerance(self, tolerance: Duration) -> Self {
        Self { tolerance, ..self }
    }

    /// Checks the Standard Webhooks headers of a request against its body, the exact bytes that arrived. `header` gives the
    /// value of a header by its name in lower case; `now` is what the clock says.
    ///
    /// The time taken tells nothing about secrets and signatures.
    pub fn verify<'a>(
        &self,
        header: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
        now: impl Into<DateTime<Utc>>,
    ) -> Result<Verified<'a>, NotVerified> {
        let required = |name: &str| header(name).ok_or_else(|| NotVerified::MissingHeader(name.to_owned()));
        let headers = SignedHeaders {
            id: required("webhook-id")?,
            timestamp: required("webhook-timestamp")?,
            signature: required("webhook-signature")?,
        };
        verify(headers, body, &self.keys, now.into(), self.tolerance)?;
        let timestamp = headers.timestamp.parse();
        Ok(Verified {
            id: headers.id,
            timestamp: timestamp.map_err(|_| VerifyError::MalformedTimestamp)?,
        })
    }

    /// Checks the plain signature of a request, in the header that the endpoint's `signature_header` names, or, during a
    /// rotation, in the one with `-previous` after that name. It covers the body alone: an old request, sent again, passes.
    pub fn verify_plain<'a>(
        &self,
        name: &str,
        header: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
    ) -> Result<(), NotVerified> {
        let secrets: Vec<SigningKey> = self.secrets().map(SigningKey::new).collect();
        if secrets.is_empty() {
            return Err(NotVerified::NoSecret);
        }
        let name = name.to_ascii_lowercase();
        let given = [header(&name), header(&format!("{name}{PREVIOUS}"))];
        let mut matched = Choice::from(0);
        for given in given.iter().flatten() {
            let given = given.to_ascii_lowercase();
            if given.len() != 64 || !given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(NotVerified::MalformedHex(name));
            }
            for expected in secrets.iter().filter_map(|key| hex_signature(key, body)) {
                matched |= given.as_bytes().ct_eq(expected.as_bytes());
            }
        }
        if given == [None, None] {
            Err(NotVerified::MissingHeader(name))
        } else if bool::from(matched) {
            Ok(())
        } else {
            Err(NotVerified::PlainMismatch(name))
        }
    }

    /// The shared secrets among the keys.
    fn secrets(&self) -> impl Iterator<Item = &SigningSecret> {
        self.keys.iter().filter_map(|key| match key {
            VerificationKey::Secret(secret) if secret.scheme() == SignatureScheme::HmacSha256 => Some(secret),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
