//! `POST /api/webhooks/deliver`

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::Key;
use super::body::{JsonBytes, Members};
use super::terms::{Reply, idempotency_key};
use crate::app::{Accepted, App, NewMessage};
use crate::error::AppError;
use crate::trace_context::traceparent;

/// A message. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = Message)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "describes what is read member by member, so that the payload keeps its bytes"
)]
pub(super) struct DeliverBody {
    /// May be left out with a key that is bound to one project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    project_id: Option<String>,
    #[schema(
        example = "budget.threshold_reached",
        pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        max_length = 128
    )]
    event_type: String,
    /// Any JSON value; sent byte for byte as it stands here, at most 256 KiB.
    payload: serde_json::Value,
    /// To this endpoint only, whatever its event types.
    #[schema(pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    endpoint_id: Option<String>,
    /// The same key within 24 hours gives the same answer and changes nothing; also taken from the header
    /// `Idempotency-Key` or `X-Cuitty-Idempotency-Key`.
    #[schema(max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    idempotency_key: Option<String>,
}

/// What is in the log, and will be delivered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Accepted)]
pub(super) struct AcceptedBody {
    message_id: String,
    /// Empty when no endpoint matched: the message is kept and can be replayed.
    deliveries: Vec<AcceptedDelivery>,
    /// Reads can wait for it.
    log_sequence: u64,
    /// Whether the idempotency key had been used for the same request before.
    duplicate: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct AcceptedDelivery {
    id: String,
    endpoint_id: String,
}

/// Accepts a message. It is in the log when this answers.
#[utoipa::path(
    post,
    path = "/api/webhooks/deliver",
    tag = "messages",
    request_body(content = DeliverBody, example = json!({
        "project_id": "acme",
        "event_type": "budget.threshold_reached",
        "payload": {"budget": "compute", "threshold": 0.8}
    })),
    responses((status = 202, description = "In the log", body = AcceptedBody))
)]
pub(super) async fn deliver_message(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    headers: HeaderMap,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let message = read(&headers, &body)?;
    let accepted = app.deliver(&caller, message).await?;
    let is_replayed = accepted.duplicate;
    Ok(Reply::new(StatusCode::ACCEPTED, AcceptedBody::from(accepted)).replayed(is_replayed))
}

fn read(headers: &HeaderMap, body: &Bytes) -> Result<NewMessage, AppError> {
    let mut members = Members::parse(body)?;
    let payload = members
        .required("payload")
        .map(|raw| body.slice_ref(raw.get().as_bytes()));
    let mut message = NewMessage {
        project_id: members.name("project_id"),
        event_type: members.text("event_type"),
        payload: payload.unwrap_or_default(),
        endpoint_id: members.name("endpoint_id"),
        idempotency_key: members.text("idempotency_key"),
        content_type: String::new(),
        traceparent: traceparent(headers),
        faults: members.faults(),
    };
    message.idempotency_key = idempotency_key(headers, message.idempotency_key)?;
    Ok(message)
}

impl From<Accepted> for AcceptedBody {
    fn from(accepted: Accepted) -> Self {
        let delivery = |(id, endpoint_id): &(_, _)| delivery_body(id, endpoint_id);
        Self {
            message_id: accepted.message_id.to_string(),
            deliveries: accepted.deliveries.iter().map(delivery).collect(),
            log_sequence: accepted.log_sequence,
            duplicate: accepted.duplicate,
        }
    }
}

fn delivery_body(id: &impl ToString, endpoint_id: &impl ToString) -> AcceptedDelivery {
    AcceptedDelivery {
        id: id.to_string(),
        endpoint_id: endpoint_id.to_string(),
    }
}

#[cfg(test)]
mod tests;
