//! The outcomes of one endpoint since long ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cuitty_webhooks_domain::delivery::DeliveryRef;
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_log::{LastOutcome, Log, LogError, Progress};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::FRESH;

/// Endpoints that are remembered, before those are forgotten that are not fresh.
const REMEMBERED: usize = 1024;
/// Reads at the same time: nats-server looks through everything that was stored since, for each.
const READS: usize = 2;

/// Outcomes by endpoint, each read once for all its work.
pub(super) struct Distant {
    log: Log,
    slots: Mutex<HashMap<EndpointId, Slot>>,
    reads: Semaphore,
}

/// Whoever comes first reads, the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Read>>>;

struct Read {
    /// It holds every outcome after this sequence.
    after: u64,
    at: Instant,
    outcomes: HashMap<DeliveryId, LastOutcome>,
}

impl Distant {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            slots: Mutex::default(),
            reads: Semaphore::new(READS),
        }
    }

    /// How far a delivery has come that was requested at `requested_sequence`.
    pub(super) async fn progress(
        &self,
        delivery: &DeliveryRef,
        requested_sequence: u64,
    ) -> Result<Progress, LogError> {
        let slot = self.slot(delivery.endpoint_id);
        let mut read = slot.lock().await;
        let now = Instant::now();
        let is_good = |read: &Read| read.after <= requested_sequence && now < read.at + FRESH;
        if !read.as_ref().is_some_and(is_good) {
            // As far back as before, so that work that is read out of order does not make it start anew each time.
            let after = read
                .as_ref()
                .map_or(requested_sequence, |read| read.after.min(requested_sequence));
            // Never closed.
            let _turn = self.reads.acquire().await;
            let outcomes = self
                .log
                .outcomes_after(&delivery.project_id, delivery.endpoint_id, after)
                .await?;
            *read = Some(Read {
                after,
                at: now,
                outcomes: outcomes.of,
            });
        }
        let known = read
            .as_ref()
            .and_then(|read| read.outcomes.get(&delivery.delivery_id));
        Ok(known.map_or_else(Progress::default, |last| Progress {
            attempts: last.attempts,
            has_ended: last.next_attempt_at.is_none(),
        }))
    }

    fn slot(&self, endpoint_id: EndpointId) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= REMEMBERED {
            // Those that are being read now stay.
            slots.retain(|_, slot| {
                slot.try_lock().map_or(true, |read| {
                    read.as_ref().is_some_and(|read| read.at.elapsed() < FRESH)
                })
            });
        }
        slots.entry(endpoint_id).or_default().clone()
    }
}
