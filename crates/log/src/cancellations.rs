//! The cancelled deliveries: what is not to be attempted any more. Every process keeps a copy of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_nats::jetstream;
use bytes::Bytes;
use cuitty_webhooks_domain::delivery::DeliveryRef;
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, instrument};

use crate::codec::CodecError;
use crate::entries::KV_OPERATION;
use crate::follow::{Fold, Follower, Kept};
use crate::metrics::names;
use crate::topology::{CANCELLATION_MAX_AGE, CANCELLATIONS_BUCKET};
use crate::{Log, LogError};

/// What stands before a delivery's id in the subject of its entry.
const KEYS: &str = "$KV.WEBHOOKS_CANCELLATIONS.";
/// Cancellations that a slow receiver of [`Cancellations::changes`] may be behind before it is told that it missed some.
const CHANGES: usize = 1024;

/// All cancelled deliveries of the last 48 h, which is longer than any delivery is attempted. Clones share one copy, which
/// is kept live until the last clone is dropped.
#[derive(Clone)]
pub struct Cancellations {
    log: Log,
    kept: Kept<Cancelled>,
}

impl Cancellations {
    /// Learns what is cancelled, and follows it until `stop` is cancelled. Returns when caught up; a log that cannot be
    /// read then is an error, later it is waited for.
    pub async fn start(log: &Log, stop: CancellationToken) -> Result<Self, LogError> {
        let follower = Follower::new(log, format!("KV_{CANCELLATIONS_BUCKET}"));
        let kept = Kept::start(Cancelled::new(), follower, &stop).await?;
        info!(
            deliveries = kept.state().read().times.len(),
            log.seq = kept.applied(),
            "cancelled deliveries are known"
        );
        Ok(Self {
            log: log.clone(),
            kept,
        })
    }

    /// Whether a delivery is cancelled, as far as is known here.
    pub fn contains(&self, delivery_id: DeliveryId) -> bool {
        self.kept.state().read().times.contains_key(&delivery_id)
    }

    /// Cancels a delivery, for good; visible here at once. To cancel it again changes nothing, and neither does it to cancel
    /// one that has ended. Its timers stay: [`Log::cancel_timers`].
    #[instrument(name = "log.cancel", level = "debug", skip_all, fields(delivery.id = %delivery.delivery_id))]
    pub async fn cancel(&self, delivery: &DeliveryRef) -> Result<(), LogError> {
        let id = delivery.delivery_id;
        if self.contains(id) {
            return Ok(());
        }
        let subject = format!("{KEYS}{id}");
        self.log.put_entry(&subject, encode(delivery)?, None).await?;
        self.kept.state().learn(delivery.endpoint_id, id);
        Ok(())
    }

    /// The deliveries that are cancelled from now on, wherever that happens, after it can be seen here. A receiver that
    /// falls behind by more than 1,024 is told so.
    pub fn changes(&self) -> broadcast::Receiver<(EndpointId, DeliveryId)> {
        self.kept.state().changes.subscribe()
    }
}

/// The copy.
struct Cancelled {
    /// Held for one lookup or one change, never across an await.
    known: RwLock<Known>,
    changes: broadcast::Sender<(EndpointId, DeliveryId)>,
}

impl Cancelled {
    fn new() -> Self {
        Self {
            known: RwLock::default(),
            changes: broadcast::Sender::new(CHANGES),
        }
    }

    fn learn(&self, endpoint_id: EndpointId, delivery_id: DeliveryId) {
        let is_news = self.write().insert(delivery_id, Instant::now());
        if is_news {
            // Nobody listening is fine.
            let _ = self.changes.send((endpoint_id, delivery_id));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fold for Cancelled {
    const NAME: &'static str = "cancellations";

    fn fold(&self, sequence: u64, message: &jetstream::Message) {
        let is_deleted = message
            .headers
            .as_ref()
            .is_some_and(|headers| headers.get(KV_OPERATION).is_some());
        let delivery_id = message.subject.strip_prefix(KEYS).and_then(|id| id.parse().ok());
        let Some(delivery_id) = delivery_id else {
            metrics::counter!(names::UNREADABLE).increment(1);
            error!(
                log.seq = sequence,
                "a cancellation is of no delivery, leaving it out"
            );
            return;
        };
        if is_deleted {
            // By an operator: nothing of ours does so.
            self.write().remove(delivery_id);
            return;
        }
        match decode(&message.payload) {
            Ok(endpoint_id) => self.learn(endpoint_id, delivery_id),
            Err(error) => {
                metrics::counter!(names::UNREADABLE).increment(1);
                error!(delivery.id = %delivery_id, log.seq = sequence, %error, "cannot read a cancellation, leaving it out");
            }
        }
    }

    fn clear(&self) {
        // Dropped after the lock is let go.
        let _outdated = std::mem::take(&mut *self.write());
    }
}

/// nats-server removes an entry in silence when its time is over. So each is counted from when it was learned here: it
/// leaves never earlier than there, and when the process is younger than the entry, later.
#[derive(Default)]
struct Known {
    /// When each was learned, the last time.
    times: HashMap<DeliveryId, Instant>,
    /// Every time that one was learned, in order.
    order: VecDeque<(Instant, DeliveryId)>,
}

impl Known {
    /// Learns of a delivery, and forgets those whose time is over by `now`; whether it is news.
    fn insert(&mut self, delivery_id: DeliveryId, now: Instant) -> bool {
        while let Some(&(learned, id)) = self.order.front()
            && now.duration_since(learned) >= CANCELLATION_MAX_AGE
        {
            self.order.pop_front();
            // Unless it was learned again since.
            if self.times.get(&id) == Some(&learned) {
                self.times.remove(&id);
            }
        }
        self.order.push_back((now, delivery_id));
        self.times.insert(delivery_id, now).is_none()
    }

    fn remove(&mut self, delivery_id: DeliveryId) {
        self.times.remove(&delivery_id);
    }
}

/// An entry's value. Additive only, as the events are.
#[derive(Serialize, Deserialize)]
struct Stored {
    endpoint_id: String,
    project_id: String,
}

fn encode(delivery: &DeliveryRef) -> Result<Bytes, LogError> {
    let stored = Stored {
        endpoint_id: delivery.endpoint_id.to_string(),
        project_id: delivery.project_id.to_string(),
    };
    serde_json::to_vec(&stored)
        .map(Bytes::from)
        .map_err(LogError::protocol)
}

fn decode(value: &[u8]) -> Result<EndpointId, CodecError> {
    let invalid = |field, message| CodecError::Invalid { field, message };
    let stored: Stored =
        serde_json::from_slice(value).map_err(|error| invalid("cancellation", error.to_string()))?;
    stored
        .endpoint_id
        .parse()
        .map_err(|_| invalid("endpoint_id", "is no endpoint id".into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cuitty_webhooks_domain::ids::{EndpointId, MessageId};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn delivery(number: u64) -> DeliveryId {
        let (now, mut rng) = (chrono::DateTime::UNIX_EPOCH, StdRng::seed_from_u64(number));
        DeliveryId::derive(MessageId::new(now, &mut rng), EndpointId::new(now, &mut rng))
    }

    #[test]
    fn cancellations_leave_memory_48_h_after_they_were_last_learned() {
        let (mut known, start) = (Known::default(), Instant::now());
        let at = |hours| start + Duration::from_hours(hours);
        assert!(known.insert(delivery(1), at(0)));
        assert!(known.insert(delivery(2), at(0)));
        assert!(!known.insert(delivery(1), at(1)));
        known.insert(delivery(3), at(48));
        let left = |known: &Known| [1, 2, 3].map(|number| known.times.contains_key(&delivery(number)));
        assert_eq!(left(&known), [true, false, true]);
        known.insert(delivery(4), at(49));
        assert_eq!(left(&known), [false, false, true]);
        assert_eq!(known.order.len(), known.times.len());
    }
}
