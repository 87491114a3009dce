//! One attempt: the request that is sent, and the record of what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{Attempt, AttemptError, AttemptRequest, Header, Timing};
use cuitty_webhooks_domain::delivery::{FailureReason, Requested};
use cuitty_webhooks_domain::destination;
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::SecretId;
use cuitty_webhooks_domain::signing::{hex_signature, sign_header};
use cuitty_webhooks_domain::trace::TraceContext;

use crate::http::{Exchange, readable};
use crate::target::Target;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EVENT_TYPE: HeaderName = HeaderName::from_static("x-cuitty-event-type");
pub(crate) const DELIVERY_ID: HeaderName = HeaderName::from_static("x-cuitty-delivery-id");
const ATTEMPT: HeaderName = HeaderName::from_static("x-cuitty-attempt");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long after a change of an endpoint the directory may not know it yet.
const DIRECTORY_LAG: Duration = Duration::from_secs(5);

/// A request, ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) signed_with: Vec<SecretId>,
}

/// Why a delivery ends without being attempted, if it does.
///
/// What was accepted before an endpoint was deleted is still delivered; what is due for a disabled one is not.
pub(crate) fn refusal(
    endpoint: &Endpoint,
    requested: &Requested,
    now: DateTime<Utc>,
) -> Option<FailureReason> {
    if endpoint
        .deleted_at
        .is_some_and(|deleted_at| requested.requested_at > deleted_at)
    {
        Some(FailureReason::EndpointDeleted)
    } else if !endpoint.is_active() {
        Some(FailureReason::EndpointDisabled)
    } else if now > requested.deadline {
        Some(FailureReason::Expired)
    } else {
        None
    }
}

/// Whether a refusal may come from an endpoint as it was before its delivery was accepted: one that was enabled and
/// delivered to at once, while the directory lags.
pub(crate) fn is_perhaps_outdated(reason: FailureReason, requested: &Requested, now: DateTime<Utc>) -> bool {
    reason == FailureReason::EndpointDisabled && now < requested.requested_at + DIRECTORY_LAG
}

impl Outgoing {
    /// Attempt `number` of a delivery, signed at `now` with every live secret.
    pub(crate) fn build(
        target: &Target,
        requested: &Requested,
        number: u32,
        trace: TraceContext,
        now: DateTime<Utc>,
    ) -> Self {
        let delivery = &requested.delivery;
        let destination::Body {
            bytes: body,
            content_type,
        } = destination::body(target.kind, target.envelope, &requested.into());
        let id = delivery.message_id.to_string();
        let timestamp = now.timestamp();
        let live = target.live_keys(now);
        let signature = sign_header(&id, timestamp, &body, live.clone().map(|live| &live.signing));

        let mut headers = target.headers.clone();
        headers.reserve(10);
        headers.insert(CONTENT_TYPE, content_type_value(&content_type));
        headers.insert(WEBHOOK_ID, value(id));
        headers.insert(WEBHOOK_TIMESTAMP, timestamp.into());
        headers.insert(WEBHOOK_SIGNATURE, value(signature));
        headers.insert(EVENT_TYPE, value(delivery.event_type.as_str().to_owned()));
        headers.insert(DELIVERY_ID, value(delivery.delivery_id.to_string()));
        headers.insert(ATTEMPT, number.into());
        headers.insert(TRACEPARENT, value(trace.to_string()));
        if let Some(names) = &target.signature_headers {
            let plain = live
                .clone()
                .filter_map(|live| hex_signature(&live.signing, &body));
            for (name, signature) in [&names.current, &names.previous].into_iter().zip(plain) {
                headers.insert(name, value(signature));
            }
        }
        Self {
            headers,
            body,
            signed_with: live.map(|live| live.id).collect(),
        }
    }

    /// What is recorded of it. `host` and `content-length`, which framing adds, follow from the URL and the body.
    pub(crate) fn record(&self, url: &str) -> AttemptRequest {
        let record = |(name, value): (&HeaderName, &HeaderValue)| Header {
            name: name.as_str().to_owned(),
            value: readable(value),
        };
        AttemptRequest {
            url: url.to_owned(),
            headers: self.headers.iter().map(record).collect(),
            signed_with: self.signed_with.clone(),
        }
    }
}

/// What is known of an attempt before it is made.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    pub(crate) number: u32,
    pub(crate) started_at: DateTime<Utc>,
    /// Wait in the lane.
    pub(crate) queue: Duration,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) dispatcher_id: &'a str,
    pub(crate) trace: TraceContext,
}

impl Begun<'_> {
    /// The record of an attempt of which nothing was sent, because the endpoint cannot be called as it is configured.
    pub(crate) fn not_sent(&self, error: &AttemptError) -> Attempt {
        let request = AttemptRequest {
            url: self.endpoint.settings.url.clone(),
            ..AttemptRequest::default()
        };
        let exchange = Exchange {
            error: Some(error.clone()),
            ..Exchange::default()
        };
        self.ended(request, exchange, Duration::ZERO)
    }

    /// The record of an attempt that took `duration`.
    pub(crate) fn ended(&self, request: AttemptRequest, exchange: Exchange, duration: Duration) -> Attempt {
        let remote_address: Option<SocketAddr> = exchange.remote;
        Attempt {
            number: self.number,
            started_at: self.started_at,
            duration,
            request,
            response: exchange.response,
            error: exchange.error,
            timing: Timing {
                queue: self.queue,
                dns: exchange.dns,
                connect: exchange.connect,
                tls: exchange.tls,
                first_byte: exchange.first_byte,
            },
            remote_address,
            endpoint_revision: self.endpoint.revision,
            dispatcher_id: self.dispatcher_id.to_owned(),
            trace_id: format!("{:032x}", self.trace.trace_id),
        }
    }
}

fn content_type_value(text: &str) -> HeaderValue {
    if text.is_empty() || text == "application/json" {
        return JSON;
    }
    HeaderValue::from_str(text).unwrap_or(JSON)
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("ids, event types and signatures are visible ASCII")
}

#[cfg(test)]
mod tests;
