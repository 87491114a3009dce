//! `endpoints`: where messages go.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use cuitty_webhooks_client::v1;
use serde_json::{Value, json};

use super::remote::{Remote, RemoteFlags, Show as _, Usage, every_page, note};
use super::show::{print_fields, some, stamp};

#[derive(Debug, Subcommand)]
pub(super) enum EndpointsCommand {
    /// Lists a project's endpoints, newest first
    List(ListArgs),
    /// Shows all about one
    Get(OneArgs),
    /// Creates one and prints its signing secret, this once
    Create(Box<CreateArgs>),
    /// Changes what is given, and nothing else
    Update(Box<UpdateArgs>),
    /// Deletes endpoints: they take nothing new, what was accepted before is still delivered
    Delete(DeleteArgs),
    /// Makes a new signing secret and prints it, this once
    RotateSecret(RotateArgs),
    /// Sends a test event
    Test(TestArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The endpoint's id, `ep_…`
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The endpoints' ids, `ep_…`
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
    /// Where it sends: http(s)://…, or nats:<subject>
    #[arg(value_name = "TARGET")]
    target: String,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The endpoint's id, `ep_…`
    id: String,
    /// Where it sends: http(s)://…, or nats:<subject>
    #[arg(long = "to", value_name = "TARGET")]
    target: Option<String>,
    /// Let it take messages again
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Let it take none: what comes ends as failed, and can be replayed
    #[arg(long)]
    disable: bool,
    #[command(flatten)]
    settings: Settings,
}

/// What can be set, and changed. A list that is given empty is emptied.
#[derive(Debug, Args)]
struct Settings {
    /// What it takes, separated by commas: names, `budget.*`, or `*`; empty means all
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    event_types: Option<Vec<String>>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// What carries its messages; by default what the URL looks like
    #[arg(long)]
    kind: Option<Kind>,
    /// A header of every request, `Name: value`; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    headers: Option<Vec<String>>,
    /// Name of a header for the plain hex HMAC-SHA256 of the body; empty for none
    #[arg(long, value_name = "NAME")]
    signature_header: Option<String>,
    /// Total time of one attempt, 1000 to 60000
    #[arg(long, value_name = "MILLISECONDS")]
    timeout_ms: Option<u32>,
    /// Attempts at the same time, 1 to 256
    #[arg(long, value_name = "COUNT")]
    max_in_flight: Option<u32>,
    /// Attempts a second, at most 10000; 0 for no limit
    #[arg(long, value_name = "COUNT")]
    rate_limit: Option<u32>,
    /// Strictly one after the other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ordered: Option<bool>,
    /// Seconds before the 2nd, 3rd, … attempt, separated by commas; empty means the default
    #[arg(long, value_name = "SECONDS", value_delimiter = ',')]
    retry_schedule: Option<Vec<String>>,
    /// Wrap the payload as {"type","timestamp","data"}
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    envelope: Option<bool>,
}

#[derive(Debug, Args)]
struct SecretArgs {
    /// How the secret signs; by default what an imported one is, else what was before, else hmac-sha256
    #[arg(long, value_name = "SCHEME")]
    scheme: Option<Scheme>,
    /// A file with the signing secret to import; without it one is made
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The endpoint's id, `ep_…`
    id: String,
    /// How long the previous secret keeps signing: 0 to 604800; by default 86400
    #[arg(long, value_name = "SECONDS")]
    overlap: Option<u32>,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The endpoint's id, `ep_…`
    id: String,
    /// What kind of event it pretends to be
    #[arg(long, value_name = "TYPE")]
    event_type: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Http,
    Slack,
    Nats,
}

impl From<Kind> for i32 {
    fn from(kind: Kind) -> Self {
        let kind = match kind {
            Kind::Http => v1::EndpointKind::Http,
            Kind::Slack => v1::EndpointKind::Slack,
            Kind::Nats => v1::EndpointKind::Nats,
        };
        kind.into()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scheme {
    HmacSha256,
    Ed25519,
}

pub(super) async fn run(command: EndpointsCommand, remote: Remote) -> anyhow::Result<()> {
    match command {
        EndpointsCommand::List(args) => list(args, remote).await,
        EndpointsCommand::Get(args) => get(args, remote).await,
        EndpointsCommand::Create(args) => create(*args, remote).await,
        EndpointsCommand::Update(args) => update(*args, remote).await,
        EndpointsCommand::Delete(args) => delete(args, remote).await,
        EndpointsCommand::RotateSecret(args) => rotate(args, remote).await,
        EndpointsCommand::Test(args) => test(args, remote).await,
    }
}

async fn list(args: ListArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let endpoints = every_page(async |limit, cursor| {
        let request = v1::ListEndpointsRequest {
            project_id: args.project.clone(),
            page: Some(v1::PageRequest { limit, cursor }),
        };
        let page = client.list_endpoints(request).await?;
        Ok((page.endpoints, page.next_cursor))
    });
    args.remote.print_all(&endpoints.await?)
}

async fn get(args: OneArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    print_fields(&args.remote, &client.get_endpoint(&args.id).await?.json())
}

async fn create(args: CreateArgs, remote: Remote) -> anyhow::Result<()> {
    let mut draft = v1::Endpoint::default();
    args.settings.apply(&mut draft)?;
    let request = v1::CreateEndpointRequest {
        project_id: args.project,
        url: args.target,
        event_types: draft.event_types,
        description: draft.description,
        kind: draft.kind,
        headers: draft.headers,
        signature_header: draft.signature_header,
        timeout_ms: draft.timeout_ms,
        max_in_flight: draft.max_in_flight,
        rate_limit_per_second: draft.rate_limit_per_second,
        ordered: draft.ordered,
        retry_schedule_seconds: draft.retry_schedule_seconds,
        envelope: draft.envelope,
        signing_secret: args.secret.read()?,
        signature_scheme: args.secret.scheme(),
    };
    let client = remote.connect(&args.remote).await?;
    let created = client.create_endpoint(request).await?;
    let mut shown = created.endpoint.unwrap_or_default().json();
    shown["signing_secret"] = created.signing_secret.into();
    print_secret(&args.remote, &shown)
}

async fn update(args: UpdateArgs, remote: Remote) -> anyhow::Result<()> {
    let mut endpoint = v1::Endpoint {
        id: args.id,
        active: args.enable,
        ..v1::Endpoint::default()
    };
    let mut fields = args.settings.apply(&mut endpoint)?;
    if let Some(url) = args.target {
        endpoint.url = url;
        fields.push("url");
    }
    if args.enable || args.disable {
        fields.push("active");
    }
    if fields.is_empty() {
        return Err(Usage("nothing to change is given; see --help".into()).into());
    }
    let client = remote.connect(&args.remote).await?;
    let updated = client.update_endpoint(endpoint, &fields).await?;
    args.remote.print_one(&updated)
}

async fn delete(args: DeleteArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    for id in &args.ids {
        client.delete_endpoint(id).await.with_context(|| id.clone())?;
        if args.remote.is_json() {
            super::print(&json!({"id": id, "deleted": true}).to_string())?;
        } else {
            note(&format!("{id} is deleted"))?;
        }
    }
    Ok(())
}

async fn rotate(args: RotateArgs, remote: Remote) -> anyhow::Result<()> {
    let request = v1::RotateSecretRequest {
        endpoint_id: args.id,
        overlap_seconds: args.overlap,
        signing_secret: args.secret.read()?,
        signature_scheme: args.secret.scheme(),
    };
    let client = remote.connect(&args.remote).await?;
    let rotated = client.rotate_secret(request).await?;
    let shown = json!({
        "signing_secret": rotated.signing_secret,
        "secret_id": rotated.secret_id,
        "public_key": some(&rotated.public_key),
        "previous_expires_at": stamp(rotated.previous_expires_at),
    });
    print_secret(&args.remote, &shown)
}

async fn test(args: TestArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let request = v1::SendTestEventRequest {
        endpoint_id: args.id,
        event_type: args.event_type,
        ..v1::SendTestEventRequest::default()
    };
    args.remote.print_one(&client.send_test_event(request).await?)
}

fn print_secret(flags: &RemoteFlags, shown: &Value) -> anyhow::Result<()> {
    if !flags.is_json() {
        note("the signing secret is shown only this once")?;
    }
    print_fields(flags, shown)
}

impl SecretArgs {
    /// The secret to import; empty when there is none.
    fn read(&self) -> anyhow::Result<String> {
        let Some(path) = &self.secret_file else {
            return Ok(String::new());
        };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    fn scheme(&self) -> i32 {
        let scheme = match self.scheme {
            None => v1::SignatureScheme::Unspecified,
            Some(Scheme::HmacSha256) => v1::SignatureScheme::HmacSha256,
            Some(Scheme::Ed25519) => v1::SignatureScheme::Ed25519,
        };
        scheme.into()
    }
}

impl Settings {
    /// Puts what is given into `endpoint`, and tells the names of these fields.
    fn apply(self, endpoint: &mut v1::Endpoint) -> Result<Vec<&'static str>, Usage> {
        let mut fields = Vec::new();
        let mut is_given = |field: &'static str| fields.push(field);
        if let Some(event_types) = self.event_types {
            endpoint.event_types = without_empty(event_types);
            is_given("event_types");
        }
        if let Some(description) = self.description {
            endpoint.description = description;
            is_given("description");
        }
        if let Some(kind) = self.kind {
            endpoint.kind = kind.into();
            is_given("kind");
        }
        if let Some(headers) = self.headers {
            endpoint.headers = without_empty(headers)
                .iter()
                .map(|header| read_header(header))
                .collect::<Result<_, _>>()?;
            is_given("headers");
        }
        if let Some(name) = self.signature_header {
            endpoint.signature_header = name;
            is_given("signature_header");
        }
        if let Some(timeout_ms) = self.timeout_ms {
            endpoint.timeout_ms = timeout_ms;
            is_given("timeout_ms");
        }
        if let Some(max_in_flight) = self.max_in_flight {
            endpoint.max_in_flight = max_in_flight;
            is_given("max_in_flight");
        }
        if let Some(rate_limit) = self.rate_limit {
            endpoint.rate_limit_per_second = rate_limit;
            is_given("rate_limit_per_second");
        }
        if let Some(ordered) = self.ordered {
            endpoint.ordered = ordered;
            is_given("ordered");
        }
        if let Some(delays) = self.retry_schedule {
            endpoint.retry_schedule_seconds = without_empty(delays)
                .iter()
                .map(|delay| delay.parse())
                .collect::<Result<_, _>>()
                .map_err(|_| Usage("--retry-schedule must be whole seconds, separated by commas".into()))?;
            is_given("retry_schedule_seconds");
        }
        if let Some(envelope) = self.envelope {
            endpoint.envelope = envelope;
            is_given("envelope");
        }
        Ok(fields)
    }
}

fn without_empty(list: Vec<String>) -> Vec<String> {
    list.into_iter().filter(|item| !item.is_empty()).collect()
}

fn read_header(text: &str) -> Result<v1::Header, Usage> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| Usage(format!("--header {text}: must be `Name: value`")))?;
    Ok(v1::Header {
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
    })
}
