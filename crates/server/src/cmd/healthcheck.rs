//! `healthcheck`: asks the process beside it how it is, for images that hold no other program to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::config::{Config, Sources};

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much of the answer is read, in bytes.
const ANSWER_BYTES: usize = 16 * 1024;

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Ask only whether the process answers (/livez), not whether it can do its work (/readyz)
    #[arg(long)]
    live: bool,
}

pub(super) async fn run(args: HealthcheckArgs, sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, &[])?;
    let address = reachable(config.listen.admin);
    let path = if args.live { "/livez" } else { "/readyz" };
    let asked = tokio::time::timeout(TIMEOUT, ask(address, path)).await;
    let (status, answer) = asked
        .with_context(|| format!("no answer from {address}{path} within {TIMEOUT:?}"))?
        .with_context(|| format!("no answer from {address}{path}"))?;
    if status.is_success() {
        super::print(&answer)
    } else {
        bail!("{address}{path} answers {}: {answer}", status.as_u16())
    }
}

async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<(http::StatusCode, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<&[u8]>>();
    let response = client.get(format!("http://{address}{path}").parse()?).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}

/// Where this machine reaches what listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_over_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:7711", "127.0.0.1:7711"),
            ("[::]:7711", "[::1]:7711"),
            ("10.1.2.3:7711", "10.1.2.3:7711"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
