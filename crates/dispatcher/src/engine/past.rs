//! What other owners recorded of attempts, for work that comes again after one of them died.

mod distant;
mod recent;
mod since;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::DeliveryRef;
use cuitty_webhooks_log::{Log, LogError};

use self::distant::Distant;
use self::recent::Recent;
use self::since::Since;

/// How long what was read counts. What this dispatcher records meanwhile it remembers by itself; what the other one does,
/// which had it in flight when it lost its lease, is a repetition that nobody can tell.
const FRESH: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether work that comes again has been done. What was requested, or became due, lately, as nearly all of it, is told by
/// one look at everything since; what was requested long ago by a look at its endpoint's outcomes. That is dear: nats-server
/// looks through the log for each endpoint.
pub(crate) struct Past {
    since: Since,
    recent: Recent,
    distant: Distant,
}

/// From where on an attempt's outcome may stand in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct From {
    /// Sequence of its delivery's request.
    pub(super) requested_sequence: u64,
    /// When it was due, if nothing else than the attempt itself can have ended its delivery.
    pub(super) due_at: Option<DateTime<Utc>>,
}

impl Past {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            since: Since::new(log.clone()),
            recent: Recent::new(log.clone()),
            distant: Distant::new(log),
        }
    }

    /// Whether the log has an outcome of attempt `number`, of a later one, or of the delivery's end.
    pub(super) async fn is_attempted(
        &self,
        delivery: &DeliveryRef,
        from: From,
        number: u32,
    ) -> Result<bool, LogError> {
        let due_after = match from.due_at {
            Some(due_at) => self.since.before(due_at).await?,
            None => 0,
        };
        let after = from.requested_sequence.max(due_after);
        let progress = match self.recent.progress(delivery.delivery_id, after).await? {
            Some(progress) => progress,
            None => self.distant.progress(delivery, after).await?,
        };
        Ok(progress.covers(number))
    }
}
