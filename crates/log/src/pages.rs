//! Reading the messages of one filter in bulk, at the reader's own pace: one request, many replies, no consumer.
//!
//! Every replica of the stream answers, also one that is behind. So what comes is in order and without gaps, but that
//! nothing follows is believed of the stream's leader only.

use async_nats::header::NATS_LAST_SEQUENCE;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind};
use async_nats::{HeaderMap, Message, StatusCode};
use futures_util::StreamExt;
use serde::Serialize;

use crate::Log;
use crate::error::LogError;
use crate::topology::STREAM;

/// Messages of a page, at most: nats-server sends them in one go, and does little else for our connection meanwhile.
const MAX_ITEMS: usize = 1000;
/// Bytes of a page, at most, give or take one message: 8 MiB.
const MAX_BYTES: usize = 8 << 20;
/// The header of a reply that says how many messages follow the batch.
const NUM_PENDING: &str = "Nats-Num-Pending";
/// The status of the reply that ends a batch.
const END_OF_BATCH: u16 = 204;
/// A request that nats-server does not understand.
const BAD_REQUEST: u16 = 408;

/// Messages of one filter.
#[derive(Debug)]
pub(crate) struct Page {
    /// In order and without gaps.
    pub(crate) messages: Vec<StreamMessage>,
    /// Sequence of the last one; one less than where the page begins when there are none.
    pub(crate) end: u64,
    /// Whether nothing was behind `end`, as the stream's leader says.
    pub(crate) at_tail: bool,
}

#[derive(Serialize)]
struct BatchRequest<'a> {
    seq: u64,
    next_by_subj: &'a str,
    batch: usize,
    max_bytes: usize,
}

impl Log {
    /// The messages of `filter` from sequence `from` on: at most `max_items`, and no more than it takes to reach
    /// `max_bytes`, but one when there is one. Both are held to what this module allows.
    pub(crate) async fn page(
        &self,
        filter: &str,
        from: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<Page, LogError> {
        let request = BatchRequest {
            seq: from.max(1),
            next_by_subj: filter,
            batch: max_items.clamp(1, MAX_ITEMS),
            max_bytes: max_bytes.clamp(1, MAX_BYTES),
        };
        self.retried(|| self.read_page(&request)).await
    }

    /// The first message of `filter` at or behind sequence `from`, as the stream's leader knows it.
    pub(crate) async fn leader_next(
        &self,
        filter: &str,
        from: u64,
    ) -> Result<Option<StreamMessage>, LogError> {
        let read = self
            .stream(STREAM)
            .await?
            .raw_message_builder()
            .sequence(from)
            .next_by_subject(filter)
            .send()
            .await;
        answered(read)
    }

    /// The last message of `filter` in `stream`, as the stream's leader knows it.
    pub(crate) async fn leader_last(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<Option<StreamMessage>, LogError> {
        let read = self
            .stream(stream)
            .await?
            .raw_message_builder()
            .last_by_subject(filter)
            .send()
            .await;
        answered(read)
    }

    async fn read_page(&self, request: &BatchRequest<'_>) -> Result<Page, LogError> {
        let Batch {
            mut messages,
            pending,
        } = self.read_batch(request).await?;
        let mut end = last_sequence(&messages).unwrap_or(request.seq - 1);
        let mut at_tail = false;
        if pending == 0 || messages.is_empty() {
            match self.leader_next(request.next_by_subj, end + 1).await? {
                None => at_tail = true,
                // However far behind the replicas are, the reader gets on.
                Some(next) if messages.is_empty() => {
                    end = next.sequence;
                    messages.push(next);
                }
                Some(_) => {}
            }
        }
        Ok(Page {
            messages,
            end,
            at_tail,
        })
    }

    async fn read_batch(&self, request: &BatchRequest<'_>) -> Result<Batch, LogError> {
        let mut connects = self.connects();
        connects.mark_unchanged();
        // What is handed over without a connection would stay in memory until there is one.
        if !self.is_connected() {
            return Err(LogError::Unavailable("no connection to read on".into()));
        }
        let client = self.client();
        let inbox = client.new_inbox();
        let mut replies = client
            .subscribe(inbox.clone())
            .await
            .map_err(LogError::unavailable)?;
        let body = serde_json::to_vec(request).map_err(LogError::protocol)?;
        client
            .publish_with_reply(format!("$JS.API.DIRECT.GET.{STREAM}"), inbox, body.into())
            .await
            .map_err(LogError::unavailable)?;
        let mut messages = Vec::with_capacity(request.batch);
        loop {
            let reply = tokio::select! {
                biased;
                reply = replies.next() => reply,
                Ok(()) = connects.changed() => None,
            };
            let Some(reply) = reply else {
                return Err(LogError::Unavailable(
                    "the connection was lost during a read".into(),
                ));
            };
            if let Some(pending) = take(&mut messages, reply)? {
                return Ok(Batch { messages, pending });
            }
        }
    }
}

/// The replies to one request.
struct Batch {
    messages: Vec<StreamMessage>,
    /// Messages that followed the batch, as far as the replica knew.
    pending: u64,
}

/// Takes the next reply to a request in. When it is the last one: how many messages follow the batch. Each reply says which
/// one it follows, so that none is missed.
fn take(messages: &mut Vec<StreamMessage>, reply: Message) -> Result<Option<u64>, LogError> {
    match reply.status.map(|status| status.as_u16()) {
        None | Some(END_OF_BATCH) => {}
        Some(status) if status == StatusCode::NOT_FOUND.as_u16() && messages.is_empty() => {
            return Ok(Some(0));
        }
        Some(BAD_REQUEST) => return Err(LogError::Protocol(refusal(&reply))),
        // Nobody answers as long as the stream is being recovered.
        Some(_) => return Err(LogError::Unavailable(refusal(&reply))),
    }
    let follows = number(reply.headers.as_ref(), NATS_LAST_SEQUENCE.as_ref())?;
    if follows != last_sequence(messages).unwrap_or_default() {
        return Err(LogError::Unavailable("a message of a batch was lost".into()));
    }
    if reply.status.is_some() {
        return number(reply.headers.as_ref(), NUM_PENDING).map(Some);
    }
    messages.push(StreamMessage::try_from(reply).map_err(LogError::protocol)?);
    Ok(None)
}

fn last_sequence(messages: &[StreamMessage]) -> Option<u64> {
    messages.last().map(|message| message.sequence)
}

/// The number in a header that nats-server adds: behind those that the message was stored with.
fn number(headers: Option<&HeaderMap>, name: &str) -> Result<u64, LogError> {
    headers
        .and_then(|headers| headers.get_last(name))
        .and_then(|value| value.as_str().parse().ok())
        .ok_or_else(|| LogError::Protocol(format!("a reply of a batch without {name}")))
}

fn refusal(reply: &Message) -> String {
    let status = reply.status.map(|status| status.to_string());
    let why = reply.description.as_deref();
    format!(
        "read refused: {} {}",
        status.unwrap_or_default(),
        why.unwrap_or_default()
    )
}

fn answered(read: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>, LogError> {
    match read {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(cause) => Err(LogError::from_jetstream(&cause)),
            _ => Err(LogError::unavailable(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply with this status and these headers.
    fn reply(status: Option<u16>, headers: &[(&str, u64)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.to_string());
        }
        map.insert("Nats-Subject", "webhooks.work.0.acme.ep_x.due");
        map.insert("Nats-Time-Stamp", "2026-11-21T10:00:00Z");
        Message {
            subject: "_INBOX.1".into(),
            reply: None,
            payload: "body".into(),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    fn message(sequence: u64, follows: u64) -> Message {
        reply(
            None,
            &[("Nats-Sequence", sequence), ("Nats-Last-Sequence", follows)],
        )
    }

    fn end(follows: u64) -> Message {
        reply(
            Some(204),
            &[("Nats-Num-Pending", 6), ("Nats-Last-Sequence", follows)],
        )
    }

    /// What the replies to one request come to: the sequences, and what follows.
    fn batch(replies: Vec<Message>) -> Result<(Vec<u64>, Option<u64>), LogError> {
        let mut messages = Vec::new();
        let mut pending = None;
        for reply in replies {
            pending = take(&mut messages, reply)?;
        }
        let sequences = messages.iter().map(|message| message.sequence);
        Ok((sequences.collect(), pending))
    }

    #[test]
    fn a_batch_is_whole_or_an_error() {
        let whole = vec![message(3, 0), message(7, 3), message(8, 7), end(8)];
        assert_eq!(batch(whole.clone()), Ok((vec![3, 7, 8], Some(6))));
        for lost in 0..3 {
            let mut replies = whole.clone();
            replies.remove(lost);
            let batch = batch(replies);
            assert!(
                matches!(batch, Err(LogError::Unavailable(_))),
                "reply {lost} is missing: {batch:?}"
            );
        }
    }

    #[test]
    fn a_header_that_was_stored_does_not_stand_for_the_one_of_the_reply() {
        let stored = ("Nats-Last-Sequence", 99);
        let reply = reply(None, &[stored, ("Nats-Sequence", 3), ("Nats-Last-Sequence", 0)]);
        assert_eq!(batch(vec![reply]), Ok((vec![3], None)));
    }

    #[test]
    fn what_nats_server_says_instead_of_messages_is_told_apart() {
        assert_eq!(
            batch(vec![reply(Some(404), &[])]),
            Ok((vec![], Some(0))),
            "nothing there"
        );
        let nobody = batch(vec![reply(Some(503), &[])]).unwrap_err();
        assert!(nobody.is_transient(), "{nobody}");
        let bad = batch(vec![reply(Some(408), &[])]).unwrap_err();
        assert!(!bad.is_transient(), "{bad}");
        let cut_off = batch(vec![message(3, 0), reply(Some(404), &[])]).unwrap_err();
        assert!(cut_off.is_transient(), "{cut_off}");
    }
}
