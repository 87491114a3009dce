//! Where requests may go: URLs are vetted when an endpoint is configured, addresses then and again at every connect.
//!
//! Both checks are needed: a name that resolved to a public address yesterday may resolve to a private one today.

mod ranges;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

use crate::limits;
use crate::subject::SubjectPrefix;

/// Longest name of a host, in bytes, without a trailing dot (RFC 1035, section 2.3.4).
const HOST_BYTES: usize = 253;
/// Longest label of a host's name, in bytes.
const LABEL_BYTES: usize = 63;

/// Where requests may go. The default is the strict one: any port of any public address, and the default subjects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Networks that may be reached although they are not public. Opening a network that carries IPv4 addresses, such as
    /// NAT64's `64:ff9b::/96`, opens only what it carries of allowed addresses.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that may be reached; empty means every port.
    pub ports: Vec<u16>,
    /// What the subjects of NATS endpoints begin with.
    pub nats_prefix: SubjectPrefix,
}

/// An address may not be reached. Displays as the end of a sentence: `<what> must not point to …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must not point to {kind} ({range})")]
pub struct AddressRefused {
    /// What was refused. For logs; the caller who named a host may not learn what it resolves to in our network.
    pub address: IpAddr,
    /// The kind of address, with its article: `a private address`.
    pub kind: &'static str,
    /// The network that is refused.
    pub range: IpNet,
}

/// A URL may not be called. Displays as the end of a sentence: `url must …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefused {
    /// Longer than any URL that is stored.
    #[error("must be at most {} bytes", limits::URL_BYTES)]
    TooLong,
    /// White space or control characters, which parsers drop or keep as they like.
    #[error("must not hold white space or control characters")]
    WhiteSpace,
    /// Not a URL.
    #[error("must be an absolute URL ({0})")]
    Malformed(url::ParseError),
    /// A scheme other than http and https.
    #[error("must start with http:// or https://")]
    Scheme,
    /// A user name or password.
    #[error("must not hold a user name or password")]
    UserInfo,
    /// A fragment, which is never sent.
    #[error("must not have a fragment")]
    Fragment,
    /// A host that no DNS name can be.
    #[error("must have a host that is a DNS name or an IP address")]
    Host,
    /// A port that is not open.
    #[error("must not use port {0}")]
    Port(u16),
    /// A literal address, or a name that always means one, that may not be reached.
    #[error(transparent)]
    Address(#[from] AddressRefused),
}

impl EgressPolicy {
    /// Checks a URL's form, port and literal address, in every spelling that the WHATWG URL standard knows; gives it
    /// normalised. A host that is a name is still to be resolved and its addresses vetted.
    pub fn vet_url(&self, text: &str) -> Result<Url, UrlRefused> {
        if text.len() > limits::URL_BYTES {
            return Err(UrlRefused::TooLong);
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(UrlRefused::WhiteSpace);
        }
        let mut url = Url::parse(text).map_err(UrlRefused::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlRefused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlRefused::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(UrlRefused::Fragment);
        }
        match url.host().ok_or(UrlRefused::Host)? {
            Host::Ipv4(address) => self.vet_address(address.into())?,
            Host::Ipv6(address) => self.vet_address(address.into())?,
            Host::Domain(name) => {
                let bare = name.strip_suffix('.').unwrap_or(name).to_owned();
                self.vet_name(&bare)?;
                // A trailing dot makes another Host header and another certificate name of the same host.
                url.set_host(Some(&bare)).map_err(UrlRefused::Malformed)?;
            }
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 || !(self.ports.is_empty() || self.ports.contains(&port)) {
            return Err(UrlRefused::Port(port));
        }
        // Percent-encoding may have made it longer.
        if url.as_str().len() > limits::URL_BYTES {
            return Err(UrlRefused::TooLong);
        }
        Ok(url)
    }

    fn vet_name(&self, name: &str) -> Result<(), UrlRefused> {
        let is_label = |label: &str| {
            (1..=LABEL_BYTES).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() > HOST_BYTES || !name.split('.').all(is_label) {
            return Err(UrlRefused::Host);
        }
        // RFC 6761, section 6.3: these names mean loopback wherever they are resolved.
        if name == "localhost" || name.ends_with(".localhost") {
            self.vet_addresses([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])?;
        }
        Ok(())
    }

    /// Checks one address.
    pub fn vet_address(&self, address: IpAddr) -> Result<(), AddressRefused> {
        if !self.allow_cidrs.iter().any(|net| net.contains(&address))
            && let Some((range, kind)) = ranges::refused(address)
        {
            return Err(AddressRefused { address, kind, range });
        }
        match ranges::carried(address) {
            Some(carried) => self.vet_address(carried.into()),
            None => Ok(()),
        }
    }

    /// The addresses of a resolved host that may be reached, in the order given; the first refusal when there are some and
    /// none may.
    pub fn vet_addresses(
        &self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<IpAddr>, AddressRefused> {
        let mut vetted = Vec::new();
        let mut refusal = None;
        for address in addresses {
            match self.vet_address(address) {
                Ok(()) => vetted.push(address),
                Err(refused) => {
                    refusal.get_or_insert(refused);
                }
            }
        }
        match refusal {
            Some(refused) if vetted.is_empty() => Err(refused),
            _ => Ok(vetted),
        }
    }
}

#[cfg(test)]
mod tests;
