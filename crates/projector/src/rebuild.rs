//! Folding the history again from the log's first event.

use std::time::Duration;

use cuitty_webhooks_history::{HistoryError, Store};
use cuitty_webhooks_log::Log;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ProjectorConfig;
use crate::error::ProjectorError;
use crate::feed::Cutter;
use crate::fold;
use crate::leadership::Leadership;
use crate::{Progress, Stage};

/// How long one read waits at the log's tail.
const IDLE: Duration = Duration::from_secs(1);
/// How often a watcher looks at the checkpoint.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// What a rebuild may do.
#[derive(Debug, Clone, Default)]
pub struct RebuildOptions {
    /// Rebuild although the log no longer holds its first events: the rows of what is gone are lost.
    pub force: bool,
    /// How it batches, and its name in the lease.
    pub config: ProjectorConfig,
}

/// What a rebuild did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildReport {
    /// Where the history is now: at least where the log ended when the rebuild began.
    pub checkpoint: u64,
    /// Log sequences that were folded.
    pub events: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// Whether a live projector did it while this process watched.
    pub by_live_projector: bool,
}

/// Empties the history and folds it again, up to where the log ends at this moment.
///
/// Readers see an empty history that fills up. Refused when the log no longer starts at its first event, for then the
/// history is the only place that still knows of what is gone (see [`RebuildOptions::force`]). When another process is
/// the active projector it does the folding: it finds the checkpoint gone and starts over. Otherwise this process holds
/// the lease until it is done, and projectors stand by.
pub async fn rebuild(
    log: &Log,
    store: &Store,
    options: &RebuildOptions,
    stop: &CancellationToken,
    mut progress: impl FnMut(Progress),
) -> Result<RebuildReport, ProjectorError> {
    let (first, last) = log.bounds().await?;
    if first > 1 && !options.force {
        return Err(ProjectorError::LogTrimmed { first });
    }
    let leadership = Leadership::try_acquire(log, &options.config.id, stop).await;
    let started = Instant::now();
    store.reset().await?;
    let from = first.saturating_sub(1);
    let by_live_projector = leadership.is_none();
    let done = match leadership {
        Some(leadership) => {
            let stand_down = leadership.stand_down();
            let folded = fold_until(log, store, 0, last, &options.config, stand_down, &mut progress).await;
            leadership.release().await;
            folded
        }
        None => watch_until(log, store, last, stop, &mut progress).await,
    };
    let checkpoint = done?;
    let events = checkpoint.saturating_sub(from);
    Ok(RebuildReport {
        checkpoint,
        events,
        elapsed: started.elapsed(),
        by_live_projector,
    })
}

/// Folds what follows `checkpoint`, up to and including sequence `end`; how far that is.
pub(crate) async fn fold_until(
    log: &Log,
    store: &Store,
    mut checkpoint: u64,
    end: u64,
    config: &ProjectorConfig,
    stop: &CancellationToken,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, ProjectorError> {
    let mut cutter = Cutter::new(log, checkpoint, end, config.clone());
    while checkpoint < end {
        progress(Progress {
            stage: Stage::Folding,
            done: checkpoint,
            total: end,
        });
        let next = stop
            .run_until_cancelled(cutter.next(IDLE))
            .await
            .ok_or(ProjectorError::Stopped)?;
        let Some(batch) = next? else {
            if log.last_readable(end).await? <= checkpoint {
                break;
            }
            continue;
        };
        fold::apply(store, &batch).await.map_err(|error| match error {
            HistoryError::CheckpointMoved { expected, actual } => {
                ProjectorError::Interrupted { expected, actual }
            }
            error => error.into(),
        })?;
        checkpoint = batch.rows.checkpoint;
    }
    progress(Progress {
        stage: Stage::Folding,
        done: end,
        total: end,
    });
    Ok(checkpoint)
}

async fn watch_until(
    log: &Log,
    store: &Store,
    end: u64,
    stop: &CancellationToken,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, ProjectorError> {
    loop {
        let checkpoint = store.checkpoint().await?;
        progress(Progress {
            stage: Stage::Watching,
            done: checkpoint,
            total: end.max(checkpoint),
        });
        if checkpoint >= log.last_readable(end).await? {
            return Ok(checkpoint);
        }
        let pause = tokio::time::sleep(WATCH_INTERVAL);
        stop.run_until_cancelled(pause)
            .await
            .ok_or(ProjectorError::Stopped)?;
    }
}
