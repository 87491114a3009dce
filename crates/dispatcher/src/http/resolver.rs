//! Resolves host names: the system's hosts file and DNS servers, with a cache that honours their times to live.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::error::DispatcherError;

pub(super) struct Resolver {
    hickory: TokioResolver,
}

/// A host has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("no such host")]
    NotFound,
    #[error("timed out")]
    TimedOut,
    #[error("{0}")]
    Failed(NetError),
}

impl ResolveError {
    pub(super) fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Failed(NetError::Io(error)) => io::Error::raw_os_error(error),
            _ => None,
        }
    }
}

impl Resolver {
    /// A resolver that asks `nameservers`, or those of the system when there are none.
    pub(super) fn build(nameservers: &[SocketAddr]) -> Result<Self, DispatcherError> {
        let mut builder = if nameservers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| {
                DispatcherError::config(
                    "http.nameservers",
                    format!("must be given: the system has none ({error})"),
                )
            })?
        } else {
            let servers = nameservers.iter().map(|address| nameserver(*address)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        builder.options_mut().use_hosts_file = ResolveHosts::Always;
        let hickory = builder
            .build()
            .map_err(|error| DispatcherError::config("http.nameservers", error.to_string()))?;
        Ok(Self { hickory })
    }

    /// Every address of `host`, at least one.
    pub(super) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match self.hickory.lookup_ip(host).await {
            Ok(found) => {
                let addresses: Vec<_> = found.iter().collect();
                if addresses.is_empty() {
                    Err(ResolveError::NotFound)
                } else {
                    Ok(addresses)
                }
            }
            Err(error) if error.is_no_records_found() => Err(ResolveError::NotFound),
            Err(NetError::Timeout) => Err(ResolveError::TimedOut),
            Err(error) => Err(ResolveError::Failed(error)),
        }
    }
}

fn nameserver(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
