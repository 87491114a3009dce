use std::collections::HashSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn text(seed: u64) -> KeyText {
    KeyText::generate(&mut StdRng::seed_from_u64(seed))
}

fn made(draft: ApiKeyDraft) -> Result<ApiKey, Rejection> {
    let id = ApiKeyId::new(now(), &mut StdRng::seed_from_u64(1));
    let (change, key) = create(id, draft, text(1).digest(), "admin", now())?;
    assert_eq!(change, ApiKeyChange::Created);
    assert_eq!(evolve(key.clone(), change, now()), key);
    Ok(key)
}

fn draft(scopes: &[&str]) -> ApiKeyDraft {
    ApiKeyDraft {
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..ApiKeyDraft::default()
    }
}

fn fields(result: Result<ApiKey, Rejection>) -> Vec<String> {
    match result {
        Err(Rejection::Invalid(violations)) => violations.into_iter().map(|found| found.field).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn admin_includes_every_scope_and_no_other_does() {
    for needed in Scope::ALL {
        for held in Scope::ALL {
            let expected = held == needed || held == Scope::Admin;
            assert_eq!(needed.is_in(&[held]), expected, "{needed} in {held}");
        }
        assert!(!needed.is_in(&[]));
        assert_eq!(needed.as_str().parse(), Ok(needed));
    }
    for name in ["", "Admin", "write", "admin "] {
        assert_eq!(name.parse::<Scope>(), Err(InvalidScope), "{name}");
    }
}

#[test]
fn a_key_holds_each_scope_once() {
    let key = made(draft(&["read", "deliver", "read"])).unwrap();
    assert_eq!(key.scopes, [Scope::Deliver, Scope::Read]);
    assert!(key.is_live() && !key.is_global_admin());
    assert_eq!((key.created_at, key.created_by.as_str()), (now(), "admin"));
}

#[test]
fn only_an_admin_of_all_projects_is_a_global_admin() {
    assert!(made(draft(&["admin"])).unwrap().is_global_admin());
    let bound = ApiKeyDraft {
        project_id: Some("acme".parse().unwrap()),
        ..draft(&["admin"])
    };
    assert!(!made(bound).unwrap().is_global_admin());
    assert!(!made(draft(&["manage", "read"])).unwrap().is_global_admin());
}

#[test]
fn everything_wrong_with_a_key_is_listed() {
    assert_eq!(fields(made(draft(&[]))), ["scopes"]);
    let wrong = ApiKeyDraft {
        description: "x".repeat(limits::DESCRIPTION_BYTES + 1),
        ..draft(&["read", "write", ""])
    };
    assert_eq!(fields(made(wrong)), ["scopes[1]", "scopes[2]", "description"]);
    let longest = ApiKeyDraft {
        description: "x".repeat(limits::DESCRIPTION_BYTES),
        ..draft(&["read"])
    };
    assert!(made(longest).is_ok());
    assert_eq!(fields(made(draft(&["read"; 5]))), ["scopes"]);
    assert_eq!(fields(made(draft(&["x"; 1000]))).len(), 1 + Scope::ALL.len());
}

#[test]
fn a_key_is_revoked_once_and_for_good() {
    let key = made(draft(&["admin"])).unwrap();
    let change = decide(&key, ApiKeyCommand::Revoke).unwrap();
    let at = now() + chrono::TimeDelta::seconds(5);
    let revoked = evolve(key.clone(), change, at);
    assert_eq!(
        revoked,
        ApiKey {
            revoked_at: Some(at),
            ..key
        }
    );
    assert!(!revoked.is_live());
    assert_eq!(decide(&revoked, ApiKeyCommand::Revoke), None);
}

/// What is written today is let in for ever.
#[test]
fn the_text_of_a_key_is_as_ever() {
    let key = text(7);
    let shown = key.expose();
    assert_eq!(
        shown,
        "cwk_yv8a90276zy48mxedwbf6j44s0z6582ap12yd1250bgwfqxkjmqrf322t6"
    );
    assert!(shown[4..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(KeyDigest::of(shown.as_bytes()), Ok(key.digest()));
    let digest = key.digest().as_bytes().map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(
        digest,
        "4fc194020ff694bab2423e4794d7edd1446124b1ac21267dfdddd6ec2a3fe152"
    );
}

#[test]
fn keys_and_digests_are_not_shown() {
    let shown = format!("{:?} {:?}", text(1), text(1).digest());
    assert_eq!(shown, "KeyText(..) KeyDigest(..)");
}

#[test]
fn every_key_is_another_one() {
    let keys: HashSet<_> = (0..1000).map(|seed| text(seed).digest()).collect();
    assert_eq!(keys.len(), 1000);
}

proptest! {
    #[test]
    fn a_mistyped_key_is_refused_early(seed: u64, at in 0usize..62, byte: u8) {
        let key = text(seed);
        let mut typed = key.expose().as_bytes().to_vec();
        prop_assume!(typed[at] != byte);
        typed[at] = byte;
        // One changed character of the secret passes by chance in one of 2^30.
        prop_assert_eq!(KeyDigest::of(&typed), Err(InvalidKey));
    }

    #[test]
    fn a_key_that_is_cut_or_goes_on_is_refused_early(seed: u64, len in 0usize..62, more in "[ -~]{1,8}") {
        let key = text(seed);
        let shown = key.expose();
        prop_assert_eq!(KeyDigest::of(&shown.as_bytes()[..len]), Err(InvalidKey));
        prop_assert_eq!(KeyDigest::of(format!("{shown}{more}").as_bytes()), Err(InvalidKey));
        prop_assert_eq!(KeyDigest::of(shown.to_uppercase().as_bytes()), Err(InvalidKey));
    }

    #[test]
    fn rubbish_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert_eq!(KeyDigest::of(&bytes), Err(InvalidKey));
    }
}
