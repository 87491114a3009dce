//! Shutting down in steps: leaving tells those who send that they should stop, soft lets what is in flight end, hard cuts it off.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The tokens of a shutdown, in their order.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Say that the process is not ready any more, and go on.
    pub leaving: CancellationToken,
    /// Take nothing new, finish what is in flight.
    pub soft: CancellationToken,
    /// Stop at once.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Whether a shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.leaving.is_cancelled() || self.soft.is_cancelled()
    }

    /// A shutdown that begins with this one, and may begin without it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            leaving: self.leaving.child_token(),
            soft: self.soft.child_token(),
            hard: self.hard.child_token(),
        }
    }

    /// Turns the first SIGTERM, SIGINT or SIGHUP into a soft shutdown, the second into a hard one.
    pub fn on_signals(&self) -> std::io::Result<()> {
        self.on_signals_after(Duration::ZERO)
    }

    /// [`Self::on_signals`], with `delay` between leaving and soft, for a balancer to notice.
    pub fn on_signals_after(&self, delay: Duration) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut signalled = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        };
        let shutdown = self.clone();
        tokio::spawn(async move {
            signalled().await;
            info!(?delay, "signal received: shutting down");
            shutdown.leaving.cancel();
            if tokio::time::timeout(delay, signalled()).await.is_err() {
                shutdown.soft.cancel();
                signalled().await;
            }
            info!("signal received: stopping at once");
            shutdown.soft.cancel();
            shutdown.hard.cancel();
            warn!("still stopping; SIGKILL ends this process without losing what was accepted");
        });
        Ok(())
    }
}
