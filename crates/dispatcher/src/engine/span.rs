//! The span of an attempt. It says where the request goes, but neither path nor query: both may hold what only the receiver is to
//! know.

use cuitty_webhooks_domain::attempt::Attempt;
use cuitty_webhooks_domain::delivery::Requested;
use cuitty_webhooks_domain::endpoint::{Endpoint, EndpointKind};
use cuitty_webhooks_log::trace;
use tracing::field::{Empty, display};
use tracing::{Span, debug_span};

/// The span of attempt `number`, asked for by what the log holds at `sequence`.
pub(super) fn of_attempt(endpoint: &Endpoint, requested: &Requested, number: u32, sequence: u64) -> Span {
    let delivery = &requested.delivery;
    match endpoint.settings.kind {
        EndpointKind::Http | EndpointKind::Slack => debug_span!(
            "dispatch.attempt",
            otel.kind = "client",
            otel.status_code = Empty,
            error.type = Empty,
            http.request.method = "POST",
            http.request.resend_count = number.checked_sub(2).map(|_| number - 1),
            http.response.status_code = Empty,
            server.address = Empty,
            server.port = Empty,
            url.scheme = Empty,
            network.peer.address = Empty,
            network.peer.port = Empty,
            project.id = %delivery.project_id,
            endpoint.id = %delivery.endpoint_id,
            event.type = %delivery.event_type,
            message.id = %delivery.message_id,
            delivery.id = %delivery.delivery_id,
            attempt.number = number,
            log.seq = sequence
        ),
        EndpointKind::Nats => debug_span!(
            "dispatch.attempt",
            otel.kind = "producer",
            otel.status_code = Empty,
            error.type = Empty,
            messaging.system = "nats",
            messaging.operation.type = "send",
            messaging.operation.name = "publish",
            project.id = %delivery.project_id,
            endpoint.id = %delivery.endpoint_id,
            event.type = %delivery.event_type,
            message.id = %delivery.message_id,
            delivery.id = %delivery.delivery_id,
            attempt.number = number,
            log.seq = sequence
        ),
    }
}

/// Tells the span of an attempt what came of it.
pub(super) fn tell(span: &Span, attempt: &Attempt) {
    if span.is_disabled() {
        return;
    }
    // Of a request over NATS, the fields below are none of its span's.
    if let Ok(uri) = attempt.request.url.parse::<::http::Uri>() {
        span.record("server.address", uri.host());
        span.record("url.scheme", uri.scheme_str());
        let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        span.record("server.port", i64::from(uri.port_u16().unwrap_or(default)));
    }
    if let Some(peer) = attempt.remote_address {
        span.record("network.peer.address", display(peer.ip()));
        span.record("network.peer.port", i64::from(peer.port()));
    }
    if let Some(response) = &attempt.response {
        span.record("http.response.status_code", i64::from(response.status));
    }
    if let Some(error) = &attempt.error {
        trace::failed(span, error.class.as_str());
    }
}
