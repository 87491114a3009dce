//! A delivery's life: the facts that the log stores of it, the state folded from them, and what an attempt decides.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rand::Rng;

use crate::attempt::Attempt;
use crate::destination::{Answer, answer};
use crate::endpoint::EndpointKind;
use crate::ids::{DeliveryId, EndpointId, MessageId};
use crate::names::{EventType, ProjectId};
use crate::rejection::{Rejection, Resource};
use crate::retry::{RetrySchedule, retry_after};

/// How long after its request a delivery is still attempted (24 h).
pub const DEFAULT_DEADLINE: Duration = Duration::from_hours(24);

/// Header of an answer that says what is to become of the delivery or the endpoint.
const DELIVERY_HEADER: &str = "webhook-delivery";
/// The message is not wanted again.
const ABORT_MESSAGE: &str = "abort-message";
/// No message is wanted any more.
const DISABLE: &str = "disable";

/// The names that every fact of a delivery carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRef {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The message it delivers.
    pub message_id: MessageId,
    /// The project of both.
    pub project_id: ProjectId,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// The message's type.
    pub event_type: EventType,
}

/// Where a delivery comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A module delivered an event.
    Event,
    /// Somebody sent a test event.
    Test,
    /// An earlier delivery is sent again.
    Replay,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 3] = [Self::Event, Self::Test, Self::Replay];

    /// The name in the API and in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Test => "test",
            Self::Replay => "replay",
        }
    }
}

/// Why a delivery ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// Every attempt of the schedule failed.
    Exhausted,
    /// The endpoint answered that it is gone: with 410, as its kind says it, or by asking to be disabled with an answer that
    /// is no success.
    Gone,
    /// The endpoint is disabled.
    EndpointDisabled,
    /// The endpoint was deleted before the delivery was accepted.
    EndpointDeleted,
    /// The deadline passed.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
    /// The endpoint answered that it does not want the message again.
    Aborted,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Exhausted,
        Self::Gone,
        Self::EndpointDisabled,
        Self::EndpointDeleted,
        Self::Expired,
        Self::Cancelled,
        Self::Aborted,
    ];

    /// The name in the API and in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::EndpointDeleted => "endpoint_deleted",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Aborted => "aborted",
        }
    }
}

/// A message was accepted for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// Whose fact this is.
    pub delivery: DeliveryRef,
    /// Media type of the payload.
    pub content_type: String,
    /// The payload exactly as it was given.
    pub payload: Bytes,
    /// When it was accepted.
    pub requested_at: DateTime<Utc>,
    /// Where it comes from.
    pub origin: Origin,
    /// The delivery that this one replays.
    pub replay_of: Option<DeliveryId>,
    /// W3C trace context of the request; empty when there was none.
    pub traceparent: String,
    /// The delivery ends as `failed(expired)` when it is not delivered by then.
    pub deadline: DateTime<Utc>,
}

/// A retry timer fired: an attempt is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Whose fact this is.
    pub delivery: DeliveryRef,
    /// Log sequence of the delivery's [`Requested`], which holds the payload.
    pub requested_sequence: u64,
    /// The attempt that is due: 2 or more.
    pub attempt_number: u32,
    /// When it was to be made.
    pub due_at: DateTime<Utc>,
}

/// One attempt ended, or the delivery ended without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concluded {
    /// Whose fact this is.
    pub delivery: DeliveryRef,
    /// Log sequence of the delivery's [`Requested`].
    pub requested_sequence: u64,
    /// The attempt; `None` only with [`Conclusion::Failed`].
    pub attempt: Option<Attempt>,
    /// What it means for the delivery.
    pub conclusion: Conclusion,
    /// When it was concluded.
    pub at: DateTime<Utc>,
}

impl Concluded {
    /// Whether the endpoint asked to be disabled as [gone](crate::endpoint::DisabledReason::Gone) by this answer, whatever
    /// became of the delivery. What is stored tells as much as [`Verdict::disables`] did.
    pub fn asks_to_disable(&self) -> bool {
        match self.conclusion {
            Conclusion::Failed { reason } => reason == FailureReason::Gone,
            Conclusion::Succeeded => self
                .attempt
                .as_ref()
                .is_some_and(|attempt| asks(attempt, DISABLE)),
            Conclusion::Retry { .. } => false,
        }
    }
}

/// What an ended attempt means for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// It failed and will be retried at this time.
    Retry {
        /// When the next attempt is due.
        next_attempt_at: DateTime<Utc>,
    },
    /// It was delivered.
    Succeeded,
    /// It failed for good.
    Failed {
        /// Why.
        reason: FailureReason,
    },
}

/// A message was accepted that no endpoint subscribes to. Kept, so that it can be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    /// The message.
    pub message_id: MessageId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its type.
    pub event_type: EventType,
    /// Media type of the payload.
    pub content_type: String,
    /// The payload exactly as it was given.
    pub payload: Bytes,
    /// When it was accepted.
    pub requested_at: DateTime<Utc>,
    /// W3C trace context of the request; empty when there was none.
    pub traceparent: String,
}

/// A fact about deliveries, as the log stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryEvent {
    /// A message was accepted for one endpoint.
    Requested(Requested),
    /// A retry is due.
    Due(Due),
    /// An attempt ended.
    Concluded(Box<Concluded>),
    /// A message matched no endpoint.
    Unmatched(Unmatched),
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// Not ended: waiting for an attempt, or in one.
    Pending,
    /// The endpoint took it.
    Delivered,
    /// It ended without success.
    Failed,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    /// The name in the API and in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// The state of a delivery, folded from its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its names.
    pub delivery: DeliveryRef,
    /// Log sequence of its [`Requested`].
    pub requested_sequence: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// The delivery that this one replays.
    pub replay_of: Option<DeliveryId>,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Why it failed; `None` unless it has.
    pub failure_reason: Option<FailureReason>,
    /// Highest number of its attempts so far.
    pub attempt_count: u32,
    /// When the next attempt is due; `None` while one is waiting to start or the delivery has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was requested.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// Status of the last response that arrived.
    pub response_status: Option<u16>,
}

impl Delivery {
    /// The state right after the request at `sequence` of the log.
    pub fn requested(event: &Requested, sequence: u64) -> Self {
        Self {
            delivery: event.delivery.clone(),
            requested_sequence: sequence,
            origin: event.origin,
            replay_of: event.replay_of,
            status: DeliveryStatus::Pending,
            failure_reason: None,
            attempt_count: 0,
            next_attempt_at: None,
            created_at: event.requested_at,
            completed_at: None,
            response_status: None,
        }
    }

    /// Folds the end of an attempt in. Facts that are known already change nothing, so a fold may see one twice; once
    /// a delivery has ended it stays as it is.
    pub fn evolve(&mut self, event: &Concluded) {
        let number = event.attempt.as_ref().map_or(0, |attempt| attempt.number);
        let is_news = match event.conclusion {
            Conclusion::Retry { .. } => number > self.attempt_count,
            Conclusion::Succeeded | Conclusion::Failed { .. } => true,
        };
        if self.status != DeliveryStatus::Pending || !is_news {
            return;
        }
        self.attempt_count = self.attempt_count.max(number);
        if let Some(response) = event
            .attempt
            .as_ref()
            .and_then(|attempt| attempt.response.as_ref())
        {
            self.response_status = Some(response.status);
        }
        self.next_attempt_at = None;
        match event.conclusion {
            Conclusion::Retry { next_attempt_at } => self.next_attempt_at = Some(next_attempt_at),
            Conclusion::Succeeded => self.status = DeliveryStatus::Delivered,
            Conclusion::Failed { reason } => {
                self.status = DeliveryStatus::Failed;
                self.failure_reason = Some(reason);
            }
        }
        if self.status != DeliveryStatus::Pending {
            self.completed_at = Some(event.at);
        }
    }
}

impl Delivery {
    /// Whether a cancellation has anything to end; not when it was cancelled before. Refused when it has ended otherwise.
    pub fn is_cancellable(&self) -> Result<bool, Rejection> {
        let message = match (self.status, self.failure_reason) {
            (DeliveryStatus::Pending, _) => return Ok(true),
            (DeliveryStatus::Failed, Some(FailureReason::Cancelled)) => return Ok(false),
            (DeliveryStatus::Failed, reason) => {
                let reason = reason.map_or("unknown", FailureReason::as_str);
                format!("only a pending delivery can be cancelled, this one is failed ({reason})")
            }
            (DeliveryStatus::Delivered, _) => {
                "only a pending delivery can be cancelled, this one is delivered".to_owned()
            }
        };
        Err(Rejection::Conflict {
            resource: Resource::Delivery,
            id: self.delivery.delivery_id.to_string(),
            message,
        })
    }
}

/// What an ended attempt means for its delivery, and for its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What it means for the delivery.
    pub conclusion: Conclusion,
    /// Whether the endpoint is to be disabled as [gone](crate::endpoint::DisabledReason::Gone).
    pub disables: bool,
}

/// Decides what an ended attempt means, at an endpoint of `kind`.
///
/// 2xx delivers. 410 fails for good and disables the endpoint (Standard Webhooks 1.0). An answer that is no success and
/// says `webhook-delivery: abort-message` fails for good, with `webhook-delivery: disable` as 410 does; `disable` with a
/// 2xx disables the endpoint after the success. What else an answer may mean, the kind tells. Everything else is retried on
/// `schedule`, no earlier than `Retry-After` asks, until the schedule is used up or the next attempt would start after
/// `deadline`.
pub fn conclude(
    kind: EndpointKind,
    attempt: &Attempt,
    schedule: &RetrySchedule,
    deadline: DateTime<Utc>,
    now: DateTime<Utc>,
    rng: &mut impl Rng,
) -> Verdict {
    let answer = if attempt.succeeded() {
        Answer::Retry
    } else {
        answer(kind, attempt)
    };
    let disables = answer == Answer::Gone || asks(attempt, DISABLE);
    let failed = |reason| Conclusion::Failed { reason };
    let conclusion = if attempt.succeeded() {
        Conclusion::Succeeded
    } else if disables {
        failed(FailureReason::Gone)
    } else if answer == Answer::Refused || asks(attempt, ABORT_MESSAGE) {
        failed(FailureReason::Aborted)
    } else if let Some(delay) = schedule.delay_after(attempt.number, rng) {
        let next_attempt_at = now + delay.max(retry_after(attempt, now).unwrap_or_default());
        if next_attempt_at > deadline {
            failed(FailureReason::Expired)
        } else {
            Conclusion::Retry { next_attempt_at }
        }
    } else {
        failed(FailureReason::Exhausted)
    };
    Verdict { conclusion, disables }
}

/// Whether the answer says `webhook-delivery: <directive>`, alone or among others. Names and values may be written in
/// any case; directives that are not known are passed over.
fn asks(attempt: &Attempt, directive: &str) -> bool {
    attempt.response.as_ref().is_some_and(|response| {
        response
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(DELIVERY_HEADER))
            .flat_map(|header| header.value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(directive))
    })
}

#[cfg(test)]
pub(crate) mod tests;
