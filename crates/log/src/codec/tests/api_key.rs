//! API keys, as the first version that knew them stored them.

use cuitty_webhooks_domain::api_key::{ApiKey, ApiKeyChange, KeyDigest, Scope};

use super::golden::{actor, at, hex, unhex, with_unknown_fields};
use super::*;

/// With every field set.
fn full() -> ApiKey {
    ApiKey {
        id: "key_01h455vb4pex5vsknk084sn02q".parse().unwrap(),
        project_id: Some("acme".parse().unwrap()),
        scopes: Scope::ALL.to_vec(),
        description: "for the billing service".into(),
        digest: KeyDigest::from_bytes(*b"0123456789abcdef0123456789abcdef"),
        created_at: at("2026-11-22T10:00:00.000001Z"),
        created_by: "key_01h455vb4pex5vsknk084sn02r".into(),
        revoked_at: Some(at("2026-11-22T11:00:00Z")),
    }
}

fn records() -> [(&'static str, ApiKeyRecord, &'static str); 2] {
    let record = |change, key| ApiKeyRecord {
        change,
        actor: actor(),
        at: at("2026-11-22T11:00:00Z"),
        key,
    };
    let bare = ApiKey {
        project_id: None,
        scopes: vec![Scope::Admin],
        description: String::new(),
        created_by: "system".into(),
        revoked_at: None,
        ..full()
    };
    [
        (
            "created",
            record(ApiKeyChange::Created, bare),
            include_str!("../golden/api_key_created.hex"),
        ),
        (
            "revoked",
            record(ApiKeyChange::Revoked, full()),
            include_str!("../golden/api_key_revoked.hex"),
        ),
    ]
}

#[test]
fn every_change_of_an_api_key_is_stored_and_read_as_ever() {
    for (name, record, golden) in records() {
        let body = encode_api_key(record.change, &record.key, &record.actor, record.at);
        assert_eq!(hex(&body), golden.trim(), "{name}");
        assert_eq!(decode_api_key(unhex(golden)), Ok(record.clone()), "{name}");
        let later = with_unknown_fields(&unhex(golden));
        assert_eq!(decode_api_key(later), Ok(record.clone()), "{name}");
        assert_eq!(decode_api_key_state(unhex(golden)), Ok(record.key), "{name}");
    }
}

#[test]
fn a_scope_that_a_later_version_wrote_and_a_short_digest_are_errors() {
    let (_, record, _) = records()[0].clone();
    let body = encode_api_key(record.change, &record.key, &record.actor, record.at);
    let later = altered::<stored::ApiKeyChanged>(&body, |message| {
        message.state.as_mut().unwrap().scopes.push(99);
    });
    assert_eq!(decode_api_key_state(later), Err(unknown("state.scopes", 99)));
    let short = altered::<stored::ApiKeyChanged>(&body, |message| {
        message.state.as_mut().unwrap().digest = Bytes::from_static(b"short");
    });
    assert_eq!(
        decode_api_key_state(short),
        Err(CodecError::Invalid {
            field: "state.digest",
            message: "is 5 bytes, must be 32".into()
        })
    );
    assert!(matches!(
        decode_event(Kind::ApiKey, body),
        Err(CodecError::Invalid { field: "kind", .. })
    ));
}
