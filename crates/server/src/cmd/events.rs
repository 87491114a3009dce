//! `events send`: messages in, one or many.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use cuitty_webhooks_client::{Client, ItemRefused, v1};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::bar::counting;
use super::remote::{Remote, RemoteFlags, Show, Usage, note};
use super::show::harmless;

/// Refused lines that a person is told of one by one.
const TOLD: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Sends an event to every endpoint that takes it, or, with --lines, many
    Send(SendArgs),
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// What has happened, such as budget.exceeded
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// The payload; without it and --file, standard input is read
    #[arg(conflicts_with = "file")]
    payload: Option<String>,
    /// A file with the payload; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Each line is the payload of an event of its own; empty ones are left out
    #[arg(long, conflicts_with = "payload")]
    lines: bool,
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
    /// To this endpoint only, `ep_…`, whatever its event types
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    endpoint: String,
    /// The same key within a day sends nothing more; with --lines the line's number is added, so that a file can be sent again
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    /// Of the payload; by default application/json
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
}

/// What became of one event.
struct Sent(v1::DeliverResponse);

impl Show for Sent {
    const HEAD: &'static [&'static str] = &["MESSAGE", "DELIVERIES", "LOG SEQUENCE", "DUPLICATE"];

    fn row(&self) -> Vec<String> {
        let ids: Vec<_> = self.0.deliveries.iter().map(|delivery| &*delivery.id).collect();
        let deliveries = match ids[..] {
            [] => "none: nobody takes it".to_owned(),
            _ => ids.join(" "),
        };
        vec![
            self.0.message_id.clone(),
            deliveries,
            self.0.log_sequence.to_string(),
            if self.0.duplicate { "yes" } else { "no" }.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let deliveries = self.0.deliveries.iter();
        json!({
            "message_id": self.0.message_id,
            "deliveries": deliveries
                .map(|delivery| json!({"id": delivery.id, "endpoint_id": delivery.endpoint_id}))
                .collect::<Value>(),
            "log_sequence": self.0.log_sequence,
            "duplicate": self.0.duplicate,
        })
    }
}

pub(super) async fn run(command: EventsCommand, remote: Remote) -> anyhow::Result<()> {
    let EventsCommand::Send(mut args) = command;
    let from_input = args.payload.is_none() && args.file.as_deref().is_none_or(|file| file == Path::new("-"));
    if from_input && args.file.is_none() && std::io::stdin().is_terminal() {
        return Err(
            Usage("no payload: give it as an argument, with --file, or on standard input".into()).into(),
        );
    }
    let file = args.file.take().filter(|_| !from_input);
    let event = v1::DeliverRequest {
        project_id: std::mem::take(&mut args.project),
        event_type: std::mem::take(&mut args.event_type),
        endpoint_id: std::mem::take(&mut args.endpoint),
        idempotency_key: std::mem::take(&mut args.idempotency_key),
        content_type: std::mem::take(&mut args.content_type),
        ..v1::DeliverRequest::default()
    };
    if args.lines {
        let lines = lines(file.as_deref())?;
        let client = remote.connect(&args.remote).await?;
        return send_lines(&client, &args.remote, event, lines).await;
    }
    let payload = match (args.payload, file) {
        (Some(payload), _) => payload.into_bytes(),
        (None, Some(file)) => std::fs::read(&file).with_context(|| unreadable(&file))?,
        (None, None) => {
            let mut payload = Vec::new();
            std::io::stdin().read_to_end(&mut payload)?;
            payload
        }
    };
    let event = v1::DeliverRequest {
        payload: payload.into(),
        ..event
    };
    let client = remote.connect(&args.remote).await?;
    args.remote.print_one(&Sent(client.deliver(event).await?))
}

fn unreadable(file: &Path) -> String {
    format!("cannot read {}", file.display())
}

/// A line that is not empty, and its number, from 1.
type Line = (u64, Vec<u8>);

/// The lines of a file, or of standard input. They end at the first one that cannot be read.
fn lines(file: Option<&Path>) -> anyhow::Result<impl Stream<Item = anyhow::Result<Line>>> {
    let file = match file {
        Some(file) => std::fs::File::open(file).with_context(|| unreadable(file))?,
        None => std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?),
    };
    let input = BufReader::new(tokio::fs::File::from_std(file)).split(b'\n');
    let lines = stream::unfold(Some((input, 0)), async |state| {
        let (mut input, mut number) = state?;
        loop {
            number += 1;
            match input.next_segment().await {
                Ok(Some(line)) if line.trim_ascii().is_empty() => {}
                Ok(Some(line)) => return Some((Ok((number, line)), Some((input, number)))),
                Ok(None) => return None,
                Err(error) => return Some((Err(error.into()), None)),
            }
        }
    });
    Ok(lines)
}

async fn send_lines(
    client: &Client,
    flags: &RemoteFlags,
    event: v1::DeliverRequest,
    lines: impl Stream<Item = anyhow::Result<Line>>,
) -> anyhow::Result<()> {
    let bar = counting(None, "sending");
    // Of the events on their way, by their place.
    let numbers = std::sync::Mutex::new(BTreeMap::new());
    let unread = std::sync::Mutex::new(None);
    let numbers_of = || numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut place = 0;
    let items = lines.filter_map(|line| {
        let item = match line {
            Ok((number, payload)) => {
                numbers_of().insert(place, number);
                place += 1;
                let key = match &*event.idempotency_key {
                    "" => String::new(),
                    key => format!("{key}-{number}"),
                };
                Some(v1::DeliverRequest {
                    payload: payload.into(),
                    idempotency_key: key,
                    ..event.clone()
                })
            }
            Err(error) => {
                *unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                None
            }
        };
        std::future::ready(item)
    });
    let mut tally = Tally::default();
    let mut printed = Ok(());
    let each = |place, result: Result<v1::DeliverResponse, ItemRefused>| {
        bar.inc(1);
        let number = numbers_of().remove(&place).unwrap_or_default();
        if printed.is_ok() {
            printed = bar.suspend(|| tally.add(flags, number, result));
        }
    };
    let sent = client.deliver_all(items, each).await;
    bar.finish_and_clear();
    printed?;
    if !flags.is_json() {
        super::print(&tally.to_string())?;
    }
    sent.context("not everything was sent")?;
    if let Some(error) = unread
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        return Err(error.context("not everything could be read"));
    }
    match tally.refused {
        0 => Ok(()),
        count => bail!("{count} of {} events are refused", count + tally.accepted),
    }
}

/// How many fared how.
#[derive(Default)]
struct Tally {
    accepted: usize,
    duplicates: usize,
    refused: usize,
    deliveries: usize,
}

impl Tally {
    /// Counts an event, and tells of it.
    fn add(
        &mut self,
        flags: &RemoteFlags,
        number: u64,
        result: Result<v1::DeliverResponse, ItemRefused>,
    ) -> anyhow::Result<()> {
        let mut shown = match result {
            Ok(taken) => {
                self.accepted += 1;
                self.duplicates += usize::from(taken.duplicate);
                self.deliveries += taken.deliveries.len();
                Sent(taken).json()
            }
            Err(refused) => {
                self.refused += 1;
                if !flags.is_json() && self.refused <= TOLD {
                    note(&harmless(&format!("line {number}: {refused}")))?;
                }
                json!({"error": {
                    "reason": refused.reason,
                    "message": refused.message,
                    "field": refused.field,
                }})
            }
        };
        if flags.is_json() {
            shown["line"] = number.into();
            super::print(&shown.to_string())?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            accepted,
            duplicates,
            refused,
            deliveries,
        } = self;
        write!(
            f,
            "accepted: {accepted} ({duplicates} of them before), deliveries: {deliveries}, refused: {refused}"
        )
    }
}
