//! What in a restored log says more than the log holds, and is set right before any role reads it. All of it can be done
//! again.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use cuitty_webhooks_domain::replay::ReplayChange;

use super::SnapshotState;
use crate::Log;
use crate::codec;
use crate::error::LogError;
use crate::scan::{Selection, scan, since};
use crate::subjects::REPLAYS;
use crate::topology::CONTROL_STREAM;

/// How far the clocks of a cluster's servers may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// What was set right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mended {
    /// Work items that have their outcome, which was not known of yet.
    pub(super) settled: u64,
    /// Idempotency keys whose events are not in the log.
    pub(super) reopened: u64,
    /// Steps of bulk replays whose deliveries are not in the log.
    pub(super) rewound: u64,
}

/// Mends a log whose stream `WEBHOOKS` had this state when its snapshot was begun.
pub(super) async fn mend(log: &Log, state: &SnapshotState) -> Result<Mended, LogError> {
    Ok(Mended {
        settled: log.settle_floors().await?,
        reopened: log.reopen_keys(state.last_sequence, state.last_at).await?,
        rewound: rewind_replays(log, state).await?,
    })
}

/// Takes back what bulk replays recorded of themselves since: they go on from where they were, and leave out what the
/// history shows of their next page.
pub(crate) async fn rewind_replays(log: &Log, state: &SnapshotState) -> Result<u64, LogError> {
    let replays = Selection {
        stream: CONTROL_STREAM,
        filter: REPLAYS,
        from: if state.last_sequence == 0 {
            DeliverPolicy::All
        } else {
            since(state.last_at - CLOCK_SKEW)?
        },
        headers_only: false,
    };
    let mut steps = Vec::new();
    scan(log, replays, |message, position| {
        let change = codec::decode_replay(message.payload.clone()).map(|record| record.change);
        if let Ok(ReplayChange::Advanced { .. } | ReplayChange::Completed) = change {
            steps.push(position.stream_sequence);
        }
        Ok(())
    })
    .await?;
    let stream = log.stream(CONTROL_STREAM).await?;
    for &sequence in &steps {
        let deleted = stream.delete_message(sequence).await;
        deleted.map_err(LogError::unavailable)?;
    }
    Ok(steps.len() as u64)
}
