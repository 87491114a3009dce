//! `backup` and `restore`: the log, and the history where it is an SQLite file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::backup::{Backup, BackupProgress, HistoryCopy, Manifest, Restore, Restored};
use cuitty_webhooks_log::{Log, topology};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::edge;
use crate::config::{Config, Sources};
use crate::telemetry;

/// The file of a history in a backup.
const HISTORY: &str = "history.db";

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// Where to: a directory that does not exist, or is empty
    directory: PathBuf,
    /// Leave an SQLite history out; what the log holds can be folded again
    #[arg(long)]
    no_history: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The directory of the backup
    directory: PathBuf,
    /// Leave the backup's SQLite history out; the projector folds what the log holds
    #[arg(long)]
    no_history: bool,
}

pub(super) async fn back_up(args: BackupArgs, sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, &[])?;
    let _telemetry = telemetry::init(&config.telemetry, None)?;
    let log = Log::connect(config.log).await.map_err(super::about("log.url"))?;
    let clock = edge().clock;
    let mut backup = Backup::begin(&args.directory, env!("CARGO_PKG_VERSION"), clock())?;
    let bar = Bar::new();
    let is_sqlite = config.history.sqlite_file()?.is_some();
    // Before the log, so that the log has whatever the history has.
    if is_sqlite && !args.no_history {
        let store = Store::open_existing(&config.history)
            .await
            .map_err(super::about("history.url"))
            .context("the history cannot be backed up; --no-history leaves it out")?;
        let checkpoint = store.copy_to(&backup.path(HISTORY)).await?;
        backup.add_history(HISTORY, checkpoint)?;
    }
    let progress = |progress: BackupProgress<'_>| bar.show("backing up", progress);
    backup.add_log(&log, progress).await?;
    bar.clear();
    let manifest = backup.finish(clock())?;
    show(&args.directory, &manifest)?;
    if !is_sqlite {
        super::print(
            "the history is in PostgreSQL, so it is not in the backup: dump it before the log is backed up",
        )?;
    }
    super::print(&format!(
        "the sealing keys are not in the backup; keep them, apart from it: {}",
        list(&manifest.sealing_key_ids)
    ))
}

fn show(directory: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let mut bytes = 0;
    let mut line = |file: &str, size: u64, what: &str| {
        bytes += size;
        super::print(&format!(
            "{file:<40} {:>11}  {what}",
            HumanBytes(size).to_string()
        ))
    };
    if let Some(history) = &manifest.history {
        let what = format!("up to log sequence {}", history.checkpoint);
        line(&history.file, history.bytes, &what)?;
    }
    let mut point = 0;
    for taken in &manifest.streams {
        let what = format!("{} messages", taken.state.messages);
        line(&taken.file, taken.bytes, &what)?;
        if taken.stream == topology::STREAM {
            point = taken.state.last_sequence;
        }
    }
    super::print(&format!(
        "backed up into {}: {}, up to log sequence {point} at least",
        directory.display(),
        HumanBytes(bytes)
    ))
}

pub(super) async fn restore(args: RestoreArgs, sources: &Sources) -> anyhow::Result<()> {
    let (config, _) = Config::load(sources, &[])?;
    let _telemetry = telemetry::init(&config.telemetry, None)?;
    let manifest = Manifest::read(&args.directory)?;
    let bar = Bar::new();
    manifest.verify(&args.directory, |progress| bar.show("verifying", progress))?;
    let file = config.history.sqlite_file()?;
    let history = manifest.history.as_ref().filter(|_| !args.no_history).zip(file);
    let is_missing = match &history {
        Some((copy, file)) => is_missing(copy, file)?,
        None => false,
    };
    let log = Log::connect(config.log).await.map_err(super::about("log.url"))?;
    let restore = Restore::begin(&log, &args.directory, &manifest).await?;
    if let Some((copy, file)) = &history
        && is_missing
    {
        place(&args.directory.join(&copy.file), file)
            .with_context(|| format!("history.url: {} cannot be written", file.display()))?;
    }
    let progress = |progress: BackupProgress<'_>| bar.show("restoring", progress);
    let restored = restore.run(progress).await?;
    bar.clear();
    tell(&manifest, &restored, history.as_ref().map(|(copy, _)| *copy))?;
    let unknown: Vec<String> = manifest
        .sealing_key_ids
        .into_iter()
        .filter(|id| {
            let keys = config.sealing.keys.as_ref();
            !keys.is_some_and(|keys| keys.0.has(id))
        })
        .collect();
    if !unknown.is_empty() {
        super::print(&format!(
            "warning: secrets are sealed with keys that sealing.keys does not have here: {}; without them nothing is signed",
            list(&unknown)
        ))?;
    }
    Ok(())
}

/// Whether there is no history at `file` yet; refused when there is another one than this copy.
fn is_missing(copy: &HistoryCopy, file: &Path) -> anyhow::Result<bool> {
    match copy.is_at(file)? {
        None => Ok(true),
        Some(true) => Ok(false),
        Some(false) => bail!(
            "history.url: {} exists, and restoring replaces nothing: move it away, or use --no-history",
            file.display()
        ),
    }
}

/// Copies a file to a place where there is none, all or nothing.
fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    let unfinished = to.with_extension("restoring");
    fs::copy(from, &unfinished)?;
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, to)
}

fn tell(manifest: &Manifest, restored: &Restored, history: Option<&HistoryCopy>) -> anyhow::Result<()> {
    for taken in &manifest.streams {
        let how = if restored.streams.contains(&taken.stream) {
            "restored"
        } else {
            "was restored before"
        };
        super::print(&format!("{:<30} {how}", taken.stream))?;
    }
    super::print(&match history {
        Some(copy) => format!("history restored up to log sequence {}", copy.checkpoint),
        None => {
            "no history restored: the projector goes on with the one that is there, or folds the log".into()
        }
    })?;
    super::print(&format!(
        "restored the backup of {}; {} items of work were done meanwhile, {} idempotency keys opened again, {} steps of \
         replays taken back",
        manifest.started_at, restored.settled, restored.reopened, restored.rewound
    ))?;
    super::print("the roles can be started")
}

fn list(ids: &[String]) -> String {
    match ids {
        [] => "none".into(),
        ids => ids.join(", "),
    }
}

/// A progress bar on a terminal, nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        Self(ProgressBar::no_length())
    }

    fn show(&self, what: &str, progress: BackupProgress<'_>) {
        let message = format!("{what} {}", progress.name);
        if self.0.message() != message {
            let template = match progress.total {
                Some(_) => "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                // nats-server compresses, and does not say how large it will be.
                None => "{spinner} {msg} {bytes} {bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.0.set_style(style);
            }
            self.0.set_message(message);
            self.0.reset();
        }
        if let Some(total) = progress.total {
            self.0.set_length(total);
        }
        self.0.set_position(progress.bytes);
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}
