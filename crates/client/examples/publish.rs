//! Publishes an event over NATS: `publish <nats url> <project> <event type> <payload>`.

use std::io::Write as _;

use anyhow::Context as _;
use cuitty_webhooks_client::{Published, Publisher, v1};

/// Publishes an event, and gives where it is stored.
pub(crate) async fn publish(
    nats_url: &str,
    project: &str,
    event_type: &str,
    payload: &str,
) -> anyhow::Result<Published> {
    let publisher = Publisher::connect(nats_url).await?;
    let event = v1::DeliverRequest {
        project_id: project.to_owned(),
        event_type: event_type.to_owned(),
        payload: payload.to_owned().into(),
        ..Default::default()
    };
    Ok(publisher.publish(event).await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name| arguments.next().context(name);
    let (url, project) = (argument("nats url")?, argument("project")?);
    let (event_type, payload) = (argument("event type")?, argument("payload")?);
    let published = publish(&url, &project, &event_type, &payload).await?;
    writeln!(std::io::stdout(), "stored at sequence {}", published.sequence)?;
    Ok(())
}
