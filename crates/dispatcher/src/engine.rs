//! What one work item goes through: from the log, to its endpoint, to the log.

mod past;
mod record;
mod span;

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::attempt::Attempt;
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DeliveryEvent, DeliveryRef, FailureReason, Requested, Verdict, conclude,
};
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_domain::retry::pressure;
use cuitty_webhooks_domain::trace::TraceContext;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::membership::Holdings;
use cuitty_webhooks_log::trace::{self, Traced};
use cuitty_webhooks_log::{Acker, Cancellations, EventBody, Log, LogError, WorkEvent, WorkItem};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

pub(crate) use self::past::Past;
use self::record::Stored;
use crate::attempt::{Begun, Outgoing, is_perhaps_outdated, refusal};
use crate::destination::Sender;
use crate::metrics::{Metrics, ParkReason};
use crate::scheduler::{AttemptKey, Ended, Sign};
use crate::target::Targets;

/// How long a work item stays in the log that this process could not attempt at this moment.
const SOON: Duration = Duration::from_secs(1);
/// How long a work item stays in the log that cannot be attempted or recorded until somebody has looked into it.
pub(crate) const LATER: Duration = Duration::from_mins(1);
/// Pauses between tries to append while the log is not available: from the first, doubled, up to the last.
const APPEND_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// The delivery had ended before.
const SILENT: Ended = Ended::Recorded {
    outcome: None,
    sign: Sign::Silent,
};

/// A work item, and where it came from.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) partition: u16,
    pub(crate) sequence: u64,
    pub(crate) event: WorkEvent,
    /// How often the partition's consumer delivered it; 0 when its lane read it.
    pub(crate) delivered: u64,
    /// Of an item that the partition's consumer delivered.
    pub(crate) acker: Option<Acker>,
}

impl Work {
    pub(crate) fn pulled(partition: u16, item: WorkItem) -> Self {
        Self {
            partition,
            sequence: item.sequence,
            event: item.event,
            delivered: item.delivered,
            acker: Some(item.acker),
        }
    }

    pub(crate) fn read(partition: u16, sequence: u64, event: WorkEvent) -> Self {
        Self {
            partition,
            sequence,
            event,
            delivered: 0,
            acker: None,
        }
    }
}

/// What is to be done about a work item.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// When it arrived in its lane.
    pub(crate) arrived: Instant,
    /// Whether the log is asked first if the attempt was made.
    pub(crate) verify: bool,
    /// Whether a request may be made. If not, a delivery that has not ended is to come again.
    pub(crate) may_send: bool,
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
    pub(crate) cancellations: Cancellations,
    pub(crate) past: Past,
    pub(crate) holdings: Holdings,
    pub(crate) targets: Targets,
    pub(crate) sender: Sender,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
}

/// The attempt was not made, or its outcome not recorded: the item is to come again.
#[derive(Debug, Clone, Copy)]
struct NotNow(Duration);

/// A delivery's request.
struct Job<'a> {
    requested: Cow<'a, Requested>,
    requested_sequence: u64,
    /// When the attempt was due; `None` for the first one.
    due_at: Option<DateTime<Utc>>,
}

impl Engine {
    /// Makes the attempt that a work item asks for, or ends its delivery without one. The item is acknowledged when that is
    /// recorded, unless its lane goes on with it.
    pub(crate) async fn carry_out(
        &self,
        key: AttemptKey,
        work: &Work,
        task: Task,
        entropy: Entropy,
    ) -> Ended {
        let ended = match self.deliver(key, work, task, entropy).await {
            Ok(ended) => ended,
            Err(NotNow(delay)) => {
                self.metrics.parked(ParkReason::NotAttempted);
                Ended::NotNow(delay)
            }
        };
        if let (Ended::Recorded { .. }, Some(acker)) = (&ended, &work.acker)
            && let Err(error) = acker.ack().await
        {
            debug!(%error, "no word about a work item, it comes again");
        }
        ended
    }

    async fn deliver(
        &self,
        key: AttemptKey,
        work: &Work,
        task: Task,
        entropy: Entropy,
    ) -> Result<Ended, NotNow> {
        let Some(job) = self.job(work).await? else {
            return Ok(SILENT);
        };
        let (requested, requested_sequence) = (&*job.requested, job.requested_sequence);
        let is_cancelled = self.cancellations.contains(key.delivery_id);
        // Whoever cancelled it has ended it, unless that failed half-way.
        if (task.verify || is_cancelled) && self.is_attempted(key, &job, is_cancelled).await? {
            return Ok(SILENT);
        }
        let entry = self
            .directory
            .get(requested.delivery.endpoint_id)
            .ok_or(NotNow(SOON))?;
        let endpoint = &entry.endpoint;
        let now = (self.clock)();
        let refusal = if is_cancelled {
            Some(FailureReason::Cancelled)
        } else {
            refusal(endpoint, requested, now)
        };
        if let Some(reason) = refusal {
            if work.delivered == 1 && is_perhaps_outdated(reason, requested, now) {
                debug!(endpoint.id = %endpoint.id, reason = reason.as_str(), "looked at again: the directory may lag");
                return Err(NotNow(SOON));
            }
            return self
                .fail(&requested.delivery, requested_sequence, reason, now)
                .await;
        }
        if !task.may_send {
            return Err(NotNow(SOON));
        }
        // Reading the request back may have taken long.
        if !self.holdings.holds(work.partition, Instant::now()) {
            return Err(NotNow(Duration::ZERO));
        }
        let cause = TraceContext::parse(&requested.traceparent);
        let span = span::of_attempt(endpoint, requested, key.number, work.sequence);
        trace::set_parent(&span, cause);
        // The receiver is to find the span of its attempt, if that is exported.
        let trace = trace::context_of(&span)
            .unwrap_or_else(|| TraceContext::child_of(cause, entropy.trace_id, entropy.span_id));
        let begun = Begun {
            number: key.number,
            started_at: now,
            queue: task.arrived.elapsed(),
            endpoint,
            dispatcher_id: &self.dispatcher_id,
            trace,
        };
        let attempt = self.attempt(key, &job, begun, now, entropy);
        Traced::new(span, Some(trace)).run(attempt).await
    }

    /// Makes the attempt, and records what came of it.
    async fn attempt(
        &self,
        key: AttemptKey,
        job: &Job<'_>,
        begun: Begun<'_>,
        now: DateTime<Utc>,
        entropy: Entropy,
    ) -> Result<Ended, NotNow> {
        let (requested, requested_sequence) = (&*job.requested, job.requested_sequence);
        let (endpoint, trace) = (begun.endpoint, begun.trace);
        let prepared = self.targets.prepare(endpoint, now);
        let attempt = match &prepared.target {
            Err(error) => begun.not_sent(error),
            Ok(target) => {
                let outgoing = Outgoing::build(target, requested, key.number, trace, now);
                let request = outgoing.record(&endpoint.settings.url);
                let started = Instant::now();
                let sent = self
                    .sender
                    .send(&target.destination, outgoing, target.timeout)
                    .await;
                let exchange = sent.map_err(|not_sent| {
                    warn!(error = %not_sent, "attempt not made");
                    trace::failed(&trace::task_span(), "not_made");
                    NotNow(SOON)
                })?;
                begun.ended(request, exchange, started.elapsed())
            }
        };
        self.metrics.attempt(&attempt);
        span::tell(&trace::task_span(), &attempt);

        let at = (self.clock)();
        let mut rng = StdRng::seed_from_u64(entropy.jitter);
        let Verdict { conclusion, disables } = conclude(
            endpoint.settings.kind,
            &attempt,
            &prepared.schedule,
            requested.deadline,
            at,
            &mut rng,
        );
        let conclusion = self.unless_cancelled(key.delivery_id, conclusion);
        report(&requested.delivery, &attempt, &conclusion);
        let sign = Sign::from(pressure(&attempt, at));
        let concluded = Concluded {
            delivery: requested.delivery.clone(),
            requested_sequence,
            attempt: Some(attempt),
            conclusion,
            at,
        };
        let ordered = endpoint.settings.ordered;
        let Stored { outcome, has_ended } = self.record(&concluded, key.number, !ordered).await?;
        // An answer to what the endpoint was is none to what it is now.
        let sign = if disables && self.is_unchanged(endpoint) {
            Sign::Gone
        } else {
            sign
        };
        Ok(match conclusion {
            Conclusion::Retry { next_attempt_at } if ordered && !has_ended => Ended::Blocked {
                outcome,
                sign,
                until: Instant::now() + (next_attempt_at - at).to_std().unwrap_or_default(),
            },
            _ => Ended::Recorded { outcome, sign },
        })
    }

    /// Whether the endpoint still is what was called, as far as is known here.
    fn is_unchanged(&self, called: &Endpoint) -> bool {
        let entry = self.directory.get(called.id);
        entry.is_some_and(|entry| entry.endpoint.revision == called.revision)
    }

    /// What an attempt means for a delivery that may have been cancelled meanwhile: it is not retried then.
    fn unless_cancelled(&self, delivery_id: DeliveryId, conclusion: Conclusion) -> Conclusion {
        match conclusion {
            Conclusion::Retry { .. } if self.cancellations.contains(delivery_id) => Conclusion::Failed {
                reason: FailureReason::Cancelled,
            },
            conclusion => conclusion,
        }
    }

    /// Whether the log has an outcome of that attempt, or of a later one. One that was cancelled may have ended at any time.
    async fn is_attempted(&self, key: AttemptKey, job: &Job<'_>, is_cancelled: bool) -> Result<bool, NotNow> {
        let delivery = &job.requested.delivery;
        let from = past::From {
            requested_sequence: job.requested_sequence,
            due_at: job.due_at.filter(|_| !is_cancelled),
        };
        let attempted = self.past.is_attempted(delivery, from, key.number).await;
        attempted.map_err(|error| {
            debug!(%error, delivery.id = %key.delivery_id, "outcomes not read");
            NotNow(SOON)
        })
    }

    /// What a work item asks for; `None` when its delivery has been ended because its request is gone.
    async fn job<'a>(&self, work: &'a Work) -> Result<Option<Job<'a>>, NotNow> {
        let due = match &work.event {
            WorkEvent::Requested(requested) => {
                return Ok(Some(Job {
                    requested: Cow::Borrowed(&**requested),
                    requested_sequence: work.sequence,
                    due_at: None,
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
                    due_at: Some(due.due_at),
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
    ) -> Result<Ended, NotNow> {
        info!(delivery.id = %delivery.delivery_id, endpoint.id = %delivery.endpoint_id, reason = reason.as_str(), "delivery failed");
        let conclusion = Conclusion::Failed { reason };
        let concluded = Concluded {
            delivery: delivery.clone(),
            requested_sequence,
            attempt: None,
            conclusion,
            at,
        };
        let Stored { outcome, .. } = self.record(&concluded, 0, false).await?;
        let sign = Sign::Silent;
        Ok(Ended::Recorded { outcome, sign })
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
