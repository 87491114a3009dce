//! The way in without a door: what other modules publish on NATS is accepted as the API accepts, then acknowledged.

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::trace::TraceContext;
use cuitty_webhooks_log::trace::{self, Traced};
use cuitty_webhooks_log::{IngestStream, LogError, Published, Refusal, topology};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::Empty;

use crate::app::{Accepted, App, NewMessage, Place};
use crate::auth::{Caller, Scope};
use crate::error::AppError;
use crate::metrics as names;

/// Longest pause before a message that could not be taken is tried again, and the first one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Tries of a message that meets a defect of ours; then it is rejected, so that it does not come for ever.
const TRIES: u64 = 10;
/// Pause between two tries to attach.
const ATTACH_PAUSE: Duration = Duration::from_secs(1);

/// Settings of the ingest role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Messages being accepted at the same time: 1 to 10,000.
    pub max_in_flight: usize,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self { max_in_flight: 256 }
    }
}

/// The ingest role. Any number of processes share what is published.
#[derive(Debug)]
pub struct Ingest {
    config: IngestConfig,
    app: Arc<App>,
    caller: Arc<Caller>,
    attached: watch::Sender<bool>,
}

/// What becomes of a message that was not accepted.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is tried again, after this long.
    Later(Duration),
    /// It is never taken.
    Never,
}

impl Ingest {
    pub(crate) fn new(config: IngestConfig, app: Arc<App>) -> Self {
        // Who may publish for which project is for nats-server's permissions to say.
        let caller = Caller {
            actor: Actor::system("ingest"),
            project: None,
            scopes: vec![Scope::Deliver],
            key: None,
        };
        Self {
            config,
            app,
            caller: Arc::new(caller),
            attached: watch::Sender::new(false),
        }
    }

    /// Whether messages can come.
    pub fn attached(&self) -> watch::Receiver<bool> {
        self.attached.subscribe()
    }

    /// Takes messages until `soft` is cancelled, and finishes those that it has. What has not ended when `hard` is cancelled is
    /// cut off, and comes again.
    pub async fn run(self, soft: CancellationToken, hard: CancellationToken) {
        let Some(mut stream) = soft.run_until_cancelled(self.attach()).await else {
            return;
        };
        self.attached.send_replace(true);
        let this = Arc::new(self);
        let slots = Arc::new(Semaphore::new(this.config.max_in_flight));
        let tasks = TaskTracker::new();
        let taking = async {
            // The semaphore is never closed.
            while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
                match stream.next().await {
                    Ok(message) => {
                        let (this, hard) = (Arc::clone(&this), hard.clone());
                        tasks.spawn(async move {
                            hard.run_until_cancelled(this.take(message, slot)).await;
                        });
                    }
                    Err(error) => tracing::warn!(%error, "cannot take what is published"),
                }
            }
        };
        soft.run_until_cancelled(taking).await;
        stream.close().await;
        tasks.close();
        tasks.wait().await;
        this.app.finish_accepting(&hard).await;
    }

    async fn attach(&self) -> IngestStream {
        loop {
            match self.app.published().await {
                Ok(stream) => return stream,
                Err(error) => tracing::warn!(%error, "cannot take what is published; trying again"),
            }
            tokio::time::sleep(ATTACH_PAUSE).await;
        }
    }

    /// Accepts a message, and says how it went.
    async fn take(&self, message: Published, _slot: OwnedSemaphorePermit) {
        metrics::gauge!(names::INGEST_WAITING).set(message.waiting as f64);
        if message.delivered > 1 {
            metrics::counter!(names::INGEST_REDELIVERED).increment(1);
        }
        let caller = TraceContext::parse(message.header("traceparent"));
        let span = tracing::debug_span!(
            "api.ingest_message",
            otel.kind = "consumer",
            otel.status_code = Empty,
            error.type = Empty,
            messaging.system = "nats",
            messaging.operation.type = "process",
            messaging.operation.name = "ingest",
            messaging.destination.name = topology::INGEST_STREAM,
            published.seq = message.sequence,
            published.delivered = message.delivered,
            project.id = Empty,
            event.type = Empty,
            message.id = Empty,
            log.seq = Empty
        );
        trace::set_parent(&span, caller);
        let told = Traced::new(span, caller)
            .run(self.accept_and_tell(&message))
            .await;
        if let Err(error) = told {
            // It comes again, and changes nothing then.
            tracing::debug!(%error, published.seq = message.sequence, "cannot say how a message went");
        }
    }

    async fn accept_and_tell(&self, message: &Published) -> Result<(), LogError> {
        let result = self.accept(message).await;
        match result {
            Ok(_) => {
                metrics::counter!(names::INGESTED, "outcome" => "accepted").increment(1);
                message.ack().await
            }
            Err(error) => {
                trace::failed(&trace::task_span(), error.code());
                match judge(&error, message.delivered) {
                    Verdict::Later(pause) => {
                        metrics::counter!(names::INGESTED, "outcome" => "later").increment(1);
                        message.nak(pause).await
                    }
                    Verdict::Never => reject(message, &error).await,
                }
            }
        }
    }

    async fn accept(&self, message: &Published) -> Result<Accepted, AppError> {
        let place = Place {
            sequence: message.sequence,
            stored_at: message.stored_at,
        };
        let accepting = self
            .app
            .deliver_published(&self.caller, new_message(message), place);
        tokio::pin!(accepting);
        let mut progress = interval(self.app.ack_wait() / 3);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        progress.reset();
        loop {
            tokio::select! {
                accepted = &mut accepting => return accepted,
                _ = progress.tick() => {
                    if let Err(error) = message.progress().await {
                        tracing::debug!(%error, "cannot say that a message is being worked on");
                    }
                }
            }
        }
    }
}

fn new_message(message: &Published) -> NewMessage {
    NewMessage {
        project_id: message.project.clone(),
        event_type: message.event_type.clone(),
        payload: message.payload.clone(),
        endpoint_id: message.header("Cuitty-Endpoint-Id").to_owned(),
        idempotency_key: message.id().to_owned(),
        content_type: message.header("Content-Type").to_owned(),
        traceparent: TraceContext::parse(message.header("traceparent"))
            .map(|context| context.to_string())
            .unwrap_or_default(),
        faults: Vec::new(),
    }
}

/// What becomes of a message that was refused at the `delivered`-th time.
fn judge(error: &AppError, delivered: u64) -> Verdict {
    let doubled = u32::try_from(delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    let pause = FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(doubled))
        .min(LONGEST_PAUSE);
    match error {
        error if error.is_transient() => Verdict::Later(pause),
        AppError::Internal(_) if delivered < TRIES => Verdict::Later(pause),
        _ => Verdict::Never,
    }
}

async fn reject(message: &Published, error: &AppError) -> Result<(), LogError> {
    let field = error.fields().into_iter().next();
    let refusal = Refusal {
        reason: error.reason(),
        message: error.message(),
        field: field.map(|violation| violation.field).unwrap_or_default(),
    };
    tracing::warn!(
        published.seq = message.sequence,
        published.subject = %message.subject,
        code = error.code(),
        "a published message is rejected"
    );
    message.reject(&refusal).await?;
    metrics::counter!(names::INGESTED, "outcome" => "rejected").increment(1);
    metrics::counter!(names::INGEST_REJECTED, "reason" => error.code()).increment(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use cuitty_webhooks_domain::rejection::{Rejection, Resource};

    use super::*;

    fn unknown() -> AppError {
        Rejection::NotFound {
            resource: Resource::Project,
            id: "acme".into(),
        }
        .into()
    }

    #[test]
    fn what_passes_by_itself_is_tried_for_ever_and_slower_and_slower() {
        let pauses =
            [1, 2, 3, 5, 6, 100, u64::MAX].map(|delivered| match judge(&AppError::Overloaded, delivered) {
                Verdict::Later(pause) => pause.as_secs(),
                Verdict::Never => panic!("given up at {delivered}"),
            });
        assert_eq!(pauses, [1, 2, 4, 16, 30, 30, 30]);
        let down = AppError::from(LogError::Unavailable("down".into()));
        assert!(matches!(judge(&down, 1000), Verdict::Later(_)));
    }

    #[test]
    fn what_is_wrong_with_a_message_is_told_at_once() {
        for error in [
            Rejection::field("payload", "must be JSON").into(),
            Rejection::PayloadTooLarge { actual: 2, limit: 1 }.into(),
            AppError::IdempotencyKeyReused,
            AppError::EventTypeArchived("a.b".parse().unwrap()),
            AppError::EventTypeUnknown { nearest: Vec::new() },
            unknown(),
        ] {
            assert_eq!(judge(&error, 1), Verdict::Never, "{error}");
        }
    }

    #[test]
    fn a_defect_of_ours_does_not_bring_a_message_back_for_ever() {
        let defect = AppError::internal("a defect");
        assert!(matches!(judge(&defect, TRIES - 1), Verdict::Later(_)));
        assert_eq!(judge(&defect, TRIES), Verdict::Never);
    }
}
