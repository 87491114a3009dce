//! How far the deliveries of all endpoints have come lately: what whoever takes over from a dispatcher that died asks.
//!
//! One pass over the headers of every outcome, instead of one over the log for each endpoint.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use cuitty_webhooks_domain::ids::DeliveryId;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::Log;
use crate::consume;
use crate::error::LogError;
use crate::metrics::names;
use crate::subjects::{OUTCOMES, Outcome, Subject};
use crate::topology::STREAM;

/// Headers that are read at once.
const BATCH: usize = 1000;
/// How long nats-server keeps a consumer that is not read any more.
const INACTIVE: Duration = Duration::from_secs(10);

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Highest number of its attempts that ended; 0 when it ended without one.
    pub attempts: u32,
    /// Whether nothing more is to be done about it.
    pub has_ended: bool,
}

impl Progress {
    /// Takes another outcome in, in any order.
    pub fn join(&mut self, other: Self) {
        self.attempts = self.attempts.max(other.attempts);
        self.has_ended |= other.has_ended;
    }

    /// Whether there is nothing to do about attempt `number` any more.
    pub fn covers(self, number: u32) -> bool {
        self.has_ended || self.attempts >= number
    }
}

/// How far deliveries have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressRead {
    /// Those that had an outcome.
    pub of: HashMap<DeliveryId, Progress>,
    /// Everything up to this sequence is in it, and perhaps some of what follows.
    pub to: u64,
}

/// What tells an outcome from every other: `<delivery>.<attempt number>`, and `.final` for one beside another of the same
/// attempt. It is the message's id in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutcomeId {
    pub(crate) delivery_id: DeliveryId,
    /// 0 for a delivery that ended without an attempt.
    pub(crate) number: u32,
    pub(crate) is_final: bool,
}

/// What [`OutcomeId`] adds for a second outcome of an attempt.
const FINAL: &str = ".final";

impl fmt::Display for OutcomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.delivery_id, self.number)?;
        f.write_str(if self.is_final { FINAL } else { "" })
    }
}

impl FromStr for OutcomeId {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let short = text.strip_suffix(FINAL);
        let parsed = short.unwrap_or(text).split_once('.').and_then(|(id, number)| {
            Some(Self {
                delivery_id: id.parse().ok()?,
                number: number.parse().ok()?,
                is_final: short.is_some(),
            })
        });
        parsed.ok_or_else(|| LogError::Protocol(format!("`{text}` is not an outcome's id")))
    }
}

impl Log {
    /// How far the deliveries have come that had an outcome after sequence `after`: of the outcomes up to `to`, or of
    /// everything that the stream's leader has at the time of the call. Outcomes that this version cannot read are counted
    /// and left out.
    ///
    /// [`LogError::Unavailable`] when a part of it was not to be had; the caller may ask again.
    pub async fn progress(&self, after: u64, to: Option<u64>) -> Result<ProgressRead, LogError> {
        let to = match to {
            Some(to) => to,
            None => self.bounds().await?.1,
        };
        let mut read = ProgressRead {
            of: HashMap::new(),
            to,
        };
        if to <= after {
            read.to = after;
            return Ok(read);
        }
        let consumer = self.outcome_headers(after + 1).await?;
        let (mut end, mut delivered) = (after, 0);
        while end < to {
            let before = delivered;
            let mut batch = consumer
                .fetch()
                .max_messages(BATCH)
                .messages()
                .await
                .map_err(LogError::unavailable)?;
            while let Some(message) = timeout(self.config().request_timeout, batch.next())
                .await
                .map_err(|_| LogError::Unavailable("outcomes stopped coming".into()))?
            {
                let message = message.map_err(|error| LogError::unavailable(&*error))?;
                let position = consume::position(&message)?;
                if position.consumer_sequence != delivered + 1 {
                    return Err(LogError::Unavailable("an outcome is missing".into()));
                }
                (delivered, end) = (delivered + 1, position.stream_sequence);
                match outcome_of(&message) {
                    Ok((delivery_id, progress)) => read.of.entry(delivery_id).or_default().join(progress),
                    Err(_) => metrics::counter!(names::UNREADABLE).increment(1),
                }
                if end >= to {
                    return Ok(read);
                }
            }
            // The consumer has no more. So does the leader, or the replica that the consumer is on is behind.
            if delivered == before {
                match self.leader_next(OUTCOMES, end + 1).await? {
                    Some(next) if next.sequence <= to => {
                        return Err(LogError::Unavailable(
                            "the replica that was read is behind".into(),
                        ));
                    }
                    _ => break,
                }
            }
        }
        Ok(read)
    }

    /// A consumer of the headers of all outcomes from `start_sequence` on.
    async fn outcome_headers(&self, start_sequence: u64) -> Result<PullConsumer, LogError> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            filter_subject: OUTCOMES.into(),
            headers_only: true,
            ..pull::Config::default()
        };
        self.reading(STREAM, INACTIVE, config).await
    }
}

/// What a stored outcome says without its body.
fn outcome_of(message: &jetstream::Message) -> Result<(DeliveryId, Progress), LogError> {
    let Ok(Subject::Outcome { outcome, .. }) = message.subject.parse() else {
        return Err(LogError::Protocol("no outcome".into()));
    };
    let id = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(NATS_MESSAGE_ID))
        .ok_or_else(|| LogError::Protocol("an outcome without an id".into()))?;
    let id: OutcomeId = id.as_str().parse()?;
    let progress = Progress {
        attempts: id.number,
        has_ended: outcome != Outcome::Attempted,
    };
    Ok((id.delivery_id, progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcomes_id_reads_back() {
        let delivery_id: DeliveryId = "dlv_01m816qewqegp85wpqdg1qp2za".parse().unwrap();
        for (number, is_final) in [(0, false), (3, false), (4, true)] {
            let id = OutcomeId {
                delivery_id,
                number,
                is_final,
            };
            assert_eq!(id.to_string().parse::<OutcomeId>().unwrap(), id);
        }
        for text in [
            "",
            "dlv_1.1",
            &format!("{delivery_id}"),
            &format!("{delivery_id}.x"),
        ] {
            text.parse::<OutcomeId>().unwrap_err();
        }
    }

    #[test]
    fn progress_is_the_same_in_any_order() {
        let (retried, ended, cancelled) = (
            Progress {
                attempts: 2,
                has_ended: false,
            },
            Progress {
                attempts: 3,
                has_ended: true,
            },
            Progress {
                attempts: 0,
                has_ended: true,
            },
        );
        let mut forth = retried;
        forth.join(ended);
        let mut back = ended;
        back.join(retried);
        assert_eq!(forth, back);
        assert!(retried.covers(2) && !retried.covers(3));
        assert!(ended.covers(9) && cancelled.covers(1));
    }
}
