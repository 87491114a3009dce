//! `projection rebuild` and `projection verify`.

use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::Log;
use cuitty_webhooks_projector::{Progress, RebuildOptions, Stage, rebuild, verify};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{Config, Sources};
use crate::shutdown::Shutdown;
use crate::telemetry;

#[derive(Debug, Subcommand)]
pub(super) enum ProjectionCommand {
    /// Empties the history and folds it again from the log; readers see it fill up
    Rebuild {
        /// Rebuild although the log's first events are past their retention: their rows are lost
        #[arg(long)]
        force: bool,
    },
    /// Compares the history with a fold of the log, row by row; exits with 1 if they differ
    Verify,
}

pub(super) async fn run(command: ProjectionCommand, sources: &Sources) -> anyhow::Result<()> {
    let (mut config, _) = Config::load(sources, &[])?;
    let _telemetry = telemetry::init(&config.telemetry, None)?;
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let bar = Bar::new();
    match command {
        ProjectionCommand::Rebuild { force } => {
            let store = Store::open(&config.history)
                .await
                .map_err(super::about("history.url"))?;
            let log = Log::connect(config.log).await.map_err(super::about("log.url"))?;
            config.projector.id = format!("rebuild-{}", std::process::id());
            let options = RebuildOptions {
                force,
                config: config.projector,
            };
            let report = rebuild(&log, &store, &options, &shutdown.soft, |progress| {
                bar.show(progress);
            })
            .await?;
            bar.clear();
            let by = if report.by_live_projector {
                " by the active projector"
            } else {
                ""
            };
            super::print(&format!(
                "rebuilt{by} up to log sequence {}: {} events in {:.1?}, {:.0} events/s",
                report.checkpoint,
                report.events,
                report.elapsed,
                rate(report.events, report.elapsed),
            ))
        }
        ProjectionCommand::Verify => {
            let store = Store::open_existing(&config.history)
                .await
                .map_err(super::about("history.url"))?;
            let log = Log::connect(config.log).await.map_err(super::about("log.url"))?;
            let progress = |progress| bar.show(progress);
            let report = verify(&log, &store, &config.projector, &shutdown.soft, progress).await?;
            bar.clear();
            super::print(&format!(
                "folded {} events up to log sequence {} in {:.1?}, {:.0} events/s",
                report.events,
                report.checkpoint,
                report.folding,
                rate(report.events, report.folding),
            ))?;
            super::print(&format!(
                "compared in {:.1?}: {} rows identical, {} differ, {} older than the log",
                report.comparing, report.identical, report.different, report.expired,
            ))?;
            for difference in &report.differences {
                super::print(&format!("  {}: {}", difference.id, difference.kind))?;
            }
            match report.different {
                0 => Ok(()),
                count => bail!(
                    "{count} rows of the history are not what the log says; `projection rebuild` mends them"
                ),
            }
        }
    }
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(f64::EPSILON)
}

/// A progress bar on a terminal, nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{msg} {bar:40} {human_pos}/{human_len} {per_sec} {eta}");
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    fn show(&self, progress: Progress) {
        let message = match progress.stage {
            Stage::Folding => "folding",
            Stage::Watching => "the active projector folds",
            Stage::Comparing => "comparing",
        };
        if self.0.message() != message {
            self.0.set_message(message);
            self.0.reset();
        }
        self.0.set_length(progress.total.max(progress.done));
        self.0.set_position(progress.done);
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}
