//! Many events at once, and how they fared.

use std::collections::HashMap;
use std::time::Duration;

use cuitty_webhooks_proto::v1::{
    DeliverRequest, DeliveryStatus, GetStatusRequest, ListDeliveriesRequest, PageRequest,
};
use futures_util::{TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::app::{PROJECT, TestApp, event};
use crate::eventually::{eventually_within, is};
use crate::receiver::{Captured, Receiver};

/// Events that wait for their acknowledgement at the same time.
const IN_FLIGHT: usize = 64;

/// When each event was to be handed over, by its message id.
pub type Sent = HashMap<String, Instant>;

/// Event `number` for one endpoint, whatever its event types.
pub fn numbered(endpoint_id: &str, number: usize) -> DeliverRequest {
    DeliverRequest {
        endpoint_id: endpoint_id.to_owned(),
        ..event("order.paid", json!({ "number": number }).to_string())
    }
}

/// The number of an event that arrived.
///
/// # Panics
/// When it has none.
pub fn number(request: &Captured) -> usize {
    let payload: Value = serde_json::from_slice(&request.body).expect("JSON");
    payload["number"].as_u64().expect("a number") as usize
}

/// Hands over `count` events for an endpoint, in any order. All of them are acknowledged in the end.
///
/// # Panics
/// When one is refused.
pub async fn hand_over(app: &TestApp, endpoint_id: &str, count: usize) {
    let client = app.messages();
    stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(IN_FLIGHT, |number| {
            let mut client = client.clone();
            async move { client.deliver(numbered(endpoint_id, number)).await.map(drop) }
        })
        .await
        .expect("every event is accepted");
}

/// Hands over what `make` makes of 0, 1, 2, …: `rate` events a second for `duration`, each at its own time whether or not
/// those before it were acknowledged.
///
/// # Panics
/// When one is refused.
pub async fn offer(
    app: &TestApp,
    rate: u32,
    duration: Duration,
    make: impl Fn(usize) -> DeliverRequest,
) -> Sent {
    let client = app.messages();
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..(f64::from(rate) * duration.as_secs_f64()) as usize {
        let at = start + Duration::from_secs(number as u64) / rate;
        sleep_until(at).await;
        let (mut client, event) = (client.clone(), make(number));
        calls.spawn(async move {
            let accepted = client.deliver(event).await.expect("it is accepted");
            (accepted.into_inner().message_id, at)
        });
    }
    calls.join_all().await.into_iter().collect()
}

/// How long each event took from when it was to be handed over until it first arrived on one of `paths`, sorted.
///
/// # Panics
/// When one has not arrived.
pub fn latencies<'a>(
    sent: &Sent,
    receiver: &Receiver,
    paths: impl IntoIterator<Item = &'a str>,
) -> Vec<Duration> {
    let mut arrived = HashMap::new();
    for request in paths.into_iter().flat_map(|path| receiver.requests(path)) {
        let first = arrived
            .entry(request.header("webhook-id").to_owned())
            .or_insert(request.at);
        *first = request.at.min(*first);
    }
    let latency = |(id, at): (&String, &Instant)| arrived[id].saturating_duration_since(*at);
    let mut latencies: Vec<_> = sent.iter().map(latency).collect();
    latencies.sort();
    latencies
}

/// The value that this share of the sorted `values` does not exceed.
///
/// # Panics
/// When there is none.
pub fn quantile(values: &[Duration], share: f64) -> Duration {
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}

/// Waits until the history has caught up with the log and no delivery of [`PROJECT`] is pending.
///
/// # Panics
/// When that does not happen within `patience`.
pub async fn nothing_is_pending(app: &TestApp, patience: Duration) {
    eventually_within(
        patience,
        "the history knows how every delivery has ended",
        || async {
            let status = app.status().get_status(GetStatusRequest {}).await;
            let status = status.map_err(|status| status.to_string())?.into_inner();
            let lag = status.components.and_then(|components| components.projection_lag);
            let request = ListDeliveriesRequest {
                project_id: PROJECT.into(),
                status: DeliveryStatus::Pending.into(),
                ..Default::default()
            };
            let pending = app.deliveries().list_deliveries(request).await;
            let pending = pending.map_err(|status| status.to_string())?.into_inner();
            is((lag, pending.deliveries.len()), (Some(0), 0))
        },
    )
    .await;
}

/// How many deliveries of an endpoint the history has, by status and by the reason of those that failed.
///
/// # Panics
/// When the history cannot be read.
pub async fn tally(app: &TestApp, endpoint_id: &str) -> HashMap<(DeliveryStatus, String), usize> {
    let (mut counts, mut cursor) = (HashMap::new(), String::new());
    loop {
        let request = ListDeliveriesRequest {
            endpoint_id: endpoint_id.to_owned(),
            project_id: PROJECT.into(),
            page: Some(PageRequest { limit: 200, cursor }),
            ..Default::default()
        };
        let page = app.deliveries().list_deliveries(request).await;
        let page = page.expect("a page of the history").into_inner();
        for delivery in page.deliveries {
            let status = delivery.status();
            *counts.entry((status, delivery.failure_reason)).or_default() += 1;
        }
        if page.next_cursor.is_empty() {
            return counts;
        }
        cursor = page.next_cursor;
    }
}
