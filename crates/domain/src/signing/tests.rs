mod ed25519;

use std::time::Duration;

use chrono::DateTime;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::secret::SYMMETRIC_BYTES;
use super::*;

const NOW: i64 = 1_649_367_553;
const TOLERANCE: Duration = Duration::from_mins(5);
const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

fn secret(seed: u64) -> SigningSecret {
    SigningSecret::generate(&mut StdRng::seed_from_u64(seed))
}

fn signature(secrets: &[SigningSecret], timestamp: i64) -> String {
    let keys: Vec<SigningKey> = secrets.iter().map(SigningKey::new).collect();
    sign_header(ID, timestamp, BODY, &keys)
}

/// Verifies a request sent at `timestamp`, at `NOW`.
fn verified(timestamp: &str, signature: &str, secrets: &[SigningSecret]) -> Result<(), VerifyError> {
    let headers = SignedHeaders {
        id: ID,
        timestamp,
        signature,
    };
    verify(
        headers,
        BODY,
        secrets,
        DateTime::from_timestamp(NOW, 0).unwrap(),
        TOLERANCE,
    )
}

#[test]
fn standard_webhooks_vectors() {
    for (text, id, timestamp, body, expected) in [
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            ID,
            NOW,
            BODY,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ] {
        let secret = SigningSecret::parse(text).unwrap();
        assert_eq!(
            sign_header(id, timestamp, body, [&SigningKey::new(&secret)]),
            expected
        );
        let timestamp_text = timestamp.to_string();
        let headers = SignedHeaders {
            id,
            timestamp: &timestamp_text,
            signature: expected,
        };
        let now = DateTime::from_timestamp(timestamp, 0).unwrap();
        assert_eq!(verify(headers, body, &[secret], now, TOLERANCE), Ok(()));
    }
}

#[test]
fn plain_signature_is_keyed_with_the_text_as_shown() {
    let secret = SigningSecret::parse("C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
    // printf '%s' '<BODY>' | openssl dgst -sha256 -hmac whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD
    let expected = "e0fc16c6d4a28f39a6e0935569f05d86e87367db24a4b6d9271215c603e49f6a";
    assert_eq!(
        hex_signature(&SigningKey::new(&secret), BODY).as_deref(),
        Some(expected)
    );
}

#[test]
fn every_live_secret_signs_in_order() {
    let secrets = [secret(1), secret(2), secret(3)];
    let all = signature(&secrets, NOW);
    let each: Vec<String> = secrets
        .iter()
        .map(|secret| signature(std::slice::from_ref(secret), NOW))
        .collect();
    assert_eq!(all, each.join(" "));
    for secret in secrets {
        assert_eq!(
            verified(&NOW.to_string(), &all, &[self::secret(9), secret]),
            Ok(())
        );
    }
    assert_eq!(sign_header(ID, NOW, BODY, []), "");
}

#[test]
fn other_secrets_ids_times_and_bodies_do_not_verify() {
    let secrets = [secret(1)];
    let signature = signature(&secrets, NOW);
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let check = |id, timestamp, body, secrets: &[SigningSecret]| {
        verify(
            SignedHeaders {
                id,
                timestamp,
                signature: &signature,
            },
            body,
            secrets,
            now,
            TOLERANCE,
        )
    };
    assert_eq!(check(ID, "1649367553", BODY, &secrets), Ok(()));
    assert_eq!(
        check(ID, "1649367553", BODY, &[secret(2)]),
        Err(VerifyError::Mismatch)
    );
    assert_eq!(check(ID, "1649367553", BODY, &[]), Err(VerifyError::Mismatch));
    assert_eq!(
        check("msg_other", "1649367553", BODY, &secrets),
        Err(VerifyError::Mismatch)
    );
    assert_eq!(
        check(ID, "1649367554", BODY, &secrets),
        Err(VerifyError::Mismatch)
    );
    assert_eq!(
        check(ID, "01649367553", BODY, &secrets),
        Err(VerifyError::Mismatch)
    );
    assert_eq!(
        check(ID, "1649367553", &BODY[1..], &secrets),
        Err(VerifyError::Mismatch)
    );
    assert_eq!(check(ID, "1649367553", b"", &secrets), Err(VerifyError::Mismatch));
}

#[test]
fn timestamps_are_held_to_the_tolerance() {
    let secrets = [secret(1)];
    for (offset, expected) in [
        (0, Ok(())),
        (-300, Ok(())),
        (300, Ok(())),
        (-301, Err(VerifyError::TooOld)),
        (301, Err(VerifyError::TooNew)),
    ] {
        let timestamp = NOW + offset;
        let signature = signature(&secrets, timestamp);
        assert_eq!(
            verified(&timestamp.to_string(), &signature, &secrets),
            expected,
            "{offset}"
        );
    }
    let signature = signature(&secrets, NOW);
    for timestamp in [
        "",
        "soon",
        "+1649367553",
        "-1",
        "1649367553.0",
        " 1649367553",
        "99999999999999999999",
    ] {
        assert_eq!(
            verified(timestamp, &signature, &secrets),
            Err(VerifyError::MalformedTimestamp),
            "{timestamp}"
        );
    }
}

#[test]
fn signed_content_cannot_be_shifted_over_a_dot() {
    let secrets = [secret(1)];
    let key = SigningKey::new(&secrets[0]);
    let body = b"1649367553.{}";
    let signature = sign_header("msg_1", NOW, body, [&key]);
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let shifted = SignedHeaders {
        id: "msg_1.1649367553",
        timestamp: "1649367553",
        signature: &signature,
    };
    assert_eq!(
        verify(shifted, b"{}", &secrets, now, TOLERANCE),
        Err(VerifyError::MalformedId)
    );
    let empty = SignedHeaders { id: "", ..shifted };
    assert_eq!(
        verify(empty, b"{}", &secrets, now, TOLERANCE),
        Err(VerifyError::MalformedId)
    );
}

#[test]
fn foreign_and_broken_signatures_are_passed_over() {
    let secrets = [secret(1)];
    let ours = signature(&secrets, NOW);
    let timestamp = NOW.to_string();
    for (header, expected) in [
        (format!("v1a,AAAA v2,{} v1,!!! v1, {ours}", &ours[3..]), Ok(())),
        (format!("  {ours}  "), Ok(())),
        (ours[..ours.len() - 4].to_owned(), Err(VerifyError::Mismatch)),
        ("v1,".into(), Err(VerifyError::Mismatch)),
        (ours[3..].to_owned(), Err(VerifyError::NoSignature)),
        (format!("v1a,{}", &ours[3..]), Err(VerifyError::NoSignature)),
        (String::new(), Err(VerifyError::NoSignature)),
    ] {
        assert_eq!(verified(&timestamp, &header, &secrets), expected, "{header}");
    }
}

#[test]
fn other_texts_are_not_secrets() {
    for text in [
        "",
        "whsec_",
        "whsec_too-short",
        "whsk_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD",
        " whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        &STANDARD.encode([7; 23]),
        &STANDARD.encode([7; 65]),
        &STANDARD.encode([7; 4096]),
    ] {
        assert_eq!(SigningSecret::parse(text), Err(InvalidSecret), "{text}");
    }
    assert_eq!(
        InvalidSecret.to_string(),
        "must be `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and that of an ed25519 seed of 32 bytes"
    );
}

#[test]
fn secrets_are_never_printed_and_are_wiped() {
    fn is_wiped<T: ZeroizeOnDrop>() {}

    let secret = secret(1);
    assert_eq!(format!("{secret:?}"), "SigningSecret(redacted)");
    assert_eq!(format!("{:?}", SigningKey::new(&secret)), "SigningKey(redacted)");
    assert_eq!(
        format!("{:#?}", Some(&secret)),
        "Some(\n    SigningSecret(redacted),\n)"
    );

    is_wiped::<Zeroizing<Vec<u8>>>();
    // What an HMAC state is made of; the state itself does not carry the marker.
    is_wiped::<Sha256>();
}

#[test]
fn generated_secrets_are_32_bytes_and_differ() {
    let mut rng = StdRng::seed_from_u64(1);
    let (one, two) = (
        SigningSecret::generate(&mut rng),
        SigningSecret::generate(&mut rng),
    );
    assert_eq!(one.as_bytes().len(), 32);
    assert_ne!(one, two);
}

proptest! {
    #[test]
    fn text_round_trips(bytes in proptest::collection::vec(any::<u8>(), SYMMETRIC_BYTES)) {
        let secret = SigningSecret::from_bytes(SignatureScheme::HmacSha256, &bytes).unwrap();
        let text = secret.expose();
        prop_assert_eq!(SigningSecret::parse(&text), Ok(secret.clone()));
        let bare = text.strip_prefix("whsec_").unwrap();
        prop_assert_eq!(SigningSecret::parse(bare), Ok(secret.clone()));
        prop_assert_eq!(SigningSecret::parse(bare.trim_end_matches('=')), Ok(secret));
    }

    #[test]
    fn parsing_never_panics(text in "\\PC{0,200}") {
        let _ = SigningSecret::parse(&text);
    }

    #[test]
    fn verification_never_panics_and_garbage_never_passes(
        id in "\\PC{0,30}", timestamp in "[0-9]{0,22}", signature in "(v1,)?\\PC{0,80}",
    ) {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        let headers = SignedHeaders { id: &id, timestamp: &timestamp, signature: &signature };
        prop_assert!(verify(headers, BODY, &[secret(1)], now, TOLERANCE).is_err());
    }

    #[test]
    fn any_changed_byte_breaks_the_signature(
        body in proptest::collection::vec(any::<u8>(), 1..200), position: prop::sample::Index, flip in 1u8..,
    ) {
        let secrets = [secret(1)];
        let signature = sign_header(ID, NOW, &body, [&SigningKey::new(&secrets[0])]);
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        let headers = SignedHeaders { id: ID, timestamp: "1649367553", signature: &signature };
        prop_assert_eq!(verify(headers, &body, &secrets, now, TOLERANCE), Ok(()));
        let mut altered = body.clone();
        altered[position.index(body.len())] ^= flip;
        prop_assert_eq!(verify(headers, &altered, &secrets, now, TOLERANCE), Err(VerifyError::Mismatch));
    }
}
