//! What becomes of messages whose event type a project does not know.

use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::project::{ProjectSettings, UnknownEventTypes};
use cuitty_webhooks_domain::rejection::{FieldViolation, Resource};

use super::{DECISIONS, conflict};
use crate::app::input::Violations;
use crate::app::keyed::{Answer, Keyed, Turn, Work, fingerprint};
use crate::app::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// What shall become of messages whose event type a project does not know.
#[derive(Debug, Default)]
pub(crate) struct NewEventTypePolicy {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) unknown_event_types: Option<UnknownEventTypes>,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

impl App {
    /// What becomes of messages whose event type a project does not know. `faults` is what the door has found wrong already.
    #[tracing::instrument(name = "api.get_event_type_policy", skip_all)]
    pub(crate) async fn event_type_policy(
        &self,
        caller: &Caller,
        project_id: &str,
        faults: Vec<FieldViolation>,
    ) -> Result<ProjectSettings, AppError> {
        observed("get_event_type_policy", async {
            caller.require(Scope::Read)?;
            let mut violations = Violations::after(faults);
            let project_id = violations.project(caller, project_id);
            let project_id = violations.finish(project_id)?;
            caller.require_project(&project_id)?;
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
        new: NewEventTypePolicy,
        idempotency_key: String,
    ) -> Result<Answer<ProjectSettings>, AppError> {
        observed("set_event_type_policy", async {
            caller.require(Scope::Manage)?;
            let fingerprint = fingerprint("set_event_type_policy", &new);
            let mut violations = Violations::after(new.faults);
            let project_id = violations.project(caller, &new.project_id);
            if new.unknown_event_types.is_none() {
                violations.add("unknown_event_types", "must be `accepted` or `refused`");
            }
            violations.idempotency_key(&idempotency_key);
            let (project_id, unknown) = violations.finish(project_id.zip(new.unknown_event_types))?;
            caller.require_project(&project_id)?;
            let keyed = Keyed {
                project_id: &project_id,
                key: &idempotency_key,
                fingerprint,
            };
            let work = match self.claim(&keyed).await? {
                Turn::Done(_, sequence) => {
                    return Ok(Answer::replayed(self.settings_at(&project_id, sequence).await?));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            Ok(work.answer(self.set_policy(caller, unknown, &work).await?))
        })
        .await
    }

    /// The settings afterwards.
    async fn set_policy(
        &self,
        caller: &Caller,
        unknown: UnknownEventTypes,
        work: &Work<'_>,
    ) -> Result<ProjectSettings, AppError> {
        let project_id = work.project_id();
        for _ in 0..DECISIONS {
            let entry = self.event_types.project(project_id);
            let Some(change) = entry.settings.decide(unknown) else {
                self.record_done(work, entry.sequence).await?;
                return Ok(entry.settings);
            };
            let now = work.at(self.now());
            let settings = entry.settings.evolve(change, now);
            let (log, actor, after) = (self.log.clone(), caller.actor.clone(), settings.clone());
            let append = async move {
                log.append_project(change, &after, &actor, now, entry.sequence)
                    .await
            };
            if self.stored(self.make(work, Box::pin(append)).await?).await? {
                return Ok(settings);
            }
            let newer = || self.event_types.project(project_id).sequence > entry.sequence;
            self.await_change_of_types(newer).await;
        }
        let message = "is being changed by others; try again";
        Err(conflict(Resource::Project, project_id, message))
    }

    /// The project's settings as the change at `sequence` left them; 0 is before the first one.
    async fn settings_at(&self, project_id: &ProjectId, sequence: u64) -> Result<ProjectSettings, AppError> {
        if sequence == 0 {
            return Ok(ProjectSettings::initial(project_id.clone()));
        }
        let settings = self.log.project_at(sequence).await?;
        let settings = settings.filter(|settings| settings.project_id == *project_id);
        settings.ok_or_else(|| AppError::internal("the log lacks a change that was recorded as made"))
    }
}
