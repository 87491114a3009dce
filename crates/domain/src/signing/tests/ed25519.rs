//! The asymmetric scheme.

use super::*;

/// From the Go library of the Standard Webhooks reference (`TestAsymmetricWebhookSign`) and the server of Svix, who wrote the
/// scheme up (`test_asymmetric_key_signing`): a private key without and with its public key, and what it signs.
const PUBLISHED: [(&str, &str); 2] = [
    (
        "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=",
        "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==",
    ),
    (
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ),
];
/// The public key of the second one, as published with it.
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

fn key(seed: u64) -> SigningSecret {
    SigningSecret::generate_for(SignatureScheme::Ed25519, &mut StdRng::seed_from_u64(seed))
}

fn public(secret: &SigningSecret) -> PublicKey {
    secret.public_key().unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn rfc_8032_vectors() {
    // Section 7.1, tests 1 to 3: seed, public key, message, signature.
    for [seed, public_key, message, signature] in [
        [
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ],
        [
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ],
        [
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ],
    ] {
        let secret = SigningSecret::parse(&format!("whsk_{}", STANDARD.encode(unhex(seed)))).unwrap();
        assert_eq!(public(&secret).as_bytes(), unhex(public_key));
        let Material::Ed25519(key) = secret.material() else {
            panic!("{secret:?} is symmetric")
        };
        assert_eq!(key.sign(&unhex(message)).to_bytes()[..], unhex(signature));
    }
}

#[test]
fn published_vectors_of_the_scheme() {
    let (id, timestamp, body) = (
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        br#"{"test": 2432232314}"#,
    );
    for (text, expected) in PUBLISHED {
        let secret = SigningSecret::parse(text).unwrap();
        let key = SigningKey::new(&secret);
        assert_eq!(sign_header(id, timestamp, body, [&key]), expected);
        let headers = SignedHeaders {
            id,
            timestamp: &timestamp.to_string(),
            signature: expected,
        };
        let now = DateTime::from_timestamp(timestamp, 0).unwrap();
        assert_eq!(verify(headers, body, [public(&secret)], now, TOLERANCE), Ok(()));
    }
    let secret = SigningSecret::parse(PUBLISHED[1].0).unwrap();
    assert_eq!(public(&secret).to_string(), PUBLIC);
}

#[test]
fn a_public_key_verifies_what_its_private_key_signed_and_nothing_else() {
    let (ours, other) = (key(1), key(2));
    let header = signature(std::slice::from_ref(&ours), NOW);
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let check = |key: &SigningSecret, timestamp, body| {
        let headers = SignedHeaders {
            id: ID,
            timestamp,
            signature: &header,
        };
        verify(headers, body, [public(key)], now, TOLERANCE)
    };
    assert_eq!(check(&ours, "1649367553", BODY), Ok(()));
    assert_eq!(check(&other, "1649367553", BODY), Err(VerifyError::Mismatch));
    assert_eq!(check(&ours, "1649367554", BODY), Err(VerifyError::Mismatch));
    assert_eq!(check(&ours, "1649367553", b"{}"), Err(VerifyError::Mismatch));
}

#[test]
fn secrets_of_both_schemes_sign_side_by_side() {
    let secrets = [key(1), secret(2), key(3)];
    let header = signature(&secrets, NOW);
    let tags: Vec<_> = header
        .split(' ')
        .map(|entry| entry.split_once(',').unwrap().0)
        .collect();
    assert_eq!(tags, ["v1a", "v1", "v1a"]);
    let headers = SignedHeaders {
        id: ID,
        timestamp: &NOW.to_string(),
        signature: &header,
    };
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let check = |keys: &[VerificationKey]| verify(headers, BODY, keys, now, TOLERANCE);
    for secret in &secrets {
        assert_eq!(check(&[secret.into()]), Ok(()));
    }
    // A receiver that moves from one scheme to the other knows keys of both.
    assert_eq!(check(&[secret(9).into(), public(&secrets[2]).into()]), Ok(()));
    assert_eq!(
        check(&[secret(9).into(), key(9).into()]),
        Err(VerifyError::Mismatch)
    );
}

#[test]
fn a_signature_of_the_other_scheme_is_none_for_the_receiver() {
    let timestamp = NOW.to_string();
    for (signer, receiver) in [(key(1), secret(1)), (secret(1), key(1))] {
        let header = signature(&[signer], NOW);
        assert_eq!(
            verified(&timestamp, &header, &[receiver]),
            Err(VerifyError::NoSignature)
        );
    }
    // The same bytes under the other tag are not a signature either.
    let forged = signature(&[key(1)], NOW).replace("v1a,", "v1,");
    assert_eq!(
        verified(&timestamp, &forged, &[secret(1)]),
        Err(VerifyError::Mismatch)
    );
}

#[test]
fn an_ed25519_key_makes_no_plain_signature() {
    assert_eq!(hex_signature(&SigningKey::new(&key(1)), BODY), None);
}

#[test]
fn texts_round_trip_and_a_public_key_that_is_not_the_seeds_own_is_refused() {
    for seed in 0..20 {
        let secret = key(seed);
        let text = secret.expose();
        assert_eq!(SigningSecret::parse(&text), Ok(secret.clone()));
        assert_eq!(
            SigningSecret::parse(text.trim_end_matches('=')),
            Ok(secret.clone())
        );
        let shown = public(&secret);
        assert_eq!(shown.to_string().parse(), Ok(shown));
        assert_eq!(
            VerificationKey::parse(&shown.to_string()),
            Ok(VerificationKey::Public(shown))
        );
        assert_eq!(
            VerificationKey::parse(&text),
            Ok(VerificationKey::Secret(secret.clone()))
        );

        let pair = |public: &PublicKey| {
            let bytes = [secret.as_bytes(), public.as_bytes()].concat();
            SigningSecret::parse(&format!("whsk_{}", STANDARD.encode(bytes)))
        };
        assert_eq!(pair(&shown), Ok(secret.clone()));
        assert_eq!(pair(&public(&key(seed + 1))), Err(InvalidSecret));
    }
    for length in [0, 24, 31, 33, 63, 65] {
        let text = format!("whsk_{}", STANDARD.encode(vec![7; length]));
        assert_eq!(SigningSecret::parse(&text), Err(InvalidSecret), "{length}");
    }
}

#[test]
fn what_is_no_public_key_is_refused() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    for (what, text) in [
        ("another prefix", PUBLIC.replace("whpk_", "whsk_")),
        ("no prefix", PUBLIC.replace("whpk_", "")),
        ("too short", format!("whpk_{}", STANDARD.encode([7; 31]))),
        (
            "a point that anybody can sign for",
            format!("whpk_{}", STANDARD.encode(neutral)),
        ),
        // Half of all texts are the coordinate of no point.
        (
            "no point of the curve",
            format!("whpk_{}", STANDARD.encode([2; 32])),
        ),
    ] {
        assert_eq!(text.parse::<PublicKey>(), Err(InvalidPublicKey), "{what}");
    }
}

#[test]
fn private_keys_are_never_printed_and_are_wiped() {
    fn is_wiped<T: ZeroizeOnDrop>() {}

    assert_eq!(format!("{:?}", key(1)), "SigningSecret(redacted)");
    assert_eq!(format!("{:?}", SigningKey::new(&key(1))), "SigningKey(redacted)");
    let shown = VerificationKey::from(key(1));
    assert_eq!(format!("{shown:?}"), "Secret(SigningSecret(redacted))");
    is_wiped::<ed25519_dalek::SigningKey>();
}

proptest! {
    #[test]
    fn parsing_public_keys_never_panics(text in "(whpk_)?[A-Za-z0-9+/=]{0,60}") {
        let _ = text.parse::<PublicKey>();
    }

    #[test]
    fn any_changed_byte_of_a_v1a_signature_breaks_it(
        position in 0usize..64, flip in 1u8..,
    ) {
        let secret = key(1);
        let header = signature(std::slice::from_ref(&secret), NOW);
        let mut bytes = STANDARD.decode(&header["v1a,".len()..]).unwrap();
        bytes[position] ^= flip;
        let altered = format!("v1a,{}", STANDARD.encode(bytes));
        prop_assert_eq!(verified(&NOW.to_string(), &altered, &[secret]), Err(VerifyError::Mismatch));
    }
}
