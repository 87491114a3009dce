//! Changes of event types, and of the settings of projects.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::event_type::{EventTypeChange, EventTypeDefinition, EventTypeSettings};
use cuitty_webhooks_domain::project::{ProjectChange, ProjectSettings, UnknownEventTypes};
use cuitty_webhooks_proto::events::v1 as stored;
use prost::Message;
use stored::event_type_changed::Change;
use stored::project_changed::Change as OfProject;

use super::fields::{enumerated, none_if_empty, parse, required, time};
use crate::codec::CodecError;

/// A change of an event type as it is stored: what changed, who did it and when, and the whole new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeRecord {
    /// What changed.
    pub change: EventTypeChange,
    /// Who did it.
    pub actor: Actor,
    /// The event type after the change.
    pub definition: EventTypeDefinition,
}

/// A change of a project's settings as it is stored: what changed, who did it and when, and the whole new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRecord {
    /// What changed.
    pub change: ProjectChange,
    /// Who did it.
    pub actor: Actor,
    /// The settings after the change.
    pub settings: ProjectSettings,
}

/// The stored form of a change. `before` is the event type before an update.
pub fn encode_event_type(
    change: &EventTypeChange,
    before: Option<&EventTypeDefinition>,
    definition: &EventTypeDefinition,
    actor: &Actor,
) -> Bytes {
    let change = match change {
        EventTypeChange::Created => Change::Created(stored::EventTypeCreated {}),
        EventTypeChange::Updated { .. } => Change::Updated(stored::EventTypeUpdated {
            fields: before
                .map(|before| changed_fields(before, definition))
                .unwrap_or_default(),
        }),
        EventTypeChange::Archived => Change::Archived(stored::EventTypeArchived {}),
        EventTypeChange::Restored => Change::Restored(stored::EventTypeRestored {}),
    };
    let message = stored::EventTypeChanged {
        change: Some(change),
        actor: Some(encode_actor(actor)),
        at_us: definition.updated_at.timestamp_micros(),
        state: Some(encode_state(definition)),
    };
    message.encode_to_vec().into()
}

/// What an update changed, by the names in the contract.
fn changed_fields(before: &EventTypeDefinition, after: &EventTypeDefinition) -> Vec<String> {
    let switched = before.is_archived() != after.is_archived();
    let (before, after) = (&before.settings, &after.settings);
    [
        ("description", before.description != after.description),
        ("schema", before.schema != after.schema),
        ("example", before.example != after.example),
        ("enforce_schema", before.enforce_schema != after.enforce_schema),
        ("archived", switched),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(name, _)| name.to_owned())
    .collect()
}

/// Reads the stored form of a change.
pub fn decode_event_type(body: Bytes) -> Result<EventTypeRecord, CodecError> {
    let message = stored::EventTypeChanged::decode(body)?;
    let definition = decode_state(required("state", message.state)?)?;
    let change = match required("change", message.change)? {
        Change::Created(_) => EventTypeChange::Created,
        Change::Updated(_) => EventTypeChange::Updated {
            settings: Box::new(definition.settings.clone()),
            archived: definition.is_archived(),
        },
        Change::Archived(_) => EventTypeChange::Archived,
        Change::Restored(_) => EventTypeChange::Restored,
    };
    Ok(EventTypeRecord {
        change,
        actor: decode_actor(required("actor", message.actor)?),
        definition,
    })
}

/// Reads only the event type after a change, whatever the change is: it may be of a kind that only later versions know.
pub(crate) fn decode_event_type_state(body: Bytes) -> Result<EventTypeDefinition, CodecError> {
    let message = stored::EventTypeChanged::decode(body)?;
    decode_state(required("state", message.state)?)
}

fn encode_state(definition: &EventTypeDefinition) -> stored::EventTypeState {
    let settings = &definition.settings;
    stored::EventTypeState {
        project_id: definition.project_id.to_string(),
        name: definition.name.to_string(),
        description: settings.description.clone(),
        schema: settings.schema.clone().unwrap_or_default(),
        example: settings.example.clone().unwrap_or_default(),
        enforce_schema: settings.enforce_schema,
        archived_at_us: definition.archived_at.map(|at| at.timestamp_micros()),
        created_at_us: definition.created_at.timestamp_micros(),
        updated_at_us: definition.updated_at.timestamp_micros(),
        revision: definition.revision,
    }
}

fn decode_state(state: stored::EventTypeState) -> Result<EventTypeDefinition, CodecError> {
    Ok(EventTypeDefinition {
        project_id: parse("state.project_id", &state.project_id)?,
        name: parse("state.name", &state.name)?,
        settings: EventTypeSettings {
            description: state.description,
            schema: none_if_empty(state.schema),
            example: none_if_empty(state.example),
            enforce_schema: state.enforce_schema,
        },
        archived_at: state
            .archived_at_us
            .map(|micros| time("state.archived_at_us", micros))
            .transpose()?,
        created_at: time("state.created_at_us", state.created_at_us)?,
        updated_at: time("state.updated_at_us", state.updated_at_us)?,
        revision: state.revision,
    })
}

/// The stored form of a change that was made at `at`.
pub fn encode_project(
    change: ProjectChange,
    settings: &ProjectSettings,
    actor: &Actor,
    at: DateTime<Utc>,
) -> Bytes {
    let ProjectChange::UnknownEventTypes(_) = change;
    let unknown = match settings.unknown_event_types {
        UnknownEventTypes::Accepted => stored::UnknownEventTypes::Accepted,
        UnknownEventTypes::Refused => stored::UnknownEventTypes::Refused,
    };
    let message = stored::ProjectChanged {
        change: Some(OfProject::UnknownEventTypesSet(stored::UnknownEventTypesSet {})),
        actor: Some(encode_actor(actor)),
        at_us: at.timestamp_micros(),
        state: Some(stored::ProjectState {
            project_id: settings.project_id.to_string(),
            unknown_event_types: unknown.into(),
            revision: settings.revision,
        }),
    };
    message.encode_to_vec().into()
}

/// Reads the stored form of a change.
pub fn decode_project(body: Bytes) -> Result<ProjectRecord, CodecError> {
    let message = stored::ProjectChanged::decode(body)?;
    let settings = decode_settings(message.at_us, &required("state", message.state)?)?;
    let OfProject::UnknownEventTypesSet(_) = required("change", message.change)?;
    Ok(ProjectRecord {
        change: ProjectChange::UnknownEventTypes(settings.unknown_event_types),
        actor: decode_actor(required("actor", message.actor)?),
        settings,
    })
}

/// Reads only the settings after a change, whatever the change is.
pub(crate) fn decode_project_state(body: Bytes) -> Result<ProjectSettings, CodecError> {
    let message = stored::ProjectChanged::decode(body)?;
    decode_settings(message.at_us, &required("state", message.state)?)
}

fn decode_settings(at_us: i64, state: &stored::ProjectState) -> Result<ProjectSettings, CodecError> {
    Ok(ProjectSettings {
        project_id: parse("state.project_id", &state.project_id)?,
        unknown_event_types: enumerated(
            "state.unknown_event_types",
            state.unknown_event_types,
            |unknown| match unknown {
                stored::UnknownEventTypes::Unspecified => None,
                stored::UnknownEventTypes::Accepted => Some(UnknownEventTypes::Accepted),
                stored::UnknownEventTypes::Refused => Some(UnknownEventTypes::Refused),
            },
        )?,
        updated_at: Some(time("at_us", at_us)?),
        revision: state.revision,
    })
}

fn encode_actor(actor: &Actor) -> stored::Actor {
    stored::Actor {
        id: actor.id.clone(),
        process: actor.process.clone(),
    }
}

fn decode_actor(actor: stored::Actor) -> Actor {
    Actor {
        id: actor.id,
        process: actor.process,
    }
}
