//! The command line: one file per command.

mod backup;
mod bar;
mod completion;
mod config;
mod deliveries;
mod demo;
mod dev;
mod endpoints;
mod event_types;
mod events;
mod fault;
mod healthcheck;
mod keys;
mod listen;
mod mcp;
mod moment;
mod openapi;
mod projection;
mod remote;
mod replays;
mod serve;
mod show;
mod topology;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use cuitty_webhooks_api::ApiError;
use cuitty_webhooks_dispatcher::DispatcherError;
use cuitty_webhooks_history::HistoryError;
use cuitty_webhooks_log::LogError;

use self::remote::Remote;
use crate::config::{ENV_PREFIX, Problems, Sources};
use crate::roles::{Edge, Role};

/// Exit code of a failure at run time.
const FAILURE: u8 = 1;
/// Exit code of bad usage, which clap exits with too.
const BAD_USAGE: u8 = 2;
/// Exit code of a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;
/// How long tasks that were cut off may hold the exit up.
const EXIT_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
#[command(
    name = "cuitty-webhooks",
    version,
    about = "Delivers webhooks: log-backed, signed, retried, recorded"
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file, over the defaults and under the environment
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log lines: auto, pretty or json
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: a level, or levels by target, separated by commas
    #[arg(long, global = true, value_name = "FILTER")]
    log_filter: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All roles in one process, with an SQLite file and a nats-server of its own
    Dev(dev::DevArgs),
    /// The API: takes messages and manages endpoints
    Api,
    /// Takes messages that are published on NATS
    Ingest,
    /// A dispatcher: delivers
    Dispatcher,
    /// A projector: folds the log into the history
    Projector,
    /// Several roles in one process
    Serve {
        /// Which: api, ingest, dispatcher, projector
        #[arg(
            long = "role",
            value_name = "ROLE",
            value_enum,
            value_delimiter = ',',
            required = true
        )]
        roles: Vec<Role>,
    },
    /// The streams of the log
    #[command(subcommand)]
    Topology(topology::TopologyCommand),
    /// The delivery history, which is folded from the log
    #[command(subcommand)]
    Projection(projection::ProjectionCommand),
    /// Backs up the log, and an SQLite history, while everything runs
    Backup(backup::BackupArgs),
    /// Restores a backup into an empty place, before any role is started
    Restore(backup::RestoreArgs),
    /// API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Tools for agents: MCP over standard input and output, of a running service
    Mcp(mcp::McpArgs),
    /// Endpoints: where messages go
    #[command(subcommand)]
    Endpoints(endpoints::EndpointsCommand),
    /// Events: messages in
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Deliveries: what became of every message
    #[command(subcommand)]
    Deliveries(deliveries::DeliveriesCommand),
    /// Replays: many deliveries again
    #[command(subcommand)]
    Replays(replays::ReplaysCommand),
    /// Event types: what a project knows of its events
    #[command(subcommand)]
    EventTypes(event_types::EventTypesCommand),
    /// Listens with an endpoint of its own, and prints or forwards what arrives, until interrupted
    Listen(listen::ListenArgs),
    /// The configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Asks the process on this machine whether it is ready; exits with 1 if it is not
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Prints the OpenAPI document of the REST API
    Openapi,
    /// Prints what makes a shell complete this command line
    Completion {
        /// Which shell
        shell: completion::Shell,
    },
    /// Delivers a first event to a receiver of its own and shows what happened
    #[command(hide = true)]
    Demo(demo::DemoArgs),
}

/// What the edge of the process hands to a command.
struct Invocation {
    sources: Sources,
    /// The value of `PATH`.
    path: Option<OsString>,
    /// The API that is called, of the commands that call one.
    remote: Remote,
}

impl Invocation {
    /// Of a command whose output is for a person: only what is wrong is logged, unless somebody asks for more.
    fn quiet(&mut self) {
        self.sources
            .preset
            .push(("telemetry.log_filter".into(), "warn".into()));
    }

    fn set(&mut self, key: &str, value: Option<impl ToString>) {
        self.sources
            .flags
            .extend(value.map(|value| (key.to_owned(), value.to_string())));
    }
}

/// Runs the command that `args` name.
pub fn main(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let Cli { common, command } = Cli::parse_from(args);
    let mut invocation = Invocation {
        sources: Sources {
            file: common.config,
            ..Sources::default()
        },
        path: None,
        remote: Remote::default(),
    };
    for (name, value) in environment {
        match name.to_str() {
            Some("PATH") => invocation.path = Some(value),
            Some(name) if invocation.remote.set(name, &value) => {}
            Some(name) if name.starts_with(ENV_PREFIX) => {
                let value = value.to_string_lossy().into_owned();
                invocation.sources.environment.push((name.to_owned(), value));
            }
            _ => {}
        }
    }
    invocation.set("telemetry.log_format", common.log_format);
    invocation.set("telemetry.log_filter", common.log_filter);
    match run(command, invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(std::io::stderr(), "error: {}", fault::describe(&error));
            ExitCode::from(if fault::is_usage(&error) {
                BAD_USAGE
            } else if is_configuration(&error) {
                BAD_CONFIGURATION
            } else {
                FAILURE
            })
        }
    }
}

fn run(command: Command, mut invocation: Invocation) -> anyhow::Result<()> {
    match command {
        Command::Config(command) => return config::run(&command, &invocation.sources),
        Command::Openapi => return openapi::run(),
        Command::Completion { shell } => return completion::run(shell),
        Command::Topology(_)
        | Command::Projection(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Demo(_) => invocation.quiet(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Dev(args) => Box::pin(dev::run(args, invocation)).await,
            Command::Api => serve::run(&[Role::Api], &invocation.sources).await,
            Command::Ingest => serve::run(&[Role::Ingest], &invocation.sources).await,
            Command::Dispatcher => serve::run(&[Role::Dispatcher], &invocation.sources).await,
            Command::Projector => serve::run(&[Role::Projector], &invocation.sources).await,
            Command::Serve { roles } => serve::run(&roles, &invocation.sources).await,
            Command::Topology(command) => topology::run(command, &invocation.sources).await,
            Command::Projection(command) => projection::run(command, &invocation.sources).await,
            Command::Backup(args) => backup::back_up(args, &invocation.sources).await,
            Command::Restore(args) => backup::restore(args, &invocation.sources).await,
            Command::Keys(command) => keys::run(command, invocation.remote).await,
            Command::Mcp(args) => mcp::run(args, invocation.remote).await,
            Command::Endpoints(command) => endpoints::run(command, invocation.remote).await,
            Command::Events(command) => events::run(command, invocation.remote).await,
            Command::Deliveries(command) => deliveries::run(command, invocation.remote).await,
            Command::Replays(command) => replays::run(command, invocation.remote).await,
            Command::EventTypes(command) => event_types::run(command, invocation.remote).await,
            Command::Listen(args) => listen::run(args, invocation.remote).await,
            Command::Healthcheck(args) => healthcheck::run(args, &invocation.sources).await,
            Command::Demo(args) => Box::pin(demo::run(args, invocation)).await,
            Command::Config(_) | Command::Openapi | Command::Completion { .. } => Ok(()),
        }
    });
    runtime.shutdown_timeout(EXIT_GRACE);
    result
}

/// Names the setting that an error is about, unless the error does.
pub(crate) fn about<E>(setting: &'static str) -> impl FnOnce(E) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let section = setting.split_inclusive('.').next().unwrap_or_default();
    move |error| {
        if error.to_string().starts_with(section) {
            error.into()
        } else {
            anyhow::Error::new(error).context(setting)
        }
    }
}

/// Whether the configuration is to blame.
fn is_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Problems>()
            || matches!(cause.downcast_ref(), Some(LogError::Config { .. }))
            || matches!(cause.downcast_ref(), Some(HistoryError::BadUrl(_)))
            || matches!(cause.downcast_ref(), Some(ApiError::Tls(_)))
            || matches!(cause.downcast_ref(), Some(DispatcherError::Config { .. }))
    })
}

/// Real time and randomness.
fn edge() -> Edge {
    #[expect(clippy::disallowed_methods, reason = "this is the binary's edge")]
    Edge {
        clock: chrono::Utc::now,
        rng: rand::make_rng(),
    }
}

/// Writes an answer to standard output. A reader that is gone, as in `… | head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_while_read(text).map(drop)
}

/// Like [`print`]; tells whether the reader is still there, for what goes on and on.
fn print_while_read(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_of_the_configuration_are_told_apart() {
        let bad_url = LogError::Config {
            setting: "log.url",
            message: "must be a URL".into(),
        };
        assert!(is_configuration(&anyhow::Error::new(bad_url).context("starting")));
        let down = about("log.url")(LogError::Unavailable("down".into()));
        assert_eq!(format!("{down:#}"), "log.url: log is not available: down");
        let named = about("history.url")(HistoryError::BadUrl("no".into()));
        assert_eq!(format!("{named:#}"), "history.url: no");
        assert!(is_configuration(&Problems(Vec::new()).into()));
        assert!(!is_configuration(&LogError::Unavailable("down".into()).into()));
    }
}
