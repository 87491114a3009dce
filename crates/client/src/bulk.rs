//! Many events over one stream.

use std::collections::BTreeMap;
use std::time::Duration;

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::deliver_result::Result as Told;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use crate::client::Client;
use crate::error::{Again, ClientError};
use crate::patience::Patience;

/// Events on their way at the same time.
const WINDOW: usize = 256;
/// What the service refuses an item with that it may take a moment later.
const FOR_NOW: [&str; 4] = ["LOG_UNAVAILABLE", "OVERLOADED", "RATE_LIMITED", "SHUTTING_DOWN"];

/// Why one event was not taken: it must be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ItemRefused {
    /// `reason` of `google.rpc.ErrorInfo`, such as `INVALID_FIELDS`.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// The field at fault; empty when none is.
    pub field: String,
}

/// Sends events and keeps those that are not answered for.
struct Bulk<'a, F> {
    client: &'a Client,
    /// Of the next event.
    tag: u64,
    unanswered: BTreeMap<u64, v1::DeliverRequest>,
    patience: Patience,
    each: F,
}

/// How a stream ended.
enum Ended {
    /// Everything is answered for.
    Done,
    /// To be opened again, at the earliest after this long.
    Broken(Status, Option<Duration>),
}

impl Client {
    /// Delivers any number of events over one stream and tells `each` what became of them: the event's place among the
    /// items, from 0, in the order of the answers. A refused event does not stop the others.
    ///
    /// Events get idempotency keys if they have none. When the stream breaks it is opened again, and what was not answered
    /// for is sent again under the same keys, so that nothing is lost and nothing is delivered twice. It fails when the
    /// service has answered for nothing for as long as the client's patience lasts; what `each` was not told of by then may
    /// have been taken, or not.
    pub async fn deliver_all(
        &self,
        items: impl Stream<Item = v1::DeliverRequest>,
        each: impl FnMut(u64, Result<v1::DeliverResponse, ItemRefused>),
    ) -> Result<(), ClientError> {
        let mut items = Box::pin(items.fuse());
        let mut bulk = Bulk {
            client: self,
            tag: 0,
            unanswered: BTreeMap::new(),
            patience: Patience::new(self.patience),
            each,
        };
        loop {
            match bulk.run(&mut items).await {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::Broken(status, pause)) => {
                    if !bulk.patience.pause(pause).await {
                        return Err(status.into());
                    }
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

impl<F: FnMut(u64, Result<v1::DeliverResponse, ItemRefused>)> Bulk<'_, F> {
    /// One stream, until it ends.
    async fn run(
        &mut self,
        items: &mut (impl Stream<Item = v1::DeliverRequest> + Unpin),
    ) -> Result<Ended, Status> {
        // Never more than this is unanswered, so there is always room.
        let (sender, outgoing) = mpsc::channel(WINDOW);
        for (&tag, item) in &self.unanswered {
            let _ = sender.try_send(request(tag, item));
        }
        let outgoing = stream::unfold(outgoing, async |mut outgoing| {
            Some((outgoing.recv().await?, outgoing))
        });
        let opened = self.client.messages.clone().deliver_stream(outgoing).await;
        let mut results = match opened {
            Ok(answer) => answer.into_inner(),
            Err(status) => return broken(status),
        };
        let mut later = Later::default();
        let mut is_at_end = false;
        while !(is_at_end && self.unanswered.is_empty()) {
            tokio::select! {
                result = results.message() => match result {
                    Ok(Some(answer)) => self.answered(answer, &mut later)?,
                    Ok(None) => {
                        return broken(Status::unavailable("the service ended the stream"));
                    }
                    Err(status) => return broken(status),
                },
                item = items.next(), if !is_at_end && self.unanswered.len() < WINDOW => match item {
                    Some(mut item) => {
                        self.client.give_key(&mut item);
                        let _ = sender.try_send(request(self.tag, &item));
                        self.unanswered.insert(self.tag, item);
                        self.tag += 1;
                    }
                    None => is_at_end = true,
                },
                () = later.come() => {
                    for tag in std::mem::take(&mut later.tags) {
                        if let Some(item) = self.unanswered.get(&tag) {
                            let _ = sender.try_send(request(tag, item));
                        }
                    }
                }
            }
        }
        drop(sender);
        drain(results).await;
        Ok(Ended::Done)
    }

    fn answered(&mut self, answer: v1::DeliverStreamResponse, later: &mut Later) -> Result<(), Status> {
        let v1::DeliverStreamResponse { tag, result } = answer;
        let told = match result.and_then(|result| result.result) {
            Some(Told::Accepted(accepted)) => Ok(accepted),
            Some(Told::Rejected(error)) if FOR_NOW.contains(&&*error.reason) => {
                if later.tags.is_empty() {
                    let at = self.patience.next_try(None);
                    later.at = at.ok_or_else(|| Status::unavailable(error.message))?;
                }
                later.tags.push(tag);
                return Ok(());
            }
            Some(Told::Rejected(v1::ItemError {
                reason,
                message,
                field,
            })) => Err(ItemRefused {
                reason,
                message,
                field,
            }),
            None => return Err(Status::internal("an answer without a result")),
        };
        // One that was answered for before comes again only if the service errs.
        if self.unanswered.remove(&tag).is_some() {
            self.patience = Patience::new(self.client.patience);
            (self.each)(tag, told);
        }
        Ok(())
    }
}

/// What is to be sent again on the same stream.
struct Later {
    tags: Vec<u64>,
    at: Instant,
}

impl Default for Later {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            at: Instant::now(),
        }
    }
}

impl Later {
    /// Returns when it is time; never when nothing waits.
    async fn come(&self) {
        if self.tags.is_empty() {
            std::future::pending::<()>().await;
        }
        sleep_until(self.at).await;
    }
}

fn request(tag: u64, item: &v1::DeliverRequest) -> v1::DeliverStreamRequest {
    v1::DeliverStreamRequest {
        tag,
        item: Some(item.clone()),
    }
}

fn broken(status: Status) -> Result<Ended, Status> {
    match Again::after(&status) {
        Again::Never => Err(status),
        Again::NotYet(pause) => Ok(Ended::Broken(status, Some(pause))),
        Again::Perhaps(pause) => Ok(Ended::Broken(status, pause)),
    }
}

/// Lets the service end the stream.
async fn drain(mut results: Streaming<v1::DeliverStreamResponse>) {
    while let Ok(Some(_)) = results.message().await {}
}

#[cfg(test)]
mod tests;
