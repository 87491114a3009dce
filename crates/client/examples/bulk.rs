//! Delivers many events over one stream: `bulk <url> <API key> <project> <count>`.

use std::io::Write as _;

use anyhow::Context as _;
use cuitty_webhooks_client::{Client, ItemRefused, v1};
use futures_util::stream;

/// Delivers events and gives the numbers of those that were taken and refused.
pub(crate) async fn deliver(
    url: &str,
    api_key: &str,
    project: &str,
    payloads: impl Iterator<Item = String>,
) -> anyhow::Result<(u64, u64)> {
    let client = Client::connect(url, api_key).await?;
    let items = payloads.map(|payload| v1::DeliverRequest {
        project_id: project.to_owned(),
        event_type: "usage.recorded".to_owned(),
        payload: payload.into(),
        ..Default::default()
    });
    let (mut taken, mut refused) = (0, 0);
    // What a broken connection leaves in doubt is sent again under the same idempotency keys.
    let each = |_place, result: Result<v1::DeliverResponse, ItemRefused>| match result {
        Ok(_) => taken += 1,
        Err(_) => refused += 1,
    };
    client.deliver_all(stream::iter(items), each).await?;
    Ok((taken, refused))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name| arguments.next().context(name);
    let (url, api_key, project) = (argument("url")?, argument("API key")?, argument("project")?);
    let count: u32 = argument("count")?.parse()?;
    let payloads = (0..count).map(|number| format!(r#"{{"number":{number}}}"#));
    let (taken, refused) = deliver(&url, &api_key, &project, payloads).await?;
    writeln!(std::io::stdout(), "taken: {taken}, refused: {refused}")?;
    Ok(())
}
