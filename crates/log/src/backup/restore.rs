//! A backup into an empty place.
//!
//! nats-server makes a stream when it has all of its archive, so each stream is there as a whole or not at all; it carries
//! the backup's id. Restoring that was cut off is simply begun again: what is there already is left as it is. The bucket
//! of leases is made last, and says that all is done.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use async_nats::Request;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::mend::{Mended, mend};
use super::{BackupError, BackupProgress, Manifest, Snapshot, bucket, failed, lost, order};
use crate::Log;
use crate::error::LogError;
use crate::lease::Leases;
use crate::topology::{DISPATCHERS_BUCKET, STREAM, adapted};

/// Bytes of a chunk, below what nats-server takes as a message.
const CHUNK: usize = 128 << 10;
/// How long nats-server may take to make a stream of what it was sent.
const PATIENCE: Duration = Duration::from_hours(1);
/// Metadata of a restored stream: the id of the backup.
const RESTORED_FROM: &str = "cuitty.webhooks.restored_from";

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The streams that were restored by this call; those that an earlier one had restored are not among them.
    pub streams: Vec<String>,
    /// Work items that were done between the snapshots, so that they are not delivered again.
    pub settled: u64,
    /// Idempotency keys of events that came after the backup point: who repeats such a request has it accepted.
    pub reopened: u64,
    /// Steps of bulk replays that came after the backup point: they are taken again.
    pub rewound: u64,
}

/// The answer to the request.
#[derive(Deserialize)]
struct Begun {
    deliver_subject: String,
}

/// A backup that may be restored into a log.
#[derive(Debug)]
pub struct Restore<'a> {
    log: &'a Log,
    directory: &'a Path,
    manifest: &'a Manifest,
    /// What an earlier call did not restore.
    missing: Vec<&'a Snapshot>,
}

impl<'a> Restore<'a> {
    /// Prepares to restore the backup in `directory`, whose files were verified, into `log`: nothing may be stored there,
    /// and no role may run. Streams that hold nothing are removed.
    pub async fn begin(
        log: &'a Log,
        directory: &'a Path,
        manifest: &'a Manifest,
    ) -> Result<Self, BackupError> {
        let taken: Vec<&Snapshot> = order()
            .map(|stream| manifest.snapshot(&stream))
            .collect::<Result<_, _>>()?;
        let missing = log.vacate(&taken, &manifest.id).await?;
        Ok(Self {
            log,
            directory,
            manifest,
            missing,
        })
    }

    /// Restores it. The streams become as the log's configuration wants them. Cut off at any moment, it may be begun again.
    pub async fn run(self, mut progress: impl FnMut(BackupProgress<'_>)) -> Result<Restored, BackupError> {
        let Self { log, manifest, .. } = self;
        for &taken in &self.missing {
            let path = self.directory.join(&taken.file);
            let mut config = adapted(&taken.config, log.config());
            config.metadata.insert(RESTORED_FROM.into(), manifest.id.clone());
            log.load(taken, config, &path, &mut progress).await?;
        }
        let Mended {
            settled,
            reopened,
            rewound,
        } = mend(log, &manifest.snapshot(STREAM)?.state).await?;
        log.ensure().await?;
        Ok(Restored {
            streams: self.missing.iter().map(|taken| taken.stream.clone()).collect(),
            settled,
            reopened,
            rewound,
        })
    }
}

impl Log {
    /// Makes room: removes the streams that hold nothing, and returns which of `taken` are to be restored. Refused when
    /// anything else than a part of this very backup is stored, and while roles run.
    async fn vacate<'a>(&self, taken: &[&'a Snapshot], id: &str) -> Result<Vec<&'a Snapshot>, BackupError> {
        let (mut missing, mut vacant, mut occupied) = (Vec::new(), Vec::new(), Vec::new());
        for &taken in taken {
            let Some(found) = self.retried(|| self.stream_info(&taken.stream)).await? else {
                missing.push(taken);
                continue;
            };
            let restored_from = found.config.metadata.get(RESTORED_FROM);
            if restored_from.is_some_and(|found| found == id) {
                continue;
            }
            if found.state.messages > 0 {
                occupied.push(format!("{} has {} messages", taken.stream, found.state.messages));
            }
            vacant.push(taken.stream.as_str());
            missing.push(taken);
        }
        if !occupied.is_empty() {
            return Err(BackupError::NotVacant(occupied));
        }
        let leases = bucket(DISPATCHERS_BUCKET);
        if self.retried(|| self.stream_info(&leases)).await?.is_some() {
            if missing.len() < taken.len() {
                return Err(BackupError::AlreadyRestored);
            }
            let holders = Leases::new(self).live_keys(">").await?;
            if !holders.is_empty() {
                return Err(BackupError::InUse(holders));
            }
            vacant.push(&leases);
        }
        for stream in vacant {
            let deleted: Result<IgnoredAny, _> = self
                .js_api(&format!("STREAM.DELETE.{stream}"), &json!({}))
                .await?;
            match deleted {
                Err(error) if error.error_code() != ErrorCode::STREAM_NOT_FOUND => {
                    return Err(LogError::from_jetstream(&error).into());
                }
                _ => {}
            }
        }
        Ok(missing)
    }

    /// Makes a stream of its snapshot.
    async fn load(
        &self,
        taken: &Snapshot,
        config: Config,
        path: &Path,
        progress: &mut impl FnMut(BackupProgress<'_>),
    ) -> Result<(), BackupError> {
        let cut_off = |reason: String| BackupError::CutOff {
            stream: taken.stream.clone(),
            reason,
        };
        let at = |error| failed(path, error);
        let mut file = File::open(path).map_err(at)?;
        let mut connects = self.connects();
        connects.mark_unchanged();
        let api = format!("STREAM.RESTORE.{}", taken.stream);
        let request = json!({ "config": config, "state": taken.state });
        let begun = self.js_api(&api, &request).await?;
        let Begun { deliver_subject } = begun.map_err(|error| cut_off(error.to_string()))?;
        let (mut block, mut bytes) = (vec![0; CHUNK], 0);
        loop {
            let count = file.read(&mut block).map_err(at)?;
            let is_last = count == 0;
            let chunk = Request::new().payload(Bytes::copy_from_slice(&block[..count]));
            let chunk = if is_last {
                chunk.timeout(Some(PATIENCE))
            } else {
                chunk
            };
            let answer = tokio::select! {
                answer = self.client().send_request(deliver_subject.clone(), chunk) => answer,
                () = lost(self, &connects) => return Err(cut_off("the connection to nats-server was lost".into())),
            };
            let answer = answer.map_err(|error| cut_off(error.to_string()))?.payload;
            if is_last {
                let made: Response<Info> =
                    serde_json::from_slice(&answer).map_err(|error| cut_off(error.to_string()))?;
                return match made {
                    Response::Ok(info) if info.state.last_sequence >= taken.state.last_sequence => Ok(()),
                    Response::Ok(info) => Err(cut_off(format!(
                        "it ends at sequence {}, not {}",
                        info.state.last_sequence, taken.state.last_sequence
                    ))),
                    Response::Err { error } => Err(cut_off(error.to_string())),
                };
            }
            // A chunk that is taken is answered with nothing.
            if !answer.is_empty() {
                return Err(cut_off(String::from_utf8_lossy(&answer).into_owned()));
            }
            bytes += count as u64;
            progress(BackupProgress {
                name: &taken.stream,
                bytes,
                total: Some(taken.bytes),
            });
        }
    }
}
