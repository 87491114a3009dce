//! The floors of a log that was restored.
//!
//! They were taken before the log was, without the durable consumers. What was done in between has its outcome in the log.

use std::collections::HashMap;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::kv::Operation;
use async_nats::{HeaderMap, header::HeaderName};
use cuitty_webhooks_domain::ids::DeliveryId;

use super::ItemId;
use super::durable::floor_key;
use super::known::Known;
use crate::Log;
use crate::error::LogError;
use crate::progress::Progress;
use crate::scan::{Selection, scan};
use crate::subjects::{Subject, WORK, work_filter};
use crate::topology::{LANES_BUCKET, STREAM};

/// Of work that a timer brought: the subject of the timer.
const SCHEDULER: HeaderName = HeaderName::from_static("Nats-Scheduler");

impl Log {
    /// Brings every floor up to what the log says is done, so that consumers that are made from them deliver nothing again
    /// that has its outcome. How many items the floors did not know of.
    pub(crate) async fn settle_floors(&self) -> Result<u64, LogError> {
        let stream = self.retried(|| self.stream_info(STREAM)).await?;
        let stream = stream.ok_or_else(|| LogError::NoTopology {
            stream: STREAM.into(),
        })?;
        let created = stream.created.unix_timestamp_nanos();
        let partitions = self.stored_partitions().await?;
        let bucket = self.retried(|| self.bucket(LANES_BUCKET)).await?;
        let (mut floors, mut from) = (Vec::new(), None);
        for partition in 0..partitions {
            let entry = bucket.entry(floor_key(partition)).await;
            let entry = entry.map_err(LogError::unavailable)?;
            let stored = entry.filter(|entry| entry.operation == Operation::Put);
            let mut known = match stored {
                Some(entry) => Known::decode(&entry.value)?,
                None => Known::default(),
            };
            known.moved_to(created);
            if !self.is_sound(&known, &stream).await? {
                known = Known::of_stream(created);
            }
            let resume_at = known.resume_at();
            let filter = work_filter(partition);
            if self.next_message(STREAM, &filter, resume_at).await?.is_some() {
                from = Some(from.map_or(resume_at, |from: u64| from.min(resume_at)));
            }
            floors.push(known);
        }
        let Some(start_sequence) = from else { return Ok(0) };
        let progress = self.progress(start_sequence - 1, None).await?.of;
        let work = Selection {
            stream: STREAM,
            filter: WORK,
            from: DeliverPolicy::ByStartSequence { start_sequence },
            headers_only: true,
        };
        let mut settled = 0;
        scan(self, work, |message, position| {
            let id = ItemId {
                sequence: position.stream_sequence,
                stored_at: position.published.unix_timestamp_nanos(),
            };
            if let Ok(Subject::Work { partition, due, .. }) = message.subject.parse()
                && let Some(known) = floors.get_mut(usize::from(partition))
            {
                let is_done = is_done(due, message.headers.as_ref(), &progress);
                settled += u64::from(known.told(id, is_done));
            }
            Ok(())
        })
        .await?;
        for (partition, known) in (0..).zip(&floors) {
            if let Some(text) = known.encode() {
                let put = bucket.put(floor_key(partition), text).await;
                put.map_err(LogError::unavailable)?;
            }
        }
        Ok(settled)
    }
}

/// Whether there is nothing to do about the work item with these headers. One that does not say which attempt it asks for
/// counts as not done.
fn is_done(due: bool, headers: Option<&HeaderMap>, progress: &HashMap<DeliveryId, Progress>) -> bool {
    let asked = headers.and_then(|headers| {
        if !due {
            return Some((headers.get(NATS_MESSAGE_ID)?.as_str().parse().ok()?, 1));
        }
        match headers.get(SCHEDULER)?.as_str().parse().ok()? {
            Subject::Timer {
                delivery_id,
                attempt: Some(number),
            } => Some((delivery_id, number)),
            _ => None,
        }
    });
    asked.is_some_and(|(delivery_id, number)| {
        let known = progress.get(&delivery_id);
        known.is_some_and(|progress| progress.covers(number))
    })
}
