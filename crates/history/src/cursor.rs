//! Where a list goes on: an opaque keyset cursor.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cuitty_webhooks_domain::ids::DeliveryId;
use sqlx::types::Uuid;

/// Layout of the bytes under the base64: this, the time (8 bytes, big-endian), the id (16 bytes).
const VERSION: u8 = 1;

/// The last delivery of a page; the next page holds what is older. As text it is opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Microseconds since the Unix epoch.
    pub(crate) created_at: i64,
    pub(crate) id: Uuid,
}

/// A text is not a cursor that this store has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a cursor of an earlier page")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [VERSION; 25];
        bytes[1..9].copy_from_slice(&self.created_at.to_be_bytes());
        bytes[9..].copy_from_slice(self.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let [VERSION, rest @ ..] = bytes.as_slice() else {
            return Err(InvalidCursor);
        };
        let (created_at, id) = rest.split_first_chunk().ok_or(InvalidCursor)?;
        Ok(Self {
            created_at: i64::from_be_bytes(*created_at),
            id: Uuid::from_slice(id).map_err(|_| InvalidCursor)?,
        })
    }
}

impl Cursor {
    pub(crate) fn after(id: DeliveryId, created_at: chrono::DateTime<chrono::Utc>) -> Self {
        Self {
            created_at: created_at.timestamp_micros(),
            id: id.uuid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_texts_are_refused() {
        let valid = Cursor {
            created_at: 1,
            id: Uuid::nil(),
        }
        .to_string();
        assert_eq!(valid.len(), 34);
        for text in [
            "",
            "AQ",
            "not base64!",
            &valid[1..],
            &format!("{valid}AA"),
            &format!("{valid}="),
            &valid.replacen("AQ", "Ag", 1),
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(created_at: i64, id: u128) {
            let cursor = Cursor { created_at, id: Uuid::from_u128(id) };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
