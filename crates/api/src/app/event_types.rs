//! Event types: what a project says of them, and what becomes of messages because of that.

mod checking;
mod page;
mod policy;
mod update;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::event_type::{
    self, EventTypeChange, EventTypeCommand, EventTypeDefinition, EventTypeDraft, EventTypeSettings,
};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection, Resource};
use cuitty_webhooks_log::{EventTypeEntry, LogError};

use self::page::page_of;
pub(crate) use self::policy::NewEventTypePolicy;
pub(crate) use self::update::EventTypeUpdate;
use self::update::check_fields;
use super::input::{PageInput, Violations};
use super::keyed::{Answer, Keyed, Terms, Turn, Work, fingerprint};
use super::page::Cursor;
use super::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// How often a change is decided anew when somebody else was faster.
const DECISIONS: usize = 16;
/// How long a write may take to be known here.
const KNOWN: Duration = Duration::from_secs(2);

/// An event type as a caller wants it.
#[derive(Debug, Default)]
pub(crate) struct NewEventType {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) name: String,
    pub(crate) draft: EventTypeDraft,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

/// Which event type is meant.
#[derive(Debug, Default)]
pub(crate) struct EventTypeName {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) name: String,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

impl App {
    /// Creates an event type.
    #[tracing::instrument(name = "api.create_event_type", skip_all)]
    pub(crate) async fn create_event_type(
        &self,
        caller: &Caller,
        new: NewEventType,
        idempotency_key: String,
    ) -> Result<Answer<EventTypeDefinition>, AppError> {
        observed("create_event_type", async {
            caller.require(Scope::Manage)?;
            let fingerprint = fingerprint("create_event_type", &new);
            let mut violations = Violations::after(new.faults);
            let project_id = violations.project(caller, &new.project_id);
            let name = violations.parse::<EventType>("name", &new.name);
            let settings = violations.absorb(validate(new.draft).await?)?;
            violations.idempotency_key(&idempotency_key);
            let ((project_id, name), settings) = violations.finish(project_id.zip(name).zip(settings))?;
            caller.require_project(&project_id)?;
            let keyed = Keyed {
                project_id: &project_id,
                key: &idempotency_key,
                fingerprint,
            };
            let checks = async {
                self.decide_new(&project_id, &name, &settings, self.now())
                    .map(drop)
            };
            let work = match self.take_turn(&keyed, checks).await? {
                Turn::Done(_, sequence) => {
                    let created = self.event_type_at(&project_id, &name, sequence).await?;
                    return Ok(Answer::replayed(created));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            for _ in 0..DECISIONS {
                let known = self.event_types.find(&project_id, &name).ok();
                // A call with the same key has done it already: the time is that of the key's first request.
                let is_ours = |entry: &&Arc<EventTypeEntry>| {
                    !keyed.key.is_empty() && entry.definition.created_at == work.intent.requested_at
                };
                if let Some(entry) = known.as_ref().filter(is_ours) {
                    self.record_done(&work, entry.sequence).await?;
                    return Ok(work.answer(entry.definition.clone()));
                }
                let (change, definition) =
                    self.decide_new(&project_id, &name, &settings, work.intent.requested_at)?;
                if self.append_type(caller, &work, change, None, &definition).await? {
                    return Ok(work.answer(definition));
                }
                // Somebody else created it; soon that is known here, too.
                self.await_event_type(&project_id, &name, 0).await;
            }
            Err(contended(&name))
        })
        .await
    }

    /// Refuses a new event type under a name that is taken, or of a project that has too many.
    fn decide_new(
        &self,
        project_id: &ProjectId,
        name: &EventType,
        settings: &EventTypeSettings,
        now: DateTime<Utc>,
    ) -> Result<(EventTypeChange, EventTypeDefinition), AppError> {
        let known = self.event_types.find(project_id, name).ok();
        let existing = known.as_ref().map(|entry| &entry.definition);
        let created = event_type::create(existing, project_id.clone(), name.clone(), settings.clone(), now)?;
        if self.event_types.count(project_id) >= limits::EVENT_TYPES {
            let message = format!("has {} event types, no more are taken", limits::EVENT_TYPES);
            return Err(conflict(Resource::Project, project_id, message));
        }
        Ok(created)
    }

    /// One event type, archived ones too.
    #[tracing::instrument(name = "api.get_event_type", skip_all)]
    pub(crate) async fn get_event_type(
        &self,
        caller: &Caller,
        which: EventTypeName,
    ) -> Result<Arc<EventTypeEntry>, AppError> {
        observed("get_event_type", async {
            caller.require(Scope::Read)?;
            let (project_id, name) = which.read(caller, "")?;
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
            let cursor = violations.parse_some::<Cursor<EventType>>("cursor", &page.cursor);
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

    /// Changes the fields named in the update, all in one change. Everything is checked before anything is written.
    #[tracing::instrument(name = "api.update_event_type", skip_all)]
    pub(crate) async fn update_event_type(
        &self,
        caller: &Caller,
        which: EventTypeName,
        update: EventTypeUpdate,
        terms: Terms,
    ) -> Result<Answer<EventTypeDefinition>, AppError> {
        observed("update_event_type", async {
            caller.require(Scope::Manage)?;
            if !(update.may_be_empty && update.fields.is_empty()) {
                check_fields(&update.fields)?;
            }
            let (project_id, name) = which.read(caller, &terms.idempotency_key)?;
            let keyed = Keyed {
                project_id: &project_id,
                key: &terms.idempotency_key,
                fingerprint: fingerprint("update_event_type", &(&name, &update)),
            };
            let checks = async {
                let current = self.known_event_type(&project_id, &name)?;
                update.check(&current.definition, &terms).await
            };
            let turn = self.take_turn(&keyed, checks).await?;
            let work = match self.settled(&keyed, turn).await? {
                Turn::Done(_, sequence) => {
                    let updated = self.event_type_at(&project_id, &name, sequence).await?;
                    return Ok(Answer::replayed(updated));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let changed = self.change_event_type(caller, &name, Some(&update), &terms, &work);
            Ok(work.answer(changed.await?))
        })
        .await
    }

    /// Takes an event type out of use: its messages are refused, and endpoints may not name it anew.
    #[tracing::instrument(name = "api.archive_event_type", skip_all)]
    pub(crate) async fn archive_event_type(
        &self,
        caller: &Caller,
        which: EventTypeName,
        terms: Terms,
    ) -> Result<Answer<EventTypeDefinition>, AppError> {
        observed("archive_event_type", async {
            caller.require(Scope::Manage)?;
            let (project_id, name) = which.read(caller, &terms.idempotency_key)?;
            let keyed = Keyed {
                project_id: &project_id,
                key: &terms.idempotency_key,
                fingerprint: fingerprint("archive_event_type", &name),
            };
            let checks = async {
                let current = self.known_event_type(&project_id, &name)?;
                terms.check_revision(Resource::EventType, &name, current.definition.revision)
            };
            let turn = self.take_turn(&keyed, checks).await?;
            let work = match self.settled(&keyed, turn).await? {
                Turn::Done(_, sequence) => {
                    let archived = self.event_type_at(&project_id, &name, sequence).await?;
                    return Ok(Answer::replayed(archived));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let archived = self.change_event_type(caller, &name, None, &terms, &work);
            Ok(work.answer(archived.await?))
        })
        .await
    }

    /// The event type as the change at `sequence` left it.
    async fn event_type_at(
        &self,
        project_id: &ProjectId,
        name: &EventType,
        sequence: u64,
    ) -> Result<EventTypeDefinition, AppError> {
        let definition = self.log.event_type_at(sequence).await?;
        let definition = definition.filter(|found| found.project_id == *project_id && found.name == *name);
        definition.ok_or_else(|| AppError::internal("the log lacks a change that was recorded as made"))
    }

    /// Decides an update (none: to archive it) against the event type's state and appends what it changes, provided that
    /// nobody else has changed it meanwhile; if so, decides anew on the newer state. Records that it was made, and returns the
    /// state after it.
    async fn change_event_type(
        &self,
        caller: &Caller,
        name: &EventType,
        update: Option<&EventTypeUpdate>,
        terms: &Terms,
        work: &Work<'_>,
    ) -> Result<EventTypeDefinition, AppError> {
        let project_id = work.project_id();
        for _ in 0..DECISIONS {
            let entry = self.known_event_type(project_id, name)?;
            let before = &entry.definition;
            if work.has_led_to(before.updated_at) {
                self.record_done(work, entry.sequence).await?;
                return Ok(before.clone());
            }
            terms.check_revision(Resource::EventType, name, before.revision)?;
            let command = match update {
                Some(update) => update.command(before).await?,
                None => EventTypeCommand::Archive,
            };
            let Some(change) = event_type::decide(before, command)? else {
                self.record_done(work, entry.sequence).await?;
                return Ok(before.clone());
            };
            let definition = event_type::evolve(before.clone(), &change, work.at(self.now()));
            let before = Some(Arc::clone(&entry));
            if self
                .append_type(caller, work, change, before, &definition)
                .await?
            {
                return Ok(definition);
            }
            self.await_event_type(project_id, name, entry.sequence).await;
        }
        Err(contended(name))
    }

    /// Appends a change that led to `definition`, records that it was made, and waits until it is known here; `false` when
    /// somebody else was faster.
    async fn append_type(
        &self,
        caller: &Caller,
        work: &Work<'_>,
        change: EventTypeChange,
        before: Option<Arc<EventTypeEntry>>,
        definition: &EventTypeDefinition,
    ) -> Result<bool, AppError> {
        let (log, definition, actor) = (self.log.clone(), definition.clone(), caller.actor.clone());
        let append = async move {
            log.append_event_type(&change, before.as_deref(), &definition, &actor)
                .await
        };
        self.stored(self.make(work, Box::pin(append)).await?).await
    }

    /// Waits until what was appended is known here; `false` when somebody else was faster.
    async fn stored(&self, appended: Result<u64, LogError>) -> Result<bool, AppError> {
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
}

/// Checks a draft. A schema takes its time to compile.
async fn validate(draft: EventTypeDraft) -> Result<Result<EventTypeSettings, Rejection>, AppError> {
    tokio::task::spawn_blocking(|| draft.validate())
        .await
        .map_err(AppError::internal)
}

impl EventTypeName {
    /// The project and the event type that the caller names.
    fn read(self, caller: &Caller, idempotency_key: &str) -> Result<(ProjectId, EventType), AppError> {
        let mut violations = Violations::after(self.faults);
        let project_id = violations.project(caller, &self.project_id);
        let name = violations.parse("name", &self.name);
        violations.idempotency_key(idempotency_key);
        let (project_id, name) = violations.finish(project_id.zip(name))?;
        caller.require_project(&project_id)?;
        Ok((project_id, name))
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
