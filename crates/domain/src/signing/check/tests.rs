use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::attempt::Header;
use crate::signing::{SigningSecret, sign_header};

const ID: &str = "msg_01h455vb4pex5vsknk084sn02r";
const TIMESTAMP: i64 = 1_795_255_200;

/// A symmetric secret, an ed25519 key and another symmetric secret, newest first, by their ids.
fn secrets() -> Vec<(SecretId, SigningSecret)> {
    let schemes = [
        SignatureScheme::HmacSha256,
        SignatureScheme::Ed25519,
        SignatureScheme::HmacSha256,
    ];
    let make = |(seed, scheme)| {
        let mut rng = StdRng::seed_from_u64(seed);
        (
            SecretId::new(chrono::DateTime::UNIX_EPOCH, &mut rng),
            SigningSecret::generate_for(scheme, &mut rng),
        )
    };
    (0..).zip(schemes).map(make).collect()
}

fn body() -> Bytes {
    Bytes::from_static(br#"{"spent":12}"#)
}

fn header(name: &str, value: impl Into<String>) -> Header {
    Header {
        name: name.into(),
        value: value.into(),
    }
}

/// A request that all of [`secrets`] signed, as a dispatcher records it.
fn request() -> AttemptRequest {
    let secrets = secrets();
    let keys: Vec<_> = secrets
        .iter()
        .map(|(_, secret)| SigningKey::new(secret))
        .collect();
    let plain = |index: usize| hex_signature(&keys[index], &body()).unwrap();
    AttemptRequest {
        url: "https://example.com/hook".into(),
        headers: vec![
            header("webhook-id", ID),
            header("webhook-timestamp", TIMESTAMP.to_string()),
            header("webhook-signature", sign_header(ID, TIMESTAMP, &body(), &keys)),
            header("x-acme-signature", plain(0)),
            header("x-acme-signature-previous", plain(2)),
        ],
        signed_with: secrets.iter().map(|(id, _)| *id).collect(),
    }
}

fn known(id: SecretId) -> Result<VerificationKey, Unverifiable> {
    let found = secrets().into_iter().find(|(known, _)| *known == id);
    found
        .map(|(_, secret)| secret.into())
        .ok_or(Unverifiable::SecretGone)
}

fn checked(request: &AttemptRequest, bodies: &[Bytes]) -> Vec<Result<bool, Unverifiable>> {
    let checks = check_signatures(request, bodies, Some("X-Acme-Signature"), known);
    checks.into_iter().map(|check| check.valid).collect()
}

#[test]
fn every_signature_that_was_sent_is_told_by_its_secret_scheme_and_header() {
    let request = request();
    let [hmac, ed25519] = SignatureScheme::ALL.map(Some);
    let ids = &request.signed_with;
    let expected = [
        (ids[0], hmac, SIGNATURE),
        (ids[1], ed25519, SIGNATURE),
        (ids[2], hmac, SIGNATURE),
        (ids[0], hmac, "x-acme-signature"),
        (ids[2], hmac, "x-acme-signature-previous"),
    ];
    let expected = expected.map(|(secret_id, scheme, header)| SignatureCheck {
        secret_id,
        scheme,
        header: header.into(),
        valid: Ok(true),
    });
    let checks = check_signatures(&request, &[body()], Some("X-Acme-Signature"), known);
    assert_eq!(checks, expected);
    // Without the header's name, or when the request did not carry it, there is nothing more to check.
    assert_eq!(check_signatures(&request, &[body()], None, known), expected[..3]);
    let other = check_signatures(&request, &[body()], Some("X-Other"), known);
    assert_eq!(other, expected[..3]);
}

#[test]
fn a_public_key_is_enough_for_what_its_private_key_signed() {
    let public = |id| {
        known(id).map(|key| match key {
            VerificationKey::Secret(secret) => secret.public_key().map_or(secret.into(), Into::into),
            public @ VerificationKey::Public(_) => public,
        })
    };
    let checks = check_signatures(&request(), &[body()], None, public);
    let valid: Vec<_> = checks.into_iter().map(|check| check.valid).collect();
    assert_eq!(valid, [Ok(true); 3]);
}

#[test]
fn an_altered_body_or_header_shows() {
    let alter = |index: usize, value: &str| {
        let mut request = request();
        value.clone_into(&mut request.headers[index].value);
        checked(&request, &[body()])
    };
    let (no, yes) = (Ok(false), Ok(true));
    assert_eq!(checked(&request(), &[body()]), [yes; 5]);
    assert_eq!(checked(&request(), &[Bytes::from_static(b"{}")]), [no; 5]);
    assert_eq!(checked(&request(), &[]), [no; 5]);
    assert_eq!(alter(0, "msg_x"), [no, no, no, yes, yes], "the id");
    assert_eq!(alter(1, "1795255201"), [no, no, no, yes, yes], "the timestamp");
    assert_eq!(alter(2, ""), [no, no, no, yes, yes], "the signatures");
    let original = request();
    let signatures: Vec<_> = original.headers[2].value.split(' ').collect();
    let swapped = format!("{} {}", signatures[2], signatures[1]);
    assert_eq!(alter(2, &swapped), [no, yes, yes, yes, yes], "one signature");
    let previous = &original.headers[4].value;
    assert_eq!(
        alter(3, previous),
        [yes, yes, yes, no, yes],
        "the plain signature"
    );
    let upper = original.headers[4].value.to_ascii_uppercase();
    assert_eq!(alter(4, &upper), [yes, yes, yes, yes, no]);
}

#[test]
fn a_signature_of_any_form_of_the_body_matches() {
    let wrapped = Bytes::from_static(br#"{"data":{"spent":12}}"#);
    assert_eq!(checked(&request(), &[wrapped, body()]), [Ok(true); 5]);
}

#[test]
fn another_secret_of_the_same_id_does_not_match() {
    let other = |_| Ok(SigningSecret::generate(&mut StdRng::seed_from_u64(99)).into());
    let checks = check_signatures(&request(), &[body()], None, other);
    let valid: Vec<_> = checks.into_iter().map(|check| check.valid).collect();
    assert_eq!(valid, [Ok(false); 3]);
}

#[test]
fn what_cannot_be_told_says_why() {
    let reason = |reason| {
        let checks = check_signatures(&request(), &[body()], None, |_| Err(reason));
        checks
            .into_iter()
            .map(|check| (check.scheme, check.valid))
            .collect::<Vec<_>>()
    };
    let gone = Unverifiable::SecretGone;
    assert_eq!(reason(gone), [(None, Err(gone)); 3]);
    let sealed = Unverifiable::SecretSealed;
    let scheme = Some(SignatureScheme::HmacSha256);
    assert_eq!(reason(sealed), [(scheme, Err(sealed)); 3]);
}

#[test]
fn an_attempt_that_was_not_sent_has_nothing_to_check() {
    assert_eq!(checked(&AttemptRequest::default(), &[body()]), []);
}
