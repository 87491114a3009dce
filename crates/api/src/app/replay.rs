//! Sending again: one delivery at once, or many in the background.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{
    DEFAULT_DEADLINE, Delivery, DeliveryRef, DeliveryStatus, FailureReason, Origin, Requested,
};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId, ReplayId};
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::names::{EventTypePattern, ProjectId};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection, Resource};
use cuitty_webhooks_domain::replay::{self, Replay, ReplayCommand, ReplayFilter, Selection};
use cuitty_webhooks_history::{DeliveryDetail, Store};
use cuitty_webhooks_log::{Claim, Intent, Log, LogError, ReplayEntry, Replays};
use tokio_util::sync::CancellationToken;

use super::input::Violations;
use super::keyed::{Answer, Keyed, Turn, fingerprint};
use super::{App, observed, unknown_endpoint};
use crate::auth::{Caller, Scope};
use crate::error::AppError;
use crate::metrics as names;

/// How often a cancellation is decided anew when the replay has advanced.
const DECISIONS: usize = 16;
/// How long a change of a replay may take to be known here.
const KNOWN: Duration = Duration::from_secs(2);

/// Which deliveries are to be sent again; empty texts leave a part open.
#[derive(Debug, Default)]
pub(crate) struct NewReplay {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) endpoint_id: String,
    /// `None` means failed.
    pub(crate) status: Option<DeliveryStatus>,
    /// By their names.
    pub(crate) failure_reasons: Vec<String>,
    /// An event type or a pattern.
    pub(crate) event_type: String,
    /// Created at or after.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Created before.
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) since_disabled: bool,
    pub(crate) include_unmatched: bool,
    /// 0 means as configured.
    pub(crate) rate_per_second: u32,
    /// Only count.
    pub(crate) dry_run: bool,
    /// Empty means none.
    pub(crate) idempotency_key: String,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

/// What came of a [`NewReplay`].
#[derive(Debug)]
pub(crate) enum Started {
    /// It would be so many.
    DryRun { project_id: ProjectId, total: u64 },
    /// It is under way.
    Replay(Box<Replay>),
}

impl App {
    /// Sends an ended delivery again, as a new one of the same message.
    #[tracing::instrument(name = "api.replay_delivery", skip_all, fields(delivery.id = %id))]
    pub(crate) async fn replay_delivery(
        &self,
        caller: &Caller,
        id: DeliveryId,
        idempotency_key: String,
        traceparent: String,
    ) -> Result<Answer<Delivery>, AppError> {
        observed("replay_delivery", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            violations.idempotency_key(&idempotency_key);
            violations.finish(Some(()))?;
            let permit = self.accepts.clone().try_acquire_owned();
            let permit = permit.map_err(|_| AppError::Overloaded)?;
            let original = self.find_delivery(caller, id).await?;
            let project_id = original.delivery.delivery.project_id.clone();
            let keyed = Keyed {
                project_id: &project_id,
                key: &idempotency_key,
                fingerprint: fingerprint("delivery", &id),
            };
            match self.recall(&keyed).await? {
                Some(Turn::Done(intent, sequence)) => {
                    let request = again(&original, &intent, traceparent);
                    return Ok(Answer::replayed(Delivery::requested(&request, sequence)));
                }
                // It was checked when it was begun, and may be in the log.
                Some(_) => {}
                None => self.check_replayable(&original)?,
            }

            let requested_at = self.now();
            let replay_id = self.with_rng(|rng| ReplayId::new(requested_at, rng));
            let intent = Intent {
                message_id: MessageId::from_uuid(replay_id.uuid()),
                endpoint_ids: vec![original.delivery.delivery.endpoint_id],
                fingerprint: keyed.fingerprint,
                requested_at,
            };
            if idempotency_key.is_empty() {
                let request = again(&original, &intent, traceparent);
                let sequence = append(&self.log, &request).await?;
                return Ok(Answer::first(Delivery::requested(&request, sequence)));
            }
            let keys = self.idempotency().await?.clone();
            let log = self.log.clone();
            // Goes on when its caller is gone.
            self.see_through(async move {
                let _permit = permit;
                let (intent, done, recorded_at) =
                    match keys.claim(&project_id, &idempotency_key, &intent).await? {
                        Claim::New => (intent, None, None),
                        Claim::Existing { record, .. } if record.intent.fingerprint != intent.fingerprint => {
                            return Err(AppError::IdempotencyKeyReused);
                        }
                        Claim::Existing { record, recorded_at } => {
                            (record.intent, record.log_sequence, Some(recorded_at))
                        }
                    };
                let request = again(&original, &intent, traceparent);
                let answer = |sequence| Answer {
                    value: Delivery::requested(&request, sequence),
                    is_replayed: recorded_at.is_some(),
                };
                let sequence = match (done, recorded_at) {
                    (Some(sequence), _) => return Ok(answer(sequence)),
                    (None, None) => append(&log, &request).await?,
                    (None, Some(at)) => keys.resume_requested(std::slice::from_ref(&request), at).await?,
                };
                if let Err(error) = keys
                    .complete(&project_id, &idempotency_key, &intent, sequence)
                    .await
                {
                    // The delivery is in the log, where a repetition would find it.
                    tracing::warn!(%error, "idempotency record not completed");
                }
                Ok(answer(sequence))
            })
            .await
        })
        .await
    }

    /// Starts a bulk replay, or counts what it would send.
    #[tracing::instrument(name = "api.start_replay", skip_all)]
    pub(crate) async fn start_replay(
        &self,
        caller: &Caller,
        new: NewReplay,
    ) -> Result<Answer<Started>, AppError> {
        observed("start_replay", async {
            caller.require(Scope::Manage)?;
            let (dry_run, key) = (new.dry_run, &new.idempotency_key);
            let rate = Some(new.rate_per_second).filter(|&rate| rate > 0);
            let filter = read_filter(caller, &new)?;
            let project_id = filter.project_id.clone();
            caller.require_project(&project_id)?;
            let now = self.now();
            let id = self.with_rng(|rng| ReplayId::new(now, rng));
            let fingerprint = fingerprint("replay", &(&filter, rate));
            let keyed = Keyed {
                project_id: &project_id,
                key: if dry_run { "" } else { key },
                fingerprint,
            };
            if self.recall(&keyed).await?.is_none() {
                self.check_scope(caller, &filter)?;
            }
            let selection = Selection {
                filter,
                disabled_at: None,
                through_sequence: 0,
                before: now,
            };
            let (_, mut replay) = replay::start(id, selection, rate, 0, now)?;
            if dry_run {
                self.select(&mut replay).await?;
                let total = replay.total;
                return Ok(Answer::first(Started::DryRun { project_id, total }));
            }
            if key.is_empty() {
                let replay = self.begin(caller, replay).await?;
                return Ok(Answer::first(Started::Replay(replay.into())));
            }
            let intent = Intent {
                message_id: MessageId::from_uuid(id.uuid()),
                endpoint_ids: Vec::new(),
                fingerprint,
                requested_at: now,
            };
            let keys = self.idempotency().await?;
            let work = match keys.claim(&project_id, key, &intent).await? {
                Claim::New => keyed.first(intent),
                Claim::Existing { record, .. } if record.intent.fingerprint != fingerprint => {
                    return Err(AppError::IdempotencyKeyReused);
                }
                Claim::Existing { record, .. } => {
                    let first = record.intent;
                    replay.id = ReplayId::from_uuid(first.message_id.uuid());
                    let replays = self.replays().await?;
                    replays
                        .wait_for(record.log_sequence.unwrap_or_default(), KNOWN)
                        .await;
                    if let Some(entry) = replays.get(replay.id) {
                        let started = entry.replay.as_started();
                        return Ok(Answer::replayed(Started::Replay(started.into())));
                    }
                    keyed.again(first)
                }
            };
            let replay = self.begin(caller, replay).await?;
            let known = self.replays().await?.get(replay.id);
            let sequence = known.map_or(0, |entry| entry.sequence);
            self.record_done(&work, sequence).await?;
            Ok(work.answer(Started::Replay(replay.into())))
        })
        .await
    }

    /// How far a bulk replay is.
    #[tracing::instrument(name = "api.get_replay", skip_all, fields(replay.id = %id))]
    pub(crate) async fn get_replay(&self, caller: &Caller, id: ReplayId) -> Result<Replay, AppError> {
        observed("get_replay", async {
            caller.require(Scope::Read)?;
            Ok(self.find_replay(caller, id).await?.0.replay)
        })
        .await
    }

    /// Stops a bulk replay.
    #[tracing::instrument(name = "api.cancel_replay", skip_all, fields(replay.id = %id))]
    pub(crate) async fn cancel_replay(
        &self,
        caller: &Caller,
        id: ReplayId,
        idempotency_key: String,
    ) -> Result<Answer<Replay>, AppError> {
        observed("cancel_replay", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            violations.idempotency_key(&idempotency_key);
            violations.finish(Some(()))?;
            let (known, _) = self.find_replay(caller, id).await?;
            let keyed = Keyed {
                project_id: known.replay.project_id(),
                key: &idempotency_key,
                fingerprint: fingerprint("cancel_replay", &id),
            };
            // What is cancelled stays cancelled: it may be asked for as often as one likes.
            let checks = async {
                replay::decide(&known.replay, ReplayCommand::Cancel)?;
                Ok(())
            };
            let work = match self.take_turn(&keyed, checks).await? {
                Turn::Done(..) => return Ok(Answer::replayed(known.replay)),
                Turn::First(intent) => keyed.first(intent),
                Turn::Again(intent) => keyed.again(intent),
            };
            let (replay, sequence) = self.cancelled(caller, id).await?;
            self.record_done(&work, sequence).await?;
            Ok(work.answer(replay))
        })
        .await
    }

    /// The replay, cancelled, and the sequence of that.
    async fn cancelled(&self, caller: &Caller, id: ReplayId) -> Result<(Replay, u64), AppError> {
        for _ in 0..DECISIONS {
            let (ReplayEntry { replay, sequence }, replays) = self.find_replay(caller, id).await?;
            let Some(change) = replay::decide(&replay, ReplayCommand::Cancel)? else {
                return Ok((replay, sequence));
            };
            let now = self.now();
            let cancelled = replay::evolve(replay, &change, now);
            let appended = self
                .log
                .append_replay(&change, &cancelled, &caller.actor, now, sequence);
            match appended.await {
                Ok(sequence) => {
                    replays.wait_for(sequence, KNOWN).await;
                    tracing::info!(replay.id = %id, log.seq = sequence, "replay cancelled");
                    return Ok((cancelled, sequence));
                }
                // It has advanced meanwhile.
                Err(LogError::Conflict { .. }) => {
                    replays.wait_for(sequence + 1, KNOWN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(conflict(
            Resource::Replay,
            &id,
            "is advancing too fast; try again",
        ))
    }

    /// Refuses what has not ended, and what would end at once.
    fn check_replayable(&self, original: &DeliveryDetail) -> Result<(), AppError> {
        let Delivery { delivery, status, .. } = &original.delivery;
        if *status == DeliveryStatus::Pending {
            let text = "is pending: only what was delivered or has failed can be replayed";
            return Err(conflict(Resource::Delivery, &delivery.delivery_id, text));
        }
        let endpoint_id = delivery.endpoint_id;
        let entry = self.directory.get(endpoint_id);
        let endpoint = entry.as_ref().map(|entry| &entry.endpoint);
        match endpoint.filter(|endpoint| endpoint.deleted_at.is_none()) {
            None => Err(conflict(
                Resource::Endpoint,
                &endpoint_id,
                "is deleted: nothing can be sent to it again",
            )),
            Some(endpoint) if !endpoint.is_active() => Err(conflict(
                Resource::Endpoint,
                &endpoint_id,
                "is disabled, so the replay would fail at once: enable it first",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Refuses a project or an endpoint that does not exist or is none of the caller's business.
    fn check_scope(&self, caller: &Caller, filter: &ReplayFilter) -> Result<(), AppError> {
        let project_id = &filter.project_id;
        self.endpoints_of(project_id)?;
        if let Some(id) = filter.endpoint_id {
            let entry = self.endpoint(caller, id)?;
            if entry.endpoint.project_id != *project_id {
                return Err(unknown_endpoint(id));
            }
        }
        Ok(())
    }

    /// Fixes what the replay looks at, and counts it in a history that has come so far.
    async fn select(&self, replay: &mut Replay) -> Result<(), AppError> {
        let selection = &mut replay.selection;
        let filter = &selection.filter;
        if let Some(id) = filter.endpoint_id.filter(|_| filter.since_disabled) {
            let disabled_at = self.log.last_disabled(&filter.project_id, id).await?;
            let never = || Rejection::field("since_disabled", "needs an endpoint that was disabled before");
            selection.disabled_at = Some(disabled_at.ok_or_else(never)?);
        }
        let (_, last) = self.log.bounds().await?;
        selection.through_sequence = last;
        // A timer that fired leaves the log, and the history never reaches its sequence.
        self.await_history(self.log.last_readable(last).await?).await?;
        let count = async |history: Store| history.count_replayable(&replay.selection).await;
        replay.total = self.history.read(count).await?;
        Ok(())
    }

    /// Appends the start of a replay.
    async fn begin(&self, caller: &Caller, mut replay: Replay) -> Result<Replay, AppError> {
        let replays = self.replays().await?;
        let project_id = replay.project_id();
        if replays.running(Some(project_id)).len() >= limits::RUNNING_REPLAYS {
            let text = format!(
                "has {} replays running, no more are started: wait for one to end, or cancel one",
                limits::RUNNING_REPLAYS
            );
            return Err(conflict(Resource::Project, project_id, &text));
        }
        self.select(&mut replay).await?;
        let (change, at) = (replay::ReplayChange::Started, replay.started_at);
        match self
            .log
            .append_replay(&change, &replay, &caller.actor, at, 0)
            .await
        {
            Ok(sequence) => {
                replays.wait_for(sequence, KNOWN).await;
                tracing::info!(
                    replay.id = %replay.id,
                    project.id = %replay.project_id(),
                    total = replay.total,
                    log.seq = sequence,
                    "replay started"
                );
                Ok(replay)
            }
            // A call with the same idempotency key was faster.
            Err(error @ LogError::Conflict { .. }) => {
                let mut changes = replays.changes();
                let known = changes.wait_for(|_| replays.get(replay.id).is_some());
                let _ = tokio::time::timeout(KNOWN, known).await;
                let started = replays.get(replay.id);
                started.map(|entry| entry.replay.clone()).ok_or(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn find_replay(&self, caller: &Caller, id: ReplayId) -> Result<(ReplayEntry, Replays), AppError> {
        let replays = self.replays().await?;
        let entry = replays.get(id).filter(|entry| is_visible(caller, entry));
        let entry = entry.ok_or_else(|| not_found(Resource::Replay, &id))?;
        Ok((ReplayEntry::clone(&entry), replays))
    }

    /// Every bulk replay; known from the first call on that asks for one.
    async fn replays(&self) -> Result<Replays, AppError> {
        let start = || Replays::start(&self.log, CancellationToken::new());
        Ok(self.replays.get_or_try_init(start).await?.clone())
    }
}

/// Another project's replay is as if it did not exist.
fn is_visible(caller: &Caller, entry: &ReplayEntry) -> bool {
    caller.sees(entry.replay.project_id())
}

/// What a caller asks to be sent again, with everything that is wrong with it.
fn read_filter(caller: &Caller, new: &NewReplay) -> Result<ReplayFilter, Rejection> {
    let mut violations = Violations::after(new.faults.clone());
    violations.idempotency_key(&new.idempotency_key);
    let project_id = violations.project(caller, &new.project_id);
    let endpoint_id = violations.parse_some::<EndpointId>("endpoint_id", &new.endpoint_id);
    let event_types = violations.parse_some::<EventTypePattern>("event_type", &new.event_type);
    let mut failure_reasons = Vec::new();
    // Every reason may be named, and none needs to be named twice.
    let most = FailureReason::ALL.len();
    if new.failure_reasons.len() > most {
        violations.add("failure_reasons", format!("must be at most {most}"));
    }
    for name in new.failure_reasons.iter().take(most) {
        match FailureReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == name)
        {
            Some(reason) if failure_reasons.contains(&reason) => {}
            Some(reason) => failure_reasons.push(reason),
            None => violations.add("failure_reasons", "must be names of failure reasons"),
        }
    }
    let filter = project_id.map(|project_id| ReplayFilter {
        endpoint_id,
        status: new.status.unwrap_or(DeliveryStatus::Failed),
        failure_reasons,
        event_types,
        since: new.since,
        until: new.until,
        since_disabled: new.since_disabled,
        include_unmatched: new.include_unmatched,
        ..ReplayFilter::failed(project_id)
    });
    violations.finish(filter)
}

/// The new delivery of a delivery that has ended.
fn again(original: &DeliveryDetail, intent: &Intent, traceparent: String) -> Requested {
    let delivery = &original.delivery.delivery;
    let replay_id = ReplayId::from_uuid(intent.message_id.uuid());
    Requested {
        delivery: DeliveryRef {
            delivery_id: DeliveryId::replayed(replay_id, delivery.delivery_id),
            ..delivery.clone()
        },
        content_type: original.content_type.clone(),
        payload: original.payload.clone(),
        requested_at: intent.requested_at,
        origin: Origin::Replay,
        replay_of: Some(delivery.delivery_id),
        traceparent,
        deadline: intent.requested_at + DEFAULT_DEADLINE,
    }
}

async fn append(log: &Log, request: &Requested) -> Result<u64, AppError> {
    let sequences = log.append_requested(std::slice::from_ref(request)).await?;
    metrics::counter!(names::DELIVERIES).increment(1);
    Ok(sequences.into_iter().max().unwrap_or_default())
}

fn not_found(resource: Resource, id: &impl ToString) -> AppError {
    let id = id.to_string();
    Rejection::NotFound { resource, id }.into()
}

fn conflict(resource: Resource, id: &impl ToString, message: &str) -> AppError {
    Rejection::Conflict {
        resource,
        id: id.to_string(),
        message: message.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests;
