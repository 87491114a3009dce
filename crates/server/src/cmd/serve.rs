//! `serve`, `api`, `ingest`, `dispatcher`, `projector`: roles of one process, until a signal.

use std::time::Duration;

use crate::config::{Config, Sources};
use crate::roles::{Role, Running};
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) async fn run(roles: &[Role], sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, roles)?;
    let mut edge = super::edge();
    let telemetry = telemetry::init(&config.telemetry, Some(&edge.instance(roles)))?;
    let shutdown = Shutdown::default();
    // Only an API is sent calls by somebody who has to learn that it goes.
    let delay = if roles.contains(&Role::Api) {
        config.shutdown.delay
    } else {
        Duration::ZERO
    };
    shutdown.on_signals_after(delay)?;
    let ran = async { Running::start(&config, roles, edge, shutdown).await?.run().await };
    let ended = ran.await;
    telemetry.close().await;
    ended
}
