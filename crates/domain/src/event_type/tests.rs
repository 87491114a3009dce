use proptest::prelude::*;

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn created(settings: EventTypeSettings) -> EventTypeDefinition {
    let (project_id, name) = ("acme".parse().unwrap(), "budget.exceeded".parse().unwrap());
    create(None, project_id, name, settings, at(0)).unwrap().1
}

fn draft(schema: &str, example: &str) -> EventTypeDraft {
    EventTypeDraft {
        schema: schema.into(),
        example: example.into(),
        ..EventTypeDraft::default()
    }
}

fn refused(draft: EventTypeDraft) -> Vec<String> {
    match draft.validate() {
        Err(Rejection::Invalid(violations)) => {
            violations.into_iter().map(|violation| violation.field).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_is_taken_once_and_an_archived_one_says_how_to_use_it_again() {
    let mut existing = created(EventTypeSettings::default());
    let again = |existing: &EventTypeDefinition| {
        let (project_id, name) = (existing.project_id.clone(), existing.name.clone());
        create(
            Some(existing),
            project_id,
            name,
            EventTypeSettings::default(),
            at(1),
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(again(&existing), "event_type budget.exceeded: exists already");
    existing.archived_at = Some(at(1));
    assert!(again(&existing).contains("is archived"));
}

#[test]
fn a_stale_revision_changes_nothing() {
    let definition = created(EventTypeSettings::default());
    let update = |expected_revision| EventTypeCommand::Update {
        settings: Box::new(EventTypeSettings {
            description: "new".into(),
            ..EventTypeSettings::default()
        }),
        archived: None,
        expected_revision,
    };
    assert!(matches!(
        decide(&definition, update(Some(2))),
        Err(Rejection::Conflict {
            resource: Resource::EventType,
            ..
        })
    ));
    for fresh in [None, Some(1)] {
        assert!(decide(&definition, update(fresh)).unwrap().is_some());
    }
}

#[test]
fn everything_wrong_with_a_draft_is_listed_at_once() {
    let wrong = EventTypeDraft {
        description: "x".repeat(crate::limits::DESCRIPTION_BYTES + 1),
        ..draft(r#"{"type":"strong"}"#, "{")
    };
    assert_eq!(refused(wrong), ["description", "schema/type", "example"]);
    let unenforceable = EventTypeDraft {
        enforce_schema: true,
        ..draft("", "")
    };
    assert_eq!(refused(unenforceable), ["enforce_schema"]);
    assert_eq!(
        refused(draft(r#"{"properties":{"id":{"type":"string"}}}"#, r#"{"id":7}"#)),
        ["example/id"]
    );
}

#[test]
fn examples_are_bounded_and_need_no_schema() {
    let example = |bytes: usize| draft("", &format!("\"{}\"", "x".repeat(bytes - 2)));
    assert!(example(crate::limits::EXAMPLE_BYTES).validate().is_ok());
    assert_eq!(refused(example(crate::limits::EXAMPLE_BYTES + 1)), ["example"]);
    for unfit in ["1e999", r#""\ud800""#, &("[".repeat(200) + &"]".repeat(200))] {
        assert_eq!(refused(draft("", unfit)), ["example"], "{unfit}");
    }
    let kept = draft(" true ", " {\"a\" : 1.0}\n").validate().unwrap();
    assert_eq!(kept.schema.as_deref(), Some(" true "));
    assert_eq!(kept.example.as_deref(), Some(" {\"a\" : 1.0}\n"));
    assert_eq!(EventTypeDraft::from(&kept).validate(), Ok(kept));
}

fn settings() -> impl Strategy<Value = EventTypeSettings> {
    (
        "[a-b]{0,1}",
        proptest::option::of(Just("{}".to_owned())),
        any::<bool>(),
    )
        .prop_map(|(description, schema, enforce)| EventTypeSettings {
            description,
            enforce_schema: enforce && schema.is_some(),
            schema,
            example: None,
        })
}

fn commands() -> impl Strategy<Value = Vec<EventTypeCommand>> {
    let update = (
        settings(),
        proptest::option::of(any::<bool>()),
        proptest::option::of(1u64..6),
    )
        .prop_map(
            |(settings, archived, expected_revision)| EventTypeCommand::Update {
                settings: Box::new(settings),
                archived,
                expected_revision,
            },
        );
    proptest::collection::vec(
        prop_oneof![3 => update, 1 => Just(EventTypeCommand::Archive)],
        0..12,
    )
}

proptest! {
    #[test]
    fn what_is_decided_is_what_holds_after_it_and_decided_again_it_is_no_change(commands in commands()) {
        let mut definition = created(EventTypeSettings::default());
        for (second, command) in (1..).zip(commands) {
            let (wanted, archived) = match &command {
                EventTypeCommand::Archive => (definition.settings.clone(), true),
                EventTypeCommand::Update { settings, archived, .. } => {
                    ((**settings).clone(), archived.unwrap_or(definition.is_archived()))
                }
            };
            let before = definition.clone();
            match decide(&definition, command.clone()) {
                Err(rejection) => {
                    let stale = matches!(command, EventTypeCommand::Update { expected_revision: Some(revision), .. } if revision != before.revision);
                    prop_assert!(stale, "{}", rejection);
                }
                Ok(None) => prop_assert_eq!((&before.settings, before.is_archived()), (&wanted, archived)),
                Ok(Some(change)) => {
                    definition = evolve(definition, &change, at(second));
                    prop_assert_eq!((&definition.settings, definition.is_archived()), (&wanted, archived));
                    prop_assert_eq!((definition.revision, definition.updated_at), (before.revision + 1, at(second)));
                    let since = if before.is_archived() { before.archived_at } else { Some(at(second)) };
                    prop_assert_eq!(definition.archived_at, since.filter(|_| archived));
                    prop_assert_eq!((&definition.name, definition.created_at), (&before.name, before.created_at));
                    let again = EventTypeCommand::Update { settings: Box::new(wanted), archived: Some(archived), expected_revision: None };
                    prop_assert_eq!(decide(&definition, again), Ok(None));
                }
            }
        }
    }
}
