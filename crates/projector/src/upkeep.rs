//! What the active projector sees to beside projecting, because only the history shows it.

use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::{Lanes, Log};
use tracing::{debug, warn};

use crate::config::ProjectorConfig;
use crate::error::ProjectorError;
use crate::sweep::Sweep;

/// Rows read at once.
pub(crate) const PAGE: u32 = 256;
/// How long the history may take to reach where the log ended when a round began.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The parts that upkeep needs.
#[derive(Clone, Copy)]
pub(crate) struct Upkeep<'a> {
    pub(crate) config: &'a ProjectorConfig,
    pub(crate) log: &'a Log,
    pub(crate) directory: &'a Directory,
    pub(crate) lanes: &'a Lanes,
    pub(crate) store: &'a Store,
    pub(crate) clock: Clock,
}

impl Upkeep<'_> {
    /// Looks again and again. What cannot be done is tried in the next round.
    pub(crate) async fn run(self) {
        let mut sweep = Sweep::default();
        loop {
            tokio::time::sleep(self.config.sweep_interval).await;
            if let Err(error) = self.round(&mut sweep).await {
                warn!(%error, "cannot look for lost retries and failing endpoints; trying again");
            }
        }
    }

    async fn round(self, sweep: &mut Sweep) -> Result<(), ProjectorError> {
        let reached = self.caught_up().await?;
        let Some(reached) = reached.filter(|_| self.directory.is_live()) else {
            debug!(
                "not looking for lost retries and failing endpoints while the history or the directory is behind"
            );
            return Ok(());
        };
        sweep.round(self, reached).await?;
        self.disable_failing(reached).await
    }

    /// Where the log ended at this moment, once the history has reached that; `None` when it does not soon. A history that
    /// is behind shows as waiting what has long happened.
    async fn caught_up(self) -> Result<Option<u64>, ProjectorError> {
        let (_, last) = self.log.bounds().await?;
        if self.store.wait_for(last, CATCH_UP).await? {
            return Ok(Some(last));
        }
        let readable = self.log.last_readable(last).await?;
        Ok((self.store.checkpoint().await? >= readable).then_some(readable))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use chrono::{DateTime, Utc};
    use cuitty_webhooks_domain::egress::EgressPolicy;
    use cuitty_webhooks_domain::endpoint::{Endpoint, EndpointDraft, Secret, create};
    use cuitty_webhooks_domain::seal::SealedSecret;

    pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// An active endpoint, created at 0.
    pub(crate) fn endpoint() -> Endpoint {
        let draft = EndpointDraft {
            url: "https://example.com/hook".into(),
            ..EndpointDraft::default()
        };
        let secret = Secret {
            id: format!("sec_{:026}", 1).parse().unwrap(),
            sealed: SealedSecret {
                sealing_key_id: "test".into(),
                nonce: [0; 24],
                ciphertext: Vec::new(),
                public_key: None,
            },
            created_at: at(0),
            expires_at: None,
        };
        let (id, project_id) = (format!("ep_{:026}", 1).parse().unwrap(), "acme".parse().unwrap());
        let settings = draft.validate(&EgressPolicy::default(), None).unwrap();
        create(id, project_id, settings, secret, at(0)).1
    }
}
