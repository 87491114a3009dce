//! `serve`, `api`, `ingest`, `dispatcher`, `projector`: roles of one process, until a signal.

use crate::config::{Config, Sources};
use crate::roles::{Role, Running};
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) async fn run(roles: &[Role], sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, roles)?;
    let _telemetry = telemetry::init(&config.telemetry)?;
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    Running::start(&config, roles, super::edge(), shutdown)
        .await?
        .run()
        .await
}
