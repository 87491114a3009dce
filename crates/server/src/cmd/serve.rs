//! `serve`, `api`, `ingest`, `dispatcher`, `projector`: roles of one process, until a signal.

use crate::config::{Config, Sources};
use crate::roles::{Role, Running};
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) async fn run(roles: &[Role], sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, roles)?;
    let mut edge = super::edge();
    let telemetry = telemetry::init(&config.telemetry, Some(&edge.instance(roles)))?;
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let ran = async { Running::start(&config, roles, edge, shutdown).await?.run().await };
    let ended = ran.await;
    telemetry.close().await;
    ended
}
