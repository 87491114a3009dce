//! Shutting down in two steps: soft lets what is in flight end, hard cuts it off.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The two tokens of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what is in flight.
    pub soft: CancellationToken,
    /// Stop at once.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Turns the first SIGTERM, SIGINT or SIGHUP into a soft shutdown, the second into a hard one.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for (step, token) in [
                ("shutting down", &shutdown.soft),
                ("stopping at once", &shutdown.hard),
            ] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hangup.recv() => {}
                }
                info!("signal received: {step}");
                token.cancel();
            }
            warn!("still stopping; SIGKILL ends this process without losing what was accepted");
        });
        Ok(())
    }
}
