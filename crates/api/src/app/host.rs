//! Checks where an endpoint's host name leads when the endpoint is made. The dispatcher checks again at each connection.

use std::net::IpAddr;
use std::time::Duration;

use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::rejection::Rejection;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
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
        nameservers: &[IpAddr],
        budget: Duration,
    ) -> Result<Self, ApiError> {
        let builder = if nameservers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let servers = nameservers
                .iter()
                .map(|&ip| NameServerConfig::udp_and_tcp(ip))
                .collect();
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
        let Ok(Ok(found)) = tokio::time::timeout(self.budget, self.resolver.lookup_ip(name.as_str())).await
        else {
            tracing::debug!(host = name, "host does not resolve yet");
            return Ok(());
        };
        for address in found.iter() {
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
        HostCheck::new(policy, &["192.0.2.1".parse().unwrap()], Duration::from_millis(50)).unwrap()
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
