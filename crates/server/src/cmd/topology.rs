//! `topology check` and `topology apply`.

use anyhow::bail;
use clap::Subcommand;
use cuitty_webhooks_log::{Log, StreamState};

use crate::config::{Config, Sources};
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub(super) enum TopologyCommand {
    /// Compares the streams with the configuration, changes nothing; exits with 1 if they differ
    Check,
    /// Makes what is missing and changes what can be changed
    Apply,
}

pub(super) async fn run(command: TopologyCommand, sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, &[])?;
    let _telemetry = telemetry::init(&config.telemetry)?;
    let log = Log::connect(config.log).await.map_err(super::about("log.url"))?;
    let topology = match command {
        TopologyCommand::Check => log.check().await?,
        TopologyCommand::Apply => log.ensure().await?,
    };
    super::print(&format!("{} partitions", topology.partitions))?;
    for stream in &topology.streams {
        let state = match &stream.state {
            StreamState::Created => "created",
            StreamState::Unchanged => "unchanged",
            StreamState::Updated => "updated",
            StreamState::Drifted(difference) => difference,
        };
        super::print(&format!("{:<26} {state}", stream.name))?;
    }
    match topology.drifted().count() {
        0 => Ok(()),
        count => bail!("{count} streams are not as configured"),
    }
}
