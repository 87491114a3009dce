//! How what the API answers with is shown. The JSON is that of REST.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_client::{Timestamp, v1};
use serde_json::{Map, Value, json};

use super::remote::{RemoteFlags, Show, minute, rfc3339, time};

/// A time of an answer.
pub(super) fn at(at: Option<Timestamp>) -> Option<DateTime<Utc>> {
    at.and_then(|at| time(at.seconds, at.nanos))
}

/// A time of an answer, for programs.
pub(super) fn stamp(at: Option<Timestamp>) -> Option<String> {
    rfc3339(self::at(at))
}

/// A time of a request.
pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: at.timestamp(),
        nanos: at.timestamp_subsec_nanos().cast_signed(),
    }
}

/// A text, unless it is empty.
pub(super) fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// The name of a value of an enumeration, without what all of them begin with, as REST has it.
fn name(full: &str, prefix: &str) -> String {
    full.trim_start_matches(prefix).to_ascii_lowercase()
}

/// A text that others wrote, for a terminal: lines stay, anything else that could move its cursor does not.
pub(super) fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', " ")
}

/// A duration in a table.
pub(super) fn took(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// A field of one thing and its value, as a row.
struct Field(String, String);

impl Show for Field {
    const HEAD: &'static [&'static str] = &["FIELD", "VALUE"];

    fn row(&self) -> Vec<String> {
        vec![self.0.clone(), self.1.clone()]
    }

    fn json(&self) -> Value {
        Value::Null
    }
}

/// Prints one thing: as JSON, or a row for each of its fields that has a value.
pub(super) fn print_fields(flags: &RemoteFlags, json: &Value) -> anyhow::Result<()> {
    if flags.is_json() {
        return super::print(&json.to_string());
    }
    let mut fields = Vec::new();
    flatten("", json, &mut fields);
    flags.print_all(&fields)
}

fn flatten(path: &str, value: &Value, fields: &mut Vec<Field>) {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, value) in members {
                flatten(&below(name), value, fields);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&below(&(index + 1).to_string()), item, fields);
            }
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(text).collect();
            fields.push(Field(path.to_owned(), items.join(", ")));
        }
        scalar => fields.push(Field(path.to_owned(), text(scalar))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn headers(headers: &[v1::Header]) -> Value {
    let headers = headers.iter();
    headers
        .map(|header| (header.name.clone(), Value::from(header.value.clone())))
        .collect::<Map<_, _>>()
        .into()
}

fn header_list(headers: &[v1::Header]) -> Value {
    let headers = headers.iter();
    headers
        .map(|header| json!({"name": header.name, "value": header.value}))
        .collect()
}

/// Bytes as JSON if they are, else as text.
pub(super) fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

fn scheme(scheme: v1::SignatureScheme) -> &'static str {
    match scheme {
        v1::SignatureScheme::Unspecified => "",
        v1::SignatureScheme::HmacSha256 => "hmac-sha256",
        v1::SignatureScheme::Ed25519 => "ed25519",
    }
}

impl Show for v1::Endpoint {
    const HEAD: &'static [&'static str] = &["ID", "URL", "EVENT TYPES", "STATE", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let event_types = if self.event_types.is_empty() {
            "*".to_owned()
        } else {
            self.event_types.join(", ")
        };
        let health = self.health.as_ref().map(|health| &*health.state);
        let state = match health {
            _ if !self.active => format!("disabled: {}", self.disabled_reason),
            Some(health) => health.to_owned(),
            None => "active".to_owned(),
        };
        vec![
            self.id.clone(),
            self.url.clone(),
            event_types,
            state,
            self.description.clone(),
        ]
    }

    fn json(&self) -> Value {
        let secret = |secret: &v1::SecretInfo| {
            json!({
                "id": secret.id,
                "created_at": stamp(secret.created_at),
                "expires_at": stamp(secret.expires_at),
                "scheme": scheme(secret.scheme()),
                "public_key": some(&secret.public_key),
            })
        };
        let health = |health: &v1::EndpointHealth| {
            json!({
                "state": health.state,
                "breaker": health.breaker,
                "since": stamp(health.since),
                "consecutive_failures": health.consecutive_failures,
                "next_probe_at": stamp(health.next_probe_at),
                "waiting": health.waiting,
            })
        };
        let blocked = |blocked: &v1::BlockedBy| {
            json!({
                "delivery_id": blocked.delivery_id,
                "attempts": blocked.attempts,
                "next_attempt_at": stamp(blocked.next_attempt_at),
            })
        };
        json!({
            "id": self.id,
            "project_id": self.project_id,
            "kind": name(self.kind().as_str_name(), "ENDPOINT_KIND_"),
            "url": self.url,
            "event_types": self.event_types,
            "description": self.description,
            "active": self.active,
            "disabled_reason": some(&self.disabled_reason),
            "headers": headers(&self.headers),
            "signature_header": some(&self.signature_header),
            "timeout_ms": self.timeout_ms,
            "max_in_flight": self.max_in_flight,
            "rate_limit_per_second": self.rate_limit_per_second,
            "ordered": self.ordered,
            "retry_schedule_seconds": self.retry_schedule_seconds,
            "envelope": self.envelope,
            "signature_scheme": scheme(self.signature_scheme()),
            "secrets": self.secrets.iter().map(secret).collect::<Value>(),
            "created_at": stamp(self.created_at),
            "updated_at": stamp(self.updated_at),
            "revision": self.revision,
            "health": self.health.as_ref().map(health),
            "blocked_by": self.blocked_by.as_ref().map(blocked),
        })
    }
}

/// `pending`, `delivered` or `failed`.
pub(super) fn status(status: v1::DeliveryStatus) -> String {
    name(status.as_str_name(), "DELIVERY_STATUS_")
}

impl Show for v1::Delivery {
    const HEAD: &'static [&'static str] = &[
        "ID",
        "CREATED",
        "EVENT TYPE",
        "STATUS",
        "ATTEMPTS",
        "RESPONSE",
        "ENDPOINT",
    ];

    fn row(&self) -> Vec<String> {
        let status = match some(&self.failure_reason) {
            Some(reason) => format!("failed: {reason}"),
            None => self::status(self.status()),
        };
        let response = match self.response_status {
            0 => String::new(),
            status => status.to_string(),
        };
        vec![
            self.id.clone(),
            minute(at(self.created_at)),
            self.event_type.clone(),
            status,
            self.attempt_count.to_string(),
            response,
            self.endpoint_id.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "project_id": self.project_id,
            "endpoint_id": self.endpoint_id,
            "message_id": self.message_id,
            "event_type": self.event_type,
            "status": status(self.status()),
            "failure_reason": some(&self.failure_reason),
            "origin": self.origin,
            "replay_of": some(&self.replay_of),
            "attempt_count": self.attempt_count,
            "next_attempt_at": stamp(self.next_attempt_at),
            "created_at": stamp(self.created_at),
            "completed_at": stamp(self.completed_at),
            "response_status": Some(self.response_status).filter(|&status| status > 0),
        })
    }
}

impl Show for v1::Attempt {
    const HEAD: &'static [&'static str] = &["ATTEMPT", "STARTED", "OUTCOME", "RESPONSE", "TOOK", "ERROR"];

    fn row(&self) -> Vec<String> {
        let response = self.response.as_ref().map(|response| response.status.to_string());
        let error = self.error.as_ref();
        vec![
            self.number.to_string(),
            at(self.started_at)
                .map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string())
                .unwrap_or_default(),
            self.outcome.clone(),
            response.unwrap_or_default(),
            format!("{:.1} ms", self.duration_ms),
            error.map_or_else(String::new, |error| format!("{}: {}", error.class, error.message)),
        ]
    }

    fn json(&self) -> Value {
        let request = self.request.as_ref().map(|request| {
            json!({
                "url": request.url,
                "headers": header_list(&request.headers),
                "signed_with": request.signed_with,
            })
        });
        let response = self.response.as_ref().map(|response| {
            json!({
                "status": response.status,
                "headers": header_list(&response.headers),
                "body": String::from_utf8_lossy(&response.body),
                "body_truncated": response.body_truncated,
            })
        });
        let timing = self.timing.as_ref().map(|timing| {
            json!({
                "queue_ms": timing.queue_ms,
                "dns_ms": timing.dns_ms,
                "connect_ms": timing.connect_ms,
                "tls_ms": timing.tls_ms,
                "first_byte_ms": timing.first_byte_ms,
            })
        });
        let error = self.error.as_ref();
        let check = |check: &v1::SignatureCheck| {
            json!({
                "secret_id": check.secret_id,
                "scheme": some(&check.scheme),
                "header": check.header,
                "valid": check.valid,
                "reason": some(&check.reason),
            })
        };
        let checks = self.signature_checks.iter().map(check).collect::<Vec<_>>();
        json!({
            "number": self.number,
            "started_at": stamp(self.started_at),
            "duration_ms": self.duration_ms,
            "outcome": self.outcome,
            "request": request,
            "response": response,
            "error": error.map(|error| json!({"class": error.class, "message": error.message})),
            "timing": timing,
            "remote_address": some(&self.remote_address),
            "endpoint_revision": self.endpoint_revision,
            "trace_id": some(&self.trace_id),
            "dispatcher_id": self.dispatcher_id,
            "next_attempt_at": stamp(self.next_attempt_at),
            "signature_checks": Some(checks).filter(|checks| !checks.is_empty()),
        })
    }
}

impl Show for v1::Replay {
    const HEAD: &'static [&'static str] = &["ID", "STATE", "TOTAL", "REPLAYED", "SKIPPED", "REASON"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.state.clone(),
            self.total.to_string(),
            self.replayed.to_string(),
            self.skipped.to_string(),
            self.reason.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": some(&self.id),
            "project_id": self.project_id,
            "state": self.state,
            "total": self.total,
            "replayed": self.replayed,
            "skipped": self.skipped,
            "started_at": stamp(self.started_at),
            "ended_at": stamp(self.ended_at),
            "reason": some(&self.reason),
        })
    }
}

impl Show for v1::EventType {
    const HEAD: &'static [&'static str] = &["NAME", "SCHEMA", "STATE", "UPDATED", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let schema = match (some(&self.schema), self.enforce_schema) {
            (None, _) => "",
            (Some(_), true) => "enforced",
            (Some(_), false) => "documents",
        };
        let state = if self.archived { "archived" } else { "active" };
        vec![
            self.name.clone(),
            schema.to_owned(),
            state.to_owned(),
            minute(at(self.updated_at)),
            self.description.clone(),
        ]
    }

    fn json(&self) -> Value {
        let document = |text: &str| some(text).map(|text| body(text.as_bytes()));
        json!({
            "project_id": self.project_id,
            "name": self.name,
            "description": self.description,
            "schema": document(&self.schema),
            "example": document(&self.example),
            "enforce_schema": self.enforce_schema,
            "archived": self.archived,
            "revision": self.revision,
            "created_at": stamp(self.created_at),
            "updated_at": stamp(self.updated_at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_shown_as_its_fields() {
        let mut fields = Vec::new();
        let value = json!({
            "id": "ep_1",
            "types": ["a", "b"],
            "none": null,
            "health": {"state": "healthy", "failures": 0},
            "secrets": [{"id": "sec_1"}, {"id": "sec_2"}],
        });
        flatten("", &value, &mut fields);
        let mut shown: Vec<_> = fields
            .iter()
            .map(|Field(name, value)| (&**name, &**value))
            .collect();
        shown.sort_unstable();
        assert_eq!(
            shown,
            [
                ("health.failures", "0"),
                ("health.state", "healthy"),
                ("id", "ep_1"),
                ("secrets.1.id", "sec_1"),
                ("secrets.2.id", "sec_2"),
                ("types", "a, b"),
            ]
        );
    }

    #[test]
    fn what_others_wrote_keeps_its_lines_and_loses_its_escapes() {
        assert_eq!(harmless("{\n\t\"a\": \"\u{1b}[2J\"\r}"), "{\n\t\"a\": \" [2J\" }");
    }
}
