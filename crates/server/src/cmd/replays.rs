//! `replays`: many deliveries again, in the background.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use cuitty_webhooks_client::{Client, v1};
use indicatif::ProgressBar;
use tokio::time::sleep;

use super::bar::counting;
use super::deliveries::Filter;
use super::remote::{Remote, RemoteFlags, note};

/// How often a replay is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(super) enum ReplaysCommand {
    /// Sends many deliveries again, failed ones unless --status says otherwise, and waits until that is done
    Start(StartArgs),
    /// Shows how far one is
    Get(GetArgs),
    /// Ends one: what it has sent again until then stays so
    Cancel(OneArgs),
}

#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    #[command(flatten)]
    filter: Filter,
    /// What has failed since --endpoint was disabled, because it was
    #[arg(long)]
    since_disabled: bool,
    /// Failed for one of these reasons, separated by commas
    #[arg(long = "reason", value_name = "REASON", value_delimiter = ',')]
    reasons: Vec<String>,
    /// Also messages that no endpoint subscribed to
    #[arg(long)]
    include_unmatched: bool,
    /// Deliveries a second, 1 to 10000; by default as the service is configured
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    rate: u32,
    /// The same key within a day starts nothing more
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until it is done
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The replay's id, `rpl_…`
    id: String,
}

pub(super) async fn run(command: ReplaysCommand, remote: Remote) -> anyhow::Result<()> {
    match command {
        ReplaysCommand::Start(args) => start(args, remote).await,
        ReplaysCommand::Get(args) => {
            let client = remote.connect(&args.one.remote).await?;
            let replay = client.get_replay(&args.one.id).await?;
            let replay = if args.wait {
                wait(&client, replay).await?
            } else {
                replay
            };
            conclude(&args.one.remote, &replay)
        }
        ReplaysCommand::Cancel(args) => {
            let client = remote.connect(&args.remote).await?;
            args.remote.print_one(&client.cancel_replay(&args.id).await?)
        }
    }
}

async fn start(args: StartArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let now = (super::edge().clock)();
    let filter = args.filter;
    let request = v1::StartReplayRequest {
        project_id: filter.project,
        endpoint_id: filter.endpoint,
        status: filter.status.map(i32::from).unwrap_or_default(),
        event_type: filter.event_type,
        since: filter.since.map(|since| since.timestamp(now)),
        until: filter.until.map(|until| until.timestamp(now)),
        since_disabled: args.since_disabled,
        dry_run: args.dry_run,
        failure_reasons: args.reasons,
        include_unmatched: args.include_unmatched,
        rate_per_second: args.rate,
        idempotency_key: args.idempotency_key,
    };
    let replay = client.start_replay(request).await?;
    if args.dry_run || args.detach {
        return args.remote.print_one(&replay);
    }
    note(&format!(
        "{} goes on when this ends; `replays cancel` ends it",
        replay.id
    ))?;
    conclude(&args.remote, &wait(&client, replay).await?)
}

/// Shows how far it is, until it is done.
async fn wait(client: &Client, mut replay: v1::Replay) -> anyhow::Result<v1::Replay> {
    let bar = counting(Some(replay.total), "replaying");
    while replay.state == "running" {
        show(&bar, &replay);
        sleep(INTERVAL).await;
        replay = client.get_replay(&replay.id).await?;
    }
    bar.finish_and_clear();
    Ok(replay)
}

fn show(bar: &ProgressBar, replay: &v1::Replay) {
    bar.set_position(replay.replayed + replay.skipped);
}

fn conclude(flags: &RemoteFlags, replay: &v1::Replay) -> anyhow::Result<()> {
    flags.print_one(replay)?;
    if replay.state == "failed" {
        bail!("the replay failed: {}", replay.reason);
    }
    Ok(())
}
