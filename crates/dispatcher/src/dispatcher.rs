//! The dispatcher role: what it is made of, and how it joins the others.

use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::seal::KeyRing;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::membership::Membership;
use cuitty_webhooks_log::{Cancellations, Lanes, Log, LogError};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use crate::config::DispatcherConfig;
use crate::error::DispatcherError;
use crate::http::HttpClient;
use crate::service::Service;
use crate::target::Targets;

/// Pause between tries to join while the log is not available.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// Delivers the work of the partitions that it holds.
///
/// [`Dispatcher::build`] checks the configuration, [`Dispatcher::run`] joins the dispatchers and works until it is told to
/// stop.
pub struct Dispatcher {
    pub(crate) config: DispatcherConfig,
    pub(crate) id: String,
    pub(crate) log: Log,
    pub(crate) directory: Directory,
    pub(crate) lanes: Lanes,
    pub(crate) cancellations: Cancellations,
    pub(crate) targets: Targets,
    pub(crate) http: HttpClient,
    pub(crate) clock: Clock,
    pub(crate) rng: StdRng,
    joined: watch::Sender<bool>,
}

impl Dispatcher {
    /// Checks `config` and makes the HTTP client. Nobody else in the process saves `lanes`. `key_ring` opens the endpoints'
    /// secrets; `policy` says which addresses may be reached.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the role, each made by the binary"
    )]
    pub fn build(
        config: DispatcherConfig,
        log: Log,
        directory: Directory,
        lanes: Lanes,
        cancellations: Cancellations,
        key_ring: KeyRing,
        policy: EgressPolicy,
        clock: Clock,
        mut rng: StdRng,
    ) -> Result<Self, DispatcherError> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(DispatcherError::config(problem.setting, problem.message));
        }
        let id = if config.id.is_empty() {
            format!("dsp-{:012x}", rng.random::<u64>() >> 16)
        } else {
            config.id.clone()
        };
        let http = HttpClient::build(&config.http, policy.clone())?;
        Ok(Self {
            targets: Targets::new(key_ring, policy),
            config,
            id,
            log,
            directory,
            lanes,
            cancellations,
            http,
            clock,
            rng,
            joined: watch::Sender::default(),
        })
    }

    /// Its name among the dispatchers.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is one of the dispatchers, for readiness: work comes to it only then.
    pub fn joined(&self) -> watch::Receiver<bool> {
        self.joined.subscribe()
    }

    /// Works until `soft` is cancelled, then stops pulling, finishes what is in flight for at most `drain_timeout`, and
    /// gives its partitions up. `hard` ends it at once; what was in flight comes again.
    ///
    /// An outage of the log is waited out.
    pub async fn run(self, soft: CancellationToken, hard: CancellationToken) -> Result<(), DispatcherError> {
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let (reads, membership) = loop {
            let joined = tokio::select! {
                () = soft.cancelled() => return Ok(()),
                () = hard.cancelled() => return Ok(()),
                joined = self.join(&stop) => joined,
            };
            match joined {
                Ok(joined) => break joined,
                Err(error @ LogError::Unavailable(_)) => {
                    warn!(%error, "cannot join the dispatchers yet");
                    sleep(JOIN_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let joined = self.joined.clone();
        joined.send_replace(true);
        let span = info_span!("dispatcher", dispatcher.id = self.id);
        Service::new(self, reads, membership)
            .run(soft, hard)
            .instrument(span)
            .await;
        joined.send_replace(false);
        Ok(())
    }

    /// Takes a connection for reads that take long, so that they never hold up outcomes, acknowledgements and leases, and joins
    /// the others. Joins last: work may come at once.
    async fn join(&self, stop: &CancellationToken) -> Result<(Log, Membership), LogError> {
        let reads = self.log.apart().await?;
        let membership = Membership::join(&self.log, &self.id, stop.clone()).await?;
        Ok((reads, membership))
    }
}
