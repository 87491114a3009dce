//! What each project has said of its event types, folded from the control stream into memory and kept live, with the
//! schemas compiled: what accepting asks of every message.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::event_type::{EventTypeChange, EventTypeDefinition, PayloadSchema};
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use cuitty_webhooks_domain::project::{ProjectChange, ProjectSettings, UnknownEventTypes};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::follow::{Fold, Follower, Kept};
use crate::metrics::names;
use crate::subjects::{EVENT_TYPES, PROJECTS, Subject};
use crate::topology::CONTROL_STREAM;
use crate::{CodecError, Log, LogError, codec};

/// An event type as the log has it.
#[derive(Debug)]
pub struct EventTypeEntry {
    /// Its whole state.
    pub definition: EventTypeDefinition,
    /// What JSON payloads must satisfy; `None` when none are checked.
    pub enforced: Option<PayloadSchema>,
    /// Sequence of its last change: what a writer expects to be the last of its subject.
    pub sequence: u64,
}

/// A project's settings as the log has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectEntry {
    /// All of them.
    pub settings: ProjectSettings,
    /// Sequence of their last change, 0 when there was none.
    pub sequence: u64,
}

/// All event types, and the settings of all projects. Clones share one copy, which is kept live until the last clone is
/// dropped.
#[derive(Clone)]
pub struct EventTypes {
    kept: Kept<Known>,
}

/// What is known of projects. Held for one lookup or one change, never across an await.
#[derive(Default)]
struct Known(RwLock<HashMap<ProjectId, Project>>);

#[derive(Default)]
struct Project {
    settings: Option<ProjectEntry>,
    types: BTreeMap<EventType, Arc<EventTypeEntry>>,
}

impl EventTypes {
    /// Learns what the control stream holds, and follows it until `stop` is cancelled. Returns when caught up; a log that
    /// cannot be read then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let follower = Follower::new(log, CONTROL_STREAM).only_these([EVENT_TYPES, PROJECTS]);
        let kept = Kept::start(Known::default(), follower, &stop).await?;
        info!(
            event_types = kept
                .state()
                .read()
                .values()
                .map(|project| project.types.len())
                .sum::<usize>(),
            log.seq = kept.applied(),
            "event types are known"
        );
        Ok(Self { kept })
    }

    /// What the project says of `name`, and what becomes of its messages when that is nothing. One lookup.
    pub fn find(
        &self,
        project_id: &ProjectId,
        name: &EventType,
    ) -> Result<Arc<EventTypeEntry>, UnknownEventTypes> {
        let projects = self.kept.state().read();
        let Some(project) = projects.get(project_id) else {
            return Err(UnknownEventTypes::default());
        };
        project.types.get(name).cloned().ok_or_else(|| {
            let settings = project.settings.as_ref();
            settings.map_or_else(UnknownEventTypes::default, |entry| {
                entry.settings.unknown_event_types
            })
        })
    }

    /// Whether any event type of the project, or any setting of it, was ever stored.
    pub fn knows(&self, project_id: &ProjectId) -> bool {
        self.kept.state().read().contains_key(project_id)
    }

    /// How many event types the project has, archived ones too.
    pub fn count(&self, project_id: &ProjectId) -> usize {
        self.kept
            .state()
            .read()
            .get(project_id)
            .map_or(0, |project| project.types.len())
    }

    /// The project's event types behind `after` in order of their names, archived ones too.
    pub fn list(&self, project_id: &ProjectId, after: Option<&EventType>) -> Vec<Arc<EventTypeEntry>> {
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let projects = self.kept.state().read();
        let project = projects.get(project_id).into_iter();
        project
            .flat_map(|project| project.types.range::<EventType, _>(behind))
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// The project's settings.
    pub fn project(&self, project_id: &ProjectId) -> ProjectEntry {
        let projects = self.kept.state().read();
        let stored = projects
            .get(project_id)
            .and_then(|project| project.settings.clone());
        stored.unwrap_or_else(|| ProjectEntry {
            settings: ProjectSettings::initial(project_id.clone()),
            sequence: 0,
        })
    }

    /// Waits until the change at `sequence` is folded in, at most `timeout`; whether it is.
    pub async fn wait_for(&self, sequence: u64, timeout: Duration) -> bool {
        self.kept.wait_for(sequence, timeout).await
    }

    /// Waits until `holds`, which is asked again after every change.
    pub async fn wait_until(&self, holds: impl Fn() -> bool) {
        self.kept.wait_until(holds).await;
    }

    /// Whether the log is being followed; a loss counts only after 5 s.
    pub fn is_live(&self) -> bool {
        self.kept.is_live()
    }
}

impl Known {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<ProjectId, Project>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ProjectId, Project>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_event_type(&self, entry: EventTypeEntry) {
        let definition = &entry.definition;
        let mut projects = self.write();
        let project = projects.entry(definition.project_id.clone()).or_default();
        let known = project
            .types
            .get(&definition.name)
            .map_or(0, |known| known.sequence);
        if known < entry.sequence {
            project.types.insert(definition.name.clone(), entry.into());
        }
    }

    fn apply_project(&self, entry: ProjectEntry) {
        let mut projects = self.write();
        let project = projects.entry(entry.settings.project_id.clone()).or_default();
        let known = project.settings.as_ref().map_or(0, |known| known.sequence);
        if known < entry.sequence {
            project.settings = Some(entry);
        }
    }
}

/// What a message of the control stream tells.
enum Told {
    EventType(EventTypeDefinition),
    Project(ProjectSettings),
}

impl Fold for Known {
    const NAME: &'static str = "event_types";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
        match decode(message) {
            // Compiled before the lock is taken.
            Ok(Told::EventType(definition)) => self.apply_event_type(EventTypeEntry {
                enforced: enforced(&definition, sequence),
                definition,
                sequence,
            }),
            Ok(Told::Project(settings)) => self.apply_project(ProjectEntry { settings, sequence }),
            Err(error) => {
                metrics::counter!(names::UNREADABLE).increment(1);
                error!(log.seq = sequence, %error, "cannot read a change of an event type or project, leaving it out");
            }
        }
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let _outdated = std::mem::take(&mut *self.write());
    }
}

/// The schema that payloads must satisfy, compiled.
fn enforced(definition: &EventTypeDefinition, sequence: u64) -> Option<PayloadSchema> {
    let settings = &definition.settings;
    let text = settings.schema.as_deref().filter(|_| settings.enforce_schema)?;
    PayloadSchema::compile("schema", text)
        .inspect_err(|faults| {
            // It was checked before it was stored, by another version: messages matter more than their form.
            let fault = faults.first().map_or("", |fault| fault.message.as_str());
            error!(log.seq = sequence, event.type = %definition.name, fault, "cannot enforce a stored schema, payloads are not checked");
        })
        .ok()
}

fn decode(message: &async_nats::Message) -> Result<Told, CodecError> {
    let subject: Subject = message.subject.parse()?;
    let body = message.payload.clone();
    let (told, expected) = if matches!(subject, Subject::Project { .. }) {
        let settings = codec::decode_project_state(body)?;
        let expected = subject_of_project(&settings);
        (Told::Project(settings), expected)
    } else {
        let definition = codec::decode_event_type_state(body)?;
        let expected = subject_of(&definition);
        (Told::EventType(definition), expected)
    };
    if subject != expected {
        return Err(CodecError::Invalid {
            field: "state",
            message: format!("belongs under {expected}"),
        });
    }
    Ok(told)
}

fn subject_of(definition: &EventTypeDefinition) -> Subject {
    Subject::EventType {
        project_id: definition.project_id.clone(),
        name: definition.name.clone(),
    }
}

fn subject_of_project(settings: &ProjectSettings) -> Subject {
    Subject::Project {
        project_id: settings.project_id.clone(),
    }
}

impl Log {
    /// Appends a change of an event type with its state afterwards. `before` is the event type that the change was decided
    /// on, `None` when it is new; [`LogError::Conflict`] when another change came first.
    pub async fn append_event_type(
        &self,
        change: &EventTypeChange,
        before: Option<&EventTypeEntry>,
        definition: &EventTypeDefinition,
        actor: &Actor,
    ) -> Result<u64, LogError> {
        let body = codec::encode_event_type(change, before.map(|entry| &entry.definition), definition, actor);
        let subject = subject_of(definition);
        let expected = before.map_or(0, |entry| entry.sequence);
        self.append_change(subject.clone(), subject, body, expected).await
    }

    /// Appends a change of a project's settings, made at `at`, with all of them afterwards. `expected_last_sequence` is the
    /// sequence of the change before, 0 for none; [`LogError::Conflict`] when another change came first.
    pub async fn append_project(
        &self,
        change: ProjectChange,
        settings: &ProjectSettings,
        actor: &Actor,
        at: DateTime<Utc>,
        expected_last_sequence: u64,
    ) -> Result<u64, LogError> {
        let body = codec::encode_project(change, settings, actor, at);
        let subject = subject_of_project(settings);
        self.append_change(subject.clone(), subject, body, expected_last_sequence)
            .await
    }

    /// The event type as the change at `sequence` of the control stream left it; `None` when there is none.
    pub async fn event_type_at(&self, sequence: u64) -> Result<Option<EventTypeDefinition>, LogError> {
        let message = self.message_at(CONTROL_STREAM, sequence).await?;
        let state = message.map(|message| codec::decode_event_type_state(message.payload));
        Ok(state.transpose()?)
    }

    /// The project's settings as the change at `sequence` of the control stream left them; `None` when there is none.
    pub async fn project_at(&self, sequence: u64) -> Result<Option<ProjectSettings>, LogError> {
        let message = self.message_at(CONTROL_STREAM, sequence).await?;
        let state = message.map(|message| codec::decode_project_state(message.payload));
        Ok(state.transpose()?)
    }
}

#[cfg(test)]
mod tests;
