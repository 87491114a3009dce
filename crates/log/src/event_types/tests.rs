use cuitty_webhooks_domain::event_type::{self, EventTypeCommand, EventTypeDraft};
use proptest::prelude::*;

use super::*;
use crate::testing::{NatsServer, SOON};

fn at(second: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + i64::from(second), 0).unwrap()
}

fn actor() -> Actor {
    Actor::system("test")
}

fn draft(schema: &str) -> EventTypeDraft {
    EventTypeDraft {
        schema: schema.into(),
        enforce_schema: !schema.is_empty(),
        ..EventTypeDraft::default()
    }
}

fn created(project: &str, name: &str, schema: &str) -> (EventTypeChange, EventTypeDefinition) {
    let (project_id, name) = (project.parse().unwrap(), name.parse().unwrap());
    event_type::create(None, project_id, name, draft(schema).validate().unwrap(), at(0)).unwrap()
}

async fn create(log: &Log, project: &str, name: &str, schema: &str) -> u64 {
    let (change, definition) = created(project, name, schema);
    log.append_event_type(&change, None, &definition, &actor())
        .await
        .unwrap()
}

fn names(known: &EventTypes, project: &str) -> Vec<String> {
    let listed = known.list(&project.parse().unwrap(), None);
    listed
        .iter()
        .map(|entry| entry.definition.name.to_string())
        .collect()
}

#[tokio::test]
async fn event_types_are_known_by_project_and_name_and_listed_in_order() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    create(&log, "acme", "budget.exceeded", r#"{"type":"object"}"#).await;
    create(&log, "acme", "budget", "").await;
    let known = EventTypes::start(&log, CancellationToken::new()).await.unwrap();
    // One project's name may look like the beginning of another one's event type.
    create(&log, "acme-budget", "exceeded", "").await;
    let last = create(&log, "acme", "api_key.revoked", "").await;
    assert!(known.wait_for(last, SOON).await);

    assert_eq!(
        names(&known, "acme"),
        ["api_key.revoked", "budget", "budget.exceeded"]
    );
    assert_eq!(names(&known, "acme-budget"), ["exceeded"]);
    let (acme, budget) = ("acme".parse().unwrap(), "budget".parse().unwrap());
    let behind = known.list(&acme, Some(&budget));
    assert_eq!(behind.len(), 1);
    let entry = known.find(&acme, &"budget.exceeded".parse().unwrap()).unwrap();
    assert_eq!((entry.sequence, &entry.definition), (1, &behind[0].definition));
    assert!(entry.enforced.as_ref().unwrap().check("payload", b"7").is_err());
    assert!(known.find(&acme, &budget).unwrap().enforced.is_none());
    let unknown = known.find(&"nobody".parse().unwrap(), &budget).err();
    assert_eq!(unknown, Some(UnknownEventTypes::Accepted));
    assert_eq!((known.count(&acme), known.knows(&acme)), (3, true));
    assert!(!known.knows(&"nobody".parse().unwrap()) && known.is_live());
}

#[tokio::test]
async fn changes_are_appended_on_the_state_that_they_were_decided_on_only() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let sequence = create(&log, "acme", "budget.exceeded", "").await;
    let known = EventTypes::start(&log, CancellationToken::new()).await.unwrap();
    let (acme, name) = ("acme".parse().unwrap(), "budget.exceeded".parse().unwrap());
    let entry = known.find(&acme, &name).unwrap();
    let change = |second: u32, command: EventTypeCommand| {
        let change = event_type::decide(&entry.definition, command).unwrap().unwrap();
        let definition = event_type::evolve(entry.definition.clone(), &change, at(second));
        (change, definition)
    };
    let (archived, definition) = change(1, EventTypeCommand::Archive);
    let first = log
        .append_event_type(&archived, Some(&entry), &definition, &actor())
        .await
        .unwrap();
    // The same append again is the same change.
    let again = log
        .append_event_type(&archived, Some(&entry), &definition, &actor())
        .await;
    assert_eq!(again, Ok(first));
    let (late, late_definition) = change(2, EventTypeCommand::Archive);
    for before in [Some(&*entry), None] {
        let refused = log
            .append_event_type(&late, before, &late_definition, &actor())
            .await;
        assert!(
            matches!(refused, Err(LogError::Conflict { expected, .. }) if expected == before.map_or(0, |_| sequence))
        );
    }
    assert!(known.wait_for(first, SOON).await);
    assert_eq!(known.find(&acme, &name).unwrap().definition, definition);
}

#[tokio::test]
async fn what_becomes_of_unknown_types_is_a_setting_of_each_project() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let known = EventTypes::start(&log, CancellationToken::new()).await.unwrap();
    let (acme, name) = ("acme".parse().unwrap(), "budget.exceeded".parse().unwrap());
    let mut entry = known.project(&acme);
    assert_eq!(entry.sequence, 0);
    for unknown in [
        UnknownEventTypes::Refused,
        UnknownEventTypes::Accepted,
        UnknownEventTypes::Refused,
    ] {
        let change = entry.settings.decide(unknown).unwrap();
        let settings = entry.settings.evolve(change, at(1));
        let stored = log
            .append_project(change, &settings, &actor(), at(1), entry.sequence)
            .await
            .unwrap();
        assert!(known.wait_for(stored, SOON).await);
        entry = known.project(&acme);
        assert_eq!(
            entry,
            ProjectEntry {
                settings,
                sequence: stored
            }
        );
        assert_eq!(known.find(&acme, &name).err(), Some(unknown));
        assert_eq!(
            known.find(&"other".parse().unwrap(), &name).err(),
            Some(UnknownEventTypes::Accepted)
        );
    }
    let change = entry.settings.decide(UnknownEventTypes::Accepted).unwrap();
    let stale = log
        .append_project(change, &entry.settings, &actor(), at(2), 1)
        .await;
    assert!(matches!(stale, Err(LogError::Conflict { .. })));
    let anew = EventTypes::start(&log, CancellationToken::new()).await.unwrap();
    assert_eq!(anew.project(&acme), entry);
}

#[tokio::test]
async fn what_cannot_be_read_or_enforced_is_left_out_and_the_rest_goes_on() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let (change, definition) = created("acme", "budget.exceeded", "");
    let body = codec::encode_event_type(&change, None, &definition, &actor());
    let mut impossible = definition.clone();
    impossible.name = "strange".parse().unwrap();
    impossible.settings.schema = Some("{\"type\":\"strong\"}".into());
    impossible.settings.enforce_schema = true;
    for (subject, body) in [
        ("webhooks.event_type.acme.budget.reset", body.clone()),
        ("webhooks.event_type.acme.budget.exceeded", vec![0xff].into()),
        ("webhooks.event_type.acme", body.clone()),
        ("webhooks.project.acme", body),
        (
            "webhooks.event_type.acme.strange",
            codec::encode_event_type(&change, None, &impossible, &actor()),
        ),
    ] {
        log.jetstream()
            .publish(subject, body)
            .await
            .unwrap()
            .await
            .unwrap();
    }
    create(&log, "acme", "budget.known", "").await;
    let known = EventTypes::start(&log, CancellationToken::new()).await.unwrap();
    assert_eq!(names(&known, "acme"), ["budget.known", "strange"]);
    let strange = known.find(&"acme".parse().unwrap(), &impossible.name).unwrap();
    assert!(strange.enforced.is_none());
}

#[tokio::test]
async fn changes_made_while_the_log_was_away_are_known_afterwards() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let known = EventTypes::start(&log, CancellationToken::new()).await.unwrap();
    create(&log, "acme", "first", "").await;
    server.kill();
    server.restart().await;
    let last = create(&log, "acme", "second", "").await;
    assert!(known.wait_for(last, SOON).await);
    assert_eq!(names(&known, "acme"), ["first", "second"]);
}

proptest! {
    #[test]
    fn whatever_the_order_the_last_change_of_each_stands(
        changes in proptest::collection::vec((0..2u8, 0..3u8, any::<bool>()), 1..24).prop_flat_map(|changes| {
            let numbered: Vec<_> = (1..).zip(changes).collect();
            (Just(numbered.clone()), Just(numbered).prop_shuffle())
        }),
    ) {
        let (in_order, shuffled) = changes;
        let state = |changes: &[(u64, (u8, u8, bool))]| {
            let known = Known::default();
            for &(sequence, (project, name, is_type)) in changes {
                let project = format!("p{project}");
                if is_type {
                    let (_, definition) = created(&project, &format!("t.{name}"), "");
                    known.apply_event_type(EventTypeEntry { definition, enforced: None, sequence });
                } else {
                    let settings = ProjectSettings { revision: sequence, ..ProjectSettings::initial(project.parse().unwrap()) };
                    known.apply_project(ProjectEntry { settings, sequence });
                }
            }
            let projects = std::mem::take(&mut *known.write());
            projects
                .into_iter()
                .map(|(id, project)| {
                    let types: Vec<_> = project.types.values().map(|entry| (entry.definition.name.to_string(), entry.sequence)).collect();
                    (id.to_string(), (project.settings.map(|entry| entry.sequence), types))
                })
                .collect::<BTreeMap<_, _>>()
        };
        prop_assert_eq!(state(&shuffled), state(&in_order));
    }
}
