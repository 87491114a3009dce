//! The doors of Cuitty Webhooks: gRPC, REST and MCP on one listener, over one [`App`].
//!
//! A door turns a call into a command or a question of [`App`] and the answer back; it decides nothing. What is accepted is
//! appended to the log before it is answered; what is read comes from the endpoint directory or the delivery history.
//!
//! Start at [`Api`].

mod app;
mod auth;
mod call;
mod config;
mod deadline;
mod error;
mod grpc;
mod ingest;
mod limit;
mod mcp;
pub mod metrics;
mod rest;
mod serve;
#[cfg(test)]
mod testing;
mod tls;
mod trace_context;

use std::sync::Arc;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::api_key::KeyText;
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::seal::KeyRing;
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::{ApiKeys, Cancellations, EventTypes, Lanes, Log, LogError};
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::History;
pub use crate::app::{App, ServiceStatus};
pub use crate::auth::{AdminKey, InvalidAdminKey};
pub use crate::config::ApiConfig;
pub use crate::ingest::{Ingest, IngestConfig};
pub use crate::rest::openapi;
pub use crate::tls::{TlsConfig, TlsProblem};

/// Why the API could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The system's resolver configuration cannot be used.
    #[error("resolver: {0}; set nameservers, or repair /etc/resolv.conf")]
    Resolver(String),
    /// The descriptors of the gRPC services cannot be served.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The files of the listener's TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsProblem),
}

/// The API role: every door over one [`App`].
#[derive(Debug)]
pub struct Api {
    config: ApiConfig,
    app: Arc<App>,
}

impl Api {
    /// Puts the parts together. Nothing is opened and nothing runs until [`Api::run`].
    ///
    /// `history` holds the history once it is open. Until then its reads are refused, and everything else works.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the role, each made by the binary"
    )]
    pub fn build(
        config: ApiConfig,
        log: Log,
        directory: Directory,
        api_keys: ApiKeys,
        lanes: Lanes,
        cancellations: Cancellations,
        event_types: EventTypes,
        history: watch::Receiver<Option<Store>>,
        key_ring: KeyRing,
        policy: EgressPolicy,
        clock: Clock,
        rng: StdRng,
    ) -> Result<Self, ApiError> {
        let history = History::new(history);
        let app = App::new(
            &config,
            log,
            directory,
            api_keys,
            lanes,
            cancellations,
            event_types,
            history,
            key_ring,
            policy,
            clock,
            rng,
        )?;
        Ok(Self {
            config,
            app: Arc::new(app),
        })
    }

    /// What the doors stand before.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// What takes messages in that are published on NATS, over the same [`App`]. A process without doors drops the API then.
    pub fn ingest(&self, config: IngestConfig) -> Ingest {
        Ingest::new(config, Arc::clone(&self.app))
    }

    /// Makes the first admin key, if nobody could call without one; once, however many processes start. The answer is the
    /// only place where it is shown.
    pub async fn make_first_key(&self) -> Result<Option<KeyText>, LogError> {
        self.app.make_first_key().await
    }

    /// Serves `listener` until `soft` is cancelled, its gRPC health telling nobody to come from `leaving` on, then lets
    /// the calls in progress end, and the keyed messages that are being accepted though their callers are gone. What has
    /// not ended when `hard` is cancelled is cut off.
    pub async fn run(
        self,
        listener: TcpListener,
        leaving: CancellationToken,
        soft: CancellationToken,
        hard: CancellationToken,
    ) -> Result<(), ApiError> {
        let tls = self.config.tls.acceptor()?;
        let (grpc, health) = grpc::routes(&self.app)?;
        let http = rest::routes(Arc::clone(&self.app)).merge(mcp::routes(Arc::clone(&self.app)));
        let router = serve::router(&self.config, grpc.merge(http));
        let left = CancellationToken::new();
        let reporter = grpc::report_health(health, || self.app.is_accepting(), left.clone());
        let leave = async {
            tokio::select! {
                () = leaving.cancelled() => {}
                () = soft.cancelled() => {}
            }
            left.cancel();
        };
        let end_streams = async {
            soft.cancelled().await;
            self.app.end_streams();
        };
        let serving = serve::run(&self.config, listener, tls, router, soft.clone(), hard.clone());
        tokio::join!(serving, reporter, leave, end_streams);
        self.app.finish_accepting(&hard).await;
        Ok(())
    }
}
