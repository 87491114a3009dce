//! Resolves host names: the system's hosts file and DNS servers, with a cache that honours their times to live.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

use crate::error::DispatcherError;

/// How long one family's addresses are waited for once the other's are known. RFC 8305 (section 3) gives 50 ms, for people
/// who wait; here the second family is worth more, and what is paid for it is paid only where a server keeps silent.
const RESOLUTION_DELAY: Duration = Duration::from_millis(500);

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
    /// The one that says most: a failure before silence, and either before "no such host".
    fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::NotFound, _) | (Self::TimedOut, Self::Failed(_)) => other,
            _ => self,
        }
    }

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

    /// The addresses of `host`, at least one, those of IPv6 first. The families are asked for apart: a server that keeps
    /// silent about one of them, or fails, does not take the other with it.
    pub(super) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let name = absolute(host)?;
        let v6 = pin!(self.lookup(name.clone(), RecordType::AAAA));
        let v4 = pin!(self.lookup(name, RecordType::A));
        let (v6, v4) = match select(v6, v4).await {
            Either::Left((v6, v4)) => {
                let v4 = second(&v6, v4).await;
                (v6, v4)
            }
            Either::Right((v4, v6)) => (second(&v4, v6).await, v4),
        };
        match (v6, v4) {
            (Ok(v6), Ok(v4)) => Ok([v6, v4].concat()),
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
            (Err(v6), Err(v4)) => Err(v6.or(v4)),
        }
    }

    /// The addresses of one family, at least one.
    async fn lookup(&self, name: Name, family: RecordType) -> Result<Vec<IpAddr>, ResolveError> {
        match self.hickory.lookup(name, family).await {
            Ok(found) => {
                let addresses: Vec<_> = found
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect();
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

/// What the slower lookup finds; only for a moment when the faster one has found something.
async fn second(
    first: &Result<Vec<IpAddr>, ResolveError>,
    lookup: impl Future<Output = Result<Vec<IpAddr>, ResolveError>>,
) -> Result<Vec<IpAddr>, ResolveError> {
    if first.is_err() {
        return lookup.await;
    }
    timeout(RESOLUTION_DELAY, lookup)
        .await
        .unwrap_or(Err(ResolveError::TimedOut))
}

/// A URL's host is what IDNA has made of it, and it is absolute: search domains are for people who type.
fn absolute(host: &str) -> Result<Name, ResolveError> {
    let mut name = Name::from_ascii(host).map_err(|_| ResolveError::NotFound)?;
    name.set_fqdn(true);
    Ok(name)
}

fn nameserver(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_absolute_and_may_hold_what_urls_hold() {
        for host in [
            "hooks.example",
            "single",
            "under_score.example",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(absolute(host).unwrap().to_ascii(), format!("{host}."));
        }
        assert!(matches!(absolute("a b"), Err(ResolveError::NotFound)));
    }

    #[test]
    fn of_two_errors_the_one_that_says_most_is_told() {
        use ResolveError::{Failed, NotFound, TimedOut};
        let failed = || Failed(NetError::Busy);
        assert!(matches!(NotFound.or(TimedOut), TimedOut));
        assert!(matches!(TimedOut.or(NotFound), TimedOut));
        assert!(matches!(TimedOut.or(failed()), Failed(_)));
        assert!(matches!(failed().or(TimedOut), Failed(_)));
        assert!(matches!(NotFound.or(failed()), Failed(_)));
        assert!(matches!(NotFound.or(NotFound), NotFound));
    }
}
