//! Being the one active projector.

use std::time::Duration;

use cuitty_webhooks_log::Log;
use cuitty_webhooks_log::lease::Lease;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

/// Key of the lease that the active projector holds.
pub(crate) const LEASE_KEY: &str = "projector";
/// How often a holder renews and a standby asks.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The held lease, renewed in the background.
pub(crate) struct Leadership {
    stand_down: CancellationToken,
    /// Gives the lease back, unless it is lost.
    keeper: JoinHandle<Option<Lease>>,
    /// Ends the keeper.
    stop: DropGuard,
}

impl Leadership {
    /// One try: `None` when another process holds the lease or the log cannot be reached.
    pub(crate) async fn try_acquire(log: &Log, holder: &str, soft: &CancellationToken) -> Option<Self> {
        let mut lease = log.lease(LEASE_KEY, holder);
        match lease.try_acquire().await {
            Ok(true) => {
                info!(holder, "this projector is active now");
                Some(Self::keep(lease, soft.child_token()))
            }
            Ok(false) => None,
            Err(error) => {
                debug!(%error, "cannot ask for the projector's lease");
                None
            }
        }
    }

    /// Waits until the lease is ours.
    pub(crate) async fn acquire(log: &Log, holder: &str, soft: &CancellationToken) -> Self {
        loop {
            if let Some(leadership) = Self::try_acquire(log, holder, soft).await {
                return leadership;
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    fn keep(lease: Lease, stand_down: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(renew(lease, stand_down.clone(), stop.clone()));
        Self {
            stand_down,
            keeper,
            stop: stop.drop_guard(),
        }
    }

    /// Cancelled once the lease has run out or was taken, or a shutdown begins.
    pub(crate) fn stand_down(&self) -> &CancellationToken {
        &self.stand_down
    }

    /// Gives the lease up, so that a standby takes over at once.
    pub(crate) async fn release(self) {
        drop(self.stop);
        let Ok(Some(mut lease)) = self.keeper.await else {
            return;
        };
        if let Err(error) = lease.release().await {
            debug!(%error, "cannot release the projector's lease; it runs out by itself");
        }
    }
}

/// Renews until `stop`; the lease is kept up during a shutdown too, until the last transaction has ended.
async fn renew(mut lease: Lease, stand_down: CancellationToken, stop: CancellationToken) -> Option<Lease> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Some(lease),
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        // A renewal that hangs must not outlive the lease.
        let held_until = lease.held_until().unwrap_or_else(Instant::now);
        match tokio::time::timeout_at(held_until, lease.renew()).await {
            Ok(Ok(true)) => {}
            Ok(Err(error)) if Instant::now() < held_until => {
                debug!(%error, "cannot renew the projector's lease yet");
            }
            Ok(_) | Err(_) => {
                warn!("the projector's lease is lost; standing by");
                stand_down.cancel();
                return None;
            }
        }
    }
}
