//! Leases: who alone may do something, for a few seconds at a time.
//!
//! A lease is an entry of the bucket `WEBHOOKS_DISPATCHERS` that the server drops when it is not written again in time.
//! Every write names the revision that it follows, so only one of several writers succeeds. The holder counts its time
//! from before it sent the write: the server's count starts later, so nobody else gets the lease before the holder
//! knows that it has ended, as long as clocks run at the same speed.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation, PutErrorKind, Store, UpdateError, UpdateErrorKind};
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::topology::DISPATCHERS_BUCKET;
use crate::{Log, LogError};

/// The bucket of leases, opened when it is first needed.
#[derive(Clone)]
pub(crate) struct Leases {
    log: Log,
    opened: Arc<OnceCell<Opened>>,
}

struct Opened {
    store: Store,
    ttl: Duration,
}

/// One lease, held or not. Dropped while held, it runs out by itself.
pub struct Lease {
    leases: Leases,
    key: String,
    value: Bytes,
    held: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    epoch: u64,
    revision: u64,
    until: Instant,
}

impl Log {
    /// The lease `key` in the name of `holder`, not held yet. Two of them never hold at the same time, whatever they
    /// are named.
    pub fn lease(&self, key: &str, holder: &str) -> Lease {
        Leases::new(self).lease(key, holder, &self.unique_token())
    }

    /// A text that nobody else has.
    pub(crate) fn unique_token(&self) -> String {
        // An inbox is made for being unique; its prefix says nothing.
        let inbox = self.client().new_inbox();
        inbox
            .rsplit_once('.')
            .map_or(inbox.clone(), |(_, token)| token.to_owned())
    }
}

impl Leases {
    pub(crate) fn new(log: &Log) -> Self {
        Self {
            log: log.clone(),
            opened: Arc::default(),
        }
    }

    /// `token` tells this process's entries from those of another one that calls itself the same.
    pub(crate) fn lease(&self, key: &str, holder: &str, token: &str) -> Lease {
        Lease {
            leases: self.clone(),
            key: key.to_owned(),
            value: value(holder, token),
            held: None,
        }
    }

    /// How long an entry lives: what the bucket says, not what is configured.
    pub(crate) async fn ttl(&self) -> Result<Duration, LogError> {
        Ok(self.open().await?.ttl)
    }

    /// Writes a heartbeat.
    pub(crate) async fn put(&self, key: &str, value: &str) -> Result<(), LogError> {
        let opened = self.open().await?;
        let value = Bytes::copy_from_slice(value.as_bytes());
        let put = async {
            opened
                .store
                .put(key, value)
                .await
                .map_err(|error| match error.kind() {
                    PutErrorKind::InvalidKey => LogError::protocol(error),
                    PutErrorKind::Publish | PutErrorKind::Ack => LogError::unavailable(error),
                })
        };
        opened.answer(put).await.map(|_| ())
    }

    /// Deletes a heartbeat.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), LogError> {
        let opened = self.open().await?;
        opened
            .answer(async { written(opened.store.delete(key).await) })
            .await
            .map(|_| ())
    }

    /// The keys under `filter` that have a value, in order.
    pub(crate) async fn live_keys(&self, filter: &str) -> Result<Vec<String>, LogError> {
        let store = &self.open().await?.store;
        let filter = format!("{}{filter}", store.prefix);
        let subjects = store
            .stream
            .info_with_subjects(filter)
            .await
            .map_err(LogError::unavailable)?;
        let subjects: Vec<_> = subjects.try_collect().await.map_err(LogError::unavailable)?;
        let keys = subjects
            .iter()
            .filter_map(|(subject, _)| subject.strip_prefix(&store.prefix));
        let entries = try_join_all(keys.map(|key| store.entry(key)))
            .await
            .map_err(LogError::unavailable)?;
        let live = entries
            .into_iter()
            .flatten()
            .filter(|entry| entry.operation == Operation::Put);
        let mut keys: Vec<_> = live.map(|entry| entry.key).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    async fn open(&self) -> Result<&Opened, LogError> {
        self.opened
            .get_or_try_init(|| async {
                let store = self.log.bucket(DISPATCHERS_BUCKET).await?;
                let ttl = store.stream.cached_info().config.max_age;
                if ttl.is_zero() {
                    let difference = "its entries never expire".into();
                    return Err(LogError::Drift {
                        stream: store.stream_name,
                        difference,
                    });
                }
                Ok(Opened { store, ttl })
            })
            .await
    }
}

impl Opened {
    /// Longest wait for one answer: a lease must still be renewable after one was lost.
    fn patience(&self) -> Duration {
        self.ttl / 3
    }

    async fn answer<T>(&self, request: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        timeout(self.patience(), request)
            .await
            .map_err(LogError::unavailable)?
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>, LogError> {
        self.answer(async { self.store.entry(key).await.map_err(LogError::unavailable) })
            .await
    }

    /// Writes `value` after `revision` (0: there is no entry); the new revision, or `None` when another write came first.
    async fn write(&self, key: &str, value: Bytes, revision: u64) -> Result<Option<u64>, LogError> {
        self.answer(async { written(self.store.update(key, value, revision).await) })
            .await
    }
}

fn written<T>(result: Result<T, UpdateError>) -> Result<Option<T>, LogError> {
    match result {
        Ok(written) => Ok(Some(written)),
        Err(error) => match error.kind() {
            UpdateErrorKind::WrongLastRevision => Ok(None),
            UpdateErrorKind::InvalidKey => Err(LogError::protocol(error)),
            UpdateErrorKind::TimedOut | UpdateErrorKind::Other => Err(LogError::unavailable(error)),
        },
    }
}

impl Lease {
    /// Takes the lease if it is free, has run out, or is held already; whether it is held now.
    ///
    /// After an error it may be held all the same: trying again finds out.
    pub async fn try_acquire(&mut self) -> Result<bool, LogError> {
        if self.held.is_some() && self.renew().await? {
            return Ok(true);
        }
        let leases = self.leases.clone();
        let opened = leases.open().await?;
        if self.write(opened, 0).await? {
            return Ok(true);
        }
        let revision = match opened.entry(&self.key).await? {
            None => 0,
            Some(entry) if entry.operation != Operation::Put || entry.value == self.value => entry.revision,
            Some(_) => return Ok(false),
        };
        self.write(opened, revision).await
    }

    /// Extends the lease; whether it is still held. After an error it is held until [`Lease::held_until`].
    pub async fn renew(&mut self) -> Result<bool, LogError> {
        let Some(held) = self.held else { return Ok(false) };
        let leases = self.leases.clone();
        let opened = leases.open().await?;
        if self.write(opened, held.revision).await? {
            return Ok(true);
        }
        // The answer to an earlier write may have been lost: then the entry is ours under a revision we do not know.
        if let Some(entry) = opened.entry(&self.key).await?
            && entry.operation == Operation::Put
            && entry.value == self.value
            && self.write(opened, entry.revision).await?
        {
            return Ok(true);
        }
        debug!(lease = self.key, "lease is lost");
        self.held = None;
        Ok(false)
    }

    /// Gives the lease up, so that somebody else can take it at once. After an error it runs out by itself.
    pub async fn release(&mut self) -> Result<(), LogError> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let leases = self.leases.clone();
        let opened = leases.open().await?;
        // Written by somebody else in the meantime: not ours any more, so nothing is left to release.
        let deletion = opened
            .store
            .delete_expect_revision(&self.key, Some(held.revision));
        opened.answer(async { written(deletion.await) }).await.map(|_| ())
    }

    /// Until when the lease is held; it may have passed. `None` when it is not held.
    pub fn held_until(&self) -> Option<Instant> {
        self.held.map(|held| held.until)
    }

    /// Whether the lease is held at this moment.
    pub fn is_held(&self) -> bool {
        self.held_until().is_some_and(|until| Instant::now() < until)
    }

    /// Rises with every change of hands; `None` when the lease is not held.
    pub fn epoch(&self) -> Option<u64> {
        self.held.map(|held| held.epoch)
    }

    /// How long the lease lives without being renewed.
    pub async fn ttl(&self) -> Result<Duration, LogError> {
        self.leases.ttl().await
    }

    /// Who holds the lease.
    pub async fn holder(&self) -> Result<Option<String>, LogError> {
        let entry = self.leases.open().await?.entry(&self.key).await?;
        Ok(entry
            .filter(|entry| entry.operation == Operation::Put)
            .map(|entry| holder_of(&entry.value)))
    }

    /// Forgets that the lease is held, without giving it up: acquiring it again starts a new epoch.
    pub(crate) fn forget(&mut self) {
        self.held = None;
    }

    async fn write(&mut self, opened: &Opened, revision: u64) -> Result<bool, LogError> {
        let sent = Instant::now();
        let Some(revision) = opened.write(&self.key, self.value.clone(), revision).await? else {
            return Ok(false);
        };
        let epoch = self.held.map_or(revision, |held| held.epoch);
        self.held = Some(Held {
            epoch,
            revision,
            until: sent + opened.ttl,
        });
        Ok(true)
    }
}

/// What a holder writes into its leases.
pub(crate) fn value(holder: &str, token: &str) -> Bytes {
    format!("{holder} {token}").into()
}

/// The holder that an entry's value names.
fn holder_of(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.rsplit_once(' ')
        .map_or(text.as_ref(), |(holder, _)| holder)
        .to_owned()
}

#[cfg(test)]
mod tests;
