//! One batch into the history, whatever it contains.

use std::fmt::Display;

use cuitty_webhooks_history::{AppliedStats, Batch, HistoryError, Store};
use tracing::{error, warn};

use crate::feed;
use crate::metrics;

/// Writes the batch in one transaction. Events that cannot be read, or that the history refuses, are set aside: logged
/// with their sequence, counted and left out.
pub(crate) async fn apply(store: &Store, batch: &feed::Batch) -> Result<(), HistoryError> {
    match store.apply(&batch.rows).await {
        Ok(applied) => warn_of_orphans(&applied),
        Err(HistoryError::Refused(error)) => {
            warn!(%error, "the history refused a batch; looking for the event at fault");
            salvage(store, &batch.rows).await?;
        }
        Err(error) => return Err(error),
    }
    for (sequence, error) in &batch.unreadable {
        set_aside(*sequence, error);
    }
    Ok(())
}

/// Writes a refused batch in ever smaller transactions, until the events at fault stand alone.
///
/// Were it to end half-way with an error, the checkpoint says how far it came.
async fn salvage(store: &Store, batch: &Batch) -> Result<(), HistoryError> {
    let mut checkpoint = batch.expected_checkpoint;
    // What is still to be written, the next part last.
    let mut parts = vec![batch.events.clone()];
    while let Some(mut events) = parts.pop() {
        let reached = match events.last() {
            Some((sequence, _)) if !parts.is_empty() => *sequence,
            _ => batch.checkpoint,
        };
        let part = Batch {
            expected_checkpoint: checkpoint,
            checkpoint: reached,
            events: events.clone(),
        };
        match store.apply(&part).await {
            Ok(applied) => warn_of_orphans(&applied),
            Err(HistoryError::Refused(_)) if events.len() > 1 => {
                let second = events.split_off(events.len() / 2);
                parts.extend([second, events]);
                continue;
            }
            Err(HistoryError::Refused(error)) => {
                // Unless nothing at all can be written, the event is at fault.
                store
                    .apply(&Batch {
                        events: Vec::new(),
                        ..part
                    })
                    .await?;
                if let Some((sequence, _)) = events.first() {
                    set_aside(*sequence, &error);
                }
            }
            Err(error) => return Err(error),
        }
        checkpoint = reached;
    }
    Ok(())
}

fn set_aside(sequence: u64, error: &impl Display) {
    ::metrics::counter!(metrics::SET_ASIDE).increment(1);
    error!(log.seq = sequence, %error, "event set aside: it stays in the log, the history goes on without it");
}

fn warn_of_orphans(applied: &AppliedStats) {
    if applied.orphaned > 0 {
        ::metrics::counter!(metrics::ORPHANED).increment(applied.orphaned);
        warn!(
            events = applied.orphaned,
            "facts left out whose deliveries were requested before the log's start"
        );
    }
}
