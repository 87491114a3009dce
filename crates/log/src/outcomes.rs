//! What became of an endpoint's deliveries, asked of the log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use async_nats::jetstream::message::StreamMessage;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{Concluded, Conclusion, DeliveryEvent, DeliveryRef};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_domain::names::ProjectId;
use futures_util::future::try_join_all;

use crate::Log;
use crate::error::LogError;
use crate::read::EventBody;
use crate::subjects::{Outcome, Subject, outcomes_of};
use crate::topology::STREAM;

/// Outcomes that are read at once. They hold whole attempts, so the bytes count, too.
const BATCH: usize = 1000;
/// Bytes that are read at once: 4 MiB.
const BATCH_BYTES: usize = 4 << 20;

/// What became of deliveries of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Where each delivery stands that had an outcome.
    pub of: HashMap<DeliveryId, LastOutcome>,
    /// Sequence of the last outcome that was read; where the read began when there are none.
    pub to: u64,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastOutcome {
    /// Highest number of its attempts that ended; 0 when it ended without one.
    pub attempts: u32,
    /// When the next attempt is due; `None` when the delivery has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

impl LastOutcome {
    fn new(event: &Concluded) -> Self {
        Self {
            attempts: event.attempt.as_ref().map_or(0, |attempt| attempt.number),
            next_attempt_at: match event.conclusion {
                Conclusion::Retry { next_attempt_at } => Some(next_attempt_at),
                Conclusion::Succeeded | Conclusion::Failed { .. } => None,
            },
        }
    }

    /// Takes another outcome of the delivery in. What has ended stays so, and an attempt that was repeated is no news, as
    /// in every fold of a delivery.
    fn evolve(&mut self, other: Self) {
        let is_news = other.next_attempt_at.is_none() || other.attempts > self.attempts;
        if self.next_attempt_at.is_some() && is_news {
            self.attempts = self.attempts.max(other.attempts);
            self.next_attempt_at = other.next_attempt_at;
        }
    }

    /// Whether there is nothing to do about attempt `number` any more.
    fn covers(self, number: u32) -> bool {
        self.next_attempt_at.is_none() || self.attempts >= number
    }
}

impl Log {
    /// What became of the endpoint's deliveries after `sequence`: everything that the stream's leader has at the time of
    /// the call. Outcomes that this version cannot read are counted and left out.
    ///
    /// [`LogError::Unavailable`] when a part of it was not to be had within `request_timeout`.
    pub async fn outcomes_after(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
        sequence: u64,
    ) -> Result<Outcomes, LogError> {
        let mut outcomes = HashMap::new();
        let fold = |event: &Concluded| {
            let outcome = LastOutcome::new(event);
            match outcomes.entry(event.delivery.delivery_id) {
                Entry::Vacant(entry) => {
                    entry.insert(outcome);
                }
                Entry::Occupied(mut entry) => entry.get_mut().evolve(outcome),
            }
            false
        };
        let to = self
            .visit_outcomes(project_id, endpoint_id, sequence, fold)
            .await?;
        Ok(Outcomes { of: outcomes, to })
    }

    /// The endpoint's last outcome and its sequence, as the stream's leader knows it; `None` when there was none yet.
    ///
    /// [`LogError::Codec`] when this version cannot read it.
    pub async fn last_outcome(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
    ) -> Result<Option<(u64, Concluded)>, LogError> {
        let any = [Outcome::Attempted, Outcome::Succeeded, Outcome::Failed];
        self.last_of(project_id, endpoint_id, any).await
    }

    /// The endpoint's last outcome that did not fail a delivery for good, and its sequence, as the stream's leader knows it.
    /// It is of an attempt: nobody ends a delivery so without one.
    ///
    /// [`LogError::Codec`] when this version cannot read it.
    pub async fn last_not_failed(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
    ) -> Result<Option<(u64, Concluded)>, LogError> {
        let attempts = [Outcome::Attempted, Outcome::Succeeded];
        self.last_of(project_id, endpoint_id, attempts).await
    }

    async fn last_of(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
        outcomes: impl IntoIterator<Item = Outcome>,
    ) -> Result<Option<(u64, Concluded)>, LogError> {
        let reads = outcomes.into_iter().map(|outcome| {
            let subject = Subject::Outcome {
                project_id: project_id.clone(),
                endpoint_id,
                outcome,
            };
            let subject = subject.to_string();
            async move { self.retried(|| self.leader_last(STREAM, &subject)).await }
        });
        let last = try_join_all(reads)
            .await?
            .into_iter()
            .flatten()
            .max_by_key(|message| message.sequence);
        last.map(|message| Ok((message.sequence, decode(message)?)))
            .transpose()
    }

    /// The outcomes of one delivery that are stored after `sequence`, in order: everything that the stream's leader has at
    /// the time of the call. Those that this version cannot read are counted and left out.
    ///
    /// Reads what became of the endpoint's other deliveries since, too.
    pub async fn outcomes_of(
        &self,
        delivery: &DeliveryRef,
        sequence: u64,
    ) -> Result<Vec<Concluded>, LogError> {
        let mut outcomes = Vec::new();
        let collect = |event: &Concluded| {
            if event.delivery.delivery_id == delivery.delivery_id {
                outcomes.push(event.clone());
            }
            false
        };
        self.visit_outcomes(&delivery.project_id, delivery.endpoint_id, sequence, collect)
            .await?;
        Ok(outcomes)
    }

    /// Whether attempt `number` of the delivery needs not be made: an outcome of it, of a later one, or one that ends the
    /// delivery is stored behind the request, at `requested_sequence`.
    ///
    /// Reads what became of the endpoint's other deliveries since, too: costly for a request that is long ago.
    pub async fn attempted(
        &self,
        delivery: &DeliveryRef,
        requested_sequence: u64,
        number: u32,
    ) -> Result<bool, LogError> {
        let mut found = false;
        let look = |event: &Concluded| {
            found =
                event.delivery.delivery_id == delivery.delivery_id && LastOutcome::new(event).covers(number);
            found
        };
        self.visit_outcomes(
            &delivery.project_id,
            delivery.endpoint_id,
            requested_sequence,
            look,
        )
        .await?;
        Ok(found)
    }

    /// Shows `visitor` the endpoint's outcomes after `sequence` until it says that it has seen enough, or until the
    /// leader has no more. The sequence of the last one that was read, or `sequence`.
    async fn visit_outcomes(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
        sequence: u64,
        mut visitor: impl FnMut(&Concluded) -> bool,
    ) -> Result<u64, LogError> {
        let filter = outcomes_of(project_id, endpoint_id);
        let mut to = sequence;
        loop {
            let page = self.page(&filter, to + 1, BATCH, BATCH_BYTES).await?;
            to = page.end;
            let mut events = page
                .messages
                .into_iter()
                .filter_map(|message| decode(message).ok());
            if events.any(|event| visitor(&event)) || page.at_tail {
                return Ok(to);
            }
        }
    }
}

fn decode(message: StreamMessage) -> Result<Concluded, LogError> {
    match EventBody::decode(&message.subject, message.payload) {
        EventBody::Event(DeliveryEvent::Concluded(event)) => Ok(*event),
        EventBody::Unreadable(error) => Err(error.into()),
        _ => Err(LogError::Protocol(format!("no outcome at {}", message.sequence))),
    }
}
