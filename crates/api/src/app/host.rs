//! Checks where an endpoint's host name leads when the endpoint is made. The dispatcher checks again at each connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::rejection::Rejection;
use futures_util::future::join;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;
use url::{Host, Url};

use crate::ApiError;

/// Resolves host names and holds their addresses against the egress policy.
pub(crate) struct HostCheck {
    resolver: TokioResolver,
    policy: EgressPolicy,
    budget: Duration,
}

impl HostCheck {
    /// Asks `nameservers`, or the system's when there are none, for at most `budget`.
    pub(crate) fn new(
        policy: EgressPolicy,
        nameservers: &[SocketAddr],
        budget: Duration,
    ) -> Result<Self, ApiError> {
        let builder = if nameservers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let servers = nameservers.iter().map(|&address| nameserver(address)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            Ok(TokioResolver::builder_with_config(
                config,
                TokioRuntimeProvider::default(),
            ))
        };
        let resolver = builder
            .and_then(hickory_resolver::ResolverBuilder::build)
            .map_err(|error| ApiError::Resolver(error.to_string()))?;
        Ok(Self {
            resolver,
            policy,
            budget,
        })
    }

    /// Refuses a URL whose host name leads to an address that may not be reached. All addresses must be allowed: one that is
    /// not would be tried one day. A name that does not resolve now is let through, for it may resolve later.
    pub(crate) async fn vet(&self, url: &str) -> Result<(), Rejection> {
        let Some(Host::Domain(name)) = Url::parse(url)
            .ok()
            .and_then(|url| url.host().map(|host| host.to_owned()))
        else {
            return Ok(());
        };
        for address in self.addresses(&name).await {
            if let Err(refused) = self.policy.vet_address(address) {
                // The caller is not told: the address may be one that only our own DNS knows.
                tracing::debug!(host = name, %address, %refused, "host leads where nobody may be called");
                return Err(Rejection::field(
                    "url",
                    "leads to an address that may not be called",
                ));
            }
        }
        Ok(())
    }

    /// The addresses of `host` that are found in time. Each family is asked for by itself: a server that keeps silent about
    /// one of them must not hide what it says about the other.
    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        // A URL's host is what IDNA has made of it, and it is absolute: search domains are for people who type.
        let Ok(mut name) = Name::from_ascii(host) else {
            return Vec::new();
        };
        name.set_fqdn(true);
        let (v4, v6) = join(
            self.lookup(&name, RecordType::A),
            self.lookup(&name, RecordType::AAAA),
        )
        .await;
        [v4, v6].concat()
    }

    async fn lookup(&self, name: &Name, family: RecordType) -> Vec<IpAddr> {
        let Ok(Ok(found)) = timeout(self.budget, self.resolver.lookup(name.clone(), family)).await else {
            tracing::debug!(host = %name, %family, "host does not resolve yet");
            return Vec::new();
        };
        let records = found.answers().iter();
        records.filter_map(|record| record.data.ip_addr()).collect()
    }
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

    fn check(allowed: &str) -> HostCheck {
        let allow_cidrs = allowed
            .split_terminator(',')
            .map(|net| net.parse().unwrap())
            .collect();
        let policy = EgressPolicy {
            allow_cidrs,
            ..EgressPolicy::default()
        };
        HostCheck::new(
            policy,
            &["192.0.2.1:53".parse().unwrap()],
            Duration::from_millis(50),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_refused_unless_allowed() {
        // The hosts file knows localhost; nothing is asked.
        let refused = check("").vet("http://localhost:9/hook").await.unwrap_err();
        assert_eq!(
            refused,
            Rejection::field("url", "leads to an address that may not be called"),
            "no address is told"
        );
        assert_eq!(
            check("127.0.0.0/8,::1/128").vet("http://localhost:9/hook").await,
            Ok(())
        );
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_in_time_is_let_through() {
        assert_eq!(check("").vet("https://hooks.example.com/in").await, Ok(()));
        assert_eq!(check("").vet("https://203.0.113.7/in").await, Ok(()));
    }
}
