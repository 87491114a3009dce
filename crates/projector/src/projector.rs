use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_history::{HistoryError, Store};
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::topology::STREAM;
use cuitty_webhooks_log::{Lanes, Log, trace};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span, error, info, warn};

use crate::backoff::Backoff;
use crate::config::ProjectorConfig;
use crate::error::ProjectorError;
use crate::feed::{Batch, Feed};
use crate::gone::Disabler;
use crate::leadership::Leadership;
use crate::replay::Replayer;
use crate::survey::Survey;
use crate::upkeep::Upkeep;
use crate::{fold, metrics};

/// How often an idle projector looks whether the checkpoint is still where it left it, as after a rebuild's reset.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// How long to wait before looking again at a history that does not belong to the log.
const MISMATCH_PAUSE: Duration = Duration::from_secs(5);

/// How the projector is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectorStatus {
    /// Whether it holds the lease.
    pub active: bool,
    /// Whether it is held up: the database fails, or the history is ahead of the log.
    pub stalled: bool,
    /// The checkpoint that it committed last; 0 before its first commit.
    pub checkpoint: u64,
}

/// The projector role. See the crate's documentation.
pub struct Projector {
    config: ProjectorConfig,
    log: Log,
    directory: Directory,
    lanes: Lanes,
    store: Store,
    clock: Clock,
    status: watch::Sender<ProjectorStatus>,
}

/// What follows when one reading of the log ends.
enum Next {
    /// Stand down: the lease is lost, or a shutdown began.
    StandDown,
    /// Read the checkpoint and go on from there.
    Restart,
}

impl Projector {
    /// Puts the parts together. Nothing runs until [`Projector::run`].
    pub fn build(
        config: ProjectorConfig,
        log: Log,
        directory: Directory,
        lanes: Lanes,
        store: Store,
        clock: Clock,
    ) -> Self {
        metrics::register();
        Self {
            config,
            log,
            directory,
            lanes,
            store,
            clock,
            status: watch::Sender::default(),
        }
    }

    /// How it is doing, for readiness.
    pub fn status(&self) -> watch::Receiver<ProjectorStatus> {
        self.status.subscribe()
    }

    /// Projects, or stands by, until `soft` is cancelled; the transaction in progress then ends first, unless `hard` is
    /// cancelled too. Errors are retried for ever.
    pub async fn run(self, soft: CancellationToken, hard: CancellationToken) {
        while !soft.is_cancelled() {
            let acquired = Leadership::acquire(&self.log, &self.config.id, &soft);
            let Some(leadership) = soft.run_until_cancelled(acquired).await else {
                break;
            };
            self.report(|status| status.active = true);
            ::metrics::gauge!(metrics::ACTIVE).set(1.0);
            let stand_down = leadership.stand_down().clone();
            let leading = async {
                tokio::select! {
                    () = Box::pin(self.lead(&stand_down)) => {}
                    () = Box::pin(self.survey().run()) => {}
                    () = Box::pin(self.upkeep().run()) => {}
                    () = Box::pin(self.replayer().run()) => {}
                }
            };
            hard.run_until_cancelled(leading).await;
            self.report(|status| {
                *status = ProjectorStatus {
                    active: false,
                    stalled: false,
                    ..*status
                }
            });
            ::metrics::gauge!(metrics::ACTIVE).set(0.0);
            leadership.release().await;
        }
    }

    async fn lead(&self, stand_down: &CancellationToken) {
        let mut backoff = Backoff::new(self.config.max_backoff);
        while !stand_down.is_cancelled() {
            let Some(checkpoint) = stand_down
                .run_until_cancelled(self.starting_point(&mut backoff))
                .await
            else {
                return;
            };
            match self.follow(checkpoint, stand_down).await {
                Next::StandDown => return,
                Next::Restart => {}
            }
        }
    }

    /// The checkpoint, once it can be read and fits the log.
    async fn starting_point(&self, backoff: &mut Backoff) -> u64 {
        loop {
            let checkpoint = match self.store.checkpoint().await {
                Ok(checkpoint) => checkpoint,
                Err(error) => {
                    self.stall(&error, "cannot read the history's checkpoint; trying again");
                    backoff.pause().await;
                    continue;
                }
            };
            let (first, last) = match self.log.bounds().await {
                Ok(bounds) => bounds,
                Err(error) => {
                    warn!(%error, "cannot read the log's bounds; trying again");
                    backoff.pause().await;
                    continue;
                }
            };
            if checkpoint > last {
                self.report(|status| status.stalled = true);
                error!(
                    checkpoint,
                    last,
                    "the history is ahead of the log, so they do not belong together; correct the configuration, or \
                     run `cuitty-webhooks projection rebuild`"
                );
                tokio::time::sleep(MISMATCH_PAUSE).await;
                continue;
            }
            match self.unknown_request().await {
                Ok(None) => {}
                Ok(Some((delivery_id, sequence))) => {
                    self.report(|status| status.stalled = true);
                    error!(
                        delivery.id = %delivery_id,
                        log.seq = sequence,
                        "the history has a delivery that was not requested there in the log, so they do not belong \
                         together; correct the configuration, restore the history that was backed up before the log, or \
                         run `cuitty-webhooks projection rebuild`"
                    );
                    tokio::time::sleep(MISMATCH_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    warn!(%error, "cannot compare the history with the log; trying again");
                    backoff.pause().await;
                    continue;
                }
            }
            if first > checkpoint + 1 {
                warn!(
                    from = checkpoint + 1,
                    to = first - 1,
                    "the log no longer holds these events; what they said is missing from the history"
                );
            }
            info!(checkpoint, last, "projecting from the checkpoint on");
            self.report(|status| {
                *status = ProjectorStatus {
                    checkpoint,
                    stalled: false,
                    ..*status
                }
            });
            return checkpoint;
        }
    }

    /// The delivery that the history took from the log last, and where, unless the log has it there: then the history is
    /// another log's, or was backed up after it.
    async fn unknown_request(&self) -> Result<Option<(DeliveryId, u64)>, ProjectorError> {
        let Some((delivery_id, sequence)) = self.store.latest_request().await? else {
            return Ok(None);
        };
        let is_known = self.log.has_request(delivery_id, sequence).await?;
        Ok((!is_known).then_some((delivery_id, sequence)))
    }

    /// Commits batch after batch until something is wrong.
    async fn follow(&self, mut checkpoint: u64, stand_down: &CancellationToken) -> Next {
        let mut feed = Feed::start(&self.log, checkpoint, &self.config);
        loop {
            let batch = tokio::select! {
                biased;
                () = stand_down.cancelled() => return Next::StandDown,
                batch = feed.next() => batch,
                () = tokio::time::sleep(IDLE_CHECK) => {
                    match self.store.checkpoint().await {
                        Ok(actual) if actual != checkpoint => return Next::Restart,
                        _ => continue,
                    }
                }
            };
            let Some(batch) = batch else { return Next::Restart };
            let applied = async {
                // First, so that what a crash leaves undone is met again.
                let disabler = self.disabler();
                let disabling = disabler.disable(&batch.asked);
                match stand_down.run_until_cancelled(disabling).await {
                    None => Some(Next::StandDown),
                    Some(()) => self.commit(&batch, stand_down).await,
                }
            };
            match applied.instrument(span_of(&batch)).await {
                None => checkpoint = batch.rows.checkpoint,
                Some(next) => return next,
            }
        }
    }

    /// Commits one batch, however long the database is away. `None` once that is done.
    async fn commit(&self, batch: &Batch, stand_down: &CancellationToken) -> Option<Next> {
        let mut backoff = Backoff::new(self.config.max_backoff);
        loop {
            let started = Instant::now();
            match fold::apply(&self.store, batch).await {
                Ok(()) => {
                    self.record(batch, started);
                    return None;
                }
                Err(HistoryError::CheckpointMoved { expected, actual }) => {
                    warn!(
                        expected,
                        actual, "the checkpoint has moved; going on from where it is"
                    );
                    return Some(Next::Restart);
                }
                Err(error) => {
                    self.stall(&error, "cannot write the history; trying again");
                    if stand_down.run_until_cancelled(backoff.pause()).await.is_none() {
                        return Some(Next::StandDown);
                    }
                }
            }
        }
    }

    fn record(&self, batch: &Batch, started: Instant) {
        self.report(|status| {
            *status = ProjectorStatus {
                checkpoint: batch.rows.checkpoint,
                stalled: false,
                ..*status
            }
        });
        ::metrics::counter!(metrics::EVENTS).increment(batch.count as u64);
        ::metrics::histogram!(metrics::BATCH).record(batch.count as f64);
        ::metrics::histogram!(metrics::COMMIT).record(started.elapsed());
        if let Some(delay) = batch
            .oldest
            .and_then(|oldest| ((self.clock)() - oldest).to_std().ok())
        {
            ::metrics::histogram!(metrics::DELAY).record(delay);
        }
    }

    fn upkeep(&self) -> Upkeep<'_> {
        Upkeep {
            config: &self.config,
            log: &self.log,
            directory: &self.directory,
            lanes: &self.lanes,
            store: &self.store,
            clock: self.clock,
        }
    }

    fn disabler(&self) -> Disabler<'_> {
        Disabler {
            config: &self.config,
            log: &self.log,
            directory: &self.directory,
            clock: self.clock,
        }
    }

    fn replayer(&self) -> Replayer {
        Replayer {
            config: self.config.clone(),
            log: self.log.clone(),
            directory: self.directory.clone(),
            store: self.store.clone(),
            clock: self.clock,
        }
    }

    fn survey(&self) -> Survey {
        Survey {
            log: self.log.clone(),
            store: self.store.clone(),
            status: self.status(),
            clock: self.clock,
        }
    }

    fn stall(&self, error: &HistoryError, message: &'static str) {
        self.report(|status| status.stalled = true);
        ::metrics::counter!(metrics::RETRIES).increment(1);
        warn!(%error, message);
    }

    fn report(&self, change: impl FnOnce(&mut ProjectorStatus)) {
        self.status.send_if_modified(|status| {
            let before = *status;
            change(status);
            *status != before
        });
    }
}

/// The span of a batch: of no trace, but linked to those that its events belong to.
fn span_of(batch: &Batch) -> Span {
    let span = debug_span!(
        "project.apply",
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
        messaging.system = "nats",
        messaging.operation.type = "process",
        messaging.operation.name = "project",
        messaging.destination.name = STREAM,
        messaging.batch.message_count = batch.count,
        log.seq = batch.rows.checkpoint
    );
    if !span.is_disabled() {
        for cause in &batch.causes {
            trace::link(&span, *cause);
        }
    }
    span
}
