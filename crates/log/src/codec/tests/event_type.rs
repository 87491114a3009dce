//! Event types and the settings of projects, as the first version that knew them stored them.

use cuitty_webhooks_domain::event_type::{EventTypeChange, EventTypeDefinition, EventTypeSettings};
use cuitty_webhooks_domain::project::{ProjectChange, ProjectSettings, UnknownEventTypes};

use super::golden::{actor, at, hex, unhex, with_unknown_fields};
use super::*;

/// With every field set.
fn full() -> EventTypeDefinition {
    EventTypeDefinition {
        settings: EventTypeSettings {
            description: "A budget was exceeded".into(),
            schema: Some(r#"{"type": "object"}"#.into()),
            example: Some(r#"{"budget": "compute"}"#.into()),
            enforce_schema: true,
        },
        archived_at: Some(at("2026-11-21T10:04:00Z")),
        updated_at: at("2026-11-21T10:05:00Z"),
        revision: 3,
        ..bare()
    }
}

/// With as few fields set as there may be.
fn bare() -> EventTypeDefinition {
    EventTypeDefinition {
        project_id: "acme".parse().unwrap(),
        name: "budget.exceeded".parse().unwrap(),
        settings: EventTypeSettings::default(),
        archived_at: None,
        created_at: at("2026-11-21T10:00:00.000001Z"),
        updated_at: at("2026-11-21T10:00:00.000001Z"),
        revision: 1,
    }
}

fn records() -> [(&'static str, EventTypeRecord, &'static str); 4] {
    let record = |change, definition| EventTypeRecord {
        change,
        actor: actor(),
        definition,
    };
    let updated = EventTypeChange::Updated {
        settings: Box::new(full().settings),
        archived: true,
    };
    [
        (
            "created",
            record(EventTypeChange::Created, bare()),
            include_str!("../golden/event_type_created.hex"),
        ),
        (
            "updated",
            record(updated, full()),
            include_str!("../golden/event_type_updated.hex"),
        ),
        (
            "archived",
            record(EventTypeChange::Archived, full()),
            include_str!("../golden/event_type_archived.hex"),
        ),
        (
            "restored",
            record(EventTypeChange::Restored, bare()),
            include_str!("../golden/event_type_restored.hex"),
        ),
    ]
}

#[test]
fn every_change_of_an_event_type_is_stored_and_read_as_ever() {
    for (name, record, golden) in records() {
        let body = encode_event_type(&record.change, Some(&bare()), &record.definition, &record.actor);
        assert_eq!(hex(&body), golden.trim(), "{name}");
        assert_eq!(decode_event_type(unhex(golden)), Ok(record.clone()), "{name}");
        let later = with_unknown_fields(&unhex(golden));
        assert_eq!(
            decode_event_type_state(later.clone()),
            Ok(record.definition.clone()),
            "{name}"
        );
        assert_eq!(decode_event_type(later), Ok(record), "{name}");
    }
}

#[test]
fn an_update_names_what_it_changed() {
    let (_, record, _) = records()[1].clone();
    let body = encode_event_type(&record.change, Some(&bare()), &record.definition, &record.actor);
    let stored = stored::EventTypeChanged::decode(body).unwrap();
    let Some(stored::event_type_changed::Change::Updated(updated)) = stored.change else {
        panic!("{stored:?}")
    };
    let all = ["description", "schema", "example", "enforce_schema", "archived"];
    assert_eq!(updated.fields, all);
}

#[test]
fn every_change_of_a_project_is_stored_and_read_as_ever() {
    for (unknown, golden) in [
        (
            UnknownEventTypes::Accepted,
            include_str!("../golden/project_accepted.hex"),
        ),
        (
            UnknownEventTypes::Refused,
            include_str!("../golden/project_refused.hex"),
        ),
    ] {
        let changed_at = at("2026-11-21T10:05:00Z");
        let record = ProjectRecord {
            change: ProjectChange::UnknownEventTypes(unknown),
            actor: actor(),
            settings: ProjectSettings {
                project_id: "acme".parse().unwrap(),
                unknown_event_types: unknown,
                updated_at: Some(changed_at),
                revision: 2,
            },
        };
        let body = encode_project(record.change, &record.settings, &record.actor, changed_at);
        assert_eq!(hex(&body), golden.trim(), "{unknown:?}");
        assert_eq!(decode_project(unhex(golden)), Ok(record.clone()));
        let later = with_unknown_fields(&unhex(golden));
        assert_eq!(decode_project_state(later.clone()), Ok(record.settings.clone()));
        assert_eq!(decode_project(later), Ok(record));
    }
}

#[test]
fn missing_and_ill_formed_parts_are_named() {
    let body = unhex(records()[0].2);
    let with = |alter: fn(&mut stored::EventTypeChanged)| altered::<stored::EventTypeChanged>(&body, alter);
    for (body, expected) in [
        (with(|m| m.state = None), "state is missing"),
        (with(|m| m.actor = None), "actor is missing"),
        (with(|m| m.change = None), "change is missing"),
    ] {
        assert_eq!(decode_event_type(body).unwrap_err().to_string(), expected);
    }
    let unnamed = with(|m| m.state.as_mut().unwrap().name = "a..b".into());
    assert!(matches!(
        decode_event_type(unnamed),
        Err(CodecError::Invalid {
            field: "state.name",
            ..
        })
    ));
    // A kind of change that only a later version knows leaves its state readable.
    assert_eq!(decode_event_type_state(with(|m| m.change = None)), Ok(bare()));
    let golden = unhex(include_str!("../golden/project_refused.hex"));
    let unknown =
        altered::<stored::ProjectChanged>(&golden, |m| m.state.as_mut().unwrap().unknown_event_types = 9);
    assert!(matches!(
        decode_project(unknown),
        Err(CodecError::Invalid {
            field: "state.unknown_event_types",
            ..
        })
    ));
}

#[test]
fn neither_is_a_fact_about_a_delivery() {
    for kind in [Kind::EventType, Kind::Project] {
        assert!(matches!(
            decode_event(kind, unhex(records()[0].2)),
            Err(CodecError::Invalid { field: "kind", .. })
        ));
    }
}
