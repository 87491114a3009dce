//! `deliveries`: what became of every message, and doing something about it.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use cuitty_webhooks_client::{Client, ClientError, Watch, v1};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::moment::Moment;
use super::remote::{Remote, RemoteFlags, Show, note};
use super::show::{at, body, harmless, print_fields, some, stamp};

/// Most that the API answers with at once.
const PAGE: u32 = 200;
/// Pause before a lost stream is opened again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum DeliveriesCommand {
    /// Lists deliveries, newest first
    List(ListArgs),
    /// Shows one with its payload and every attempt
    Get(GetArgs),
    /// Sends ended deliveries again, as new deliveries of the same messages
    Replay(SomeArgs),
    /// Ends pending deliveries as failed
    Cancel(SomeArgs),
    /// Shows what happens from now on, until interrupted
    Tail(TailArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
}

/// Which deliveries; every part that is given must hold.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    pub(super) project: String,
    /// The endpoint's id, `ep_…`
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(super) endpoint: String,
    /// How they stand
    #[arg(long)]
    pub(super) status: Option<Status>,
    /// The event type
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    pub(super) event_type: String,
    /// Created then or later: 2026-11-01T00:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<Moment>,
    /// Created earlier than that
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<Moment>,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The delivery's id, `dlv_…`
    id: String,
    /// Check the signatures that its attempts carried
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Args)]
pub(super) struct SomeArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The deliveries' ids, `dlv_…`
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The project; without it all that the key may see
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
    /// Only this endpoint's, `ep_…`
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    endpoint: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Status {
    Pending,
    Delivered,
    Failed,
}

impl From<Status> for i32 {
    fn from(status: Status) -> Self {
        let status = match status {
            Status::Pending => v1::DeliveryStatus::Pending,
            Status::Delivered => v1::DeliveryStatus::Delivered,
            Status::Failed => v1::DeliveryStatus::Failed,
        };
        status.into()
    }
}

pub(super) async fn run(command: DeliveriesCommand, remote: Remote) -> anyhow::Result<()> {
    match command {
        DeliveriesCommand::List(args) => list(args, remote).await,
        DeliveriesCommand::Get(args) => get(args, remote).await,
        DeliveriesCommand::Replay(args) => replay(args, remote).await,
        DeliveriesCommand::Cancel(args) => cancel(args, remote).await,
        DeliveriesCommand::Tail(args) => tail(args, remote).await,
    }
}

async fn list(args: ListArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let Filter {
        project,
        endpoint,
        status,
        event_type,
        since,
        until,
    } = args.filter;
    let now = (super::edge().clock)();
    let mut request = v1::ListDeliveriesRequest {
        project_id: project,
        endpoint_id: endpoint,
        status: status.map(i32::from).unwrap_or_default(),
        event_type,
        since: since.map(|since| since.timestamp(now)),
        until: until.map(|until| until.timestamp(now)),
        ..v1::ListDeliveriesRequest::default()
    };
    let (mut deliveries, mut cursor) = (Vec::new(), String::new());
    while deliveries.len() < args.limit {
        let missing = u32::try_from(args.limit - deliveries.len()).unwrap_or(PAGE);
        request.page = Some(v1::PageRequest {
            limit: missing.min(PAGE),
            cursor,
        });
        let page = client.list_deliveries(request.clone()).await?;
        deliveries.extend(page.deliveries);
        cursor = page.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    args.remote.print_all(&deliveries)?;
    if !cursor.is_empty() && !args.remote.is_json() {
        note(&format!("older ones are left out: --limit is {}", args.limit))?;
    }
    Ok(())
}

async fn get(args: GetArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let detail = if args.verify {
        client.verify_delivery(&args.id, 0).await?
    } else {
        client.get_delivery(&args.id, 0).await?
    };
    let mut shown = detail.delivery.clone().unwrap_or_default().json();
    shown["content_type"] = detail.content_type.clone().into();
    if args.remote.is_json() {
        shown["payload"] = body(&detail.payload);
        shown["attempts"] = detail.attempts.iter().map(Show::json).collect();
        return super::print(&shown.to_string());
    }
    print_fields(&args.remote, &shown)?;
    super::print(&format!(
        "\n{}\n",
        harmless(&String::from_utf8_lossy(&detail.payload))
    ))?;
    args.remote.print_all(&detail.attempts)?;
    for attempt in &detail.attempts {
        for check in &attempt.signature_checks {
            let told = match check.valid {
                Some(true) => "is valid",
                Some(false) => "is NOT valid",
                None => "cannot be told",
            };
            let of = format!(
                "attempt {}, {} by {}",
                attempt.number, check.header, check.secret_id
            );
            super::print(harmless(&format!("{of} {told} {}", check.reason)).trim_end())?;
        }
    }
    Ok(())
}

async fn replay(args: SomeArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let again = async |id: String| {
        let request = v1::ReplayDeliveryRequest {
            delivery_id: id,
            ..v1::ReplayDeliveryRequest::default()
        };
        client.replay_delivery(request).await
    };
    each(args, again).await
}

async fn cancel(args: SomeArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    each(args, async |id: String| client.cancel_delivery(&id).await).await
}

/// Does something to each delivery and shows what it led to; ends at the first one that is refused.
async fn each(
    args: SomeArgs,
    call: impl AsyncFn(String) -> Result<v1::Delivery, ClientError>,
) -> anyhow::Result<()> {
    let mut done = Vec::new();
    let mut refused = Ok(());
    for id in args.ids {
        match call(id.clone()).await {
            Ok(delivery) => done.push(delivery),
            Err(error) => {
                refused = Err(anyhow::Error::new(error).context(id));
                break;
            }
        }
    }
    if !done.is_empty() {
        args.remote.print_all(&done)?;
    }
    refused
}

async fn tail(args: TailArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let request = v1::WatchDeliveriesRequest {
        project_id: args.project,
        endpoint_id: args.endpoint,
    };
    let mut watch = client.watch_deliveries(request.clone()).await?;
    note("watching; Ctrl-C ends it")?;
    loop {
        match watch.next().await {
            Ok(Some(event)) => {
                let line = if args.remote.is_json() {
                    event_json(&event).to_string()
                } else {
                    event_line(&event)
                };
                if !super::print_while_read(&line)? {
                    return Ok(());
                }
            }
            Ok(None) | Err(ClientError::Unavailable(_)) => {
                note("the stream is lost; what happens until it is back is in `deliveries list`")?;
                watch = reopened(&client, &request).await?;
                note("watching again")?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The stream again, as soon as the service is back.
async fn reopened(client: &Client, request: &v1::WatchDeliveriesRequest) -> Result<Watch, ClientError> {
    loop {
        match client.watch_deliveries(request.clone()).await {
            Err(ClientError::Unavailable(_)) => sleep(PAUSE).await,
            other => return other,
        }
    }
}

fn event_line(event: &v1::DeliveryEvent) -> String {
    let when = at(event.at).map(|at| at.format("%H:%M:%S%.3f").to_string());
    let attempt = event.attempt.as_ref().map(|attempt| {
        let answer = match (&attempt.response, &attempt.error) {
            (Some(response), _) => response.status.to_string(),
            (None, Some(error)) => error.class.clone(),
            (None, None) => "taken".to_owned(),
        };
        format!(
            "attempt {}: {answer} in {:.1} ms",
            attempt.number, attempt.duration_ms
        )
    });
    let reason = some(&event.failure_reason).unwrap_or_default();
    let next = at(event.next_attempt_at).map(|at| format!("next {}", at.format("%H:%M:%S")));
    let line = format!(
        "{}  {:<9}  {}  {}  {}  {reason} {}",
        when.unwrap_or_default(),
        event.kind,
        event.delivery_id,
        event.event_type,
        attempt.unwrap_or_default(),
        next.unwrap_or_default(),
    );
    harmless(line.trim_end())
}

fn event_json(event: &v1::DeliveryEvent) -> Value {
    json!({
        "log_sequence": event.log_sequence,
        "kind": event.kind,
        "delivery_id": event.delivery_id,
        "message_id": event.message_id,
        "project_id": event.project_id,
        "endpoint_id": event.endpoint_id,
        "event_type": event.event_type,
        "at": stamp(event.at),
        "attempt": event.attempt.as_ref().map(Show::json),
        "next_attempt_at": stamp(event.next_attempt_at),
        "failure_reason": some(&event.failure_reason),
    })
}
