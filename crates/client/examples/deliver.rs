//! Delivers one event, waits until it has arrived, and prints how: `deliver <url> <API key> <project>`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use cuitty_webhooks_client::{Client, v1};

/// How often the history is asked.
const INTERVAL: Duration = Duration::from_millis(50);

/// Delivers an event and gives its deliveries, once each has ended.
pub(crate) async fn deliver(
    url: &str,
    api_key: &str,
    project: &str,
) -> anyhow::Result<Vec<v1::DeliveryDetail>> {
    let client = Client::connect(url, api_key).await?;
    let accepted = client
        .deliver(v1::DeliverRequest {
            project_id: project.to_owned(),
            event_type: "budget.exceeded".to_owned(),
            payload: r#"{"budget":"compute","spent":812.5}"#.into(),
            // Whoever repeats this within a day delivers nothing twice.
            idempotency_key: "budget-compute-2026-11".to_owned(),
            ..Default::default()
        })
        .await?;

    let mut ended = Vec::new();
    for delivery in &accepted.deliveries {
        ended.push(loop {
            let detail = client.get_delivery(&delivery.id, accepted.log_sequence).await?;
            let status = detail.delivery.as_ref().map(v1::Delivery::status);
            if status != Some(v1::DeliveryStatus::Pending) {
                break detail;
            }
            tokio::time::sleep(INTERVAL).await;
        });
    }
    Ok(ended)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name| arguments.next().context(name);
    let (url, api_key, project) = (argument("url")?, argument("API key")?, argument("project")?);
    for detail in deliver(&url, &api_key, &project).await? {
        let delivery = detail.delivery.unwrap_or_default();
        let (id, status) = (&delivery.id, delivery.status().as_str_name());
        writeln!(
            std::io::stdout(),
            "{id} {status}, attempts: {}",
            detail.attempts.len()
        )?;
    }
    Ok(())
}
