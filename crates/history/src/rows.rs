//! Rows as the database holds them and as the store gives them out.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{Attempt, AttemptError, AttemptRequest, AttemptResponse, ErrorClass};
use cuitty_webhooks_domain::delivery::{Delivery, DeliveryRef, DeliveryStatus, FailureReason, Origin};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use sqlx::types::Uuid;

use crate::detail::Detail;
use crate::error::HistoryError;

/// A delivery with its payload and every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryDetail {
    /// Its state.
    pub delivery: Delivery,
    /// Media type of the payload.
    pub content_type: String,
    /// The payload exactly as it was given.
    pub payload: Bytes,
    /// In order of their numbers.
    pub attempts: Vec<AttemptRow>,
}

/// An attempt and what it led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// The attempt.
    pub attempt: Attempt,
    /// When the attempt after it was scheduled; `None` when it was the last one.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A message that no endpoint subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedMessage {
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
    pub created_at: DateTime<Utc>,
}

/// Columns of [`StoredDelivery`], with `deliveries` named `d`.
pub(crate) const DELIVERY_COLUMNS: &str = "d.id, d.message_id, d.project_id, d.endpoint_id, d.event_type, \
    d.requested_sequence, d.origin, d.replay_of, d.status, d.failure_reason, d.attempt_count, d.next_attempt_at, \
    d.created_at, d.completed_at, d.response_status";

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct StoredDelivery {
    id: Uuid,
    message_id: Uuid,
    project_id: String,
    endpoint_id: Uuid,
    event_type: String,
    requested_sequence: i64,
    origin: String,
    replay_of: Option<Uuid>,
    status: String,
    failure_reason: Option<String>,
    attempt_count: i64,
    next_attempt_at: Option<i64>,
    created_at: i64,
    completed_at: Option<i64>,
    response_status: Option<i32>,
}

impl TryFrom<StoredDelivery> for Delivery {
    type Error = HistoryError;

    fn try_from(row: StoredDelivery) -> Result<Self, HistoryError> {
        let corrupt = |column| HistoryError::Corrupt {
            table: "deliveries",
            column,
        };
        Ok(Self {
            delivery: DeliveryRef {
                delivery_id: DeliveryId::from_uuid(row.id),
                message_id: MessageId::from_uuid(row.message_id),
                project_id: row.project_id.parse().map_err(|_| corrupt("project_id"))?,
                endpoint_id: EndpointId::from_uuid(row.endpoint_id),
                event_type: row.event_type.parse().map_err(|_| corrupt("event_type"))?,
            },
            requested_sequence: u64::try_from(row.requested_sequence)
                .map_err(|_| corrupt("requested_sequence"))?,
            origin: named(&Origin::ALL, Origin::as_str, &row.origin).ok_or(corrupt("origin"))?,
            replay_of: row.replay_of.map(DeliveryId::from_uuid),
            status: named(&DeliveryStatus::ALL, DeliveryStatus::as_str, &row.status)
                .ok_or(corrupt("status"))?,
            failure_reason: row
                .failure_reason
                .map(|name| {
                    named(&FailureReason::ALL, FailureReason::as_str, &name).ok_or(corrupt("failure_reason"))
                })
                .transpose()?,
            attempt_count: u32::try_from(row.attempt_count).map_err(|_| corrupt("attempt_count"))?,
            next_attempt_at: optional_time(row.next_attempt_at).ok_or(corrupt("next_attempt_at"))?,
            created_at: time(row.created_at).ok_or(corrupt("created_at"))?,
            completed_at: optional_time(row.completed_at).ok_or(corrupt("completed_at"))?,
            response_status: row
                .response_status
                .map(|status| u16::try_from(status).map_err(|_| corrupt("response_status")))
                .transpose()?,
        })
    }
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct StoredDetail {
    #[sqlx(flatten)]
    delivery: StoredDelivery,
    content_type: String,
    payload: Vec<u8>,
}

impl TryFrom<StoredDetail> for DeliveryDetail {
    type Error = HistoryError;

    fn try_from(row: StoredDetail) -> Result<Self, HistoryError> {
        Ok(Self {
            delivery: row.delivery.try_into()?,
            content_type: row.content_type,
            payload: row.payload.into(),
            attempts: Vec::new(),
        })
    }
}

/// Columns of [`StoredAttempt`].
pub(crate) const ATTEMPT_COLUMNS: &str = "delivery_id, number, started_at, duration_us, response_status, \
    error_class, next_attempt_at, detail, response_body";

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct StoredAttempt {
    pub(crate) delivery_id: Uuid,
    number: i64,
    started_at: i64,
    duration_us: i64,
    response_status: Option<i32>,
    error_class: Option<String>,
    next_attempt_at: Option<i64>,
    detail: String,
    response_body: Option<Vec<u8>>,
}

impl TryFrom<StoredAttempt> for AttemptRow {
    type Error = HistoryError;

    fn try_from(row: StoredAttempt) -> Result<Self, HistoryError> {
        let corrupt = |column| HistoryError::Corrupt {
            table: "attempts",
            column,
        };
        let detail: Detail<'_> = serde_json::from_str(&row.detail).map_err(|_| corrupt("detail"))?;
        let response = match row.response_status {
            None => None,
            Some(status) => Some(AttemptResponse {
                status: u16::try_from(status).map_err(|_| corrupt("response_status"))?,
                headers: detail.response_headers.into_headers(),
                body: row.response_body.unwrap_or_default().into(),
                body_truncated: detail.body_truncated,
            }),
        };
        let error = match row.error_class {
            None => None,
            Some(name) => Some(AttemptError {
                class: named(&ErrorClass::ALL, ErrorClass::as_str, &name).ok_or(corrupt("error_class"))?,
                message: detail.error_message.into_owned(),
            }),
        };
        Ok(Self {
            attempt: Attempt {
                number: u32::try_from(row.number).map_err(|_| corrupt("number"))?,
                started_at: time(row.started_at).ok_or(corrupt("started_at"))?,
                duration: u64::try_from(row.duration_us)
                    .map(Duration::from_micros)
                    .map_err(|_| corrupt("duration_us"))?,
                request: AttemptRequest {
                    url: detail.url.into_owned(),
                    headers: detail.request_headers.into_headers(),
                    signed_with: detail
                        .signed_with
                        .iter()
                        .map(|id| id.parse().map_err(|_| corrupt("detail")))
                        .collect::<Result<_, _>>()?,
                },
                response,
                error,
                timing: detail.timing.into_timing(),
                remote_address: detail.remote_address,
                endpoint_revision: detail.endpoint_revision,
                dispatcher_id: detail.dispatcher_id.into_owned(),
                trace_id: detail.trace_id.into_owned(),
            },
            next_attempt_at: optional_time(row.next_attempt_at).ok_or(corrupt("next_attempt_at"))?,
        })
    }
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct StoredUnmatched {
    message_id: Uuid,
    project_id: String,
    event_type: String,
    content_type: String,
    payload: Vec<u8>,
    created_at: i64,
}

impl TryFrom<StoredUnmatched> for UnmatchedMessage {
    type Error = HistoryError;

    fn try_from(row: StoredUnmatched) -> Result<Self, HistoryError> {
        let corrupt = |table, column| HistoryError::Corrupt { table, column };
        Ok(Self {
            message_id: MessageId::from_uuid(row.message_id),
            project_id: row
                .project_id
                .parse()
                .map_err(|_| corrupt("messages", "project_id"))?,
            event_type: row
                .event_type
                .parse()
                .map_err(|_| corrupt("messages", "event_type"))?,
            content_type: row.content_type,
            payload: row.payload.into(),
            created_at: time(row.created_at).ok_or(corrupt("unmatched_messages", "created_at"))?,
        })
    }
}

/// Converts rows, stopping at the first that cannot be read.
pub(crate) fn convert<Row, T>(rows: Vec<Row>) -> Result<Vec<T>, HistoryError>
where
    T: TryFrom<Row, Error = HistoryError>,
{
    rows.into_iter().map(T::try_from).collect()
}

/// A text that every database can store: PostgreSQL has no U+0000.
pub(crate) fn storable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// A duration in microseconds; one that is too long counts as the longest.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn time(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}

/// The outer `None` is a value out of range.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn optional_time(micros: Option<i64>) -> Option<Option<DateTime<Utc>>> {
    micros.map_or(Some(None), |micros| time(micros).map(Some))
}

fn named<T: Copy>(all: &[T], name_of: impl Fn(T) -> &'static str, name: &str) -> Option<T> {
    all.iter().copied().find(|&value| name_of(value) == name)
}
