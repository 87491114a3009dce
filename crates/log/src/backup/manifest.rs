//! What a backup holds, and whether it is whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{BackupError, FORMAT, MANIFEST, failed};

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// What a backup holds. Written last, so that what has one is whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// What tells this backup from every other.
    pub id: String,
    /// Version of the program that made it.
    pub version: String,
    /// Version of the nats-server that it was made of.
    pub nats_server: String,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// When it was finished.
    pub finished_at: DateTime<Utc>,
    /// The keys that the endpoints' secrets are sealed with. The keys themselves are not in the backup.
    pub sealing_key_ids: Vec<String>,
    /// The copy of the history; `None` when it is backed up otherwise.
    pub history: Option<HistoryCopy>,
    /// The streams, in the order in which they were taken.
    pub streams: Vec<Snapshot>,
}

/// The copy of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryCopy {
    /// Its file, an SQLite database.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The log sequence that its rows have reached.
    pub checkpoint: u64,
}

/// A snapshot of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The stream; a bucket's name starts with `KV_`.
    pub stream: String,
    /// Its file, as nats-server made it: a tar archive, compressed with s2.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What the stream held when the snapshot began: it has all of that, and perhaps some of what followed.
    pub state: SnapshotState,
    /// How the stream was configured.
    pub config: Config,
}

/// What a stream held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotState {
    /// How many messages.
    pub messages: u64,
    /// Their bytes, not compressed.
    pub bytes: u64,
    /// Sequence of the first one.
    #[serde(rename = "first_seq")]
    pub first_sequence: u64,
    /// Sequence of the last one.
    #[serde(rename = "last_seq")]
    pub last_sequence: u64,
    /// When the last one was stored, by nats-server's clock.
    #[serde(rename = "last_ts")]
    pub last_at: DateTime<Utc>,
}

impl HistoryCopy {
    /// Whether the file at `path` is this copy, byte for byte; `None` when there is no such file.
    pub fn is_at(&self, path: &Path) -> Result<Option<bool>, BackupError> {
        match measure(path, |_| {}) {
            Ok((bytes, sha256)) => Ok(Some(bytes == self.bytes && sha256 == self.sha256)),
            Err(BackupError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Manifest {
    pub(super) fn new(version: &str, now: DateTime<Utc>) -> Self {
        Self {
            format: FORMAT,
            id: String::new(),
            version: version.to_owned(),
            nats_server: String::new(),
            started_at: now,
            finished_at: now,
            sealing_key_ids: Vec::new(),
            history: None,
            streams: Vec::new(),
        }
    }

    /// Reads the manifest of the backup in `directory`.
    pub fn read(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BackupError::NoManifest(directory.to_owned()),
            _ => failed(&path, error),
        })?;
        let bad = |error: serde_json::Error| BackupError::BadManifest(error.to_string());
        let value: Value = serde_json::from_slice(&text).map_err(bad)?;
        match value["format"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => serde_json::from_value(value).map_err(bad),
            Some(found) => Err(BackupError::UnknownFormat { found }),
            None => Err(BackupError::BadManifest("it names no format".into())),
        }
    }

    /// Reads every file of the backup in `directory` and compares it with what the manifest says.
    pub fn verify(
        &self,
        directory: &Path,
        mut progress: impl FnMut(super::BackupProgress<'_>),
    ) -> Result<(), BackupError> {
        let history = self.history.iter();
        let history = history.map(|copy| (&copy.file, copy.bytes, &copy.sha256));
        let streams = self.streams.iter();
        let streams = streams.map(|taken| (&taken.file, taken.bytes, &taken.sha256));
        for (name, bytes, sha256) in history.chain(streams) {
            let path = directory.join(name);
            let damaged = |difference: String| BackupError::Damaged {
                path: path.clone(),
                difference,
            };
            let measured = measure(&path, |read| {
                progress(super::BackupProgress {
                    name,
                    bytes: read,
                    total: Some(bytes),
                });
            });
            let (found_bytes, found_sha256) = match measured {
                Err(BackupError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(damaged("it is missing".into()));
                }
                measured => measured?,
            };
            if found_bytes != bytes {
                return Err(damaged(format!("it has {found_bytes} bytes, not {bytes}")));
            }
            if found_sha256 != *sha256 {
                return Err(damaged(format!("its SHA-256 is {found_sha256}, not {sha256}")));
            }
        }
        Ok(())
    }

    /// The snapshot of a stream.
    pub(super) fn snapshot(&self, stream: &str) -> Result<&Snapshot, BackupError> {
        let found = self.streams.iter().find(|taken| taken.stream == stream);
        found.ok_or_else(|| BackupError::BadManifest(format!("it names no stream {stream}")))
    }

    /// Writes it, all or nothing.
    pub(super) fn write(&self, directory: &Path) -> Result<(), BackupError> {
        let path = directory.join(MANIFEST);
        let unfinished = directory.join(format!("{MANIFEST}.part"));
        let at = |error| failed(&path, error);
        let text = serde_json::to_vec_pretty(self).map_err(|error| at(error.into()))?;
        let mut file = File::create(&unfinished).map_err(at)?;
        file.write_all(&text).map_err(at)?;
        file.sync_all().map_err(at)?;
        std::fs::rename(&unfinished, &path).map_err(at)?;
        // The names of all files.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(at)
    }
}

/// Bytes and SHA-256 of a file. `read` is told how many bytes were read so far.
pub(super) fn measure(path: &Path, mut read: impl FnMut(u64)) -> Result<(u64, String), BackupError> {
    let at = |error| failed(path, error);
    let mut file = File::open(path).map_err(at)?;
    let (mut block, mut bytes, mut digest) = (vec![0; BLOCK], 0, Sha256::new());
    loop {
        match file.read(&mut block).map_err(at)? {
            0 => return Ok((bytes, hex(digest))),
            count => {
                digest.update(&block[..count]);
                bytes += count as u64;
                read(bytes);
            }
        }
    }
}

pub(super) fn hex(digest: Sha256) -> String {
    format!("{:x}", Bytes::copy_from_slice(&digest.finalize()))
}
