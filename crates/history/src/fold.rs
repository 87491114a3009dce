//! Folds a batch of events into the rows that change. Pure: what the database knows is an argument.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::Attempt;
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, Delivery, DeliveryEvent, DeliveryStatus, Due, Requested, Unmatched,
};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_domain::names::{EventType, ProjectId};

use crate::apply::{AppliedStats, Batch};
use crate::failures::{EndpointFailures, FailureFold};

/// The rows that a batch changes, each list in the log's order.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    pub(crate) messages: Vec<NewMessage<'a>>,
    pub(crate) unmatched: Vec<&'a Unmatched>,
    /// Rows that the database does not know, as far as the fold was told.
    pub(crate) created: Vec<Delivery>,
    /// Rows that it knows.
    pub(crate) updated: Vec<Delivery>,
    pub(crate) attempts: Vec<NewAttempt<'a>>,
    /// Endpoints that an attempt has succeeded at: their failures until then are forgotten.
    pub(crate) recovered: Vec<EndpointId>,
    /// Failures since, or on top of those that the database knows.
    pub(crate) failures: Vec<EndpointFailures>,
    /// Facts about deliveries that are neither known nor requested in the batch.
    pub(crate) orphaned: u64,
}

#[derive(Debug)]
pub(crate) struct NewMessage<'a> {
    pub(crate) id: MessageId,
    pub(crate) project_id: &'a ProjectId,
    pub(crate) event_type: &'a EventType,
    pub(crate) content_type: &'a str,
    pub(crate) payload: &'a [u8],
}

#[derive(Debug)]
pub(crate) struct NewAttempt<'a> {
    pub(crate) delivery_id: DeliveryId,
    pub(crate) attempt: &'a Attempt,
    pub(crate) next_attempt_at: Option<DateTime<Utc>>,
}

impl Changes<'_> {
    pub(crate) fn stats(&self) -> AppliedStats {
        AppliedStats {
            created: self.created.len() as u64,
            updated: self.updated.len() as u64,
            attempts: self.attempts.len() as u64,
            unmatched: self.unmatched.len() as u64,
            orphaned: self.orphaned,
        }
    }
}

/// The deliveries that the batch's events are about, without those that the batch itself requests.
pub(crate) fn referenced(events: &[(u64, DeliveryEvent)]) -> HashSet<DeliveryId> {
    let requested: HashSet<_> = events
        .iter()
        .filter_map(|(_, event)| requested_id(event))
        .collect();
    events
        .iter()
        .filter_map(|(_, event)| match event {
            DeliveryEvent::Due(due) => Some(due.delivery.delivery_id),
            DeliveryEvent::Concluded(concluded) => Some(concluded.delivery.delivery_id),
            DeliveryEvent::Requested(_) | DeliveryEvent::Unmatched(_) => None,
        })
        .filter(|id| !requested.contains(id))
        .collect()
}

/// The deliveries that the batch requests.
pub(crate) fn requested(events: &[(u64, DeliveryEvent)]) -> HashSet<DeliveryId> {
    events
        .iter()
        .filter_map(|(_, event)| requested_id(event))
        .collect()
}

fn requested_id(event: &DeliveryEvent) -> Option<DeliveryId> {
    match event {
        DeliveryEvent::Requested(requested) => Some(requested.delivery.delivery_id),
        _ => None,
    }
}

/// Folds the batch over the deliveries in `known`. Facts that are known already change nothing; a fact about a delivery
/// that is unknown, because its request is older than the log, is left out and counted.
pub(crate) fn fold(batch: &Batch, known: HashMap<DeliveryId, Delivery>) -> Changes<'_> {
    let mut fold = Fold {
        slots: known
            .into_iter()
            .map(|(id, delivery)| {
                (
                    id,
                    Slot {
                        delivery,
                        is_new: false,
                        is_changed: false,
                    },
                )
            })
            .collect(),
        ..Fold::default()
    };
    for (sequence, event) in &batch.events {
        match event {
            DeliveryEvent::Requested(requested) => fold.requested(requested, *sequence),
            DeliveryEvent::Due(due) => fold.due(due),
            DeliveryEvent::Concluded(concluded) => {
                fold.concluded(concluded);
                // Counted, so what is in the rows already must not be added again.
                if *sequence > batch.expected_checkpoint {
                    fold.failures.concluded(concluded);
                }
            }
            DeliveryEvent::Unmatched(unmatched) => fold.unmatched(unmatched),
        }
    }
    fold.finish()
}

struct Slot {
    delivery: Delivery,
    is_new: bool,
    is_changed: bool,
}

#[derive(Default)]
struct Fold<'a> {
    slots: HashMap<DeliveryId, Slot>,
    /// Deliveries in the order of their first change.
    order: Vec<DeliveryId>,
    messages: HashSet<MessageId>,
    failures: FailureFold,
    changes: Changes<'a>,
}

impl<'a> Fold<'a> {
    fn requested(&mut self, event: &'a Requested, sequence: u64) {
        let id = event.delivery.delivery_id;
        if let Entry::Vacant(entry) = self.slots.entry(id) {
            entry.insert(Slot {
                delivery: Delivery::requested(event, sequence),
                is_new: true,
                is_changed: true,
            });
            self.order.push(id);
        }
        self.message(NewMessage {
            id: event.delivery.message_id,
            project_id: &event.delivery.project_id,
            event_type: &event.delivery.event_type,
            content_type: &event.content_type,
            payload: &event.payload,
        });
    }

    /// An attempt that is due is waiting to start, so its time has no meaning any more.
    fn due(&mut self, event: &Due) {
        self.change(event.delivery.delivery_id, |delivery| {
            if delivery.status == DeliveryStatus::Pending && event.attempt_number > delivery.attempt_count {
                delivery.next_attempt_at = None;
            }
        });
    }

    fn concluded(&mut self, event: &'a Concluded) {
        let id = event.delivery.delivery_id;
        let is_known = self.change(id, |delivery| delivery.evolve(event));
        if let Some(attempt) = event.attempt.as_ref().filter(|_| is_known) {
            let next_attempt_at = match event.conclusion {
                Conclusion::Retry { next_attempt_at } => Some(next_attempt_at),
                Conclusion::Succeeded | Conclusion::Failed { .. } => None,
            };
            self.changes.attempts.push(NewAttempt {
                delivery_id: id,
                attempt,
                next_attempt_at,
            });
        }
    }

    fn unmatched(&mut self, event: &'a Unmatched) {
        self.message(NewMessage {
            id: event.message_id,
            project_id: &event.project_id,
            event_type: &event.event_type,
            content_type: &event.content_type,
            payload: &event.payload,
        });
        self.changes.unmatched.push(event);
    }

    /// A message goes to many endpoints; the first mention is kept.
    fn message(&mut self, message: NewMessage<'a>) {
        if self.messages.insert(message.id) {
            self.changes.messages.push(message);
        }
    }

    /// Whether the delivery is known.
    fn change(&mut self, id: DeliveryId, evolve: impl FnOnce(&mut Delivery)) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            self.changes.orphaned += 1;
            return false;
        };
        if slot.is_changed {
            evolve(&mut slot.delivery);
            return true;
        }
        let before = slot.delivery.clone();
        evolve(&mut slot.delivery);
        if slot.delivery != before {
            slot.is_changed = true;
            self.order.push(id);
        }
        true
    }

    fn finish(mut self) -> Changes<'a> {
        (self.changes.recovered, self.changes.failures) = self.failures.finish();
        for id in self.order {
            if let Some(Slot { delivery, is_new, .. }) = self.slots.remove(&id) {
                if is_new {
                    &mut self.changes.created
                } else {
                    &mut self.changes.updated
                }
                .push(delivery);
            }
        }
        self.changes
    }
}
