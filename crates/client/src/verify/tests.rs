use super::*;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
const SENT: i64 = 1_649_367_553;
const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
/// `printf '%s' "$BODY" | openssl dgst -sha256 -hmac "$SECRET"`
const PLAIN: &str = "e0fc16c6d4a28f39a6e0935569f05d86e87367db24a4b6d9271215c603e49f6a";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn headers<'a>(list: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
    move |name| {
        list.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }
}

fn standard<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("webhook-id", id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", signature),
    ]
}

fn verifier(keys: &[&str]) -> Verifier {
    Verifier::new(keys.iter().copied()).unwrap()
}

#[test]
fn published_vectors_are_verified() {
    for (key, id, timestamp, body, signature) in [
        (SECRET, ID, SENT, BODY, SIGNATURE),
        (
            // Without its prefix, as other systems show it.
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        ),
    ] {
        let text = timestamp.to_string();
        let given = standard(id, &text, signature);
        assert_eq!(
            verifier(&[key]).verify(headers(&given), body, at(timestamp)),
            Ok(Verified { id, timestamp }),
            "{key}"
        );
        // Any of several keys, and any of several signatures.
        let signatures = format!("v1,AAAA {signature} v2,x");
        let given = standard(id, &text, &signatures);
        let both = verifier(&["whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", key]);
        assert!(both.verify(headers(&given), body, at(timestamp)).is_ok(), "{key}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let sent = SENT.to_string();
    let good = standard(ID, &sent, SIGNATURE);
    let verify = |given: &[(&str, &str)], keys: &[&str], body: &[u8], now| {
        verifier(keys).verify(headers(given), body, at(now)).map(drop)
    };
    let refused = |error| Err(NotVerified::Standard(error));
    assert_eq!(verify(&good, &[SECRET], BODY, SENT), Ok(()));
    for missing in 0..3 {
        let given: Vec<_> = (0..3)
            .filter(|&index| index != missing)
            .map(|index| good[index])
            .collect();
        let expected = Err(NotVerified::MissingHeader(good[missing].0.to_owned()));
        assert_eq!(verify(&given, &[SECRET], BODY, SENT), expected);
    }
    assert_eq!(
        verify(&good, &[OTHER], BODY, SENT),
        refused(VerifyError::Mismatch)
    );
    assert_eq!(verify(&good, &[], BODY, SENT), refused(VerifyError::Mismatch));
    assert_eq!(
        verify(&good, &[SECRET], b"{}", SENT),
        refused(VerifyError::Mismatch)
    );
    let given = standard("msg_2", &sent, SIGNATURE);
    assert_eq!(
        verify(&given, &[SECRET], BODY, SENT),
        refused(VerifyError::Mismatch)
    );
    let given = standard("msg.2", &sent, SIGNATURE);
    assert_eq!(
        verify(&given, &[SECRET], BODY, SENT),
        refused(VerifyError::MalformedId)
    );
    let given = standard(ID, "now", SIGNATURE);
    assert_eq!(
        verify(&given, &[SECRET], BODY, SENT),
        refused(VerifyError::MalformedTimestamp)
    );
    let given = standard(ID, &sent, "v1a,AAAA");
    assert_eq!(
        verify(&given, &[SECRET], BODY, SENT),
        refused(VerifyError::NoSignature)
    );
    assert!(Verifier::new(["whsec_short"]).is_err());
}

#[test]
fn a_request_is_taken_within_the_tolerance_and_not_beyond() {
    let sent = SENT.to_string();
    let given = standard(ID, &sent, SIGNATURE);
    for (tolerance, away) in [
        (None, 300),
        (Some(Duration::from_secs(10)), 10),
        (Some(Duration::ZERO), 0),
    ] {
        let verifier = verifier(&[SECRET]);
        let verifier = match tolerance {
            Some(tolerance) => verifier.tolerance(tolerance),
            None => verifier,
        };
        let verify = |now| verifier.verify(headers(&given), BODY, at(now)).map(drop);
        assert_eq!((verify(SENT + away), verify(SENT - away)), (Ok(()), Ok(())));
        assert_eq!(verify(SENT + away + 1), Err(VerifyError::TooOld.into()));
        assert_eq!(verify(SENT - away - 1), Err(VerifyError::TooNew.into()));
    }
}

#[test]
fn plain_signatures_are_verified_by_their_own_header_or_the_previous_one() {
    let name = "X-Cuitty-Signature";
    let (now, before) = ("x-cuitty-signature", "x-cuitty-signature-previous");
    let wrong = "0".repeat(64);
    let verify =
        |keys: &[&str], given: &[(&str, &str)]| verifier(keys).verify_plain(name, headers(given), BODY);
    assert_eq!(verify(&[SECRET], &[(now, PLAIN)]), Ok(()));
    assert_eq!(verify(&[SECRET], &[(now, &PLAIN.to_uppercase())]), Ok(()));
    assert_eq!(verify(&[OTHER, SECRET], &[(now, PLAIN)]), Ok(()));
    assert_eq!(verify(&[SECRET], &[(now, &wrong), (before, PLAIN)]), Ok(()));
    let missing = NotVerified::MissingHeader(now.to_owned());
    assert_eq!(verify(&[SECRET], &[]), Err(missing));
    let mismatch = NotVerified::PlainMismatch(now.to_owned());
    assert_eq!(verify(&[OTHER], &[(now, PLAIN)]), Err(mismatch.clone()));
    assert_eq!(verify(&[SECRET], &[(now, &wrong)]), Err(mismatch));
    for malformed in ["", &PLAIN[1..], "v1,AAAA"] {
        let expected = Err(NotVerified::MalformedHex(now.to_owned()));
        assert_eq!(verify(&[SECRET], &[(now, malformed)]), expected);
    }
    let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    assert_eq!(verify(&[public], &[(now, PLAIN)]), Err(NotVerified::NoSecret));
}
