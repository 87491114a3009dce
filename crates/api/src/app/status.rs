//! Is the service well?

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::App;

/// How long an answer is given again: the question needs no key and must not load the parts it asks about.
const FRESH: Duration = Duration::from_secs(1);
/// How long one part may take to answer before it counts as down.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the parts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Whether the log answers and the endpoint directory follows it.
    pub log: bool,
    /// Whether the history answers.
    pub history: bool,
    /// Live dispatchers; 0 when the log is down.
    pub dispatchers: u32,
    /// Events in the log that the history has not folded yet; unknown when log or history is down.
    pub projection_lag: Option<u64>,
}

impl ServiceStatus {
    /// `ok`; `degraded` when messages are accepted but not delivered or not shown; `down` when none are accepted.
    pub fn summary(&self) -> &'static str {
        match (self.log, self.history && self.dispatchers > 0) {
            (false, _) => "down",
            (true, false) => "degraded",
            (true, true) => "ok",
        }
    }
}

/// The last answer. The lock is held while the parts are asked, so that many callers ask once.
#[derive(Debug, Default)]
pub(super) struct StatusCache(Mutex<Option<(Instant, ServiceStatus)>>);

impl App {
    /// How the parts are, at most a second ago.
    #[tracing::instrument(name = "api.get_status", skip_all)]
    pub async fn status(&self) -> ServiceStatus {
        let mut last = self.status.0.lock().await;
        if let Some((at, status)) = *last
            && at.elapsed() < FRESH
        {
            return status;
        }
        let status = self.ask_parts().await;
        *last = Some((Instant::now(), status));
        status
    }

    /// Whether messages can be accepted now, from what is known without asking anybody.
    pub fn is_accepting(&self) -> bool {
        self.log.is_connected()
            && self.directory.is_live()
            && self.api_keys.is_live()
            && self.event_types.is_live()
    }

    async fn ask_parts(&self) -> ServiceStatus {
        let (end, dispatchers, checkpoint) = tokio::join!(
            timeout(PATIENCE, self.log.end()),
            timeout(PATIENCE, self.log.live_dispatchers()),
            timeout(PATIENCE, self.ask_checkpoint()),
        );
        let last = end.ok().and_then(Result::ok);
        let checkpoint = checkpoint.ok().flatten();
        let dispatchers = dispatchers.ok().and_then(Result::ok).map_or(0, |ids| ids.len());
        ServiceStatus {
            log: last.is_some() && self.directory.is_live(),
            history: checkpoint.is_some(),
            dispatchers: u32::try_from(dispatchers).unwrap_or(u32::MAX),
            projection_lag: last
                .zip(checkpoint)
                .map(|(last, checkpoint)| last.saturating_sub(checkpoint)),
        }
    }

    async fn ask_checkpoint(&self) -> Option<u64> {
        self.history.store()?.checkpoint().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_still_works() {
        let ok = ServiceStatus {
            log: true,
            history: true,
            dispatchers: 1,
            projection_lag: Some(9),
        };
        assert_eq!(ok.summary(), "ok");
        assert_eq!(ServiceStatus { dispatchers: 0, ..ok }.summary(), "degraded");
        assert_eq!(ServiceStatus { history: false, ..ok }.summary(), "degraded");
        assert_eq!(ServiceStatus { log: false, ..ok }.summary(), "down");
    }
}
