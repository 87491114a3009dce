use chrono::DateTime;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use zeroize::ZeroizeOnDrop;

use super::*;

struct Fixture {
    rng: StdRng,
    endpoint_id: EndpointId,
    secret_id: SecretId,
    secret: SigningSecret,
}

fn fixture(seed: u64) -> Fixture {
    let mut rng = StdRng::seed_from_u64(seed);
    let now = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
    Fixture {
        endpoint_id: EndpointId::new(now, &mut rng),
        secret_id: SecretId::new(now, &mut rng),
        secret: SigningSecret::generate(&mut rng),
        rng,
    }
}

impl Fixture {
    fn sealed_by(&mut self, ring: &KeyRing) -> SealedSecret {
        ring.seal(&self.secret, self.endpoint_id, self.secret_id, &mut self.rng)
    }

    fn opened_by(&self, ring: &KeyRing, sealed: &SealedSecret) -> Result<SigningSecret, SealError> {
        ring.open(sealed, self.endpoint_id, self.secret_id)
    }
}

fn ring(keys: &[(&str, u8)]) -> KeyRing {
    KeyRing::new(
        keys.iter()
            .map(|&(id, byte)| (id.to_owned(), [byte; KEY_BYTES]))
            .collect(),
    )
    .unwrap()
}

fn tampered(id: &str) -> Result<SigningSecret, SealError> {
    Err(SealError::Tampered(id.into()))
}

#[test]
fn the_first_key_seals_and_all_keys_open() {
    let mut fixture = fixture(1);
    let (old, new) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]));
    let sealed = fixture.sealed_by(&old);
    assert_eq!(sealed.sealing_key_id, "k1");
    assert_eq!(fixture.opened_by(&new, &sealed), Ok(fixture.secret.clone()));
    let sealed = fixture.sealed_by(&new);
    assert_eq!(sealed.sealing_key_id, "k2");
    assert_eq!(fixture.opened_by(&new, &sealed), Ok(fixture.secret.clone()));
}

#[test]
fn a_key_that_the_ring_does_not_hold_is_named() {
    let mut fixture = fixture(1);
    let sealed = fixture.sealed_by(&ring(&[("k2", 2)]));
    let refused = fixture.opened_by(&ring(&[("k1", 1)]), &sealed).unwrap_err();
    assert_eq!(refused, SealError::UnknownKey("k2".into()));
    assert_eq!(refused.to_string(), "the key ring does not hold sealing key `k2`");
}

#[test]
fn another_key_of_the_same_id_does_not_open() {
    let mut fixture = fixture(1);
    let sealed = fixture.sealed_by(&ring(&[("k1", 1)]));
    assert_eq!(fixture.opened_by(&ring(&[("k1", 2)]), &sealed), tampered("k1"));
}

#[test]
fn a_sealed_secret_opens_only_in_its_place() {
    let mut fixture = fixture(1);
    let other = self::fixture(2);
    let ring = ring(&[("k1", 1)]);
    let sealed = fixture.sealed_by(&ring);
    assert_eq!(
        ring.open(&sealed, other.endpoint_id, fixture.secret_id),
        tampered("k1")
    );
    assert_eq!(
        ring.open(&sealed, fixture.endpoint_id, other.secret_id),
        tampered("k1")
    );
}

#[test]
fn every_sealing_draws_a_new_nonce() {
    let mut fixture = fixture(1);
    let ring = ring(&[("k1", 1)]);
    let (one, two) = (fixture.sealed_by(&ring), fixture.sealed_by(&ring));
    assert_ne!(one.nonce, two.nonce);
    assert_ne!(one.ciphertext, two.ciphertext);
}

#[test]
fn rings_are_checked() {
    let key = [7; KEY_BYTES];
    let made = |ids: &[&str]| KeyRing::new(ids.iter().map(|&id| (id.to_owned(), key)).collect()).map(|_| ());
    assert_eq!(made(&[]), Err(SealError::NoKey));
    assert_eq!(made(&["a", "b", "a"]), Err(SealError::DuplicateKey("a".into())));
    for id in ["", "a b", "a/b", "é", &"a".repeat(65)] {
        assert_eq!(made(&[id]), Err(SealError::InvalidKeyId), "{id}");
    }
    assert_eq!(made(&["2026-11.a_B"]), Ok(()));
}

#[test]
fn configured_keys_are_base64_of_32_bytes() {
    let text = STANDARD.encode([7; KEY_BYTES]);
    let mut fixture = fixture(1);
    let parsed = KeyRing::parse(&[("k1", format!("{text}\n"))]).unwrap();
    let sealed = fixture.sealed_by(&parsed);
    assert_eq!(
        fixture.opened_by(&ring(&[("k1", 7)]), &sealed),
        Ok(fixture.secret.clone())
    );

    for wrong in [
        "",
        "secret",
        &STANDARD.encode([7; 31]),
        &STANDARD.encode([7; 33]),
        &STANDARD.encode([7; 99]),
    ] {
        let refused = KeyRing::parse(&[("k1", text.as_str()), ("k2", wrong)])
            .map(|_| ())
            .unwrap_err();
        assert_eq!(refused, SealError::InvalidKey("k2".into()), "{wrong}");
        assert_eq!(
            refused.to_string(),
            "sealing key `k2` must be the base64 of 32 bytes"
        );
    }
    assert_eq!(
        KeyRing::parse(&[] as &[(&str, &str)]).map(|_| ()),
        Err(SealError::NoKey)
    );
}

#[test]
fn generated_keys_are_taken_and_differ() {
    let mut fixture = fixture(1);
    let one = KeyRing::parse(&[("k1", KeyRing::generate_key(&mut fixture.rng).as_str())]).unwrap();
    let two = KeyRing::parse(&[("k1", KeyRing::generate_key(&mut fixture.rng).as_str())]).unwrap();
    let sealed = fixture.sealed_by(&one);
    assert_eq!(fixture.opened_by(&one, &sealed), Ok(fixture.secret.clone()));
    assert_eq!(fixture.opened_by(&two, &sealed), tampered("k1"));
}

#[test]
fn a_key_of_the_other_scheme_opens_as_itself_only() {
    let mut fixture = fixture(1);
    let ring = ring(&[("k1", 1)]);
    fixture.secret = SigningSecret::generate_for(SignatureScheme::Ed25519, &mut fixture.rng);
    let sealed = fixture.sealed_by(&ring);
    assert_eq!(sealed.public_key, fixture.secret.public_key());
    assert_eq!(sealed.ciphertext.len(), 32 + 16);
    assert_eq!(fixture.opened_by(&ring, &sealed), Ok(fixture.secret.clone()));

    let other = SigningSecret::generate_for(SignatureScheme::Ed25519, &mut fixture.rng);
    for public_key in [None, other.public_key()] {
        let altered = SealedSecret {
            public_key,
            ..sealed.clone()
        };
        assert_eq!(
            fixture.opened_by(&ring, &altered),
            tampered("k1"),
            "{public_key:?}"
        );
    }
    fixture.secret = SigningSecret::generate(&mut fixture.rng);
    let symmetric = SealedSecret {
        public_key: sealed.public_key,
        ..fixture.sealed_by(&ring)
    };
    assert_eq!(fixture.opened_by(&ring, &symmetric), tampered("k1"));
}

#[test]
fn nothing_sealed_is_printed_and_keys_are_wiped() {
    fn is_wiped<T: ZeroizeOnDrop>(_: &T) {}

    let mut fixture = fixture(1);
    let ring = ring(&[("k1", 1), ("k2", 2)]);
    let sealed = fixture.sealed_by(&ring);
    assert_eq!(
        format!("{sealed:?}"),
        r#"SealedSecret { sealing_key_id: "k1", .. }"#
    );
    assert_eq!(format!("{ring:?}"), r#"KeyRing(["k1", "k2"])"#);

    is_wiped(&ring.0[0].cipher);
}

proptest! {
    #[test]
    fn what_was_sealed_opens(seed: u64, bytes in proptest::collection::vec(any::<u8>(), 24..=64)) {
        let mut fixture = fixture(seed);
        fixture.secret = SigningSecret::from_bytes(SignatureScheme::HmacSha256, &bytes).unwrap();
        let ring = ring(&[("k1", 1)]);
        let sealed = fixture.sealed_by(&ring);
        prop_assert_eq!(sealed.ciphertext.len(), bytes.len() + 16);
        prop_assert_eq!(fixture.opened_by(&ring, &sealed), Ok(fixture.secret.clone()));
    }

    #[test]
    fn any_altered_byte_is_noticed(seed: u64, position: prop::sample::Index, flip in 1u8..) {
        let mut fixture = fixture(seed);
        let ring = ring(&[("k1", 1)]);
        let sealed = fixture.sealed_by(&ring);

        let mut altered = sealed.clone();
        altered.ciphertext[position.index(sealed.ciphertext.len())] ^= flip;
        prop_assert_eq!(fixture.opened_by(&ring, &altered), tampered("k1"));

        let mut altered = sealed.clone();
        altered.nonce[position.index(NONCE_BYTES)] ^= flip;
        prop_assert_eq!(fixture.opened_by(&ring, &altered), tampered("k1"));

        let mut altered = sealed;
        altered.ciphertext.truncate(position.index(altered.ciphertext.len()));
        prop_assert_eq!(fixture.opened_by(&ring, &altered), tampered("k1"));
    }
}
