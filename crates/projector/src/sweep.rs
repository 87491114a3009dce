//! Finding deliveries that nothing will happen to any more, and making their next attempt due.

use std::collections::HashSet;
use std::mem::take;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{DEFAULT_DEADLINE, Delivery, Due};
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_history::Waiting;
use tracing::warn;

use crate::error::ProjectorError;
use crate::metrics;
use crate::upkeep::{PAGE, Upkeep};

/// Pages looked through in one round for each thing that can be overdue; the next round goes on behind them.
const MAX_PAGES: usize = 64;
/// Deliveries made due that are remembered. No further ones are made due until some of them have ended, so that dispatchers
/// that stand still do not find their work doubled.
const MAX_REMEMBERED: usize = 10_000;
/// Deliveries whose outcomes the log is asked for in one round: each takes a look at its endpoint's.
const MAX_ASKED: usize = 64;

/// What one leader has swept.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Where a pass over the deliveries that were never attempted goes on; `None` at its beginning.
    at: Option<Delivery>,
    /// Those that looked forgotten in the pass before, and in this one.
    suspected: [HashSet<DeliveryId>; 2],
    /// Those that were made due, so that it happens once.
    made_due: HashSet<DeliveryId>,
    /// Of them, those that this pass has met.
    met: HashSet<DeliveryId>,
}

impl Sweep {
    /// Looks through what is overdue in a history that has reached `reached`.
    pub(crate) async fn round(&mut self, upkeep: Upkeep<'_>, reached: u64) -> Result<(), ProjectorError> {
        lost_timers(upkeep, reached).await?;
        if upkeep.lanes.is_live() {
            self.never_attempted(upkeep, reached).await?;
        }
        Ok(())
    }

    /// Deliveries that were never attempted and are no dispatcher's work any more: they are attempted when they are due, or
    /// end as expired.
    async fn never_attempted(&mut self, upkeep: Upkeep<'_>, reached: u64) -> Result<(), ProjectorError> {
        let mut found = Found::new(upkeep, Waiting::Start, reached, self.at.take());
        let mut page = found.next().await?;
        if !page.is_empty() {
            let settled = upkeep.log.settled_through().await?;
            let mut asked = 0;
            while !page.is_empty() {
                for delivery in page {
                    self.look_at(upkeep, &settled, &delivery, &mut asked).await?;
                }
                page = found.next().await?;
            }
        }
        if found.is_complete {
            self.made_due = take(&mut self.met);
            self.suspected = [take(&mut self.suspected[1]), HashSet::new()];
        } else {
            self.at = found.last;
        }
        Ok(())
    }

    async fn look_at(
        &mut self,
        upkeep: Upkeep<'_>,
        settled: &[u64],
        delivery: &Delivery,
        asked: &mut usize,
    ) -> Result<(), ProjectorError> {
        let id = delivery.delivery.delivery_id;
        if self.made_due.contains(&id) {
            self.met.insert(id);
            return Ok(());
        }
        let entry = upkeep.directory.get(delivery.delivery.endpoint_id);
        // A detached lane reads on to what waits in it.
        let waits_in_lane = upkeep
            .lanes
            .waits(delivery.delivery.endpoint_id, delivery.requested_sequence);
        let is_settled = entry.as_ref().is_some_and(|entry| {
            let through = settled.get(usize::from(entry.partition));
            // What cannot be made due is not asked about either.
            !entry.endpoint.settings.ordered
                && through.is_some_and(|&through| delivery.requested_sequence <= through)
        });
        let [before, now] = &mut self.suspected;
        if !is_settled
            || waits_in_lane
            || now.len() >= MAX_REMEMBERED
            || self.made_due.len() >= MAX_REMEMBERED
        {
            return Ok(());
        }
        now.insert(id);
        // It may have been attempted a moment ago, by a lane that read on until then.
        if !before.contains(&id) || *asked >= MAX_ASKED {
            return Ok(());
        }
        *asked += 1;
        let is_over = (upkeep.clock)() > delivery.created_at + DEFAULT_DEADLINE;
        let (requested, log) = (delivery.requested_sequence, upkeep.log);
        if !is_over && log.attempted(&delivery.delivery, requested, 1).await? {
            return Ok(());
        }
        let endpoint = entry.as_deref().map(|entry| &entry.endpoint);
        let overdue = if is_over { "deadline" } else { "start" };
        if make_due(upkeep, delivery, endpoint, overdue).await? {
            self.made_due.insert(id);
            self.met.insert(id);
        }
        Ok(())
    }
}

/// Deliveries whose retry timer should have fired.
async fn lost_timers(upkeep: Upkeep<'_>, reached: u64) -> Result<(), ProjectorError> {
    let mut found = Found::new(upkeep, Waiting::Timer, reached, None);
    loop {
        let page = found.next().await?;
        if page.is_empty() {
            return Ok(());
        }
        for delivery in page {
            let entry = upkeep.directory.get(delivery.delivery.endpoint_id);
            let endpoint = entry.as_deref().map(|entry| &entry.endpoint);
            make_due(upkeep, &delivery, endpoint, "timer").await?;
        }
    }
}

/// Whether that was to be done.
async fn make_due(
    upkeep: Upkeep<'_>,
    delivery: &Delivery,
    endpoint: Option<&Endpoint>,
    overdue: &'static str,
) -> Result<bool, ProjectorError> {
    let Some(due) = due_now(delivery, endpoint, (upkeep.clock)()) else {
        return Ok(false);
    };
    upkeep.log.arm_timer(&due).await?;
    ::metrics::counter!(metrics::SWEPT, "overdue" => overdue).increment(1);
    warn!(
        delivery.id = %delivery.delivery.delivery_id,
        endpoint.id = %delivery.delivery.endpoint_id,
        attempt.number = due.attempt_number,
        was_due_at = delivery.next_attempt_at.map(display),
        overdue,
        "a delivery was forgotten; its attempt is due now"
    );
    Ok(true)
}

/// The attempt that a delivery should have had. `None` when nobody could make it, the endpoint being unknown, or when no
/// timer is needed for it: the retries of an ordered endpoint wait in its lane.
fn due_now(delivery: &Delivery, endpoint: Option<&Endpoint>, now: DateTime<Utc>) -> Option<Due> {
    if endpoint?.settings.ordered {
        return None;
    }
    Some(Due {
        delivery: delivery.delivery.clone(),
        requested_sequence: delivery.requested_sequence,
        attempt_number: delivery.attempt_count + 1,
        due_at: now,
    })
}

/// Pages of what is overdue, oldest first.
struct Found<'a> {
    upkeep: Upkeep<'a>,
    waiting: Waiting,
    before: DateTime<Utc>,
    reached: u64,
    last: Option<Delivery>,
    pages: usize,
    /// Whether the last page was given out.
    is_complete: bool,
}

impl<'a> Found<'a> {
    /// Behind `last`.
    fn new(upkeep: Upkeep<'a>, waiting: Waiting, reached: u64, last: Option<Delivery>) -> Self {
        Self {
            upkeep,
            waiting,
            before: (upkeep.clock)() - upkeep.config.sweep_after,
            reached,
            last,
            pages: 0,
            is_complete: false,
        }
    }

    /// The next page; empty at the end, and when enough has been looked through for one round.
    async fn next(&mut self) -> Result<Vec<Delivery>, ProjectorError> {
        if self.is_complete || self.pages == MAX_PAGES {
            return Ok(Vec::new());
        }
        let (store, last) = (self.upkeep.store, self.last.as_ref());
        let page = store
            .pending(self.waiting, self.before, self.reached, last, PAGE)
            .await?;
        self.is_complete = page.len() < PAGE as usize;
        self.pages += 1;
        self.last = page.last().cloned();
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::tests::{at, endpoint};
    use bytes::Bytes;
    use cuitty_webhooks_domain::delivery::{DeliveryRef, Origin, Requested};

    fn delivery(attempt_count: u32) -> Delivery {
        let endpoint = endpoint();
        let message_id = format!("msg_{:026}", 1).parse().unwrap();
        let requested = Requested {
            delivery: DeliveryRef {
                delivery_id: DeliveryId::derive(message_id, endpoint.id),
                message_id,
                project_id: endpoint.project_id,
                endpoint_id: endpoint.id,
                event_type: "order.paid".parse().unwrap(),
            },
            content_type: "application/json".into(),
            payload: Bytes::new(),
            requested_at: at(0),
            origin: Origin::Event,
            replay_of: None,
            traceparent: String::new(),
            deadline: at(0) + DEFAULT_DEADLINE,
        };
        Delivery {
            attempt_count,
            ..Delivery::requested(&requested, 42)
        }
    }

    #[test]
    fn the_attempt_after_the_last_one_is_due_now() {
        for (made, next) in [(0, 1), (1, 2), (7, 8)] {
            let delivery = delivery(made);
            let due = due_now(&delivery, Some(&endpoint()), at(600));
            let expected = Due {
                delivery: delivery.delivery,
                requested_sequence: 42,
                attempt_number: next,
                due_at: at(600),
            };
            assert_eq!(due, Some(expected));
        }
    }

    #[test]
    fn what_waits_in_an_ordered_lane_or_cannot_be_attempted_is_left_alone() {
        let mut ordered = endpoint();
        ordered.settings.ordered = true;
        assert_eq!(due_now(&delivery(1), Some(&ordered), at(600)), None);
        assert_eq!(due_now(&delivery(1), None, at(600)), None);
    }
}
