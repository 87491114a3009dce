//! The caller's W3C trace context, taken along with what it causes.

use cuitty_webhooks_domain::trace::TraceContext;
use http::HeaderMap;

/// The trace context of a call, if it has one.
pub(crate) fn of(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get("traceparent")?.to_str().ok()?)
}

/// The same as text, in the form of version 00; empty when there is none.
pub(crate) fn traceparent(headers: &HeaderMap) -> String {
    of(headers).map(|context| context.to_string()).unwrap_or_default()
}
