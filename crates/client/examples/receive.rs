//! Receives webhooks and believes only those that are signed: `receive <address> <secret>…`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use cuitty_webhooks_client::Verifier;

/// A receiver that hands the id and the body of each webhook to `take`, which must drop ids that it has seen before.
pub(crate) fn receiver(
    secrets: &[String],
    now: fn() -> SystemTime,
    take: fn(&str, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Router> {
    let verifier = Arc::new(Verifier::new(secrets.iter().map(String::as_str))?);
    let receive = async move |State(verifier): State<Arc<Verifier>>, headers: HeaderMap, body: Bytes| {
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let Ok(webhook) = verifier.verify(header, &body, now()) else {
            return StatusCode::UNAUTHORIZED;
        };
        match take(webhook.id, &body) {
            Ok(()) => StatusCode::NO_CONTENT,
            // It comes again.
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    };
    Ok(Router::new().fallback(receive).with_state(verifier))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("address")?;
    let secrets: Vec<_> = arguments.collect();
    let listener = tokio::net::TcpListener::bind(address).await?;
    let show = |id: &str, body: &[u8]| {
        writeln!(std::io::stdout(), "{id} {}", String::from_utf8_lossy(body))?;
        Ok(())
    };
    #[expect(clippy::disallowed_methods, reason = "a program's edge")]
    let now = SystemTime::now;
    axum::serve(listener, receiver(&secrets, now, show)?).await?;
    Ok(())
}
