//! Typed ids: a prefix and a UUID in lower-case Crockford base32, as the TypeID specification 0.3 says.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rand::Rng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Crockford base32 in lower case.
pub(crate) const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of an encoded UUID: 128 bits in groups of 5, the first one holding 3.
const SUFFIX_LEN: usize = 26;

/// A text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an id of the form {prefix}_ and 26 characters")]
pub struct InvalidId {
    /// The prefix that was expected, without the underscore.
    pub prefix: &'static str,
}

fn encode(uuid: Uuid) -> [u8; SUFFIX_LEN] {
    let mut bits = uuid.as_u128();
    let mut text = [0; SUFFIX_LEN];
    for slot in text.iter_mut().rev() {
        *slot = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
    text
}

fn decode(text: &str) -> Option<Uuid> {
    if text.len() != SUFFIX_LEN || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes()
        .try_fold(0u128, |bits, byte| {
            let digit = ALPHABET.iter().position(|&known| known == byte)?;
            Some(bits << 5 | digit as u128)
        })
        .map(Uuid::from_u128)
}

fn uuid_v7(now: DateTime<Utc>, rng: &mut impl Rng) -> Uuid {
    let mut random = [0; 10];
    rng.fill_bytes(&mut random);
    let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What the id's text starts with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: UUIDv7 of `now` and `rng`, so ids sort by their time of creation to the millisecond.
            pub fn new(now: DateTime<Utc>, rng: &mut impl Rng) -> Self {
                Self(uuid_v7(now, rng))
            }

            /// The id as 128 bits.
            pub fn uuid(self) -> Uuid {
                self.0
            }

            /// The id of these 128 bits.
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let suffix = encode(self.0);
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&suffix).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(InvalidId { prefix: $prefix })
            }
        }
    };
}

typed_id!(
    /// Names an endpoint.
    EndpointId, "ep"
);
typed_id!(
    /// Names a message; sent as `webhook-id`, the same on every attempt and replay.
    MessageId, "msg"
);
typed_id!(
    /// Names a delivery: one message to one endpoint.
    DeliveryId, "dlv"
);
typed_id!(
    /// Names a signing secret.
    SecretId, "sec"
);
typed_id!(
    /// Names an API key.
    ApiKeyId, "key"
);
typed_id!(
    /// Names a bulk replay.
    ReplayId, "rpl"
);

impl DeliveryId {
    /// The delivery of `message` to `endpoint`: always the same id, so that a request repeated after a crash appends
    /// the same deliveries. The time bits are the message's, so the id sorts beside it.
    pub fn derive(message: MessageId, endpoint: EndpointId) -> Self {
        Self(derived(message.0, &[endpoint.0.as_bytes()]))
    }

    /// The delivery that `replay` makes of `original`: always the same id, however often the replay is taken up again. The
    /// time bits are the replay's.
    pub fn replayed(replay: ReplayId, original: Self) -> Self {
        Self(derived(replay.0, &[b"delivery", original.0.as_bytes()]))
    }

    /// The delivery that `replay` makes of a `message` which no endpoint had subscribed to: always the same id.
    pub fn fanned_out(replay: ReplayId, message: MessageId, endpoint: EndpointId) -> Self {
        let parts: [&[u8]; 3] = [b"message", message.0.as_bytes(), endpoint.0.as_bytes()];
        Self(derived(replay.0, &parts))
    }
}

impl EndpointId {
    /// The endpoint that the request with this id creates: always the same id, so that a request repeated after a crash
    /// creates the same endpoint. The time bits are the request's.
    pub fn created_by(request: MessageId) -> Self {
        Self(derived(request.0, &[b"endpoint"]))
    }
}

impl SecretId {
    /// The secret that the request with this id makes: always the same id.
    pub fn created_by(request: MessageId) -> Self {
        Self(derived(request.0, &[b"secret"]))
    }
}

/// A UUIDv7 with the time of `head`, and what follows it a hash of `head` and `parts`.
fn derived(head: Uuid, parts: &[&[u8]]) -> Uuid {
    let start = Sha256::new().chain_update(head.as_bytes());
    let digest = parts.iter().fold(start, Sha256::chain_update).finalize();
    let mut bytes = *head.as_bytes();
    bytes[6..].copy_from_slice(&digest[..10]);
    // Version 7, variant 1, as RFC 9562, section 5.7, lays them out.
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn typeid_vectors() {
        // https://github.com/jetify-com/typeid/blob/main/spec/valid.json: "nil", "one", "ten", "max-valid", "uuidv7"
        for (suffix, uuid) in [
            (
                "00000000000000000000000000",
                "00000000-0000-0000-0000-000000000000",
            ),
            (
                "00000000000000000000000001",
                "00000000-0000-0000-0000-000000000001",
            ),
            (
                "0000000000000000000000000a",
                "00000000-0000-0000-0000-00000000000a",
            ),
            (
                "7zzzzzzzzzzzzzzzzzzzzzzzzz",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ),
            (
                "01h455vb4pex5vsknk084sn02q",
                "01890a5d-ac96-774b-bcce-b302099a8057",
            ),
        ] {
            let id = EndpointId::from_uuid(uuid.parse().unwrap());
            assert_eq!(id.to_string(), format!("ep_{suffix}"));
            assert_eq!(format!("ep_{suffix}").parse(), Ok(id));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "ep_",
            "ep",
            "01h455vb4pex5vsknk084sn02q",
            "msg_01h455vb4pex5vsknk084sn02q",
            "ep_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "ep_01H455VB4PEX5VSKNK084SN02Q",
            "ep_01h455vb4pex5vsknk084sn02",
            "ep_01h455vb4pex5vsknk084sn02qq",
            "ep_01h455vb4pex5vsknk084sn02l",
            "ep_ééééééééééééé",
        ] {
            assert_eq!(
                text.parse::<EndpointId>(),
                Err(InvalidId { prefix: "ep" }),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(bits: u128) {
            let id = DeliveryId::from_uuid(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<DeliveryId>();
        }

        #[test]
        fn derived_ids_are_stable_v7_ids_beside_their_message(seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let now = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
            let message = MessageId::new(now, &mut rng);
            let (a, b) = (EndpointId::new(now, &mut rng), EndpointId::new(now, &mut rng));
            prop_assert_eq!(DeliveryId::derive(message, a), DeliveryId::derive(message, a));
            prop_assert_ne!(DeliveryId::derive(message, a), DeliveryId::derive(message, b));
            prop_assert_eq!(DeliveryId::derive(message, a).uuid().get_version_num(), 7);
            prop_assert_eq!(&DeliveryId::derive(message, a).to_string()[4..13], &message.to_string()[4..13]);
        }

        #[test]
        fn what_a_replay_makes_has_ids_of_its_own_that_stay_the_same(seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let now = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
            let (replay, other) = (ReplayId::new(now, &mut rng), ReplayId::new(now, &mut rng));
            let (message, endpoint) = (MessageId::new(now, &mut rng), EndpointId::new(now, &mut rng));
            let original = DeliveryId::derive(message, endpoint);
            let made = [
                original,
                DeliveryId::replayed(replay, original),
                DeliveryId::replayed(other, original),
                DeliveryId::replayed(replay, DeliveryId::replayed(replay, original)),
                DeliveryId::fanned_out(replay, message, endpoint),
                DeliveryId::fanned_out(other, message, endpoint),
            ];
            let distinct: std::collections::HashSet<_> = made.into_iter().collect();
            prop_assert_eq!(distinct.len(), made.len());
            prop_assert_eq!(DeliveryId::replayed(replay, original), made[1]);
            prop_assert_eq!(DeliveryId::fanned_out(replay, message, endpoint), made[4]);
            prop_assert!(made.iter().all(|id| id.uuid().get_version_num() == 7));
            prop_assert_eq!(&made[1].to_string()[4..13], &replay.to_string()[4..13]);
        }

        #[test]
        fn what_a_request_creates_has_the_same_ids_each_time(seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let now = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
            let (request, other) = (MessageId::new(now, &mut rng), MessageId::new(now, &mut rng));
            let endpoint = EndpointId::created_by(request);
            prop_assert_eq!(EndpointId::created_by(request), endpoint);
            prop_assert_ne!(EndpointId::created_by(other), endpoint);
            prop_assert_ne!(SecretId::created_by(request).uuid(), endpoint.uuid());
            prop_assert_eq!(SecretId::created_by(request).uuid().get_version_num(), 7);
            prop_assert_eq!(&endpoint.to_string()[3..12], &request.to_string()[4..13]);
        }
    }
}
