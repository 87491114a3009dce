//! One stream into a file, as nats-server sends it.
//!
//! The server sends chunks of an archive, each with a subject to acknowledge it on, and never more than a window of them
//! ahead of the acknowledgements; the last one asks for none. An empty message ends it, with status 204 if any chunk was
//! acknowledged, and with another one if the server gave up. The stream goes on meanwhile.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::Config;
use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::manifest::hex;
use super::{BackupError, BackupProgress, Snapshot, SnapshotState, failed, lost};
use crate::Log;
use crate::error::LogError;

/// Bytes of a chunk.
const CHUNK: usize = 128 << 10;
/// Bytes that nats-server sends ahead of what was written: all that is ever held in memory.
const WINDOW: usize = 4 << 20;
/// How long nats-server may take for the next chunk.
const PATIENCE: Duration = Duration::from_secs(30);
/// The status of the message that ends a snapshot which is whole.
const WHOLE: u16 = 204;

/// The answer to the request.
#[derive(Deserialize)]
struct Begun {
    config: Config,
    state: SnapshotState,
}

/// Writes a snapshot of `stream` into a file of `directory`.
pub(super) async fn take(
    log: &Log,
    stream: &str,
    directory: &Path,
    progress: &mut impl FnMut(BackupProgress<'_>),
) -> Result<Snapshot, BackupError> {
    let cut_off = |reason: &str| BackupError::CutOff {
        stream: stream.to_owned(),
        reason: reason.to_owned(),
    };
    let name = format!("{stream}.tar.s2");
    let path = directory.join(&name);
    let at = |error| failed(&path, error);
    // Writing to a file holds this thread up for a moment, and nothing else waits for it: the command is a process of its own.
    let mut file = File::create(&path).map_err(at)?;

    let mut connects = log.connects();
    connects.mark_unchanged();
    let inbox = log.client().new_inbox();
    let subscribed = log.client().subscribe(inbox.clone()).await;
    let mut chunks = subscribed.map_err(LogError::unavailable)?;
    let Begun { config, state } = begin(log, stream, &inbox).await?;
    let (mut bytes, mut digest, mut index) = (0, Sha256::new(), 0);
    loop {
        let message = tokio::select! {
            biased;
            message = timeout(PATIENCE, chunks.next()) => {
                message.map_err(|_| cut_off("nats-server sends nothing more"))?
            }
            () = lost(log, &connects) => return Err(cut_off("the connection to nats-server was lost")),
        };
        let message = message.ok_or_else(|| cut_off("the connection to nats-server was closed"))?;
        if message.payload.is_empty() {
            ended(&message, index).map_err(|reason| cut_off(&reason))?;
            break;
        }
        if let Some(acknowledge) = message.reply {
            index += 1;
            if index_of(&acknowledge) != Some(index) {
                return Err(cut_off("a chunk is missing"));
            }
            let acknowledged = log.client().publish(acknowledge, Bytes::new()).await;
            acknowledged.map_err(LogError::unavailable)?;
        }
        file.write_all(&message.payload).map_err(at)?;
        digest.update(&message.payload);
        bytes += message.payload.len() as u64;
        progress(BackupProgress {
            name: stream,
            bytes,
            total: None,
        });
    }
    file.sync_all().map_err(at)?;
    Ok(Snapshot {
        stream: stream.to_owned(),
        file: name,
        bytes,
        sha256: hex(digest),
        state,
        config,
    })
}

async fn begin(log: &Log, stream: &str, inbox: &str) -> Result<Begun, LogError> {
    let request = json!({
        "deliver_subject": inbox,
        "no_consumers": true,
        "chunk_size": CHUNK,
        "window_size": WINDOW,
    });
    let answer = log.js_api(&format!("STREAM.SNAPSHOT.{stream}"), &request).await?;
    answer.map_err(|error| match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => LogError::NoTopology {
            stream: stream.to_owned(),
        },
        _ => LogError::from_jetstream(&error),
    })
}

/// Whether the snapshot is whole of which this is the last message, when so many chunks were acknowledged; if not, why.
fn ended(message: &Message, acknowledged: u64) -> Result<(), String> {
    match message.status {
        Some(status) if status.as_u16() == WHOLE => Ok(()),
        Some(status) => {
            let description = message.description.as_deref().unwrap_or_default();
            Err(format!("nats-server gave up: {status} {description}"))
        }
        None if acknowledged == 0 => Ok(()),
        None => Err("nats-server does not say that it is whole".into()),
    }
}

/// The number of a chunk, by the subject that it is acknowledged on: `….<bytes>.<number>`.
fn index_of(acknowledge: &Subject) -> Option<u64> {
    acknowledge.rsplit('.').next()?.parse().ok()
}
