//! `topology check` and `topology apply`.

use anyhow::bail;
use clap::Subcommand;
use cuitty_webhooks_log::topology::survey::{self, Server, Survey};
use cuitty_webhooks_log::{Log, StreamState};

use crate::config::{Config, Sources};
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub(super) enum TopologyCommand {
    /// Compares streams and consumers with the configuration and shows on which servers they are, changes nothing; exits with 1
    /// if anything differs, a server is down or a copy is missing
    Check,
    /// Makes what is missing and changes what can be changed
    Apply,
}

pub(super) async fn run(command: TopologyCommand, sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, &[])?;
    let _telemetry = telemetry::init(&config.telemetry, None)?;
    let checks = matches!(command, TopologyCommand::Check);
    let mut faults = 0;
    if checks {
        for Server { address, version } in survey::servers(&config.log).await? {
            let version = version.unwrap_or_else(|error| {
                faults += 1;
                error.to_string()
            });
            super::print(&format!("{address:<26} {version}"))?;
        }
    }
    let log = Log::connect(config.log).await.map_err(super::about("log.url"))?;
    let topology = if checks {
        log.check().await?
    } else {
        log.ensure().await?
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
    if checks {
        faults += show(&log.survey().await?)?;
    }
    match (topology.drifted().count(), faults) {
        (0, 0) => Ok(()),
        (0, faults) => bail!("{faults} servers, streams or consumers are not as they should be"),
        (count, _) => bail!("{count} streams are not as configured"),
    }
}

/// Prints where everything is; how much of it is not as it should be.
fn show(survey: &Survey) -> anyhow::Result<usize> {
    let mut faults = 0;
    for part in &survey.parts {
        let problem = part.problem();
        faults += usize::from(problem.is_some());
        super::print(&format!(
            "{:<26} {} of {} copies, led by {}, {} messages, {} bytes{}",
            part.name,
            part.copies.0,
            part.copies.1,
            part.leader.as_deref().unwrap_or("nobody"),
            part.messages,
            part.bytes,
            problem.map(|problem| format!(": {problem}")).unwrap_or_default(),
        ))?;
    }
    let limit = survey
        .limit
        .map_or("no limit of the account".into(), |limit| format!("{limit} bytes"));
    super::print(&format!("{:<26} {} bytes of {limit}", "storage", survey.stored))?;
    Ok(faults)
}
