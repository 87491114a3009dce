//! Endpoints: commands decided against the directory's state and appended with the sequence that they were decided on.

mod update;

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::endpoint::{self, Endpoint, EndpointChange, EndpointCommand, EndpointDraft};
use cuitty_webhooks_domain::ids::{EndpointId, SecretId};
use cuitty_webhooks_domain::rejection::{FieldViolation, Resource};
use cuitty_webhooks_domain::signing::{SignatureScheme, SigningSecret};
use cuitty_webhooks_log::directory::Entry;
use cuitty_webhooks_log::{Intent, LogError};
use tokio::sync::broadcast::error::RecvError;

pub(crate) use self::update::EndpointUpdate;
use self::update::check_fields;
use super::input::{PageInput, Violations};
use super::keyed::{Answer, Keyed, Terms, Turn, Work, fingerprint};
use super::page::{Cursor, page_of};
use super::secrets::{read_secret, scheme_of};
use super::{App, observed, unknown_endpoint};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// How often a change is decided anew when somebody else was faster.
const DECISIONS: usize = 16;
/// How long the directory may take to learn of a write that was faster, or of our own.
const DIRECTORY_WAIT: Duration = Duration::from_secs(2);

/// An endpoint as a caller wants it.
#[derive(Debug, Default)]
pub(crate) struct NewEndpoint {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) draft: EndpointDraft,
    /// A secret to import; empty makes one.
    pub(crate) signing_secret: String,
    /// `None` means what an imported secret is, else HMAC-SHA256.
    pub(crate) signature_scheme: Option<SignatureScheme>,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

/// A new endpoint. The secret is shown here and never again.
pub(crate) struct Created {
    pub(crate) endpoint: Endpoint,
    pub(crate) signing_secret: SigningSecret,
    pub(crate) log_sequence: u64,
}

impl App {
    /// Creates an endpoint with its first secret.
    #[tracing::instrument(name = "api.create_endpoint", skip_all)]
    pub(crate) async fn create_endpoint(
        &self,
        caller: &Caller,
        new: NewEndpoint,
        idempotency_key: String,
    ) -> Result<Answer<Created>, AppError> {
        observed("create_endpoint", async {
            caller.require(Scope::Manage)?;
            let fingerprint = fingerprint("create_endpoint", &new);
            let mut violations = Violations::after(new.faults);
            let project_id = violations.project(caller, &new.project_id);
            let settings = violations.absorb(new.draft.validate(&self.policy, project_id.as_ref()))?;
            let imported = read_secret(&new.signing_secret, new.signature_scheme, &mut violations);
            let scheme =
                scheme_of(imported.as_ref(), new.signature_scheme).unwrap_or(SignatureScheme::HmacSha256);
            if let Some(settings) = &settings {
                violations.absorb(endpoint::check_signature_header(
                    settings,
                    scheme,
                    "signature_header",
                ))?;
            }
            violations.idempotency_key(&idempotency_key);
            let (project_id, settings) = violations.finish(project_id.zip(settings))?;
            caller.require_project(&project_id)?;
            let keyed = Keyed {
                project_id: &project_id,
                key: &idempotency_key,
                fingerprint,
            };
            let checks = async {
                self.vet_subscriptions(&project_id, &settings.event_types, &[])?;
                Ok(self.host_check.vet(&settings.url).await?)
            };
            let turn = self.take_turn(&keyed, checks).await?;
            let work = match turn {
                Turn::Done(intent, sequence) => {
                    let id = EndpointId::created_by(intent.message_id);
                    let endpoint = self.endpoint_at(id, sequence).await?;
                    return Ok(Answer::replayed(self.created(endpoint, sequence, &intent)?));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let now = work.intent.requested_at;
            let id = EndpointId::created_by(work.intent.message_id);
            let secret_id = SecretId::created_by(work.intent.message_id);
            let secret = self.seal(id, secret_id, &self.secret(imported, scheme), now);
            let (change, endpoint) = endpoint::create(id, project_id.clone(), settings, secret, now);
            let (endpoint, sequence) = match self.append(caller, &work, change, &endpoint, 0).await? {
                Ok(sequence) => {
                    self.directory.wait_for(sequence, DIRECTORY_WAIT).await;
                    tracing::info!(endpoint.id = %id, log.seq = sequence, "endpoint created");
                    (endpoint, sequence)
                }
                // A call with the same key has done it already.
                Err(LogError::Conflict { .. }) => {
                    self.await_change(id, 0).await;
                    let entry = self.directory.get(id);
                    let entry = entry.ok_or_else(|| AppError::Contended(id.to_string()))?;
                    self.record_done(&work, entry.sequence).await?;
                    (entry.endpoint.clone(), entry.sequence)
                }
                Err(error) => return Err(error.into()),
            };
            Ok(work.answer(self.created(endpoint, sequence, &work.intent)?))
        })
        .await
    }

    fn created(&self, endpoint: Endpoint, log_sequence: u64, intent: &Intent) -> Result<Created, AppError> {
        Ok(Created {
            signing_secret: self.opened(&endpoint, SecretId::created_by(intent.message_id))?,
            endpoint,
            log_sequence,
        })
    }

    /// One endpoint.
    #[tracing::instrument(name = "api.get_endpoint", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn get_endpoint(&self, caller: &Caller, id: EndpointId) -> Result<Arc<Entry>, AppError> {
        observed("get_endpoint", async {
            caller.require(Scope::Read)?;
            self.endpoint(caller, id)
        })
        .await
    }

    /// A page of a project's endpoints, newest first, and where the next page begins.
    #[tracing::instrument(name = "api.list_endpoints", skip_all)]
    pub(crate) async fn list_endpoints(
        &self,
        caller: &Caller,
        project_id: &str,
        page: &PageInput,
    ) -> Result<(Vec<Arc<Entry>>, Option<String>), AppError> {
        observed("list_endpoints", async {
            caller.require(Scope::Read)?;
            let mut violations = Violations::after(page.faults.clone());
            let project_id = violations.project(caller, project_id);
            let limit = page.limit(&mut violations) as usize;
            let cursor = violations.parse_some::<Cursor<EndpointId>>("cursor", &page.cursor);
            let project_id = violations.finish(project_id)?;
            caller.require_project(&project_id)?;
            let entries = self.endpoints_of(&project_id)?;
            Ok(page_of(entries, |entry| entry.endpoint.id, cursor, limit))
        })
        .await
    }

    /// Changes the fields named in the update, all in one change. Everything is checked before anything is written.
    #[tracing::instrument(name = "api.update_endpoint", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn update_endpoint(
        &self,
        caller: &Caller,
        id: EndpointId,
        update: EndpointUpdate,
        terms: Terms,
    ) -> Result<Answer<Endpoint>, AppError> {
        observed("update_endpoint", async {
            caller.require(Scope::Manage)?;
            if !(update.may_be_empty && update.fields.is_empty()) {
                check_fields(&update.fields)?;
            }
            let known = self.known_endpoint(caller, id)?;
            let keyed = Keyed {
                project_id: &known.endpoint.project_id,
                key: &terms.idempotency_key,
                fingerprint: fingerprint("update_endpoint", &(id, &update)),
            };
            let checks = async {
                let current = self.endpoint(caller, id)?;
                self.check_update(&current.endpoint, &update, &terms).await
            };
            let turn = self.take_turn(&keyed, checks).await?;
            let work = match self.settled(&keyed, turn).await? {
                Turn::Done(_, sequence) => {
                    return Ok(Answer::replayed(self.endpoint_at(id, sequence).await?));
                }
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let command = |endpoint: &Endpoint| {
                terms.check(endpoint)?;
                update.command(endpoint, &self.policy).map(Some)
            };
            Ok(work.answer(self.change(caller, id, &work, command).await?))
        })
        .await
    }

    /// Everything that is wrong with an update of `endpoint`.
    async fn check_update(
        &self,
        endpoint: &Endpoint,
        update: &EndpointUpdate,
        terms: &Terms,
    ) -> Result<(), AppError> {
        let mut violations = Violations::after(update.faults.clone());
        violations.idempotency_key(&terms.idempotency_key);
        let settings = if update.changes_settings() {
            violations.absorb(update.settings(endpoint, &self.policy))?
        } else {
            None
        };
        violations.finish(Some(()))?;
        terms.check(endpoint)?;
        let decided = settings.clone().unwrap_or_else(|| endpoint.settings.clone());
        endpoint::decide(endpoint, update.command_to(decided), self.now())?;
        if let Some(settings) = settings {
            let known = &endpoint.settings.event_types;
            self.vet_subscriptions(&endpoint.project_id, &settings.event_types, known)?;
            if update.names("url") || update.names("kind") {
                self.host_check.vet(&settings.url).await?;
            }
        }
        Ok(())
    }

    /// Deletes an endpoint: it takes no new deliveries, those accepted before are still made.
    #[tracing::instrument(name = "api.delete_endpoint", skip_all, fields(endpoint.id = %id))]
    pub(crate) async fn delete_endpoint(
        &self,
        caller: &Caller,
        id: EndpointId,
        terms: Terms,
    ) -> Result<Answer<()>, AppError> {
        observed("delete_endpoint", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            violations.idempotency_key(&terms.idempotency_key);
            violations.finish(Some(()))?;
            let known = self.known_endpoint(caller, id)?;
            let keyed = Keyed {
                project_id: &known.endpoint.project_id,
                key: &terms.idempotency_key,
                fingerprint: fingerprint("delete_endpoint", &id),
            };
            let checks = async { terms.check(&self.endpoint(caller, id)?.endpoint) };
            let turn = self.take_turn(&keyed, checks).await?;
            let work = match self.settled(&keyed, turn).await? {
                Turn::Done(..) => return Ok(Answer::replayed(())),
                // Deleted is deleted, whoever did it.
                Turn::Again(_) if self.endpoint(caller, id).is_err() => return Ok(Answer::replayed(())),
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let delete = |endpoint: &Endpoint| {
                terms.check(endpoint)?;
                Ok(Some(EndpointCommand::Delete))
            };
            self.change(caller, id, &work, delete).await?;
            Ok(work.answer(()))
        })
        .await
    }

    /// The endpoint as the change at `sequence` left it.
    pub(super) async fn endpoint_at(&self, id: EndpointId, sequence: u64) -> Result<Endpoint, AppError> {
        let endpoint = self.log.endpoint_at(sequence).await?;
        let endpoint = endpoint.filter(|endpoint| endpoint.id == id);
        endpoint.ok_or_else(|| AppError::internal("the log lacks a change that was recorded as made"))
    }

    /// Decides a command against the endpoint's state and appends what it changes, provided that nobody else has changed
    /// the endpoint meanwhile; if so, decides anew on the newer state. No command changes nothing. Records that it was made,
    /// and returns the state after it.
    pub(super) async fn change(
        &self,
        caller: &Caller,
        id: EndpointId,
        work: &Work<'_>,
        command: impl Fn(&Endpoint) -> Result<Option<EndpointCommand>, AppError>,
    ) -> Result<Endpoint, AppError> {
        for _ in 0..DECISIONS {
            let entry = self.endpoint(caller, id)?;
            let now = work.at(self.now());
            let change = if work.has_led_to(entry.endpoint.updated_at) {
                None
            } else if let Some(command) = command(&entry.endpoint)? {
                endpoint::decide(&entry.endpoint, command, now)?
            } else {
                None
            };
            let Some(change) = change else {
                self.record_done(work, entry.sequence).await?;
                return Ok(entry.endpoint.clone());
            };
            let endpoint = endpoint::evolve(entry.endpoint.clone(), &change, now);
            match self
                .append(caller, work, change, &endpoint, entry.sequence)
                .await?
            {
                Ok(sequence) => {
                    tracing::info!(
                        log.seq = sequence,
                        endpoint.revision = endpoint.revision,
                        "endpoint changed"
                    );
                    self.directory.wait_for(sequence, DIRECTORY_WAIT).await;
                    return Ok(endpoint);
                }
                Err(LogError::Conflict { .. }) => self.await_change(id, entry.sequence).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(AppError::Contended(id.to_string()))
    }

    /// Appends a change that led to `endpoint`, provided that the one before is at `expected`, and records that it was made.
    async fn append(
        &self,
        caller: &Caller,
        work: &Work<'_>,
        change: EndpointChange,
        endpoint: &Endpoint,
        expected: u64,
    ) -> Result<Result<u64, LogError>, AppError> {
        let (log, endpoint, actor) = (self.log.clone(), endpoint.clone(), caller.actor.clone());
        let append = async move { log.append_endpoint(&change, &endpoint, &actor, expected).await };
        self.make(work, Box::pin(append)).await
    }

    /// The endpoint, deleted or not, unless it is none of the caller's business.
    pub(super) fn known_endpoint(&self, caller: &Caller, id: EndpointId) -> Result<Arc<Entry>, AppError> {
        self.directory
            .get(id)
            .filter(|entry| caller.sees(&entry.endpoint.project_id))
            .ok_or_else(|| unknown_endpoint(id))
    }

    /// Returns when the directory's state of the endpoint is newer than `sequence`, or after a while.
    async fn await_change(&self, id: EndpointId, sequence: u64) {
        let mut changes = self.directory.changes();
        let newer = async {
            while self
                .directory
                .get(id)
                .is_none_or(|entry| entry.sequence <= sequence)
            {
                if matches!(changes.recv().await, Err(RecvError::Closed)) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(DIRECTORY_WAIT, newer).await;
    }
}

impl Terms {
    /// Refuses an endpoint that is at another revision.
    pub(super) fn check(&self, endpoint: &Endpoint) -> Result<(), AppError> {
        self.check_revision(Resource::Endpoint, &endpoint.id, endpoint.revision)
    }

    /// Refuses what is at another revision.
    pub(super) fn check_revision(
        &self,
        resource: Resource,
        id: &impl ToString,
        revision: u64,
    ) -> Result<(), AppError> {
        match &self.revisions {
            Some(revisions) if !revisions.contains(&revision) => Err(AppError::PreconditionFailed {
                resource,
                id: id.to_string(),
                revision,
            }),
            _ => Ok(()),
        }
    }
}
