//! The body of a request whose endpoint asks for an envelope.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::names::EventType;

/// `{"type","timestamp","data"}`, as Standard Webhooks 1.0 suggests, around a JSON payload, which stays as it is, byte for
/// byte; `None` around any other. The timestamp is that of the request to deliver, to the millisecond.
pub fn envelope(
    payload: &[u8],
    content_type: &str,
    event_type: &EventType,
    requested_at: DateTime<Utc>,
) -> Option<Bytes> {
    if !is_json(content_type) {
        return None;
    }
    let timestamp = requested_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    // An event type needs no escaping in JSON.
    let head = format!(r#"{{"type":"{event_type}","timestamp":"{timestamp}","data":"#);
    let mut body = Vec::with_capacity(head.len() + payload.len() + 1);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(payload);
    body.push(b'}');
    Some(body.into())
}

/// Whether a media type is that of JSON; empty means that it is.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence.is_empty() || essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_wrapped() {
        let at = "2026-11-21T10:00:00.123456Z".parse().unwrap();
        let wrapped = |content_type| envelope(b"[1, 2]", content_type, &"order.paid".parse().unwrap(), at);
        let expected = &br#"{"type":"order.paid","timestamp":"2026-11-21T10:00:00.123Z","data":[1, 2]}"#[..];
        for json in [
            "",
            "application/json",
            " Application/JSON; charset=utf-8",
            "application/cloudevents+json",
        ] {
            assert_eq!(wrapped(json).as_deref(), Some(expected), "{json}");
        }
        for other in [
            "text/plain",
            "text/json",
            "application/jsonl",
            "application/octet-stream; a=+json",
        ] {
            assert_eq!(wrapped(other), None, "{other}");
        }
    }
}
