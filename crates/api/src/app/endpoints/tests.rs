use super::*;
use crate::testing::{endpoint, now};
use cuitty_webhooks_domain::endpoint::EndpointChange;

fn entry(seed: u64) -> Arc<Entry> {
    Arc::new(Entry {
        endpoint: endpoint(seed),
        sequence: seed,
        partition: 0,
    })
}

fn ids(page: &[Arc<Entry>]) -> Vec<EndpointId> {
    page.iter().map(|entry| entry.endpoint.id).collect()
}

#[test]
fn pages_cover_a_list_once_newest_first() {
    let entries: Vec<_> = (0..7).map(entry).collect();
    let mut expected = ids(&entries);
    expected.sort_unstable_by_key(|&id| std::cmp::Reverse(id));
    for limit in 1..=8 {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = page_of(entries.clone(), cursor, limit);
            assert!(page.len() <= limit);
            seen.extend(ids(&page));
            let Some(next) = next else { break };
            cursor = Some(next.parse().unwrap());
        }
        assert_eq!(seen, expected, "pages of {limit}");
    }
}

#[test]
fn a_page_goes_on_after_an_endpoint_that_is_gone() {
    let entries: Vec<_> = (0..3).map(entry).collect();
    let (first, next) = page_of(entries.clone(), None, 1);
    let left: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry.endpoint.id != first[0].endpoint.id)
        .collect();
    let (rest, end) = page_of(left.clone(), Some(next.unwrap().parse().unwrap()), 5);
    assert_eq!((rest.len(), end), (left.len(), None));
}

#[test]
fn other_cursors_are_refused() {
    let cursor = EndpointCursor(endpoint(1).id);
    assert_eq!(cursor.to_string().parse(), Ok(cursor));
    for text in ["x", "ep_01h455vb4pex5vsknk084sn02q", "bm90IGFuIGlk", "é"] {
        assert_eq!(text.parse::<EndpointCursor>(), Err(InvalidCursor), "{text}");
    }
}

fn update(fields: &[&str]) -> EndpointUpdate {
    EndpointUpdate {
        draft: EndpointDraft {
            url: "https://new.example.com/".into(),
            timeout_ms: 2000,
            ..EndpointDraft::default()
        },
        active: false,
        fields: fields.iter().map(ToString::to_string).collect(),
        expected_revision: None,
    }
}

/// What an update changes, as the states after each change.
fn apply(update: &EndpointUpdate, before: &Endpoint) -> Vec<(EndpointChange, Endpoint)> {
    let mut state = before.clone();
    let mut changes = Vec::new();
    for command in update.commands(before, &EgressPolicy::default()).unwrap() {
        if let Some(change) = endpoint::decide(&state, command, now()).unwrap() {
            state = endpoint::evolve(state, &change, now());
            changes.push((change, state.clone()));
        }
    }
    changes
}

#[test]
fn only_the_fields_of_the_mask_change() {
    let before = endpoint(1);
    let changes = apply(&update(&["timeout_ms"]), &before);
    let [(EndpointChange::Updated { .. }, after)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(after.settings.timeout, Duration::from_secs(2));
    assert_eq!(after.settings.url, before.settings.url);
    assert_eq!(after.settings.event_types, before.settings.event_types);
    assert_eq!(after.settings.headers, before.settings.headers);
}

#[test]
fn every_setting_can_be_named() {
    let before = endpoint(1);
    let changes = apply(&update(&endpoint::SETTING_FIELDS), &before);
    let [(_, after)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    let expected = update(&[]).draft.validate(&EgressPolicy::default()).unwrap();
    assert_eq!(after.settings, expected);
}

#[test]
fn active_is_a_field_of_its_own() {
    let before = endpoint(1);
    let changes = apply(&update(&["active", "url"]), &before);
    let [
        (EndpointChange::Updated { .. }, _),
        (EndpointChange::Disabled(DisabledReason::Manual), disabled),
    ] = changes.as_slice()
    else {
        panic!("{changes:?}")
    };
    assert_eq!(disabled.settings.url, "https://new.example.com/");
    let enabled = apply(
        &EndpointUpdate {
            active: true,
            ..update(&["active"])
        },
        disabled,
    );
    assert!(matches!(enabled.as_slice(), [(EndpointChange::Enabled, after)] if after.is_active()));
    assert_eq!(
        apply(
            &EndpointUpdate {
                active: true,
                ..update(&["active"])
            },
            &before
        ),
        []
    );
}

#[test]
fn a_revision_that_has_passed_is_refused_even_for_active() {
    let update = EndpointUpdate {
        expected_revision: Some(9),
        ..update(&["active"])
    };
    let commands = update.commands(&endpoint(1), &EgressPolicy::default()).unwrap();
    let refused = endpoint::decide(&endpoint(1), commands[0].clone(), now());
    assert!(matches!(refused, Err(Rejection::Conflict { .. })));
}

#[test]
fn only_the_settings_compare_the_revision() {
    let update = EndpointUpdate {
        expected_revision: Some(1),
        ..update(&["active", "url"])
    };
    let [(_, ours), (_, disabled)] = apply(&update, &endpoint(1)).try_into().unwrap();
    assert_eq!((ours.revision, disabled.revision), (2, 3));
    // Somebody else was faster than the second command: what is left of it is decided on a later revision.
    let left = update.commands(&ours, &EgressPolicy::default()).unwrap();
    let decided = endpoint::decide(&ours, left[1].clone(), now());
    assert_eq!(
        decided,
        Ok(Some(EndpointChange::Disabled(DisabledReason::Manual)))
    );
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
