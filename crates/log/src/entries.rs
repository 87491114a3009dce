//! Writing entries of buckets: with the answer that nats-server's own client keeps to itself, the revision, and without
//! leaving in memory what cannot be sent.

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP};
use bytes::Bytes;

use crate::Log;
use crate::error::LogError;

/// The header that a message has when it does not set its key but deletes it.
pub(crate) const KV_OPERATION: &str = "KV-Operation";
/// Deletes a key and what was stored under it before.
const PURGE: &str = "PURGE";
/// Replaces what is stored under the same subject.
pub(crate) const ROLLUP_SUBJECT: &str = "sub";

impl Log {
    /// Sets the entry under this subject and returns its revision. With `expected`, only when that is the revision of what
    /// is stored there, a deletion included (0: nothing is); [`LogError::Conflict`] when it is not, be it that an earlier
    /// try of this very call was stored while its answer was lost.
    pub(crate) async fn put_entry(
        &self,
        subject: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, LogError> {
        let mut headers = HeaderMap::new();
        if let Some(expected) = expected {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        }
        self.retried(|| self.write_entry(subject, &headers, &value, expected))
            .await
    }

    /// Deletes the entry under this subject, and returns the revision of the deletion: that is what stays.
    pub(crate) async fn purge_entry(&self, subject: &str) -> Result<u64, LogError> {
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, PURGE);
        headers.insert(NATS_ROLLUP, ROLLUP_SUBJECT);
        let nothing = Bytes::new();
        self.retried(|| self.write_entry(subject, &headers, &nothing, None))
            .await
    }

    async fn write_entry(
        &self,
        subject: &str,
        headers: &HeaderMap,
        value: &Bytes,
        expected: Option<u64>,
    ) -> Result<u64, LogError> {
        let mut connects = self.connects();
        connects.mark_unchanged();
        if !self.is_connected() {
            return Err(LogError::Unavailable("no connection to write on".into()));
        }
        let sent = self
            .jetstream()
            .publish_with_headers(subject.to_owned(), headers.clone(), value.clone())
            .await;
        let acknowledged = tokio::select! {
            acknowledged = async { sent?.await } => acknowledged,
            Ok(()) = connects.changed() => {
                let why = "the connection was made anew before the acknowledgement came";
                return Err(LogError::Unavailable(why.into()));
            }
        };
        acknowledged
            .map(|ack| ack.sequence)
            .map_err(|error| LogError::publish(&error, subject, expected))
    }
}
