//! An endpoint's settings as a caller gives them, and what makes them valid.

use std::time::Duration;

use super::{EndpointKind, EndpointSettings};
use crate::attempt::Header;
use crate::destination;
use crate::egress::EgressPolicy;
use crate::limits;
use crate::names::{EventTypePattern, ProjectId};
use crate::rejection::{FieldViolation, Rejection};
use crate::retry::{MAX_DELAY_SECONDS, MAX_RETRIES};

/// Fields of [`EndpointDraft`] that an update may name.
pub const SETTING_FIELDS: [&str; 12] = [
    "kind",
    "url",
    "event_types",
    "description",
    "headers",
    "signature_header",
    "timeout_ms",
    "max_in_flight",
    "rate_limit_per_second",
    "ordered",
    "retry_schedule_seconds",
    "envelope",
];

/// Shortest and longest timeout of an attempt, in milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 1_000..=60_000;
/// Bounds of the attempts at the same time.
const MAX_IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=256;
/// Highest rate limit.
const RATE_LIMIT: u32 = 10_000;

/// Header names that an endpoint may not set: they frame the request, route it, or carry our signature.
const RESERVED_HEADERS: [&str; 15] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "traceparent",
    "tracestate",
];
/// Prefixes of header names that an endpoint may not set.
const RESERVED_PREFIXES: [&str; 4] = ["webhook-", "x-cuitty-", "proxy-", "sec-"];

/// Prefix of header names that nats-server acts upon.
const NATS_PREFIX: &str = "nats-";

/// Settings that have not been checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointDraft {
    /// What carries the message; `None` means what the URL looks like ([`destination::kind_of`]).
    pub kind: Option<EndpointKind>,
    /// Where it goes.
    pub url: String,
    /// Which event types it takes.
    pub event_types: Vec<String>,
    /// For people.
    pub description: String,
    /// Names and values, added to every request.
    pub headers: Vec<(String, String)>,
    /// Header for the plain hex HMAC; empty means none.
    pub signature_header: String,
    /// 1,000 to 60,000.
    pub timeout_ms: u32,
    /// 1 to 256.
    pub max_in_flight: u32,
    /// 0 means unlimited; at most 10,000.
    pub rate_limit_per_second: u32,
    /// Deliver strictly in log order.
    pub ordered: bool,
    /// Empty means the default schedule.
    pub retry_schedule_seconds: Vec<u32>,
    /// Wrap the payload.
    pub envelope: bool,
}

impl Default for EndpointDraft {
    fn default() -> Self {
        Self {
            kind: None,
            url: String::new(),
            event_types: Vec::new(),
            description: String::new(),
            headers: Vec::new(),
            signature_header: String::new(),
            timeout_ms: 15_000,
            max_in_flight: 64,
            rate_limit_per_second: 0,
            ordered: false,
            retry_schedule_seconds: Vec::new(),
            envelope: false,
        }
    }
}

impl From<&EndpointSettings> for EndpointDraft {
    fn from(settings: &EndpointSettings) -> Self {
        Self {
            kind: Some(settings.kind),
            url: settings.url.clone(),
            event_types: settings.event_types.iter().map(ToString::to_string).collect(),
            description: settings.description.clone(),
            headers: settings
                .headers
                .iter()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect(),
            signature_header: settings.signature_header.clone().unwrap_or_default(),
            timeout_ms: settings.timeout.as_millis() as u32,
            max_in_flight: settings.max_in_flight,
            rate_limit_per_second: settings.rate_limit_per_second.unwrap_or(0),
            ordered: settings.ordered,
            retry_schedule_seconds: settings.retry_schedule_seconds.clone(),
            envelope: settings.envelope,
        }
    }
}

impl EndpointDraft {
    /// Checks every field against `policy` and the limits, for an endpoint of `project`; all that is wrong is listed at once.
    /// `None` stands for a project that is not valid itself: it has no subjects.
    pub fn validate(
        self,
        policy: &EgressPolicy,
        project: Option<&ProjectId>,
    ) -> Result<EndpointSettings, Rejection> {
        let mut violations = Violations::default();
        let kind = self.kind.unwrap_or_else(|| destination::kind_of(&self.url));
        let url = destination::vet_url(kind, &self.url, policy, project).unwrap_or_else(|message| {
            violations.add("url", message);
            String::new()
        });
        let event_types = violations.event_types(&self.event_types);
        violations.require(
            self.description.len() <= limits::DESCRIPTION_BYTES,
            "description",
            || format!("must be at most {} bytes", limits::DESCRIPTION_BYTES),
        );
        let headers = violations.headers(kind, &self.headers);
        let signature_header = Some(self.signature_header).filter(|name| !name.is_empty());
        if let Some(name) = &signature_header {
            violations.signature_header(kind, name, &headers);
        }
        violations.require(TIMEOUT_MS.contains(&self.timeout_ms), "timeout_ms", || {
            format!("must be {} to {}", TIMEOUT_MS.start(), TIMEOUT_MS.end())
        });
        violations.require(
            MAX_IN_FLIGHT.contains(&self.max_in_flight),
            "max_in_flight",
            || format!("must be {} to {}", MAX_IN_FLIGHT.start(), MAX_IN_FLIGHT.end()),
        );
        violations.require(
            self.rate_limit_per_second <= RATE_LIMIT,
            "rate_limit_per_second",
            || format!("must be 0 (unlimited) to {RATE_LIMIT}"),
        );
        violations.retry_schedule(&self.retry_schedule_seconds);
        violations.require(
            !(self.envelope && kind == EndpointKind::Slack),
            "envelope",
            || "must be false with kind `slack`, whose messages are made from the payload".into(),
        );
        violations.into_result()?;
        Ok(EndpointSettings {
            kind,
            url,
            event_types,
            description: self.description,
            headers,
            signature_header,
            timeout: Duration::from_millis(self.timeout_ms.into()),
            max_in_flight: self.max_in_flight,
            rate_limit_per_second: Some(self.rate_limit_per_second).filter(|&rate| rate > 0),
            ordered: self.ordered,
            retry_schedule_seconds: self.retry_schedule_seconds,
            envelope: self.envelope,
        })
    }
}

/// What is wrong with a draft, gathered field by field.
#[derive(Default)]
struct Violations(Vec<FieldViolation>);

impl Violations {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldViolation::new(field, message));
    }

    fn require(&mut self, holds: bool, field: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.add(field, message());
        }
    }

    fn at_most(&mut self, limit: usize, actual: usize, field: &str) {
        self.require(actual <= limit, field, || format!("must be at most {limit}"));
    }

    fn event_types(&mut self, texts: &[String]) -> Vec<EventTypePattern> {
        self.at_most(limits::EVENT_TYPE_PATTERNS, texts.len(), "event_types");
        let mut patterns = Vec::new();
        for (index, text) in texts.iter().take(limits::EVENT_TYPE_PATTERNS).enumerate() {
            match text.parse::<EventTypePattern>() {
                Ok(pattern) => patterns.push(pattern),
                Err(invalid) => self.add(format!("event_types[{index}]"), invalid.to_string()),
            }
        }
        patterns
    }

    fn headers(&mut self, kind: EndpointKind, given: &[(String, String)]) -> Vec<Header> {
        self.at_most(limits::ENDPOINT_HEADERS, given.len(), "headers");
        let mut headers: Vec<Header> = Vec::new();
        for (name, value) in given.iter().take(limits::ENDPOINT_HEADERS) {
            let name = name.to_ascii_lowercase();
            let field = format!("headers.{}", name.escape_default());
            if let Err(message) = check_header_name(&name) {
                self.add(field, message);
            } else if let Err(message) = check_header_value(value) {
                self.add(field, message);
            } else if kind == EndpointKind::Nats && name.starts_with(NATS_PREFIX) {
                self.add(field, "name is reserved");
            } else if headers.iter().any(|header| header.name == name) {
                self.add(field, "is given twice");
            } else {
                headers.push(Header {
                    name,
                    value: value.trim().to_owned(),
                });
            }
        }
        headers
    }

    fn signature_header(&mut self, kind: EndpointKind, name: &str, headers: &[Header]) {
        let name = name.to_ascii_lowercase();
        // Cuitty's own starts with a prefix that is reserved for other headers.
        let is_ours = name == "x-cuitty-signature";
        // During an overlap the previous secret's signature is sent beside the current one's.
        let clashes = |header: &Header| {
            header
                .name
                .strip_prefix(&name)
                .is_some_and(|rest| matches!(rest, "" | "-previous"))
        };
        if let Err(message) = check_header_name(&name)
            && !is_ours
        {
            self.add("signature_header", message);
        } else if kind == EndpointKind::Nats && name.starts_with(NATS_PREFIX) {
            self.add("signature_header", "name is reserved");
        } else if let Some(header) = headers.iter().find(|header| clashes(header)) {
            self.add(
                "signature_header",
                format!("would send {}, which is set in headers too", header.name),
            );
        }
    }

    fn retry_schedule(&mut self, seconds: &[u32]) {
        self.require(seconds.len() <= MAX_RETRIES, "retry_schedule_seconds", || {
            format!("must be at most {MAX_RETRIES} delays")
        });
        for (index, seconds) in seconds.iter().take(MAX_RETRIES).enumerate() {
            if !(1..=MAX_DELAY_SECONDS).contains(seconds) {
                self.add(
                    format!("retry_schedule_seconds[{index}]"),
                    format!("must be 1 to {MAX_DELAY_SECONDS}"),
                );
            }
        }
    }

    fn into_result(self) -> Result<(), Rejection> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Invalid(self.0))
        }
    }
}

/// Checks a lower-case header name: a token of RFC 9110, section 5.6.2, that is not reserved.
fn check_header_name(name: &str) -> Result<(), String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > limits::HEADER_NAME_BYTES || !name.bytes().all(is_token) {
        return Err(format!(
            "name must be 1 to {} letters, digits or characters of !#$%&'*+-.^_`|~",
            limits::HEADER_NAME_BYTES
        ));
    }
    if RESERVED_HEADERS.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Err("name is reserved".into());
    }
    Ok(())
}

/// Checks a header value: visible ASCII, spaces and tabs.
fn check_header_value(value: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| matches!(byte, b' '..=b'~' | b'\t');
    if value.len() > limits::HEADER_VALUE_BYTES || !value.bytes().all(is_allowed) {
        return Err(format!(
            "value must be at most {} bytes of visible ASCII, spaces and tabs",
            limits::HEADER_VALUE_BYTES
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
