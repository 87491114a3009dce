//! `event-types`: what a project knows of its events.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use cuitty_webhooks_client::v1;

use super::remote::{Remote, RemoteFlags, Show as _, Usage, every_page};
use super::show::print_fields;

#[derive(Debug, Subcommand)]
pub(super) enum EventTypesCommand {
    /// Lists the types of a project by their names
    List(ListArgs),
    /// Shows all about one
    Get(OneArgs),
    /// Creates one
    Create(CreateArgs),
    /// Changes what is given, and nothing else
    Update(UpdateArgs),
    /// Archives one: its messages are refused from then on
    Archive(OneArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
    /// Archived ones too
    #[arg(long)]
    archived: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
    /// Its name, such as budget.exceeded
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    settings: Settings,
    /// Take it out of the archive
    #[arg(long)]
    restore: bool,
}

#[derive(Debug, Args)]
struct Settings {
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A file with a JSON Schema (2020-12) of the payload; `none` for none
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// A file with an example of the payload, which test events then have; `none` for none
    #[arg(long, value_name = "FILE")]
    example: Option<PathBuf>,
    /// Refuse payloads that do not satisfy the schema
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    enforce: Option<bool>,
}

pub(super) async fn run(command: EventTypesCommand, remote: Remote) -> anyhow::Result<()> {
    match command {
        EventTypesCommand::List(args) => list(args, remote).await,
        EventTypesCommand::Get(args) => {
            let client = remote.connect(&args.remote).await?;
            let Which { project, name } = &args.which;
            print_fields(&args.remote, &client.get_event_type(project, name).await?.json())
        }
        EventTypesCommand::Create(args) => {
            let mut event_type = args.which.into();
            args.settings.apply(&mut event_type)?;
            let client = remote.connect(&args.remote).await?;
            args.remote
                .print_one(&client.create_event_type(event_type).await?)
        }
        EventTypesCommand::Update(args) => update(args, remote).await,
        EventTypesCommand::Archive(args) => {
            let client = remote.connect(&args.remote).await?;
            let Which { project, name } = &args.which;
            args.remote
                .print_one(&client.archive_event_type(project, name).await?)
        }
    }
}

async fn list(args: ListArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let event_types = every_page(async |limit, cursor| {
        let request = v1::ListEventTypesRequest {
            project_id: args.project.clone(),
            page: Some(v1::PageRequest { limit, cursor }),
            include_archived: args.archived,
        };
        let page = client.list_event_types(request).await?;
        Ok((page.event_types, page.next_cursor))
    });
    args.remote.print_all(&event_types.await?)
}

async fn update(args: UpdateArgs, remote: Remote) -> anyhow::Result<()> {
    let mut event_type = args.which.into();
    let mut fields = args.settings.apply(&mut event_type)?;
    if args.restore {
        // The default is what is meant: not archived.
        fields.push("archived");
    }
    if fields.is_empty() {
        return Err(Usage("nothing to change is given; see --help".into()).into());
    }
    let client = remote.connect(&args.remote).await?;
    args.remote
        .print_one(&client.update_event_type(event_type, &fields).await?)
}

impl From<Which> for v1::EventType {
    fn from(Which { project, name }: Which) -> Self {
        Self {
            project_id: project,
            name,
            ..Self::default()
        }
    }
}

impl Settings {
    /// Puts what is given into `event_type`, and tells the names of these fields.
    fn apply(self, event_type: &mut v1::EventType) -> anyhow::Result<Vec<&'static str>> {
        let mut fields = Vec::new();
        if let Some(description) = self.description {
            event_type.description = description;
            fields.push("description");
        }
        if let Some(path) = self.schema {
            event_type.schema = read(&path)?;
            fields.push("schema");
        }
        if let Some(path) = self.example {
            event_type.example = read(&path)?;
            fields.push("example");
        }
        if let Some(enforce) = self.enforce {
            event_type.enforce_schema = enforce;
            fields.push("enforce_schema");
        }
        Ok(fields)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == "none" {
        return Ok(String::new());
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
