//! Makes connections: resolve, vet every address, connect to a vetted one, TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use cuitty_webhooks_domain::attempt::ErrorClass;
use cuitty_webhooks_domain::egress::EgressPolicy;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::dial::dial;
use super::resolver::{ResolveError, Resolver};
use super::stream::Stream;
use super::{Established, tls};
use crate::config::HttpConfig;
use crate::error::DispatcherError;

/// Descriptors used up, of the process (EMFILE) or of the system (ENFILE), on every Unix.
const OUT_OF_DESCRIPTORS: [i32; 2] = [24, 23];

/// How long before its request a connection gives up, so that what held it up is recorded, and not only that time ran out.
const HEADROOM: Duration = Duration::from_millis(10);

tokio::task_local! {
    /// When the request must be over that a connection is made for. hyper hands connectors nothing but the URI.
    static DEADLINE: Instant;
}

/// No connection was made.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct ConnectError {
    pub(super) cause: Cause,
    /// How far it got.
    pub(super) progress: Progress,
}

/// What was done before it failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) dns: Option<Duration>,
    pub(super) connect: Option<Duration>,
    pub(super) remote: Option<SocketAddr>,
}

/// Why no connection was made. The texts are recorded; they name the host, never what it resolves to in our network.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("{host} cannot be resolved: {error}")]
    Dns { host: String, error: ResolveError },
    #[error("{host} leads to an address that may not be called")]
    Blocked { host: String },
    #[error("no connection to {host}: {error}")]
    Connect { host: String, error: io::Error },
    #[error("no TLS session with {host}: {error}")]
    Tls { host: String, error: io::Error },
    #[error("the URL has no host that can be connected to")]
    NoHost,
}

impl Cause {
    pub(super) fn class(&self) -> ErrorClass {
        match self {
            Self::Dns { .. } => ErrorClass::Dns,
            Self::Blocked { .. } => ErrorClass::BlockedAddress,
            Self::Connect { .. } => ErrorClass::Connect,
            Self::Tls { .. } => ErrorClass::Tls,
            Self::NoHost => ErrorClass::Configuration,
        }
    }

    /// Whether it is this process that lacks something.
    pub(super) fn is_exhaustion(&self) -> bool {
        let code = match self {
            Self::Dns { error, .. } => error.raw_os_error(),
            Self::Connect { error, .. } => error.raw_os_error(),
            Self::Blocked { .. } | Self::Tls { .. } | Self::NoHost => None,
        };
        code.is_some_and(|code| OUT_OF_DESCRIPTORS.contains(&code))
    }
}

/// See the module. Clones share the resolver's cache and the TLS sessions.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    resolver: Resolver,
    policy: EgressPolicy,
    tls: TlsConnector,
    timeout: Duration,
}

impl Connector {
    pub(super) fn build(config: &HttpConfig, policy: EgressPolicy) -> Result<Self, DispatcherError> {
        let shared = Shared {
            resolver: Resolver::build(&config.nameservers)?,
            policy,
            tls: tls::connector(config.extra_ca_file.as_deref())?,
            timeout: config.connect_timeout,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

/// Runs `request`. A connection that is made for it gives up right before `deadline`.
pub(super) fn within<F: Future>(deadline: Instant, request: F) -> impl Future<Output = F::Output> {
    DEADLINE.scope(deadline - HEADROOM, request)
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = self.shared.clone();
        // Read here, inside of the request: hyper may go on with the connection outside of it.
        let deadline = shared.deadline();
        Box::pin(async move {
            let mut progress = Progress::default();
            let connected = shared.connect(&uri, deadline, &mut progress).await;
            connected.map_err(|cause| ConnectError { cause, progress })
        })
    }
}

impl Shared {
    /// When a connection that is begun now must be there.
    fn deadline(&self) -> Instant {
        let own = Instant::now() + self.timeout;
        DEADLINE
            .try_with(|of_request| own.min(*of_request))
            .unwrap_or(own)
    }

    async fn connect(&self, uri: &Uri, deadline: Instant, progress: &mut Progress) -> Result<Stream, Cause> {
        let began = Instant::now();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = uri
            .host()
            .ok_or(Cause::NoHost)?
            .trim_start_matches('[')
            .trim_end_matches(']');

        let addresses = self.addresses(host, deadline, progress).await?;
        let vetted = self.policy.vet_addresses(addresses).map_err(|refused| {
            tracing::debug!(host, address = %refused.address, %refused, "address refused");
            Cause::Blocked { host: host.into() }
        })?;

        let dialled = Instant::now();
        let failed = |error| Cause::Connect {
            host: host.into(),
            error,
        };
        let (tcp, remote) = timeout_at(deadline, dial(&vetted, port))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        let connect = dialled.elapsed();
        progress.connect = Some(connect);
        progress.remote = Some(remote);
        let established = |tls| {
            let dns = progress.dns;
            Arc::new(Established {
                remote,
                dns,
                connect,
                tls,
                began,
            })
        };
        if !is_tls {
            return Ok(Stream::Plain {
                io: TokioIo::new(tcp),
                established: established(None),
            });
        }

        let shaken = Instant::now();
        let failed = |error| Cause::Tls {
            host: host.into(),
            error,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Cause::NoHost)?;
        let session = timeout_at(deadline, self.tls.connect(name, tcp))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        let established = established(Some(shaken.elapsed()));
        Ok(Stream::Tls {
            io: Box::new(TokioIo::new(session)),
            established,
        })
    }

    async fn addresses(
        &self,
        host: &str,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<Vec<IpAddr>, Cause> {
        if let Ok(literal) = host.parse() {
            return Ok(vec![literal]);
        }
        let asked = Instant::now();
        let resolved = timeout_at(deadline, self.resolver.resolve(host))
            .await
            .unwrap_or(Err(ResolveError::TimedOut))
            .map_err(|error| Cause::Dns {
                host: host.into(),
                error,
            })?;
        progress.dns = Some(asked.elapsed());
        Ok(resolved)
    }
}
