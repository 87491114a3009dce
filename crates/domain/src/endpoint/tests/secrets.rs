//! Which secrets sign, and until when.

use super::*;
use crate::signing::SigningSecret;

/// Which of the secrets made with seeds 1 to 20 are live, newest first.
fn live_seeds(endpoint: &Endpoint, now: DateTime<Utc>) -> Vec<u64> {
    let seed_of = |secret: &Secret| u64::from_be_bytes(secret.sealed.ciphertext.clone().try_into().unwrap());
    endpoint.live_secrets(now).map(seed_of).collect()
}

#[test]
fn a_rotated_secret_signs_until_its_overlap_ends() {
    let (before, now) = given([]);
    let change = decide(&before, rotate(2, 2 * HOUR), now).unwrap().unwrap();
    let previous_expires_at = now + 2 * HOUR;
    assert_eq!(
        change,
        EndpointChange::SecretRotated {
            secret: secret(2, start()),
            previous_expires_at
        }
    );
    let after = evolve(before, &change, now);
    assert_eq!(live_seeds(&after, now), [2, 1]);
    assert_eq!(
        live_seeds(&after, previous_expires_at - Duration::from_nanos(1)),
        [2, 1]
    );
    assert_eq!(live_seeds(&after, previous_expires_at), [2]);
    assert_eq!(after.secrets.len(), 2, "the retired one stays");
}

/// [`rotate`] to an ed25519 key.
fn rotate_to_ed25519(seed: u64) -> EndpointCommand {
    let mut secret = secret(seed, start());
    let mut rng = StdRng::seed_from_u64(seed);
    secret.sealed.public_key = SigningSecret::generate_for(SignatureScheme::Ed25519, &mut rng).public_key();
    EndpointCommand::RotateSecret {
        secret,
        overlap: HOUR,
    }
}

fn with_signature_header() -> EndpointCommand {
    let mut settings = settings("https://example.com/a");
    settings.signature_header = Some("X-Acme-Signature".into());
    EndpointCommand::Update {
        settings: Box::new(settings),
        active: None,
        expected_revision: None,
    }
}

#[test]
fn a_rotation_moves_an_endpoint_from_one_scheme_to_the_other_and_back() {
    let (endpoint, now) = given([]);
    assert_eq!(endpoint.signature_scheme(), SignatureScheme::HmacSha256);
    let change = decide(&endpoint, rotate_to_ed25519(2), now).unwrap().unwrap();
    let endpoint = evolve(endpoint, &change, now);
    assert_eq!(endpoint.signature_scheme(), SignatureScheme::Ed25519);
    assert_eq!(live_seeds(&endpoint, now), [2, 1], "both schemes sign");
    let change = decide(&endpoint, rotate(3, HOUR), now).unwrap().unwrap();
    assert_eq!(
        evolve(endpoint, &change, now).signature_scheme(),
        SignatureScheme::HmacSha256
    );
}

#[test]
fn a_signature_header_and_an_ed25519_key_exclude_each_other() {
    let message = "the hex HMAC of a signature_header needs a symmetric secret, not an ed25519 key";
    let (plain, now) = given([with_signature_header()]);
    assert_eq!(
        decide(&plain, rotate_to_ed25519(2), now),
        Err(Rejection::field("signature_scheme", message))
    );
    assert!(decide(&plain, rotate(2, HOUR), now).unwrap().is_some());
    let (asymmetric, now) = given([rotate_to_ed25519(2)]);
    assert_eq!(
        decide(&asymmetric, with_signature_header(), now),
        Err(Rejection::field("signature_header", message))
    );
    // Back on a symmetric secret it may, though the key of the other scheme still signs beside it.
    let (back, now) = given([rotate_to_ed25519(2), rotate(3, 10 * HOUR)]);
    assert!(decide(&back, with_signature_header(), now).unwrap().is_some());
}

#[test]
fn a_rotation_without_overlap_retires_the_previous_secret_at_once() {
    let (endpoint, now) = given([rotate(2, Duration::ZERO)]);
    assert_eq!(live_seeds(&endpoint, now - HOUR), [2]);
}

#[test]
fn earlier_overlaps_end_when_they_were_said_to() {
    // 2 is made at 1 h and replaced at 2 h, 3 at 3 h: 1 signs until 11 h, 2 until 4 h.
    let (endpoint, now) = given([rotate(2, 10 * HOUR), rotate(3, 2 * HOUR)]);
    assert_eq!(live_seeds(&endpoint, now), [3, 2, 1]);
    assert_eq!(live_seeds(&endpoint, start() + 4 * HOUR), [3, 1]);
    assert_eq!(live_seeds(&endpoint, start() + 11 * HOUR), [3]);
}

#[test]
fn overlaps_are_bounded() {
    let (endpoint, now) = given([]);
    let longest = Duration::from_secs(limits::OVERLAP_SECONDS.into());
    assert!(decide(&endpoint, rotate(2, longest), now).unwrap().is_some());
    assert_eq!(
        decide(&endpoint, rotate(2, longest + Duration::from_nanos(1)), now),
        Err(Rejection::field("overlap_seconds", "must be 0 to 604800")),
    );
    assert!(decide(&endpoint, rotate(2, Duration::MAX), now).is_err());
}

#[test]
fn live_secrets_are_bounded() {
    let (endpoint, now) = given((2..=limits::LIVE_SECRETS as u64).map(|seed| rotate(seed, 100 * HOUR)));
    assert_eq!(live_seeds(&endpoint, now).len(), limits::LIVE_SECRETS);
    let expected = Rejection::Conflict {
        resource: Resource::Endpoint,
        id: endpoint.id.to_string(),
        message: "has 10 live secrets; wait until one expires, or revoke one".into(),
    };
    assert_eq!(decide(&endpoint, rotate(20, HOUR), now), Err(expected));
    // Without an overlap as many are live as before; and the oldest one ends at 101 h.
    assert!(
        decide(&endpoint, rotate(20, Duration::ZERO), now)
            .unwrap()
            .is_some()
    );
    assert!(
        decide(&endpoint, rotate(20, HOUR), start() + 101 * HOUR)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_revoked_secret_stops_signing_at_once() {
    let (before, now) = given([rotate(2, 10 * HOUR), rotate(3, 10 * HOUR)]);
    assert_eq!(live_seeds(&before, now), [3, 2, 1]);
    let change = decide(&before, revoke(2), now).unwrap().unwrap();
    assert_eq!(
        change,
        EndpointChange::SecretRevoked {
            secret_id: secret(2, start()).id
        }
    );
    let after = evolve(before.clone(), &change, now);
    assert_eq!(live_seeds(&after, now), [3, 1]);
    assert_eq!((after.revision, after.updated_at), (before.revision + 1, now));
    assert_eq!(after.secrets.len(), 3, "the revoked one stays");
    assert_eq!(after.secrets[1].expires_at, Some(now));
    // The others sign for as long as they did.
    assert_eq!(
        [&after.secrets[0], &after.secrets[2]],
        [&before.secrets[0], &before.secrets[2]]
    );
}

#[test]
fn a_secret_that_does_not_sign_any_more_is_not_revoked_again() {
    let (endpoint, now) = given([rotate(2, 10 * HOUR), revoke(1)]);
    assert_eq!(decide(&endpoint, revoke(1), now), Ok(None));
    let (expired, now) = given([rotate(2, HOUR)]);
    assert_eq!(
        decide(&expired, revoke(1), now),
        Ok(None),
        "its overlap has just ended"
    );
    assert!(
        decide(&expired, revoke(1), now - Duration::from_nanos(1))
            .unwrap()
            .is_some()
    );
}

#[test]
fn the_current_secret_and_unknown_ones_are_not_revoked() {
    let (endpoint, now) = given([rotate(2, HOUR)]);
    let id = |seed| secret(seed, start()).id.to_string();
    let current = Rejection::Conflict {
        resource: Resource::Secret,
        id: id(2),
        message: "is the current one; rotate first".into(),
    };
    assert_eq!(decide(&endpoint, revoke(2), now), Err(current));
    let unknown = Rejection::NotFound {
        resource: Resource::Secret,
        id: id(7),
    };
    assert_eq!(decide(&endpoint, revoke(7), now), Err(unknown));
}

#[test]
fn revoking_makes_room_for_another_rotation() {
    let rotations = (2..=limits::LIVE_SECRETS as u64).map(|seed| rotate(seed, 100 * HOUR));
    let (endpoint, now) = given(rotations.chain([revoke(3)]));
    assert_eq!(live_seeds(&endpoint, now).len(), limits::LIVE_SECRETS - 1);
    assert!(decide(&endpoint, rotate(20, HOUR), now).unwrap().is_some());
}
