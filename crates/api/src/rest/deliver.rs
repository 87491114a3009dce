//! `POST /api/webhooks/deliver`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use cuitty_webhooks_domain::rejection::Rejection;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::Key;
use super::body::{JsonBytes, Members};
use crate::app::{Accepted, App, NewMessage};
use crate::error::{AppError, ErrorBody};
use crate::trace_context::traceparent;

/// Headers that may carry the idempotency key.
const IDEMPOTENCY_HEADERS: [&str; 2] = ["idempotency-key", "x-cuitty-idempotency-key"];

/// A message. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes what is read member by member, so that the payload keeps its bytes"
)]
pub(super) struct DeliverBody {
    /// May be left out with a key that is bound to one project.
    project_id: Option<String>,
    #[schema(example = "budget.exceeded")]
    event_type: String,
    /// Any JSON value; sent byte for byte as it stands here, at most 256 KiB.
    payload: serde_json::Value,
    /// To this endpoint only, whatever its event types.
    endpoint_id: Option<String>,
    /// The same key within 24 hours gives the same answer and changes nothing; also taken from the header
    /// `Idempotency-Key` or `X-Cuitty-Idempotency-Key`.
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
    request_body = DeliverBody,
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "At most 256 bytes")
    ),
    responses(
        (status = 202, description = "In the log", body = AcceptedBody),
        (status = 400, description = "Not JSON", body = ErrorBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 404, description = "Unknown project or endpoint", body = ErrorBody),
        (status = 409, description = "The idempotency key was used for a different request", body = ErrorBody),
        (status = 413, description = "The payload is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong", body = ErrorBody),
        (status = 503, description = "The log is not available, or too busy; nothing is promised", body = ErrorBody)
    )
)]
pub(super) async fn deliver_message(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    headers: HeaderMap,
    JsonBytes(body): JsonBytes,
) -> Result<(StatusCode, Json<AcceptedBody>), AppError> {
    let message = read(&headers, &body)?;
    let accepted = app.deliver(&caller, message).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted.into())))
}

fn read(headers: &HeaderMap, body: &Bytes) -> Result<NewMessage, AppError> {
    let mut members = Members::parse(body)?;
    let payload = members
        .required("payload")
        .map(|raw| body.slice_ref(raw.get().as_bytes()));
    let mut message = NewMessage {
        project_id: members.text("project_id"),
        event_type: members.text("event_type"),
        payload: payload.unwrap_or_default(),
        endpoint_id: members.text("endpoint_id"),
        idempotency_key: members.text("idempotency_key"),
        content_type: String::new(),
        traceparent: traceparent(headers),
    };
    members.finish()?;
    for value in IDEMPOTENCY_HEADERS.iter().filter_map(|name| headers.get(*name)) {
        let value = value
            .to_str()
            .map_err(|_| Rejection::field("idempotency_key", "must be visible ASCII in a header"))?;
        if value.is_empty() {
            continue;
        }
        if message.idempotency_key.is_empty() {
            value.clone_into(&mut message.idempotency_key);
        } else if message.idempotency_key != value {
            return Err(Rejection::field("idempotency_key", "is given twice, and not the same").into());
        }
    }
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
