//! Deliveries and their attempts as REST shows them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{self, Attempt, AttemptResponse};
use cuitty_webhooks_domain::delivery::{Delivery, DeliveryStatus, FailureReason};
use cuitty_webhooks_domain::signing::{SignatureCheck, SignatureScheme, Unverifiable};
use cuitty_webhooks_history::{AttemptRow, DeliveryDetail};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// How a delivery stands.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeliveryStatus)]
pub(crate) enum Status {
    Pending,
    Delivered,
    Failed,
}

/// One message to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryBody {
    #[schema(example = "dlv_01h455vb4pex5vsknk084sn02q")]
    id: String,
    #[schema(example = "acme")]
    project_id: String,
    #[schema(example = "ep_01h455vb4pex5vsknk084sn02q")]
    endpoint_id: String,
    /// What the receiver gets as `webhook-id`.
    #[schema(example = "msg_01h455vb4pex5vsknk084sn02q")]
    message_id: String,
    #[schema(example = "budget.threshold_reached")]
    event_type: String,
    status: Status,
    /// `exhausted`, `gone`, `endpoint_disabled`, `endpoint_deleted`, `expired`, `cancelled` or `aborted`; null unless failed.
    failure_reason: Option<&'static str>,
    /// `event`, `test` or `replay`.
    origin: &'static str,
    /// The delivery that this one sends again.
    replay_of: Option<String>,
    attempt_count: u32,
    /// While it is pending and has failed before.
    next_attempt_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
    /// Of the last attempt that was answered.
    response_status: Option<u16>,
}

/// A page of deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryList {
    pub(crate) data: Vec<DeliveryBody>,
    /// Pass it as `cursor` for the next page; null on the last one.
    pub(crate) next_cursor: Option<String>,
}

/// A delivery with its payload and every attempt.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryDetail)]
pub(crate) struct DeliveryDetailBody {
    #[serde(flatten)]
    delivery: DeliveryBody,
    /// Media type of the payload.
    #[schema(example = "application/json")]
    content_type: String,
    /// As it was given; null when it is not JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// A payload that is not JSON, in base64.
    payload_base64: Option<String>,
    /// What the last attempt was answered, as text.
    response_body: Option<String>,
    /// In their order.
    attempts: Vec<AttemptBody>,
}

/// One attempt to deliver.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
struct AttemptBody {
    /// 1 for the first.
    number: u32,
    started_at: DateTime<Utc>,
    duration_ms: f64,
    /// `succeeded` or `failed`.
    outcome: &'static str,
    request: AttemptRequest,
    response: Option<Answer>,
    error: Option<AttemptError>,
    timing: Timing,
    /// The peer, once a connection was made.
    remote_address: Option<String>,
    endpoint_revision: u64,
    /// Null when it was not traced.
    trace_id: Option<String>,
    dispatcher_id: String,
    /// When the attempt after it was scheduled.
    next_attempt_at: Option<DateTime<Utc>>,
    /// Of each signature that was sent; null unless `verify` asks for it.
    signature_checks: Option<Vec<CheckBody>>,
}

/// A header as it was sent or received.
#[derive(Debug, Serialize, ToSchema)]
struct Header {
    name: String,
    value: String,
}

/// What was sent beside the payload.
#[derive(Debug, Serialize, ToSchema)]
struct AttemptRequest {
    url: String,
    headers: Vec<Header>,
    /// Ids of the secrets whose signatures it carried.
    signed_with: Vec<String>,
}

/// What came back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AttemptResponse)]
struct Answer {
    status: u16,
    headers: Vec<Header>,
    /// As text; what is not UTF-8 is replaced.
    body: String,
    /// Whether it went on beyond what was kept (16 KiB).
    body_truncated: bool,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct AttemptError {
    /// What programs tell errors apart by, such as `dns`, `connect`, `tls`, `timeout` or `status`.
    class: &'static str,
    /// For people.
    message: String,
}

/// How the duration splits; null for what did not happen, as on a connection that was kept alive.
#[derive(Debug, Serialize, ToSchema)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is part of the names that the API has"
)]
struct Timing {
    queue_ms: f64,
    dns_ms: Option<f64>,
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    first_byte_ms: Option<f64>,
}

/// Whether a stored signature is that of the stored body.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignatureCheck)]
struct CheckBody {
    secret_id: String,
    /// `hmac-sha256` or `ed25519`; null when the secret is gone.
    scheme: Option<&'static str>,
    /// The header that carried it.
    header: String,
    /// Null when it cannot be told.
    valid: Option<bool>,
    /// Why it cannot be told.
    reason: Option<&'static str>,
}

impl DeliveryBody {
    pub(crate) fn new(state: &Delivery) -> Self {
        let names = &state.delivery;
        Self {
            id: names.delivery_id.to_string(),
            project_id: names.project_id.to_string(),
            endpoint_id: names.endpoint_id.to_string(),
            message_id: names.message_id.to_string(),
            event_type: names.event_type.to_string(),
            status: match state.status {
                DeliveryStatus::Pending => Status::Pending,
                DeliveryStatus::Delivered => Status::Delivered,
                DeliveryStatus::Failed => Status::Failed,
            },
            failure_reason: state.failure_reason.map(FailureReason::as_str),
            origin: state.origin.as_str(),
            replay_of: state.replay_of.map(|id| id.to_string()),
            attempt_count: state.attempt_count,
            next_attempt_at: state.next_attempt_at,
            created_at: state.created_at,
            completed_at: state.completed_at,
            response_status: state.response_status,
        }
    }
}

impl DeliveryDetailBody {
    /// `checks` are those of the attempts' signatures, for each attempt in turn, when they were asked for.
    pub(crate) fn new(detail: &DeliveryDetail, checks: Option<&[Vec<SignatureCheck>]>) -> Self {
        let payload = serde_json::from_slice::<Box<RawValue>>(&detail.payload).ok();
        let last = detail.attempts.last();
        let last = last.and_then(|row| row.attempt.response.as_ref());
        let attempts = detail.attempts.iter().enumerate();
        Self {
            delivery: DeliveryBody::new(&detail.delivery),
            content_type: detail.content_type.clone(),
            payload_base64: payload.is_none().then(|| STANDARD.encode(&detail.payload)),
            payload,
            response_body: last.map(text),
            attempts: attempts
                .map(|(index, row)| {
                    AttemptBody::new(
                        row,
                        checks.and_then(|checks| checks.get(index)).map(Vec::as_slice),
                    )
                })
                .collect(),
        }
    }
}

impl DeliveryDetailBody {
    /// The same with its payload in base64, for readers of JSON that cannot hold what that says.
    pub(crate) fn in_base64(self, payload: &[u8]) -> Self {
        Self {
            payload: None,
            payload_base64: Some(STANDARD.encode(payload)),
            ..self
        }
    }
}

impl AttemptBody {
    fn new(row: &AttemptRow, checks: Option<&[SignatureCheck]>) -> Self {
        let Attempt {
            request,
            response,
            error,
            ..
        } = &row.attempt;
        let attempt = &row.attempt;
        Self {
            number: attempt.number,
            started_at: attempt.started_at,
            duration_ms: millis(attempt.duration),
            outcome: if attempt.succeeded() {
                "succeeded"
            } else {
                "failed"
            },
            request: AttemptRequest {
                url: request.url.clone(),
                headers: headers(&request.headers),
                signed_with: request.signed_with.iter().map(ToString::to_string).collect(),
            },
            response: response.as_ref().map(|response| Answer {
                status: response.status,
                headers: headers(&response.headers),
                body: text(response),
                body_truncated: response.body_truncated,
            }),
            error: error.as_ref().map(|error| AttemptError {
                class: error.class.as_str(),
                message: error.message.clone(),
            }),
            timing: Timing {
                queue_ms: millis(attempt.timing.queue),
                dns_ms: attempt.timing.dns.map(millis),
                connect_ms: attempt.timing.connect.map(millis),
                tls_ms: attempt.timing.tls.map(millis),
                first_byte_ms: attempt.timing.first_byte.map(millis),
            },
            remote_address: attempt.remote_address.map(|address| address.to_string()),
            endpoint_revision: attempt.endpoint_revision,
            trace_id: Some(attempt.trace_id.clone()).filter(|id| !id.is_empty()),
            dispatcher_id: attempt.dispatcher_id.clone(),
            next_attempt_at: row.next_attempt_at,
            signature_checks: checks.map(|checks| checks.iter().map(CheckBody::new).collect()),
        }
    }
}

impl CheckBody {
    fn new(check: &SignatureCheck) -> Self {
        Self {
            secret_id: check.secret_id.to_string(),
            scheme: check.scheme.map(SignatureScheme::as_str),
            header: check.header.clone(),
            valid: check.valid.ok(),
            reason: check.valid.err().map(Unverifiable::as_str),
        }
    }
}

fn headers(headers: &[attempt::Header]) -> Vec<Header> {
    let header = |header: &attempt::Header| Header {
        name: header.name.clone(),
        value: header.value.clone(),
    };
    headers.iter().map(header).collect()
}

fn text(response: &AttemptResponse) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{attempt, requested};

    fn detail(content_type: &str, payload: &'static [u8]) -> serde_json::Value {
        let requested = requested();
        let mut delivery = Delivery::requested(&requested, 7);
        delivery.response_status = Some(500);
        let detail = DeliveryDetail {
            delivery,
            content_type: content_type.into(),
            payload: bytes::Bytes::from_static(payload),
            attempts: vec![AttemptRow {
                attempt: attempt(),
                next_attempt_at: None,
            }],
        };
        serde_json::to_value(DeliveryDetailBody::new(&detail, None)).unwrap()
    }

    #[test]
    fn a_payload_is_shown_as_json_or_else_in_base64() {
        let shown = detail("application/json", b"{\"a\": [1.50]}");
        assert_eq!(shown["payload"], json!({"a": [1.5]}));
        assert_eq!(shown["payload_base64"], json!(null));
        let shown = detail("application/octet-stream", b"\xff\x00");
        assert_eq!(
            (&shown["payload"], &shown["payload_base64"]),
            (&json!(null), &json!("/wA="))
        );
    }

    #[test]
    fn an_attempt_shows_what_was_sent_and_what_came_back() {
        let shown = detail("application/json", b"{}");
        assert_eq!(shown["response_body"], "oops");
        let attempt = &shown["attempts"][0];
        assert_eq!(attempt["outcome"], "failed");
        assert_eq!(attempt["duration_ms"], 12.5);
        assert_eq!(
            attempt["request"]["headers"],
            json!([{"name": "webhook-id", "value": "msg_1"}])
        );
        assert_eq!(attempt["response"]["status"], 500);
        assert_eq!(attempt["error"]["class"], "status");
        assert_eq!(
            attempt["timing"],
            json!({"queue_ms": 2.0, "dns_ms": null, "connect_ms": 1.0, "tls_ms": null, "first_byte_ms": null})
        );
        assert_eq!(attempt["remote_address"], "192.0.2.7:443");
        assert_eq!(
            (&attempt["trace_id"], &attempt["signature_checks"]),
            (&json!(null), &json!(null))
        );
    }
}
