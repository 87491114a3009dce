//! `keys create`, `keys list` and `keys revoke`: API keys of a running service.

use clap::{Args, Subcommand};
use cuitty_webhooks_client::v1;
use cuitty_webhooks_domain::api_key::Scope;
use serde_json::{Value, json};

use super::remote::{Remote, RemoteFlags, Show, every_page, minute, note, rfc3339, time};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Makes a key and prints it, this once
    Create(CreateArgs),
    /// Lists the keys, newest first, revoked ones too
    List(ListArgs),
    /// Ends a key for good, within a second everywhere
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The one project that the key is good for; without it that of the calling key, or all
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// What it is good for, separated by commas: deliver, read, manage, admin (everything)
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
    scopes: Vec<Scope>,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// Only keys of this project
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// The key's id, `key_…`; not the key itself
    id: String,
}

pub(super) async fn run(command: KeysCommand, remote: Remote) -> anyhow::Result<()> {
    match command {
        KeysCommand::Create(args) => create(args, remote).await,
        KeysCommand::List(args) => list(args, remote).await,
        KeysCommand::Revoke(args) => revoke(args, remote).await,
    }
}

async fn create(args: CreateArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let created = client
        .create_api_key(v1::CreateApiKeyRequest {
            project_id: args.project.unwrap_or_default(),
            scopes: args.scopes.iter().map(ToString::to_string).collect(),
            description: args.description,
        })
        .await?;
    let key = created.api_key.unwrap_or_default();
    if args.remote.is_json() {
        let mut shown = key.json();
        shown["secret"] = created.secret.into();
        return super::print(&shown.to_string());
    }
    // The key alone, so that a shell can take it.
    note(&format!("{}: this key is shown only this once", key.id))?;
    super::print(&created.secret)
}

async fn list(args: ListArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let project_id = args.project.unwrap_or_default();
    let keys = every_page(async |limit, cursor| {
        let request = v1::ListApiKeysRequest {
            project_id: project_id.clone(),
            page: Some(v1::PageRequest { limit, cursor }),
        };
        let page = client.list_api_keys(request).await?;
        Ok((page.api_keys, page.next_cursor))
    });
    args.remote.print_all(&keys.await?)
}

async fn revoke(args: RevokeArgs, remote: Remote) -> anyhow::Result<()> {
    let client = remote.connect(&args.remote).await?;
    let key = client.revoke_api_key(&args.id).await?;
    args.remote.print_one(&key)
}

impl Show for v1::ApiKey {
    const HEAD: &'static [&'static str] = &[
        "ID",
        "PROJECT",
        "SCOPES",
        "CREATED",
        "LAST USED",
        "REVOKED",
        "DESCRIPTION",
    ];

    fn row(&self) -> Vec<String> {
        let project = if self.project_id.is_empty() {
            "(all)"
        } else {
            &self.project_id
        };
        vec![
            self.id.clone(),
            project.into(),
            self.scopes.join(","),
            minute(self.created_at.and_then(|at| time(at.seconds, at.nanos))),
            minute(self.last_used_at.and_then(|at| time(at.seconds, at.nanos))),
            minute(self.revoked_at.and_then(|at| time(at.seconds, at.nanos))),
            self.description.clone(),
        ]
    }

    fn json(&self) -> Value {
        let project_id = Some(&self.project_id).filter(|id| !id.is_empty());
        json!({
            "id": self.id,
            "project_id": project_id,
            "scopes": self.scopes,
            "description": self.description,
            "created_at": rfc3339(self.created_at.and_then(|at| time(at.seconds, at.nanos))),
            "created_by": self.created_by,
            "last_used_at": rfc3339(self.last_used_at.and_then(|at| time(at.seconds, at.nanos))),
            "revoked_at": rfc3339(self.revoked_at.and_then(|at| time(at.seconds, at.nanos))),
        })
    }
}
