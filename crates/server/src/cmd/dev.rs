//! `dev`: everything in one process, for a first look and for development.

use std::path::PathBuf;

use clap::Args;

use super::Invocation;
use crate::dev::{DEFAULT_DATA_DIR, Dev, DevInfo, DevOptions, Prepared};
use crate::roles::Role;
use crate::shutdown::Shutdown;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    #[command(flatten)]
    pub(super) options: DevFlags,
    /// Print one line of JSON when ready: where everything is, and the API key
    #[arg(long)]
    ready_json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DevFlags {
    /// Everything that is kept: history, log, keys
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Address of the API; port 0 takes a free one [default: 127.0.0.1:7710]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of /livez, /readyz and /metrics [default: 127.0.0.1:7711]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Use this nats-server instead of starting one
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Use this database instead of an SQLite file in the data directory
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

impl DevFlags {
    pub(super) fn into_options(self, mut invocation: Invocation) -> DevOptions {
        invocation.set("listen.api", self.listen);
        invocation.set("listen.admin", self.admin_listen);
        invocation.set("log.url", self.nats);
        invocation.set("history.url", self.database);
        DevOptions {
            data_dir: self.data_dir,
            sources: invocation.sources,
            path: invocation.path,
        }
    }
}

pub(super) async fn run(args: DevArgs, invocation: Invocation) -> anyhow::Result<()> {
    let mut edge = super::edge();
    let prepared = Prepared::new(args.options.into_options(invocation), &mut edge)?;
    let telemetry = telemetry::init(&prepared.config().telemetry, Some(&edge.instance(&Role::ALL)))?;
    let asked = Shutdown::default();
    asked.on_signals()?;
    // Of their own, so that a role that fails, which ends the others, is not taken for a signal.
    let roles = asked.child();
    let Some(dev) = Box::pin(Dev::start(prepared, edge, &asked, roles)).await? else {
        return Ok(());
    };
    super::print(&if args.ready_json {
        serde_json::to_string(dev.info())?
    } else {
        describe(dev.info())
    })?;
    let ended = dev.run().await;
    telemetry.close().await;
    ended
}

pub(super) fn describe(info: &DevInfo) -> String {
    format!(
        "Cuitty Webhooks is ready\n  \
         API      http://{}\n  \
         admin    http://{}  (/livez, /readyz, /metrics)\n  \
         API key  {}\n  \
         NATS     {}\n  \
         data     {}",
        info.listen,
        info.admin,
        info.api_key.as_deref().unwrap_or("as configured"),
        info.nats_url,
        info.data_dir.display(),
    )
}
