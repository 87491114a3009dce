//! What other owners recorded of attempts, for work that comes again after one of them died.

mod distant;
mod recent;

use cuitty_webhooks_domain::delivery::DeliveryRef;
use cuitty_webhooks_log::{Log, LogError};

use self::distant::Distant;
use self::recent::Recent;

/// How long what was read counts. What this dispatcher records meanwhile it remembers by itself; what the other one does,
/// which had it in flight when it lost its lease, is a repetition that nobody can tell.
const FRESH: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether work that comes again has been done. What was requested lately, as nearly all of it, is told by one look at
/// everything since; what was requested long ago by a look at its endpoint's outcomes.
pub(crate) struct Past {
    recent: Recent,
    distant: Distant,
}

impl Past {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            recent: Recent::new(log.clone()),
            distant: Distant::new(log),
        }
    }

    /// Whether the log has an outcome of attempt `number`, of a later one, or of the delivery's end.
    pub(super) async fn is_attempted(
        &self,
        delivery: &DeliveryRef,
        requested_sequence: u64,
        number: u32,
    ) -> Result<bool, LogError> {
        let recent = self.recent.progress(delivery.delivery_id, requested_sequence);
        let progress = match recent.await? {
            Some(progress) => progress,
            None => self.distant.progress(delivery, requested_sequence).await?,
        };
        Ok(progress.covers(number))
    }
}
