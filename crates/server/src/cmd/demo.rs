//! `demo`: one event on its whole way, against a `dev` of its own.

use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use clap::Args;
use cuitty_webhooks_client::{Client, SignedHeaders, SigningSecret, v1, verify};
use cuitty_webhooks_domain::Clock;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::dev::{DevFlags, describe};
use super::{Invocation, print};
use crate::dev::{Dev, DevInfo, Prepared};
use crate::shutdown::Shutdown;
use crate::telemetry;

const PROJECT: &str = "demo";
const EVENT_TYPE: &str = "budget.threshold_reached";
/// By what the endpoints that an earlier, killed demo left behind are known.
const DESCRIPTION: &str = "receiver of `make run`";
const PAYLOAD: &str = r#"{"type":"budget.threshold_reached","timestamp":"2026-11-21T10:00:00Z","data":{"budget":"compute","spent":812.5,"limit":1000}}"#;
/// Longest wait for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How far a request's timestamp may be from now.
const TOLERANCE: Duration = Duration::from_mins(5);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    options: DevFlags,
    /// Exit after the first event
    #[arg(long)]
    once: bool,
}

/// A request as it arrived.
struct Received {
    headers: HeaderMap,
    body: Bytes,
}

pub(super) async fn run(args: DemoArgs, invocation: Invocation) -> anyhow::Result<()> {
    let mut edge = super::edge();
    let clock = edge.clock;
    let prepared = Prepared::new(args.options.into_options(invocation), &mut edge)?;
    let _telemetry = telemetry::init(&prepared.config().telemetry, None)?;
    let asked = Shutdown::default();
    asked.on_signals()?;
    // The roles go on after the first signal, until the demo has cleaned up.
    let roles = Shutdown {
        hard: asked.hard.child_token(),
        ..Shutdown::default()
    };
    let Some(dev) = Box::pin(Dev::start(prepared, edge, &asked, roles.clone())).await? else {
        return Ok(());
    };
    let info = dev.info().clone();

    let show = async {
        let client = Client::connect(&format!("http://{}", info.listen), api_key(&info)?).await?;
        forget_endpoints(&client).await?;
        let walk = walk_through(&client, &info, clock, args.once);
        let walked = tokio::select! {
            walked = walk => walked,
            // Ctrl-C, or a role that failed, whose error comes with `dev.run()`.
            () = asked.soft.cancelled() => Ok(()),
            () = roles.soft.cancelled() => return Ok(()),
        };
        walked.and(forget_endpoints(&client).await)
    };
    let shown = show.await;
    roles.soft.cancel();
    dev.run().await.and(shown)
}

fn api_key(info: &DevInfo) -> anyhow::Result<&str> {
    info.api_key
        .as_deref()
        .context("the demo needs dev's own admin key: leave api.admin_key unset")
}

/// Creates an endpoint, sends an event, shows what became of it, and then, unless `once`, shows what else arrives.
async fn walk_through(client: &Client, info: &DevInfo, clock: Clock, once: bool) -> anyhow::Result<()> {
    print(&describe(info))?;
    let (address, mut received) = receive().await?;
    let url = format!("http://{address}/hooks");
    let created = client
        .create_endpoint(v1::CreateEndpointRequest {
            project_id: PROJECT.into(),
            url: url.clone(),
            event_types: vec!["budget.*".into()],
            description: DESCRIPTION.into(),
            ..Default::default()
        })
        .await
        .context("creating an endpoint")?;
    let endpoint = created.endpoint.context("the answer holds no endpoint")?;
    print(&format!(
        "\n1. Endpoint {} takes budget.* of project {PROJECT} at {url}\n   signing secret, shown once: {}",
        endpoint.id, created.signing_secret,
    ))?;

    let started = Instant::now();
    let accepted = client
        .deliver(v1::DeliverRequest {
            project_id: PROJECT.into(),
            event_type: EVENT_TYPE.into(),
            payload: PAYLOAD.into(),
            ..Default::default()
        })
        .await
        .context("sending an event")?;
    print(&format!(
        "\n2. Event {EVENT_TYPE} accepted as {} at log sequence {}",
        accepted.message_id, accepted.log_sequence,
    ))?;

    let request = timeout(PATIENCE, received.recv())
        .await
        .ok()
        .flatten()
        .context("the event did not arrive")?;
    print(&format!(
        "\n3. Received after {:.1?}:\n\n{}",
        started.elapsed(),
        show(&request)
    ))?;
    check_signature(&request, &created.signing_secret, clock)?;
    print("\n4. Signature verified: HMAC-SHA256 of id, timestamp and body with the endpoint's secret")?;

    let delivery = accepted
        .deliveries
        .first()
        .context("the event went to no endpoint")?;
    let detail = recorded(client, &delivery.id, accepted.log_sequence).await?;
    print(&format!(
        "\n5. Recorded in the history:\n\n{}",
        show_delivery(&detail)
    ))?;
    print(&format!("\nTry next:\n\n{}", curl_lines(info)?))?;
    if once {
        return Ok(());
    }
    print("\nReceiving until Ctrl-C.")?;
    while let Some(request) = received.recv().await {
        print(&format!("\n{}", show(&request)))?;
    }
    Ok(())
}

/// Deletes the demo's endpoints, those of demos that were killed too: their receivers are gone.
async fn forget_endpoints(client: &Client) -> anyhow::Result<()> {
    let request = v1::ListEndpointsRequest {
        project_id: PROJECT.into(),
        ..Default::default()
    };
    // On the first run there is no such project.
    let Ok(page) = client.list_endpoints(request).await else {
        return Ok(());
    };
    for endpoint in page
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.description == DESCRIPTION)
    {
        client.delete_endpoint(&endpoint.id).await?;
    }
    Ok(())
}

/// Starts a receiver on a free port.
async fn receive() -> anyhow::Result<(std::net::SocketAddr, mpsc::Receiver<Received>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, received) = mpsc::channel(64);
    let take = async |State(sender): State<mpsc::Sender<Received>>, headers: HeaderMap, body: Bytes| {
        // While nobody looks, what does not fit is taken and not shown.
        let _ = sender.try_send(Received { headers, body });
        StatusCode::OK
    };
    let router = Router::new().fallback(take).with_state(sender);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, received))
}

fn check_signature(request: &Received, secret: &str, clock: Clock) -> anyhow::Result<()> {
    let header = |name| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let signed = SignedHeaders {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    let secret = SigningSecret::parse(secret).context("the endpoint's secret")?;
    verify(signed, &request.body, &[secret], clock(), TOLERANCE).context("the signature is wrong")
}

/// The delivery, once its outcome has reached the history.
async fn recorded(client: &Client, id: &str, sequence: u64) -> anyhow::Result<v1::DeliveryDetail> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let detail = client
            .get_delivery(id, sequence)
            .await
            .context("reading the history")?;
        let status = detail.delivery.as_ref().map(v1::Delivery::status);
        if status == Some(v1::DeliveryStatus::Delivered) {
            return Ok(detail);
        }
        if Instant::now() >= deadline {
            bail!("the delivery is not recorded as delivered: {status:?}");
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn show(request: &Received) -> String {
    let mut lines = vec!["   POST /hooks".to_owned()];
    lines.extend(request.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("   {name}: {value}")
    }));
    lines.push(format!("\n   {}", String::from_utf8_lossy(&request.body)));
    lines.join("\n")
}

fn show_delivery(detail: &v1::DeliveryDetail) -> String {
    let mut lines = Vec::new();
    if let Some(delivery) = &detail.delivery {
        let status = delivery
            .status()
            .as_str_name()
            .trim_start_matches("DELIVERY_STATUS_")
            .to_lowercase();
        lines.push(format!(
            "   {}  {status}, attempts: {}",
            delivery.id, delivery.attempt_count
        ));
    }
    for attempt in &detail.attempts {
        let status = attempt
            .response
            .as_ref()
            .map_or_else(|| "none".to_owned(), |it| it.status.to_string());
        lines.push(format!(
            "   attempt {}: {} in {:.2} ms, response status {status}, from {}",
            attempt.number, attempt.outcome, attempt.duration_ms, attempt.remote_address,
        ));
    }
    lines.join("\n")
}

fn curl_lines(info: &DevInfo) -> anyhow::Result<String> {
    let (base, key) = (format!("http://{}", info.listen), api_key(info)?);
    let payload = r#"{"project_id":"demo","event_type":"budget.exceeded","payload":{"budget":"compute"}}"#;
    Ok(format!(
        "   curl -s {base}/api/webhooks/status\n\n   \
         curl -s -H 'authorization: Bearer {key}' '{base}/api/webhooks/endpoints?project_id={PROJECT}'\n\n   \
         curl -s -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\\n     \
         -d '{payload}' \\\n     {base}/api/webhooks/deliver\n\n   \
         curl -s {base}/api/openapi.json\n\n   \
         curl -s http://{}/metrics",
        info.admin,
    ))
}
