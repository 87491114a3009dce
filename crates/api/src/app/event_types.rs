//! Event types: what a project says of them, and what becomes of messages because of that.

mod page;

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::event_type::{
    self, EventTypeCommand, EventTypeDefinition, EventTypeDraft, EventTypeSettings, SETTING_FIELDS, nearest,
};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::names::{EventType, EventTypePattern, ProjectId};
use cuitty_webhooks_domain::project::{ProjectSettings, UnknownEventTypes};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection, Resource};
use cuitty_webhooks_log::{EventTypeEntry, LogError};

use self::page::{EventTypeCursor, page_of};
use super::deliver::Message;
use super::input::{PageInput, Violations};
use super::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// How often a change is decided anew when somebody else was faster.
const DECISIONS: usize = 16;
/// How long a write may take to be known here.
const KNOWN: Duration = Duration::from_secs(2);
/// Longest payload that is checked at once, in bytes. Longer ones do not hold up what else runs here.
const CHECKED_AT_ONCE: usize = 4 * 1024;

/// An event type as a caller wants it.
#[derive(Debug, Default)]
pub(crate) struct NewEventType {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) name: String,
    pub(crate) draft: EventTypeDraft,
}

/// What shall change about an event type.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventTypeUpdate {
    /// Holds the new values of `fields`.
    pub(crate) draft: EventTypeDraft,
    /// New value of `archived`, if that is in `fields`.
    pub(crate) archived: bool,
    /// Names of the fields to change.
    pub(crate) fields: Vec<String>,
    /// Refuse unless the event type is still at this revision.
    pub(crate) expected_revision: Option<u64>,
}

impl App {
    /// Creates an event type.
    #[tracing::instrument(name = "api.create_event_type", skip_all)]
    pub(crate) async fn create_event_type(
        &self,
        caller: &Caller,
        new: NewEventType,
    ) -> Result<EventTypeDefinition, AppError> {
        observed("create_event_type", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            let project_id = violations.project(caller, &new.project_id);
            let name = violations.parse::<EventType>("name", &new.name);
            let settings = violations.absorb(validate(new.draft).await?)?;
            let ((project_id, name), settings) = violations.finish(project_id.zip(name).zip(settings))?;
            caller.require_project(&project_id)?;
            for _ in 0..DECISIONS {
                let known = self.event_types.find(&project_id, &name).ok();
                let existing = known.as_ref().map(|entry| &entry.definition);
                let (change, definition) = event_type::create(
                    existing,
                    project_id.clone(),
                    name.clone(),
                    settings.clone(),
                    self.now(),
                )?;
                if self.event_types.count(&project_id) >= limits::EVENT_TYPES {
                    let message = format!("has {} event types, no more are taken", limits::EVENT_TYPES);
                    return Err(conflict(Resource::Project, &project_id, message));
                }
                let appended = self
                    .log
                    .append_event_type(&change, None, &definition, &caller.actor)
                    .await;
                if self.is_stored(appended).await? {
                    return Ok(definition);
                }
                // Somebody else created it; soon that is known here, too.
                self.await_event_type(&project_id, &name, 0).await;
            }
            Err(contended(&name))
        })
        .await
    }

    /// One event type, archived ones too.
    #[tracing::instrument(name = "api.get_event_type", skip_all)]
    pub(crate) async fn get_event_type(
        &self,
        caller: &Caller,
        project_id: &str,
        name: &str,
    ) -> Result<Arc<EventTypeEntry>, AppError> {
        observed("get_event_type", async {
            caller.require(Scope::Read)?;
            let (project_id, name) = named(caller, project_id, name)?;
            self.known_event_type(&project_id, &name)
        })
        .await
    }

    /// A page of a project's event types in order of their names, and where the next page begins.
    #[tracing::instrument(name = "api.list_event_types", skip_all)]
    pub(crate) async fn list_event_types(
        &self,
        caller: &Caller,
        project_id: &str,
        page: &PageInput,
        include_archived: bool,
    ) -> Result<(Vec<Arc<EventTypeEntry>>, Option<String>), AppError> {
        observed("list_event_types", async {
            caller.require(Scope::Read)?;
            let mut violations = Violations::after(page.faults.clone());
            let project_id = violations.project(caller, project_id);
            let limit = page.limit(&mut violations) as usize;
            let cursor = violations.parse_some::<EventTypeCursor>("cursor", &page.cursor);
            let project_id = violations.finish(project_id)?;
            caller.require_project(&project_id)?;
            self.endpoints_of(&project_id)?;
            let after = cursor.as_ref().map(|cursor| &cursor.0);
            let mut entries = self.event_types.list(&project_id, after);
            entries.retain(|entry| include_archived || !entry.definition.is_archived());
            Ok(page_of(entries, limit))
        })
        .await
    }

    /// Changes the fields named in the update, all in one change.
    #[tracing::instrument(name = "api.update_event_type", skip_all)]
    pub(crate) async fn update_event_type(
        &self,
        caller: &Caller,
        project_id: &str,
        name: &str,
        update: EventTypeUpdate,
    ) -> Result<EventTypeDefinition, AppError> {
        observed("update_event_type", async {
            caller.require(Scope::Manage)?;
            check_fields(&update.fields)?;
            let (project_id, name) = named(caller, project_id, name)?;
            self.change_event_type(caller, &project_id, &name, Some(&update))
                .await
        })
        .await
    }

    /// Takes an event type out of use: its messages are refused, and endpoints may not name it anew.
    #[tracing::instrument(name = "api.archive_event_type", skip_all)]
    pub(crate) async fn archive_event_type(
        &self,
        caller: &Caller,
        project_id: &str,
        name: &str,
    ) -> Result<EventTypeDefinition, AppError> {
        observed("archive_event_type", async {
            caller.require(Scope::Manage)?;
            let (project_id, name) = named(caller, project_id, name)?;
            self.change_event_type(caller, &project_id, &name, None).await
        })
        .await
    }

    /// What becomes of messages whose event type a project does not know.
    #[tracing::instrument(name = "api.get_event_type_policy", skip_all)]
    pub(crate) async fn event_type_policy(
        &self,
        caller: &Caller,
        project_id: &str,
    ) -> Result<ProjectSettings, AppError> {
        observed("get_event_type_policy", async {
            caller.require(Scope::Read)?;
            let project_id = project(caller, project_id)?;
            self.endpoints_of(&project_id)?;
            Ok(self.event_types.project(&project_id).settings)
        })
        .await
    }

    /// Sets what becomes of messages whose event type a project does not know.
    #[tracing::instrument(name = "api.set_event_type_policy", skip_all)]
    pub(crate) async fn set_event_type_policy(
        &self,
        caller: &Caller,
        project_id: &str,
        unknown: Option<UnknownEventTypes>,
    ) -> Result<ProjectSettings, AppError> {
        observed("set_event_type_policy", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            let project_id = violations.project(caller, project_id);
            if unknown.is_none() {
                violations.add("unknown_event_types", "must be `accepted` or `refused`");
            }
            let (project_id, unknown) = violations.finish(project_id.zip(unknown))?;
            caller.require_project(&project_id)?;
            for _ in 0..DECISIONS {
                let entry = self.event_types.project(&project_id);
                let Some(change) = entry.settings.decide(unknown) else {
                    return Ok(entry.settings);
                };
                let now = self.now();
                let settings = entry.settings.evolve(change, now);
                let appended = self
                    .log
                    .append_project(change, &settings, &caller.actor, now, entry.sequence)
                    .await;
                if self.is_stored(appended).await? {
                    return Ok(settings);
                }
                let newer = || self.event_types.project(&project_id).sequence > entry.sequence;
                self.await_change_of_types(newer).await;
            }
            let message = "is being changed by others; try again";
            Err(conflict(Resource::Project, &project_id, message))
        })
        .await
    }

    /// Decides an update (none: to archive it) against the event type's state and appends what it changes, provided that
    /// nobody else has changed it meanwhile; if so, decides anew on the newer state.
    async fn change_event_type(
        &self,
        caller: &Caller,
        project_id: &ProjectId,
        name: &EventType,
        update: Option<&EventTypeUpdate>,
    ) -> Result<EventTypeDefinition, AppError> {
        for _ in 0..DECISIONS {
            let entry = self.known_event_type(project_id, name)?;
            let before = &entry.definition;
            let command = match update {
                Some(update) => update.command(before).await?,
                None => EventTypeCommand::Archive,
            };
            let Some(change) = event_type::decide(before, command)? else {
                return Ok(before.clone());
            };
            let definition = event_type::evolve(before.clone(), &change, self.now());
            let appended = self
                .log
                .append_event_type(&change, Some(&entry), &definition, &caller.actor)
                .await;
            if self.is_stored(appended).await? {
                return Ok(definition);
            }
            self.await_event_type(project_id, name, entry.sequence).await;
        }
        Err(contended(name))
    }

    /// Waits until what was appended is known here; `false` when somebody else was faster.
    async fn is_stored(&self, appended: Result<u64, LogError>) -> Result<bool, AppError> {
        match appended {
            Ok(sequence) => {
                tracing::info!(log.seq = sequence, "event types changed");
                self.event_types.wait_for(sequence, KNOWN).await;
                Ok(true)
            }
            Err(LogError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when a change of the event type behind `sequence` is known here, or after a while.
    async fn await_event_type(&self, project_id: &ProjectId, name: &EventType, sequence: u64) {
        let newer = || {
            let known = self.event_types.find(project_id, name);
            known.is_ok_and(|entry| entry.sequence > sequence)
        };
        self.await_change_of_types(newer).await;
    }

    async fn await_change_of_types(&self, is_known: impl Fn() -> bool) {
        let _ = tokio::time::timeout(KNOWN, self.event_types.wait_until(is_known)).await;
    }

    fn known_event_type(
        &self,
        project_id: &ProjectId,
        name: &EventType,
    ) -> Result<Arc<EventTypeEntry>, AppError> {
        self.event_types.find(project_id, name).map_err(|_| {
            let id = name.to_string();
            Rejection::NotFound {
                resource: Resource::EventType,
                id,
            }
            .into()
        })
    }

    /// Refuses patterns that name an archived event type, unless they are `known` already.
    pub(super) fn vet_subscriptions(
        &self,
        project_id: &ProjectId,
        patterns: &[EventTypePattern],
        known: &[EventTypePattern],
    ) -> Result<(), Rejection> {
        let is_archived = |pattern: &EventTypePattern| {
            let name: Option<EventType> = pattern.as_str().parse().ok();
            name.and_then(|name| self.event_types.find(project_id, &name).ok())
                .is_some_and(|entry| entry.definition.is_archived())
        };
        let violations: Vec<_> = (patterns.iter().enumerate())
            .filter(|(_, pattern)| !known.contains(pattern) && is_archived(pattern))
            .map(|(index, _)| {
                let message = "names an archived event type, of which there are no messages any more";
                FieldViolation::new(format!("event_types[{index}]"), message)
            })
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Invalid(violations))
        }
    }

    /// Refuses a message whose event type is archived, or unknown where that is refused, or whose payload is not as its
    /// schema says. A message that repeats one which was accepted under its key is not looked at again.
    pub(super) async fn vet_message(&self, message: Message) -> Result<Message, AppError> {
        let refusal = match self.event_types.find(&message.project_id, &message.event_type) {
            Err(UnknownEventTypes::Accepted) => return Ok(message),
            Err(UnknownEventTypes::Refused) => self.unknown_event_type(&message),
            Ok(entry) if entry.definition.is_archived() => {
                AppError::EventTypeArchived(message.event_type.clone())
            }
            Ok(entry) => match check_payload(entry, &message).await? {
                Ok(()) => return Ok(message),
                Err(violations) => Rejection::Invalid(violations).into(),
            },
        };
        if message.idempotency_key.is_empty() {
            return Err(refusal);
        }
        let keys = self.idempotency().await?;
        match keys
            .recall(&message.project_id, &message.idempotency_key)
            .await?
        {
            Some(record) if record.intent.fingerprint == message.fingerprint() => Ok(message),
            _ => Err(refusal),
        }
    }

    fn unknown_event_type(&self, message: &Message) -> AppError {
        let known = self.event_types.list(&message.project_id, None);
        let in_use = known
            .iter()
            .map(|entry| &entry.definition)
            .filter(|definition| !definition.is_archived());
        let nearest = nearest(&message.event_type, in_use.map(|definition| &definition.name));
        AppError::EventTypeUnknown {
            nearest: nearest.into_iter().cloned().collect(),
        }
    }

    /// A test message that says what the example of its event type says, if there is one.
    pub(super) fn with_example(&self, mut message: Message) -> Message {
        let known = self.event_types.find(&message.project_id, &message.event_type);
        let example = known
            .ok()
            .and_then(|entry| entry.definition.settings.example.clone());
        message.example = example.map(Into::into);
        message
    }
}

/// Checks a JSON payload against the schema that is enforced, if one is.
async fn check_payload(
    entry: Arc<EventTypeEntry>,
    message: &Message,
) -> Result<Result<(), Vec<FieldViolation>>, AppError> {
    if entry.enforced.is_none() || !message.is_json() {
        return Ok(Ok(()));
    }
    let payload = message.payload.clone();
    let is_short = payload.len() <= CHECKED_AT_ONCE;
    let check = move || match &entry.enforced {
        Some(schema) => schema.check("payload", &payload),
        None => Ok(()),
    };
    if is_short {
        return Ok(check());
    }
    tokio::task::spawn_blocking(check)
        .await
        .map_err(AppError::internal)
}

/// Checks a draft. A schema takes its time to compile.
async fn validate(draft: EventTypeDraft) -> Result<Result<EventTypeSettings, Rejection>, AppError> {
    tokio::task::spawn_blocking(|| draft.validate())
        .await
        .map_err(AppError::internal)
}

/// The project and the event type that a caller names.
fn named(caller: &Caller, project_id: &str, name: &str) -> Result<(ProjectId, EventType), AppError> {
    let mut violations = Violations::default();
    let project_id = violations.project(caller, project_id);
    let name = violations.parse("name", name);
    let (project_id, name) = violations.finish(project_id.zip(name))?;
    caller.require_project(&project_id)?;
    Ok((project_id, name))
}

fn project(caller: &Caller, project_id: &str) -> Result<ProjectId, AppError> {
    let mut violations = Violations::default();
    let project_id = violations.project(caller, project_id);
    let project_id = violations.finish(project_id)?;
    caller.require_project(&project_id)?;
    Ok(project_id)
}

/// Refuses names of fields that cannot be changed.
fn check_fields(fields: &[String]) -> Result<(), Rejection> {
    let mut violations = Violations::default();
    if fields.is_empty() {
        violations.add("update_mask", "must name at least one field");
    }
    for field in fields {
        if field != "archived" && !SETTING_FIELDS.contains(&field.as_str()) {
            let known = SETTING_FIELDS.join(", ");
            let field = field.escape_default();
            violations.add(
                "update_mask",
                format!("has `{field}`; what can be changed is archived, {known}"),
            );
        }
    }
    violations.finish(Some(()))
}

impl EventTypeUpdate {
    /// The settings of `definition` with the named fields replaced, unchecked.
    fn apply(&self, definition: &EventTypeDefinition) -> EventTypeDraft {
        let mut draft = EventTypeDraft::from(&definition.settings);
        for field in &self.fields {
            match field.as_str() {
                "description" => draft.description.clone_from(&self.draft.description),
                "schema" => draft.schema.clone_from(&self.draft.schema),
                "example" => draft.example.clone_from(&self.draft.example),
                "enforce_schema" => draft.enforce_schema = self.draft.enforce_schema,
                _ => {}
            }
        }
        draft
    }

    /// What to do about `definition`. Settings that are not named are not checked again, so that a stored schema which this
    /// version would not take can still be archived.
    async fn command(&self, definition: &EventTypeDefinition) -> Result<EventTypeCommand, AppError> {
        let is_archived = |field: &String| field == "archived";
        let settings = if self.fields.iter().all(is_archived) {
            definition.settings.clone()
        } else {
            validate(self.apply(definition)).await??
        };
        Ok(EventTypeCommand::Update {
            settings: Box::new(settings),
            archived: self.fields.iter().any(is_archived).then_some(self.archived),
            expected_revision: self.expected_revision,
        })
    }
}

fn conflict(resource: Resource, id: &impl ToString, message: impl Into<String>) -> AppError {
    Rejection::Conflict {
        resource,
        id: id.to_string(),
        message: message.into(),
    }
    .into()
}

fn contended(name: &EventType) -> AppError {
    conflict(Resource::EventType, name, "is being changed by others; try again")
}
