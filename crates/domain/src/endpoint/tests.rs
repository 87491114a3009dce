mod secrets;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::egress::EgressPolicy;

const HOUR: Duration = Duration::from_hours(1);

fn start() -> DateTime<Utc> {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

fn settings(url: &str) -> EndpointSettings {
    EndpointDraft {
        url: url.into(),
        ..EndpointDraft::default()
    }
    .validate(&EgressPolicy::default(), None)
    .unwrap()
}

/// A secret that `seed` tells from others, made at `now`.
fn secret(seed: u64, now: DateTime<Utc>) -> Secret {
    let sealed = SealedSecret {
        sealing_key_id: "k1".into(),
        nonce: [0; 24],
        ciphertext: seed.to_be_bytes().to_vec(),
        public_key: None,
    };
    Secret {
        id: SecretId::new(now, &mut StdRng::seed_from_u64(seed)),
        sealed,
        created_at: now,
        expires_at: None,
    }
}

/// An endpoint of `acme`, created at the same time as everything in these tests.
pub(crate) fn endpoint() -> Endpoint {
    let id = EndpointId::new(start(), &mut StdRng::seed_from_u64(1));
    create(
        id,
        "acme".parse().unwrap(),
        settings("https://example.com/a"),
        secret(1, start()),
        start(),
    )
    .1
}

/// The endpoint after these commands, each an hour after the one before. None of them may be refused.
fn given(commands: impl IntoIterator<Item = EndpointCommand>) -> (Endpoint, DateTime<Utc>) {
    let mut now = start();
    let mut endpoint = endpoint();
    for command in commands {
        now += HOUR;
        let change = decide(&endpoint, command, now).unwrap().expect("a change");
        endpoint = evolve(endpoint, &change, now);
    }
    (endpoint, now + HOUR)
}

fn update(url: &str, expected_revision: Option<u64>) -> EndpointCommand {
    update_and_switch(url, None, expected_revision)
}

fn update_and_switch(url: &str, active: Option<bool>, expected_revision: Option<u64>) -> EndpointCommand {
    EndpointCommand::Update {
        settings: Box::new(settings(url)),
        active,
        expected_revision,
    }
}

fn rotate(seed: u64, overlap: Duration) -> EndpointCommand {
    EndpointCommand::RotateSecret {
        secret: secret(seed, start()),
        overlap,
    }
}

fn revoke(seed: u64) -> EndpointCommand {
    EndpointCommand::RevokeSecret {
        secret_id: secret(seed, start()).id,
    }
}

fn disable(reason: DisabledReason) -> EndpointCommand {
    EndpointCommand::Disable(reason)
}

#[test]
fn creation_is_the_first_revision() {
    let id = EndpointId::new(start(), &mut StdRng::seed_from_u64(1));
    let (settings, secret) = (settings("https://example.com/a"), secret(1, start()));
    let project_id: ProjectId = "acme".parse().unwrap();
    let (change, endpoint) = create(id, project_id.clone(), settings.clone(), secret.clone(), start());
    let boxed = Box::new(settings.clone());
    assert_eq!(
        change,
        EndpointChange::Created {
            settings: boxed,
            secret: secret.clone()
        }
    );
    let expected = Endpoint {
        id,
        project_id,
        settings,
        disabled_reason: None,
        enabled_at: None,
        secrets: vec![secret],
        created_at: start(),
        updated_at: start(),
        revision: 1,
        deleted_at: None,
    };
    assert_eq!(endpoint, expected);
    assert!(endpoint.is_active());
}

#[test]
fn updates_replace_the_settings() {
    let (before, now) = given([]);
    let change = decide(&before, update("https://example.com/b", None), now)
        .unwrap()
        .unwrap();
    let boxed = Box::new(settings("https://example.com/b"));
    assert_eq!(
        change,
        EndpointChange::Updated {
            settings: boxed.clone(),
            disabled_reason: None,
        }
    );
    let after = evolve(before.clone(), &change, now);
    assert_eq!(
        after,
        Endpoint {
            settings: *boxed,
            revision: 2,
            updated_at: now,
            ..before
        }
    );
}

#[test]
fn an_update_that_also_switches_is_one_change() {
    let (active, now) = given([]);
    let off = update_and_switch("https://example.com/b", Some(false), None);
    let change = decide(&active, off.clone(), now).unwrap().unwrap();
    assert_eq!(
        change,
        EndpointChange::Updated {
            settings: Box::new(settings("https://example.com/b")),
            disabled_reason: Some(DisabledReason::Manual),
        }
    );
    let disabled = evolve(active, &change, now);
    assert_eq!(
        (disabled.disabled_reason, disabled.revision),
        (Some(DisabledReason::Manual), 2)
    );
    assert_eq!(decide(&disabled, off, now), Ok(None));

    let on = update_and_switch("https://example.com/c", Some(true), None);
    let change = decide(&disabled, on.clone(), now).unwrap().unwrap();
    let enabled = evolve(disabled, &change, now);
    assert_eq!(
        (
            enabled.disabled_reason,
            enabled.revision,
            enabled.settings.url.as_str()
        ),
        (None, 3, "https://example.com/c")
    );
    assert_eq!(decide(&enabled, on, now), Ok(None));
}

#[test]
fn an_update_that_only_switches_is_no_change_of_settings() {
    let same = |active| update_and_switch("https://example.com/a", Some(active), None);
    let (active, now) = given([]);
    assert_eq!(
        decide(&active, same(false), now),
        Ok(Some(EndpointChange::Disabled(DisabledReason::Manual)))
    );
    assert_eq!(decide(&active, same(true), now), Ok(None));
    let (disabled, now) = given([disable(DisabledReason::Gone)]);
    assert_eq!(
        decide(&disabled, same(true), now),
        Ok(Some(EndpointChange::Enabled))
    );
    assert_eq!(decide(&disabled, same(false), now), Ok(None));
}

#[test]
fn an_update_keeps_why_an_endpoint_was_disabled() {
    for active in [None, Some(false)] {
        let (disabled, now) = given([disable(DisabledReason::Gone)]);
        let command = update_and_switch("https://example.com/b", active, None);
        let change = decide(&disabled, command, now).unwrap().unwrap();
        let after = evolve(disabled, &change, now);
        assert_eq!(after.disabled_reason, Some(DisabledReason::Gone), "{active:?}");
    }
}

#[test]
fn updates_may_insist_on_a_revision() {
    let (endpoint, now) = given([update("https://example.com/b", None)]);
    assert!(
        decide(&endpoint, update("https://example.com/c", Some(2)), now)
            .unwrap()
            .is_some()
    );
    let expected = Rejection::Conflict {
        resource: Resource::Endpoint,
        id: endpoint.id.to_string(),
        message: "is at revision 2, not 1".into(),
    };
    assert_eq!(
        decide(&endpoint, update("https://example.com/c", Some(1)), now),
        Err(expected.clone())
    );
    // Even when nothing would change: the caller has not seen what is.
    for active in [None, Some(true), Some(false)] {
        let same = update_and_switch("https://example.com/b", active, Some(1));
        assert_eq!(decide(&endpoint, same, now), Err(expected.clone()), "{active:?}");
    }
}

#[test]
fn what_is_so_already_is_no_change() {
    let (active, now) = given([]);
    for command in [
        update("https://example.com/a", None),
        update("https://example.com/a", Some(1)),
        EndpointCommand::Enable,
    ] {
        assert_eq!(decide(&active, command.clone(), now), Ok(None), "{command:?}");
    }
    let (disabled, now) = given([disable(DisabledReason::Gone)]);
    for reason in [DisabledReason::Gone, DisabledReason::Manual] {
        assert_eq!(decide(&disabled, disable(reason), now), Ok(None), "{reason:?}");
    }
}

#[test]
fn disabling_keeps_the_reason_and_enabling_clears_it() {
    for reason in [
        DisabledReason::Manual,
        DisabledReason::Gone,
        DisabledReason::Failing,
    ] {
        let (disabled, now) = given([disable(reason)]);
        assert_eq!(
            (disabled.disabled_reason, disabled.is_active(), disabled.revision),
            (Some(reason), false, 2)
        );
        let change = decide(&disabled, EndpointCommand::Enable, now).unwrap().unwrap();
        assert_eq!(change, EndpointChange::Enabled);
        let enabled = evolve(disabled, &change, now);
        assert_eq!(
            (enabled.disabled_reason, enabled.is_active(), enabled.revision),
            (None, true, 3)
        );
    }
}

#[test]
fn it_is_known_when_an_endpoint_was_last_enabled() {
    let disable = || disable(DisabledReason::Failing);
    let switch = |path: &str, active| update_and_switch(path, Some(active), None);
    let (a, b) = ("https://example.com/a", "https://example.com/b");
    let enabled_at = |commands: Vec<EndpointCommand>| given(commands).0.enabled_at;
    // The commands are an hour apart.
    let hours = |hours: u32| Some(start() + HOUR * hours);
    assert_eq!(enabled_at(vec![]), None);
    assert_eq!(enabled_at(vec![disable()]), None);
    assert_eq!(enabled_at(vec![disable(), EndpointCommand::Enable]), hours(2));
    assert_eq!(enabled_at(vec![disable(), switch(a, true)]), hours(2));
    assert_eq!(enabled_at(vec![switch(b, false), switch(a, true)]), hours(2));
    // Later changes that do not enable it leave it.
    assert_eq!(
        enabled_at(vec![
            disable(),
            EndpointCommand::Enable,
            update(b, None),
            disable()
        ]),
        hours(2)
    );
    assert_eq!(enabled_at(vec![switch(b, true)]), None, "was active");
    let twice = vec![disable(), EndpointCommand::Enable, disable(), switch(b, true)];
    assert_eq!(enabled_at(twice), hours(4));
}

#[test]
fn a_deleted_endpoint_is_not_found() {
    let (before, now) = given([disable(DisabledReason::Manual)]);
    let change = decide(&before, EndpointCommand::Delete, now).unwrap().unwrap();
    assert_eq!(change, EndpointChange::Deleted);
    let deleted = evolve(before, &change, now);
    assert_eq!((deleted.deleted_at, deleted.revision), (Some(now), 3));
    let expected = Rejection::NotFound {
        resource: Resource::Endpoint,
        id: deleted.id.to_string(),
    };
    for command in [
        update("https://example.com/b", Some(1)),
        disable(DisabledReason::Manual),
        EndpointCommand::Enable,
        rotate(2, Duration::MAX),
        revoke(1),
        EndpointCommand::Delete,
    ] {
        assert_eq!(decide(&deleted, command, now), Err(expected.clone()));
    }
}

#[test]
fn the_default_schedule_stands_in_for_an_empty_one() {
    let mut settings = settings("https://example.com/a");
    assert_eq!(settings.retry_schedule(), RetrySchedule::default());
    settings.retry_schedule_seconds = vec![1, 2];
    assert_eq!(settings.retry_schedule(), RetrySchedule::from_seconds(&[1, 2]));
}

/// A command, or the revocation of one of the secrets that there are.
#[derive(Debug, Clone)]
enum Step {
    Command(EndpointCommand),
    Revoke(prop::sample::Index),
}

impl Step {
    fn command(self, endpoint: &Endpoint) -> EndpointCommand {
        match self {
            Self::Command(command) => command,
            Self::Revoke(index) => EndpointCommand::RevokeSecret {
                secret_id: index.get(&endpoint.secrets).id,
            },
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_command().prop_map(Step::Command),
        2 => any::<prop::sample::Index>().prop_map(Step::Revoke),
    ]
}

fn any_command() -> impl Strategy<Value = EndpointCommand> {
    let reason = prop::sample::select(vec![
        DisabledReason::Manual,
        DisabledReason::Gone,
        DisabledReason::Failing,
    ]);
    prop_oneof![
        4 => (0..3u8, any::<Option<bool>>(), prop::option::of(1..6u64)).prop_map(|(path, active, revision)| {
            update_and_switch(&format!("https://example.com/{path}"), active, revision)
        }),
        2 => reason.prop_map(EndpointCommand::Disable),
        2 => Just(EndpointCommand::Enable),
        8 => (2..u64::MAX, 0..200u32).prop_map(|(seed, hours)| rotate(seed, HOUR * hours)),
        1 => Just(EndpointCommand::Delete),
    ]
}

proptest! {
    #[test]
    fn any_history_keeps_the_invariants(
        steps in proptest::collection::vec((any_step(), 0..30u32), 0..60),
    ) {
        let mut endpoint = endpoint();
        let mut now = start();
        for (step, hours) in steps {
            now += HOUR * hours;
            let before = endpoint.clone();
            let command = step.command(&endpoint);
            let Ok(Some(change)) = decide(&endpoint, command.clone(), now) else { continue };
            prop_assert!(before.deleted_at.is_none());
            endpoint = evolve(endpoint, &change, now);

            prop_assert_eq!(endpoint.revision, before.revision + 1);
            prop_assert_eq!((endpoint.updated_at, endpoint.created_at), (now, start()));
            prop_assert_eq!((endpoint.id, &endpoint.project_id), (before.id, &before.project_id));

            let is_enabled = endpoint.is_active() && !before.is_active();
            prop_assert_eq!(endpoint.enabled_at, if is_enabled { Some(now) } else { before.enabled_at });

            prop_assert_eq!(endpoint.secrets[0].expires_at, None);
            prop_assert!(endpoint.secrets[1..].iter().all(|secret| secret.expires_at.is_some()));
            prop_assert!(endpoint.live_secrets(now).count() <= limits::LIVE_SECRETS);
            for secret in &before.secrets {
                let kept = endpoint.secrets.iter().find(|kept| kept.sealed == secret.sealed);
                let kept = kept.unwrap();
                match &command {
                    EndpointCommand::RevokeSecret { secret_id } if *secret_id == secret.id => {
                        prop_assert_eq!(kept.expires_at, Some(now));
                        prop_assert!(secret.is_live(now) && !kept.is_live(now));
                    }
                    _ => prop_assert!(secret.expires_at.is_none() || kept == secret),
                }
            }

            let again = decide(&endpoint, command.clone(), now);
            match command {
                EndpointCommand::Delete => prop_assert!(matches!(again, Err(Rejection::NotFound { .. })), "{:?}", again),
                EndpointCommand::Update { expected_revision: None, .. }
                | EndpointCommand::Disable(_)
                | EndpointCommand::RevokeSecret { .. }
                | EndpointCommand::Enable => prop_assert_eq!(again, Ok(None)),
                EndpointCommand::Update { .. } => prop_assert!(matches!(again, Err(Rejection::Conflict { .. })), "{:?}", again),
                EndpointCommand::RotateSecret { .. } => {}
            }
        }
    }
}
