//! Reads the log ahead of the fold and cuts it into batches.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_domain::trace::TraceContext;
use cuitty_webhooks_history as history;
use cuitty_webhooks_log::{CodecError, EventBody, EventReader, Log, LogError, StoredEvent, trace};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::backoff::Backoff;
use crate::config::ProjectorConfig;
use crate::gone::Asked;
use crate::metrics;

/// Events fetched at once, so that a batch overshoots its byte limit by this many payloads at most.
const CHUNK: usize = 256;
/// Most causes of a batch that are kept: what OpenTelemetry lets a span be linked to.
const CAUSES: usize = 128;
/// How long one read waits at the log's tail before it looks again.
const IDLE: Duration = Duration::from_secs(5);
/// How long a read waits for what should be here already.
const DRAIN: Duration = Duration::from_millis(1);

/// Consecutive events of the log.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What the history is folded from.
    pub(crate) rows: history::Batch,
    /// How many events, timers and unreadable ones included.
    pub(crate) count: usize,
    /// Those that could not be read, with their sequences.
    pub(crate) unreadable: Vec<(u64, CodecError)>,
    /// The endpoints that asked to be disabled.
    pub(crate) asked: Vec<Asked>,
    /// When the first one was stored.
    pub(crate) oldest: Option<DateTime<Utc>>,
    /// Recorded spans that have appended some of them; at most [`CAUSES`], each once.
    pub(crate) causes: Vec<TraceContext>,
    bytes: usize,
}

impl Batch {
    fn after(checkpoint: u64) -> Self {
        let rows = history::Batch {
            expected_checkpoint: checkpoint,
            checkpoint,
            events: Vec::new(),
        };
        Self {
            rows,
            count: 0,
            unreadable: Vec::new(),
            asked: Vec::new(),
            oldest: None,
            causes: Vec::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, event: StoredEvent) {
        self.rows.checkpoint = event.sequence;
        self.count += 1;
        self.oldest.get_or_insert(event.stored_at);
        if trace::is_exporting()
            && self.causes.len() < CAUSES
            && let Some(cause) = event.traceparent.as_deref().and_then(TraceContext::parse)
            && cause.is_sampled()
            && !self.causes.contains(&cause)
        {
            self.causes.push(cause);
        }
        match event.body {
            EventBody::Event(body) => {
                self.bytes += payload_len(&body);
                self.asked.extend(Asked::from_event(&body));
                self.rows.events.push((event.sequence, body));
            }
            EventBody::Timer => {}
            EventBody::Unreadable(error) => self.unreadable.push((event.sequence, error)),
        }
    }
}

fn payload_len(event: &DeliveryEvent) -> usize {
    match event {
        DeliveryEvent::Requested(requested) => requested.payload.len(),
        DeliveryEvent::Concluded(concluded) => {
            let attempt = concluded.attempt.as_ref();
            attempt
                .and_then(|attempt| attempt.response.as_ref())
                .map_or(0, |response| response.body.len())
        }
        DeliveryEvent::Unmatched(unmatched) => unmatched.payload.len(),
        DeliveryEvent::Due(_) => 0,
    }
}

/// Cuts batches from a reader.
pub(crate) struct Cutter {
    reader: EventReader,
    /// Where the last batch ended.
    checkpoint: u64,
    /// The last sequence to give out.
    end: u64,
    config: ProjectorConfig,
}

impl Cutter {
    /// Batches of what follows `checkpoint`, up to `end`.
    pub(crate) fn new(log: &Log, checkpoint: u64, end: u64, config: ProjectorConfig) -> Self {
        Self {
            reader: log.read(checkpoint + 1),
            checkpoint,
            end,
            config,
        }
    }

    /// The next batch: at least one event, or none when `idle` passes at the tail or the end is passed.
    ///
    /// What was read when an error comes in between is given out first.
    pub(crate) async fn next(&mut self, idle: Duration) -> Result<Option<Batch>, LogError> {
        let mut batch = Batch::after(self.checkpoint);
        let mut lingered = false;
        let mut wait = idle;
        loop {
            let asked = (self.config.batch_events - batch.count).min(CHUNK);
            let events = match self.reader.next_batch(asked, wait).await {
                Ok(events) => events,
                Err(_) if batch.count > 0 => return Ok(Some(batch)),
                Err(error) => return Err(error),
            };
            let at_tail = events.len() < asked;
            for event in events.into_iter().filter(|event| event.sequence <= self.end) {
                self.checkpoint = event.sequence;
                batch.push(event);
            }
            if batch.count == 0 {
                return Ok(None);
            }
            let full = self.checkpoint == self.end
                || batch.count >= self.config.batch_events
                || batch.bytes >= self.config.batch_bytes;
            if full || (at_tail && lingered) {
                return Ok(Some(batch));
            }
            if at_tail {
                // Sleeping, not waiting for single events: what arrives meanwhile is taken at one go.
                tokio::time::sleep(self.config.linger).await;
                lingered = true;
            }
            wait = DRAIN;
        }
    }
}

/// A task that keeps the next batch ready while the current one commits.
pub(crate) struct Feed {
    batches: mpsc::Receiver<Batch>,
    _stop: DropGuard,
}

impl Feed {
    /// Reads what follows `checkpoint`.
    pub(crate) fn start(log: &Log, checkpoint: u64, config: &ProjectorConfig) -> Self {
        let (ready, batches) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let cutter = Cutter::new(log, checkpoint, u64::MAX, config.clone());
        let reading = stop.clone().run_until_cancelled_owned(read_ahead(cutter, ready));
        tokio::spawn(reading);
        Self {
            batches,
            _stop: stop.drop_guard(),
        }
    }

    /// The next batch, as soon as there is one.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

async fn read_ahead(mut cutter: Cutter, ready: mpsc::Sender<Batch>) {
    let mut backoff = Backoff::new(cutter.config.max_backoff);
    loop {
        match cutter.next(IDLE).await {
            Ok(Some(batch)) => {
                backoff = Backoff::new(cutter.config.max_backoff);
                if ready.send(batch).await.is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(error) => {
                ::metrics::counter!(metrics::RETRIES).increment(1);
                warn!(%error, "cannot read the log; trying again");
                backoff.pause().await;
            }
        }
    }
}
