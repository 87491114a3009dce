//! What the scheduler is told of a work item.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::DEFAULT_DEADLINE;
use cuitty_webhooks_log::WorkEvent;
use tracing::error;

use super::errands::Times;
use crate::engine::Work;
use crate::scheduler::{AttemptKey, Item};

/// What holding an item costs beside its payload, in bytes.
const ITEM_BYTES: usize = 512;
/// How long work stays in the log whose endpoint the directory does not know: from the first, doubled, up to the last.
const UNKNOWN_DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What is to be scheduled for a work item; `None` when this version cannot read it.
pub(super) fn item(work: Arc<Work>, times: Times) -> Option<Item<Work>> {
    let (delivery_id, number, bytes, due_at, deadline): (_, _, _, _, DateTime<Utc>) = match &work.event {
        WorkEvent::Requested(requested) => (
            requested.delivery.delivery_id,
            1,
            requested.payload.len(),
            requested.requested_at,
            requested.deadline,
        ),
        // Its deadline stands in the request, and is checked again when that is read back.
        WorkEvent::Due(due) => (
            due.delivery.delivery_id,
            due.attempt_number,
            0,
            due.due_at,
            due.due_at + DEFAULT_DEADLINE,
        ),
        WorkEvent::Unreadable(error) => {
            error!(log.seq = work.sequence, %error, "work item in a backlog cannot be read by this version: its endpoint's lane waits for one that can");
            return None;
        }
    };
    Some(Item {
        key: AttemptKey { delivery_id, number },
        sequence: work.sequence,
        bytes: bytes + ITEM_BYTES,
        deadline: times.instant(deadline),
        waited: times.since(due_at),
        work,
    })
}

/// How long an item stays in the log whose endpoint was not known `delivered` times.
pub(super) fn unknown_delay(delivered: u64) -> Duration {
    let (first, last) = UNKNOWN_DELAYS;
    let doublings = delivered.clamp(1, 16) as u32 - 1;
    (first * 2u32.pow(doublings)).min(last)
}
