//! A batch of log events on its way into the history.

use std::collections::HashSet;

use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_domain::ids::DeliveryId;

use crate::fold;

/// Events of the log, in its order, and the sequence that the history reaches with them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Where the history must be for the batch to apply: the checkpoint that the events were read from.
    pub expected_checkpoint: u64,
    /// Where the history is afterwards: at least the last event's sequence, more when the log holds messages after it
    /// that are none of the history's.
    pub checkpoint: u64,
    /// Each event with its log sequence, ascending.
    pub events: Vec<(u64, DeliveryEvent)>,
}

/// What a batch changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppliedStats {
    /// Deliveries that the history did not know.
    pub created: u64,
    /// Deliveries of earlier batches that changed.
    pub updated: u64,
    /// Attempts in the batch.
    pub attempts: u64,
    /// Messages in the batch that no endpoint took.
    pub unmatched: u64,
    /// Facts about deliveries whose request is older than the log: left out, for there is nothing to attach them to.
    pub orphaned: u64,
}

/// Which deliveries are read before a batch is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Those that the batch does not request itself: enough unless a request is in the log twice.
    Referenced,
    /// All that the batch mentions.
    All,
}

impl Known {
    pub(crate) fn ids(self, events: &[(u64, DeliveryEvent)]) -> HashSet<DeliveryId> {
        let mut ids = fold::referenced(events);
        if self == Self::All {
            ids.extend(fold::requested(events));
        }
        ids
    }
}
