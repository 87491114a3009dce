use std::time::Duration;

use cuitty_webhooks_domain::endpoint::{self, DisabledReason, EndpointChange};

use super::*;
use crate::testing::{endpoint, now};

fn update(fields: &[&str]) -> EndpointUpdate {
    EndpointUpdate {
        draft: EndpointDraft {
            url: "https://new.example.com/".into(),
            timeout_ms: 2000,
            ..EndpointDraft::default()
        },
        active: false,
        fields: fields.iter().map(ToString::to_string).collect(),
        ..EndpointUpdate::default()
    }
}

/// What an update changes, and the state after it.
fn apply(update: &EndpointUpdate, before: &Endpoint) -> Option<(EndpointChange, Endpoint)> {
    let command = update.command(before, &EgressPolicy::default()).unwrap();
    let change = endpoint::decide(before, command, now()).unwrap()?;
    let after = endpoint::evolve(before.clone(), &change, now());
    Some((change, after))
}

#[test]
fn only_the_fields_of_the_mask_change() {
    let before = endpoint(1);
    let (_, after) = apply(&update(&["timeout_ms"]), &before).unwrap();
    assert_eq!(after.settings.timeout, Duration::from_secs(2));
    assert_eq!(after.settings.url, before.settings.url);
    assert_eq!(after.settings.event_types, before.settings.event_types);
    assert_eq!(after.settings.headers, before.settings.headers);
    assert!(after.is_active());
}

#[test]
fn every_setting_can_be_named() {
    let (_, after) = apply(&update(&SETTING_FIELDS), &endpoint(1)).unwrap();
    let expected = update(&[])
        .draft
        .validate(&EgressPolicy::default(), None)
        .unwrap();
    assert_eq!(after.settings, expected);
}

#[test]
fn settings_and_active_are_one_change() {
    let before = endpoint(1);
    let (_, after) = apply(&update(&["active", "url"]), &before).unwrap();
    assert_eq!(after.settings.url, "https://new.example.com/");
    assert_eq!(after.disabled_reason, Some(DisabledReason::Manual));
    assert_eq!(after.revision, before.revision + 1);
    assert_eq!(apply(&update(&["active", "url"]), &after), None, "applied twice");
}

#[test]
fn active_alone_switches_and_checks_no_setting() {
    let mut before = endpoint(1);
    // No policy would take this.
    before.settings.url = "ftp://old.example.com/".into();
    let (change, disabled) = apply(&update(&["active"]), &before).unwrap();
    assert_eq!(change, EndpointChange::Disabled(DisabledReason::Manual));
    assert_eq!(disabled.settings, before.settings);
    let on = EndpointUpdate {
        active: true,
        ..update(&["active"])
    };
    let (change, enabled) = apply(&on, &disabled).unwrap();
    assert_eq!((change, enabled.is_active()), (EndpointChange::Enabled, true));
    assert_eq!(apply(&on, &before), None);
}

#[test]
fn a_revision_that_has_passed_is_refused_whatever_is_named() {
    for fields in [&["active"][..], &["url"], &["active", "url"]] {
        let update = EndpointUpdate {
            expected_revision: Some(9),
            ..update(fields)
        };
        let command = update.command(&endpoint(1), &EgressPolicy::default()).unwrap();
        let refused = endpoint::decide(&endpoint(1), command, now());
        assert!(matches!(refused, Err(Rejection::Conflict { .. })), "{fields:?}");
    }
}

#[test]
fn unknown_fields_of_a_mask_are_named() {
    let fields = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(check_fields(&fields(&["url", "active"])), Ok(()));
    for names in [&[][..], &["project_id"], &["*"], &["settings.url"], &["URL"]] {
        match check_fields(&fields(names)) {
            Err(Rejection::Invalid(violations)) => {
                assert_eq!(violations[0].field, "update_mask", "{names:?}");
            }
            other => panic!("{names:?}: {other:?}"),
        }
    }
}

#[test]
fn no_mask_names_more_than_there_is() {
    let named = |count: usize| check_fields(&vec!["url".to_owned(); count]);
    assert_eq!(named(SETTING_FIELDS.len() + 1), Ok(()));
    for count in [SETTING_FIELDS.len() + 2, 100_000] {
        let Err(Rejection::Invalid(violations)) = named(count) else {
            panic!("{count} names are refused");
        };
        assert_eq!(violations.len(), 1);
    }
}
