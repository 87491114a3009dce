//! Requesting deliveries at a rate, while few enough of them are pending.

use std::collections::HashSet;
use std::time::Duration;

use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, Origin, Requested};
use cuitty_webhooks_domain::ids::DeliveryId;
use tokio::time::{Instant, sleep, sleep_until};

use super::Replayer;
use super::page::Item;
use crate::error::ProjectorError;
use crate::metrics;

/// Ids of one question to the history.
pub(super) const CHUNK: usize = 256;
/// Deliveries that are requested together, at most: their payloads are in memory.
const TOGETHER: u32 = 64;
/// Parts of a second that the rate is kept in.
const PARTS: u32 = 20;
/// How often the history is asked whether deliveries have ended, while there is no room for more.
const ASK: Duration = Duration::from_millis(100);

/// The pace of one replay.
pub(super) struct Sending {
    /// Per second, 1 or more.
    rate: u32,
    max_outstanding: usize,
    /// When the next ones may be requested.
    next: Instant,
    /// What was requested and has not ended, as far as is known.
    outstanding: HashSet<DeliveryId>,
}

/// What became of a page.
pub(super) struct Sent {
    /// Originals, or messages that had no delivery, that were requested.
    pub(super) originals: u64,
    /// Whether that is all of them.
    pub(super) all: bool,
}

impl Sending {
    pub(super) fn new(rate: u32, max_outstanding: usize) -> Self {
        Self {
            rate: rate.max(1),
            max_outstanding: max_outstanding.max(1),
            next: Instant::now(),
            outstanding: HashSet::new(),
        }
    }

    /// Requests the items in order, as long as `goes_on`.
    pub(super) async fn send(
        &mut self,
        replayer: &Replayer,
        items: Vec<Item>,
        goes_on: impl Fn() -> bool,
    ) -> Result<Sent, ProjectorError> {
        let together = (self.rate / PARTS).clamp(1, TOGETHER) as usize;
        let mut sent = HashSet::new();
        for items in items.chunks(together.min(self.max_outstanding)) {
            while self.outstanding.len() + items.len() > self.max_outstanding {
                if !goes_on() {
                    return Ok(Sent {
                        originals: sent.len() as u64,
                        all: false,
                    });
                }
                self.forget_ended(replayer).await?;
                if self.outstanding.len() + items.len() > self.max_outstanding {
                    sleep(ASK).await;
                }
            }
            sleep_until(self.next).await;
            if !goes_on() {
                return Ok(Sent {
                    originals: sent.len() as u64,
                    all: false,
                });
            }
            // From now on: what was missed while there was no room is not made up for.
            self.next = Instant::now() + Duration::from_secs(items.len() as u64) / self.rate;
            let requested = requests(replayer, items).await?;
            replayer.log.append_requested(&requested).await?;
            ::metrics::counter!(metrics::REPLAYED).increment(requested.len() as u64);
            for request in requested {
                self.outstanding.insert(request.delivery.delivery_id);
                sent.insert((request.replay_of, request.delivery.message_id));
            }
        }
        Ok(Sent {
            originals: sent.len() as u64,
            all: true,
        })
    }

    async fn forget_ended(&mut self, replayer: &Replayer) -> Result<(), ProjectorError> {
        let outstanding: Vec<_> = self.outstanding.iter().copied().collect();
        for ids in outstanding.chunks(CHUNK) {
            for id in replayer.store.ended(ids).await? {
                self.outstanding.remove(&id);
            }
        }
        Ok(())
    }
}

/// The items with what their messages hold; one whose message the history does not have is left out.
async fn requests(replayer: &Replayer, items: &[Item]) -> Result<Vec<Requested>, ProjectorError> {
    let messages: HashSet<_> = items.iter().map(|item| item.delivery.message_id).collect();
    let messages: Vec<_> = messages.into_iter().collect();
    let contents = replayer.store.contents(&messages).await?;
    let requested_at = (replayer.clock)();
    let request = |item: &Item| {
        let (content_type, payload) = contents.get(&item.delivery.message_id)?;
        Some(Requested {
            delivery: item.delivery.clone(),
            content_type: content_type.clone(),
            payload: payload.clone(),
            requested_at,
            origin: Origin::Replay,
            replay_of: item.replay_of,
            traceparent: String::new(),
            deadline: requested_at + DEFAULT_DEADLINE,
        })
    };
    Ok(items.iter().filter_map(request).collect())
}
