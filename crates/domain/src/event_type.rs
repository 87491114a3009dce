//! The event types of a project: pure `decide` and `evolve`, as for endpoints.
//!
//! An event type need not be known before messages of it are delivered, unless its [project](crate::project) says so. One
//! that is known tells people what to expect, and may refuse payloads that are not as its schema says.

mod draft;
mod nearest;
mod schema;

use chrono::{DateTime, Utc};

pub use self::draft::{EventTypeDraft, SETTING_FIELDS};
pub use self::nearest::nearest;
pub use self::schema::PayloadSchema;
use crate::names::{EventType, ProjectId};
use crate::rejection::{Rejection, Resource};

/// What a person says of an event type, valid: made from an [`EventTypeDraft`] only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventTypeSettings {
    /// For people.
    pub description: String,
    /// A JSON Schema, draft 2020-12, as it was given.
    pub schema: Option<String>,
    /// A payload, as it was given. It satisfies the schema.
    pub example: Option<String>,
    /// Whether JSON payloads that do not satisfy the schema are refused; if not, the schema only documents.
    pub enforce_schema: bool,
}

/// An event type's whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeDefinition {
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// Its name, which never changes.
    pub name: EventType,
    /// What a person says of it.
    pub settings: EventTypeSettings,
    /// Since when its messages are refused; `None` while it is in use.
    pub archived_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// 1 when created, one more with each change.
    pub revision: u64,
}

impl EventTypeDefinition {
    /// Whether its messages are refused.
    pub fn is_archived(&self) -> bool {
        self.archived_at.is_some()
    }
}

/// What somebody wants of an existing event type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTypeCommand {
    /// Change what is said of it, take it out of use or into use again, or both in one change.
    Update {
        /// All settings after the change.
        settings: Box<EventTypeSettings>,
        /// Whether its messages are to be refused; `None` leaves that as it is.
        archived: Option<bool>,
        /// Refuse unless the event type is still at this revision.
        expected_revision: Option<u64>,
    },
    /// Refuse its messages from now on.
    Archive,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTypeChange {
    /// It came to be.
    Created,
    /// What is said of it changed, and it may have been archived or restored with that.
    Updated {
        /// All settings after the change.
        settings: Box<EventTypeSettings>,
        /// Whether it is archived after the change.
        archived: bool,
    },
    /// Its messages are refused from now on.
    Archived,
    /// Its messages are accepted again.
    Restored,
}

/// Creates an event type; `existing` is what the project has under that name.
pub fn create(
    existing: Option<&EventTypeDefinition>,
    project_id: ProjectId,
    name: EventType,
    settings: EventTypeSettings,
    now: DateTime<Utc>,
) -> Result<(EventTypeChange, EventTypeDefinition), Rejection> {
    if let Some(existing) = existing {
        return Err(conflict(
            &name,
            if existing.is_archived() {
                "exists and is archived; to use it again, update it"
            } else {
                "exists already"
            },
        ));
    }
    let definition = EventTypeDefinition {
        project_id,
        name,
        settings,
        archived_at: None,
        created_at: now,
        updated_at: now,
        revision: 1,
    };
    Ok((EventTypeChange::Created, definition))
}

/// Decides what `command` changes about an event type; `None` when it is so already.
pub fn decide(
    definition: &EventTypeDefinition,
    command: EventTypeCommand,
) -> Result<Option<EventTypeChange>, Rejection> {
    let (settings, archived) = match command {
        EventTypeCommand::Archive => (None, true),
        EventTypeCommand::Update {
            settings,
            archived,
            expected_revision,
        } => {
            let revision = definition.revision;
            if let Some(expected) = expected_revision.filter(|&expected| expected != revision) {
                let message = format!("is at revision {revision}, not {expected}");
                return Err(conflict(&definition.name, message));
            }
            let archived = archived.unwrap_or(definition.is_archived());
            (
                Some(settings).filter(|settings| **settings != definition.settings),
                archived,
            )
        }
    };
    Ok(match settings {
        Some(settings) => Some(EventTypeChange::Updated { settings, archived }),
        None if archived == definition.is_archived() => None,
        None if archived => Some(EventTypeChange::Archived),
        None => Some(EventTypeChange::Restored),
    })
}

/// Folds `change`, made at `at`, into `definition`.
pub fn evolve(
    mut definition: EventTypeDefinition,
    change: &EventTypeChange,
    at: DateTime<Utc>,
) -> EventTypeDefinition {
    let archived = match change {
        EventTypeChange::Created | EventTypeChange::Restored => false,
        EventTypeChange::Archived => true,
        EventTypeChange::Updated { settings, archived } => {
            definition.settings = (**settings).clone();
            *archived
        }
    };
    definition.archived_at = archived.then(|| definition.archived_at.unwrap_or(at));
    definition.updated_at = at;
    definition.revision += 1;
    definition
}

fn conflict(name: &EventType, message: impl Into<String>) -> Rejection {
    Rejection::Conflict {
        resource: Resource::EventType,
        id: name.to_string(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests;
