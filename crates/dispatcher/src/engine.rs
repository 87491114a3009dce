//! What one work item goes through: from the log, to its endpoint, to the log.

mod disable;
mod record;

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::attempt::Attempt;
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DeliveryEvent, DeliveryRef, FailureReason, Requested, conclude,
};
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::membership::Holdings;
use cuitty_webhooks_log::{EventBody, Log, LogError, WorkEvent, WorkItem};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, instrument, warn};

use crate::attempt::{Begun, Outgoing, is_perhaps_outdated, refusal};
use crate::http::HttpClient;
use crate::metrics::{Metrics, ParkReason};
use crate::scheduler::AttemptKey;
use crate::target::Targets;
use crate::trace::TraceContext;

/// How long a work item stays in the log that this process could not attempt at this moment.
const SOON: Duration = Duration::from_secs(1);
/// How long a work item stays in the log that cannot be attempted or recorded until somebody has looked into it.
pub(crate) const LATER: Duration = Duration::from_mins(1);
/// Pauses between tries to append while the log is not available: from the first, doubled, up to the last.
const APPEND_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// A work item and the partition it came from.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) partition: u16,
    pub(crate) item: WorkItem,
}

/// Randomness for one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entropy {
    trace_id: u128,
    span_id: u64,
    jitter: u64,
}

impl Entropy {
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        Self {
            trace_id: rng.random(),
            span_id: rng.random(),
            jitter: rng.random(),
        }
    }
}

/// Makes attempts. One for the whole dispatcher.
pub(crate) struct Engine {
    pub(crate) dispatcher_id: String,
    pub(crate) log: Log,
    pub(crate) directory: Directory,
    pub(crate) holdings: Holdings,
    pub(crate) targets: Targets,
    pub(crate) http: HttpClient,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
}

/// The attempt was not made, or its outcome not recorded: the item is to come again.
#[derive(Debug, Clone, Copy)]
struct NotNow(Duration);

/// A delivery's request, and which of its attempts is due.
struct Job<'a> {
    requested: Cow<'a, Requested>,
    requested_sequence: u64,
    number: u32,
}

impl Engine {
    /// Carries out one work item; whether it was settled. One that was not has been given back to the log.
    #[instrument(
        name = "dispatch.attempt",
        level = "debug",
        skip_all,
        fields(delivery.id = %key.delivery_id, attempt.number = key.number, log.seq = work.item.sequence)
    )]
    pub(crate) async fn carry_out(
        &self,
        key: AttemptKey,
        work: &Work,
        arrived: Instant,
        entropy: Entropy,
    ) -> bool {
        let acker = &work.item.acker;
        let (settled, told) = match self.deliver(work, arrived, entropy).await {
            Ok(()) => (true, acker.ack().await),
            Err(NotNow(delay)) => {
                self.metrics.parked(ParkReason::NotAttempted);
                (false, acker.nak(delay).await)
            }
        };
        if let Err(error) = told {
            debug!(%error, "no word about a work item, it comes again");
        }
        settled
    }

    async fn deliver(&self, work: &Work, arrived: Instant, entropy: Entropy) -> Result<(), NotNow> {
        let Some(job) = self.job(&work.item).await? else {
            return Ok(());
        };
        let entry = self
            .directory
            .get(job.requested.delivery.endpoint_id)
            .ok_or(NotNow(SOON))?;
        let endpoint = &entry.endpoint;
        let now = (self.clock)();
        if let Some(reason) = refusal(endpoint, &job.requested, now) {
            if work.item.delivered == 1 && is_perhaps_outdated(reason, &job.requested, now) {
                debug!(endpoint.id = %endpoint.id, reason = reason.as_str(), "looked at again: the directory may lag");
                return Err(NotNow(SOON));
            }
            return self
                .fail(&job.requested.delivery, job.requested_sequence, reason, now)
                .await;
        }
        // Reading the request back may have taken long.
        if !self.holdings.holds(work.partition, Instant::now()) {
            return Err(NotNow(Duration::ZERO));
        }
        let prepared = self.targets.prepare(endpoint, now);
        let trace = TraceContext::child_of(&job.requested.traceparent, entropy.trace_id, entropy.span_id);
        let begun = Begun {
            number: job.number,
            started_at: now,
            queue: arrived.elapsed(),
            endpoint,
            dispatcher_id: &self.dispatcher_id,
            trace,
        };
        let attempt = match &prepared.target {
            Err(error) => begun.not_sent(error),
            Ok(target) => {
                let outgoing = Outgoing::build(target, &job.requested, job.number, trace, now);
                let request = outgoing.record(&endpoint.settings.url);
                let started = Instant::now();
                let sent = self
                    .http
                    .post(
                        target.uri.clone(),
                        outgoing.headers,
                        outgoing.body,
                        target.timeout,
                    )
                    .await;
                let exchange = sent.map_err(|exhausted| {
                    warn!(error = %exhausted, "attempt not made; raise the limit of open files or lower dispatcher.max_in_flight");
                    NotNow(SOON)
                })?;
                begun.ended(request, exchange, started.elapsed())
            }
        };
        self.metrics.attempt(&attempt);

        let at = (self.clock)();
        let mut rng = StdRng::seed_from_u64(entropy.jitter);
        let conclusion = conclude(&attempt, &prepared.schedule, job.requested.deadline, at, &mut rng);
        report(&job.requested.delivery, &attempt, &conclusion);
        let concluded = Concluded {
            delivery: job.requested.delivery.clone(),
            requested_sequence: job.requested_sequence,
            attempt: Some(attempt),
            conclusion,
            at,
        };
        self.record(&concluded, job.number).await?;
        if conclusion
            == (Conclusion::Failed {
                reason: FailureReason::Gone,
            })
        {
            self.disable_gone(endpoint).await;
        }
        Ok(())
    }

    /// What a work item asks for; `None` when its delivery has been ended because its request is gone.
    async fn job<'a>(&self, item: &'a WorkItem) -> Result<Option<Job<'a>>, NotNow> {
        let due = match &item.event {
            WorkEvent::Requested(requested) => {
                let requested = Cow::Borrowed(&**requested);
                return Ok(Some(Job {
                    requested,
                    requested_sequence: item.sequence,
                    number: 1,
                }));
            }
            WorkEvent::Due(due) => due,
            // Never started: the service parks these.
            WorkEvent::Unreadable(_) => return Err(NotNow(LATER)),
        };
        let stored = self.log.get(due.requested_sequence).await.map_err(|error| {
            debug!(%error, log.seq = due.requested_sequence, "request not read back");
            NotNow(SOON)
        })?;
        match stored.map(|stored| stored.body) {
            Some(EventBody::Event(DeliveryEvent::Requested(requested)))
                if requested.delivery.delivery_id == due.delivery.delivery_id =>
            {
                Ok(Some(Job {
                    requested: Cow::Owned(requested),
                    requested_sequence: due.requested_sequence,
                    number: due.attempt_number,
                }))
            }
            Some(EventBody::Unreadable(error)) => {
                error!(log.seq = due.requested_sequence, %error, "request cannot be read by this version");
                Err(NotNow(LATER))
            }
            Some(_) => {
                error!(log.seq = due.requested_sequence, delivery.id = %due.delivery.delivery_id, "the log holds something else where the request should be");
                Err(NotNow(LATER))
            }
            None => {
                // A server of a cluster that is behind says "not found" too: only what the log has outlived is gone.
                let (first, _) = self.log.bounds().await.map_err(|error| {
                    debug!(%error, "bounds of the log not read");
                    NotNow(SOON)
                })?;
                if !is_gone(due.requested_sequence, first) {
                    debug!(
                        log.seq = due.requested_sequence,
                        log.first = first,
                        "request not found yet"
                    );
                    return Err(NotNow(SOON));
                }
                // Requests are kept longer than their deliveries' deadlines.
                warn!(log.seq = due.requested_sequence, delivery.id = %due.delivery.delivery_id, "request is gone from the log");
                let now = (self.clock)();
                self.fail(&due.delivery, due.requested_sequence, FailureReason::Expired, now)
                    .await?;
                Ok(None)
            }
        }
    }

    /// Ends a delivery without an attempt.
    async fn fail(
        &self,
        delivery: &DeliveryRef,
        requested_sequence: u64,
        reason: FailureReason,
        at: DateTime<Utc>,
    ) -> Result<(), NotNow> {
        info!(delivery.id = %delivery.delivery_id, endpoint.id = %delivery.endpoint_id, reason = reason.as_str(), "delivery failed");
        let conclusion = Conclusion::Failed { reason };
        let concluded = Concluded {
            delivery: delivery.clone(),
            requested_sequence,
            attempt: None,
            conclusion,
            at,
        };
        self.record(&concluded, 0).await
    }
}

/// Whether the request at `sequence` has left a log whose first message is at `first`.
fn is_gone(sequence: u64, first: u64) -> bool {
    first > sequence
}

/// Repeats an append for as long as the log has no answer or no room. What has been sent is worth recording whatever
/// became of the lease meanwhile: the log stores one outcome per attempt number.
async fn until_available<T, F>(mut append: impl FnMut() -> F) -> Result<T, LogError>
where
    F: Future<Output = Result<T, LogError>>,
{
    let (mut pause, longest) = APPEND_PAUSES;
    loop {
        match append().await {
            Err(error @ (LogError::Unavailable(_) | LogError::Full(_))) => {
                warn!(%error, ?pause, "outcome not appended, trying again");
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            result => return result,
        }
    }
}

fn report(delivery: &DeliveryRef, attempt: &Attempt, conclusion: &Conclusion) {
    let (id, endpoint_id, number) = (delivery.delivery_id, delivery.endpoint_id, attempt.number);
    let class = attempt
        .error
        .as_ref()
        .map_or("none", |error| error.class.as_str());
    match conclusion {
        Conclusion::Succeeded => debug!(delivery.id = %id, attempt.number = number, "delivered"),
        Conclusion::Retry { next_attempt_at } => {
            debug!(delivery.id = %id, endpoint.id = %endpoint_id, attempt.number = number, error.class = class, %next_attempt_at, "attempt failed");
        }
        Conclusion::Failed { reason } => {
            info!(delivery.id = %id, endpoint.id = %endpoint_id, attempt.number = number, error.class = class, reason = reason.as_str(), "delivery failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_gone_only_when_the_log_begins_after_it() {
        assert!(is_gone(4, 5));
        assert!(!is_gone(5, 5));
        assert!(!is_gone(6, 5), "not there yet, or on another server");
    }
}
