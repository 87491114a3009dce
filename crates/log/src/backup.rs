//! Backing the whole log up into a directory while the service runs, and restoring it into an empty place.
//!
//! A backup holds a snapshot of every stream, made by nats-server, and a manifest, which is written last: a directory
//! without one is no backup. Each snapshot is a consistent cut of its stream, but they are taken one after the other, so
//! their order decides what the restored log looks like ([`ORDER`]). Nothing that one stream says of another may be wrong
//! when the other is older or younger:
//!
//! | taken | why in this place |
//! |---|---|
//! | the history | before `WEBHOOKS`: its checkpoint is in the log that is restored, and it reads on from there |
//! | `KV_WEBHOOKS_LANES` | before `WEBHOOKS`: what it says is done has its outcome there; what was done since is found by its outcome |
//! | `WEBHOOKS_INGEST` | before `WEBHOOKS`: what has left the queue is accepted there; what was accepted since is told by its key |
//! | `WEBHOOKS` | its cut is the backup point |
//! | `KV_WEBHOOKS_IDEMPOTENCY` | after `WEBHOOKS`: every accepted event that is restored has its key; a key whose event is not there is opened again |
//! | `KV_WEBHOOKS_CANCELLATIONS` | after `WEBHOOKS`: a cancellation that is known too early only ends a delivery that was cancelled |
//! | `KV_WEBHOOKS_API_KEY_USES` | anywhere |
//! | `WEBHOOKS_CONTROL` | last: no delivery and no key refers to an endpoint or a change that is not there |
//!
//! Leases and heartbeats (`KV_WEBHOOKS_DISPATCHERS`) are not backed up, and no consumers: they would know of
//! acknowledgements that came after the cut. Restoring makes them again where the log says that work is left ([`mend`]).
//!
//! A restored stream goes on behind the last sequence that its snapshot knows of. That may lie behind its last message, and
//! what the stream had given out later is given out again: a sequence alone tells no message of the restored log.
//!
//! Retry timers are messages of `WEBHOOKS`: nats-server fires those that have become due as soon as they are restored.

mod manifest;
pub(crate) mod mend;
mod restore;
mod snapshot;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::sleep;

pub use self::manifest::{HistoryCopy, Manifest, Snapshot, SnapshotState};
pub use self::restore::{Restore, Restored};
use crate::codec;
use crate::error::LogError;
use crate::scan::{Selection, scan};
use crate::subjects::ENDPOINTS;
use crate::topology::{
    API_KEY_USES_BUCKET, CANCELLATIONS_BUCKET, CONTROL_STREAM, IDEMPOTENCY_BUCKET, INGEST_STREAM,
    LANES_BUCKET, STREAM,
};
use crate::{CodecError, Log};

/// The manifest's name in its directory.
pub const MANIFEST: &str = "manifest.json";
/// The version of the format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// How often whoever waits for nats-server looks whether there is a connection.
const CONNECTION_CHECK: Duration = Duration::from_millis(200);

/// What is backed up, in this order; see the module's documentation. Buckets without the prefix `KV_`.
const ORDER: [(&str, bool); 7] = [
    (LANES_BUCKET, true),
    (INGEST_STREAM, false),
    (STREAM, false),
    (IDEMPOTENCY_BUCKET, true),
    (CANCELLATIONS_BUCKET, true),
    (API_KEY_USES_BUCKET, true),
    (CONTROL_STREAM, false),
];

/// The streams that are backed up, in order.
fn order() -> impl Iterator<Item = String> {
    ORDER.into_iter().map(
        |(name, is_bucket)| {
            if is_bucket { bucket(name) } else { name.to_owned() }
        },
    )
}

/// The stream of a bucket.
fn bucket(name: &str) -> String {
    format!("KV_{name}")
}

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The log did not do its part.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The directory is to hold a new backup and holds something.
    #[error("{} is not empty: a backup needs a directory of its own", .0.display())]
    NotEmpty(PathBuf),
    /// A stream was not transferred to its end: begin anew.
    #[error("{stream} was not transferred to its end: {reason}")]
    CutOff {
        /// The stream.
        stream: String,
        /// What happened.
        reason: String,
    },
    /// The directory holds no backup, or one that was not finished.
    #[error("{} holds no finished backup: it has no {MANIFEST}, which is written last", .0.display())]
    NoManifest(PathBuf),
    /// The manifest cannot be read.
    #[error("{MANIFEST} cannot be read: {0}")]
    BadManifest(String),
    /// Another version of this program wrote the backup.
    #[error("the backup has format {found}, this version reads format {FORMAT}")]
    UnknownFormat {
        /// The format it has.
        found: u64,
    },
    /// A file of the backup is not as it was written.
    #[error("{} is damaged: {difference}; use another backup", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        difference: String,
    },
    /// The place that is to be restored into is in use.
    #[error(
        "the log is not empty, and restoring changes nothing that is there: {}; restore into a new nats-server or account, \
         or remove these streams first",
        .0.join(", ")
    )]
    NotVacant(Vec<String>),
    /// Roles are running.
    #[error("roles are running on this log: {}; stop them, and restore again after a few seconds", .0.join(", "))]
    InUse(Vec<String>),
    /// The backup was restored into this log before.
    #[error("this backup was restored here before")]
    AlreadyRestored,
}

impl From<CodecError> for BackupError {
    fn from(error: CodecError) -> Self {
        Self::Log(error.into())
    }
}

/// How far backing up or restoring has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupProgress<'a> {
    /// The file that is being written or read.
    pub name: &'a str,
    /// Its bytes so far.
    pub bytes: u64,
    /// All its bytes, when that is known.
    pub total: Option<u64>,
}

/// A backup that is being made.
#[derive(Debug)]
pub struct Backup {
    directory: PathBuf,
    manifest: Manifest,
}

impl Backup {
    /// Begins one in `directory`, which is made unless it exists and is empty. `version` is that of this program.
    pub fn begin(directory: &Path, version: &str, now: DateTime<Utc>) -> Result<Self, BackupError> {
        let at = |error| failed(directory, error);
        std::fs::create_dir_all(directory).map_err(at)?;
        if std::fs::read_dir(directory).map_err(at)?.next().is_some() {
            return Err(BackupError::NotEmpty(directory.to_owned()));
        }
        Ok(Self {
            directory: directory.to_owned(),
            manifest: Manifest::new(version, now),
        })
    }

    /// Where a file of this name belongs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Adds the copy of a history that reaches to `checkpoint` and lies under this name. It must be older than the log.
    pub fn add_history(&mut self, name: &str, checkpoint: u64) -> Result<(), BackupError> {
        let path = self.path(name);
        let (bytes, sha256) = manifest::measure(&path, |_| {})?;
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|error| failed(&path, error))?;
        self.manifest.history = Some(HistoryCopy {
            file: name.to_owned(),
            bytes,
            sha256,
            checkpoint,
        });
        Ok(())
    }

    /// Adds a snapshot of every stream of `log`, each of them written as it comes.
    pub async fn add_log(
        &mut self,
        log: &Log,
        mut progress: impl FnMut(BackupProgress<'_>),
    ) -> Result<(), BackupError> {
        self.manifest.nats_server = log.client().server_info().version;
        self.manifest.id = log.unique_token();
        for stream in order() {
            let taken = snapshot::take(log, &stream, &self.directory, &mut progress).await?;
            self.manifest.streams.push(taken);
        }
        self.manifest.sealing_key_ids = sealing_key_ids(log).await?;
        Ok(())
    }

    /// Writes the manifest, which makes it a backup.
    pub fn finish(mut self, now: DateTime<Utc>) -> Result<Manifest, BackupError> {
        self.manifest.finished_at = now;
        self.manifest.write(&self.directory)?;
        Ok(self.manifest)
    }
}

/// The ids of the keys that the endpoints' secrets are sealed with, retired ones too.
async fn sealing_key_ids(log: &Log) -> Result<Vec<String>, LogError> {
    let mut ids = BTreeSet::new();
    let endpoints = Selection {
        stream: CONTROL_STREAM,
        filter: ENDPOINTS,
        from: DeliverPolicy::LastPerSubject,
        headers_only: false,
    };
    scan(log, endpoints, |message, _| {
        let endpoint = codec::decode_endpoint_state(message.payload.clone())?;
        let secrets = endpoint.secrets.into_iter();
        ids.extend(secrets.map(|secret| secret.sealed.sealing_key_id));
        Ok(())
    })
    .await?;
    Ok(ids.into_iter().collect())
}

/// Resolves when the connection is lost, or was since `connects` was last looked at: what was asked over it is not answered.
async fn lost(log: &Log, connects: &watch::Receiver<u64>) {
    while log.is_connected() && !connects.has_changed().unwrap_or(true) {
        sleep(CONNECTION_CHECK).await;
    }
}

fn failed(path: &Path, error: io::Error) -> BackupError {
    BackupError::File {
        path: path.to_owned(),
        error,
    }
}
