//! The part of an attempt that is only read together with it: one JSON text per row.

use std::borrow::Cow;
use std::time::Duration;

use cuitty_webhooks_domain::attempt::{Attempt, Header, Timing};
use serde::{Deserialize, Serialize};

/// What of an attempt has no column of its own. Fields are only ever added; each one added later needs a default.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Detail<'a> {
    #[serde(borrow)]
    pub(crate) url: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) request_headers: Headers<'a>,
    pub(crate) signed_with: Vec<String>,
    #[serde(borrow, default, skip_serializing_if = "Headers::is_empty")]
    pub(crate) response_headers: Headers<'a>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) body_truncated: bool,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub(crate) error_message: Cow<'a, str>,
    pub(crate) timing: StoredTiming,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote_address: Option<std::net::SocketAddr>,
    pub(crate) endpoint_revision: u64,
    #[serde(borrow)]
    pub(crate) dispatcher_id: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub(crate) trace_id: Cow<'a, str>,
}

impl<'a> Detail<'a> {
    pub(crate) fn of(attempt: &'a Attempt) -> Self {
        Self {
            url: Cow::Borrowed(&attempt.request.url),
            request_headers: Headers::of(&attempt.request.headers),
            signed_with: attempt
                .request
                .signed_with
                .iter()
                .map(ToString::to_string)
                .collect(),
            response_headers: attempt
                .response
                .as_ref()
                .map_or_else(Headers::default, |response| Headers::of(&response.headers)),
            body_truncated: attempt
                .response
                .as_ref()
                .is_some_and(|response| response.body_truncated),
            error_message: attempt
                .error
                .as_ref()
                .map_or(Cow::Borrowed(""), |error| Cow::Borrowed(&error.message)),
            timing: StoredTiming::of(&attempt.timing),
            remote_address: attempt.remote_address,
            endpoint_revision: attempt.endpoint_revision,
            dispatcher_id: Cow::Borrowed(&attempt.dispatcher_id),
            trace_id: Cow::Borrowed(&attempt.trace_id),
        }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and lists always have a JSON form")
    }
}

/// Headers as `[name, value]` pairs, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Headers<'a>(#[serde(borrow)] Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Headers<'a> {
    fn of(headers: &'a [Header]) -> Self {
        Self(
            headers
                .iter()
                .map(|header| {
                    (
                        Cow::Borrowed(header.name.as_str()),
                        Cow::Borrowed(header.value.as_str()),
                    )
                })
                .collect(),
        )
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_headers(self) -> Vec<Header> {
        self.0
            .into_iter()
            .map(|(name, value)| Header {
                name: name.into_owned(),
                value: value.into_owned(),
            })
            .collect()
    }
}

/// Microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredTiming {
    queue: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_byte: Option<u64>,
}

impl StoredTiming {
    fn of(timing: &Timing) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            queue: micros(timing.queue),
            dns: timing.dns.map(micros),
            connect: timing.connect.map(micros),
            tls: timing.tls.map(micros),
            first_byte: timing.first_byte.map(micros),
        }
    }

    pub(crate) fn into_timing(self) -> Timing {
        Timing {
            queue: Duration::from_micros(self.queue),
            dns: self.dns.map(Duration::from_micros),
            connect: self.connect.map(Duration::from_micros),
            tls: self.tls.map(Duration::from_micros),
            first_byte: self.first_byte.map(Duration::from_micros),
        }
    }
}
