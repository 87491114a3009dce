//! What differs between the kinds of destination: which URLs they have, what is sent to them, what their answers mean.
//!
//! A new kind is a variant of [`EndpointKind`] and what the compiler then asks for: an arm in each match here, one in the
//! dispatcher's `destination`, which sends, and a value in the two contracts.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use url::{Host, Url};

use crate::attempt::{Attempt, AttemptResponse, ErrorClass};
use crate::delivery::{DeliveryRef, Requested};
use crate::egress::EgressPolicy;
use crate::endpoint::EndpointKind;
use crate::envelope::envelope;
use crate::names::ProjectId;
use crate::slack::{self, slack_error};
use crate::subject::{is_listeners, is_nats};

/// The host of Slack's incoming webhooks.
const SLACK_HOST: &str = "hooks.slack.com";

/// From this attempt on, a listener that does not listen is gone. Before, it may have lost its connection to nats-server, and
/// comes back.
const LISTENERS_LAST: u32 = 3;

/// What is delivered, whatever carries it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Whose it is.
    pub delivery: &'a DeliveryRef,
    /// Exactly as it was given.
    pub payload: &'a Bytes,
    /// Media type of the payload; empty means JSON.
    pub content_type: &'a str,
    /// When its delivery was requested.
    pub requested_at: DateTime<Utc>,
}

impl<'a> From<&'a Requested> for Message<'a> {
    fn from(requested: &'a Requested) -> Self {
        Self {
            delivery: &requested.delivery,
            payload: &requested.payload,
            content_type: &requested.content_type,
            requested_at: requested.requested_at,
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes, which are signed.
    pub bytes: Bytes,
    /// Their media type; empty means JSON.
    pub content_type: String,
}

/// What an answer that is no success means beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The message may be taken another time.
    Retry,
    /// The message will not be taken; another one may.
    Refused,
    /// No message will be taken any more: the endpoint is to be disabled.
    Gone,
}

/// The kind of an endpoint that was not given one, by its URL.
pub fn kind_of(url: &str) -> EndpointKind {
    if is_nats(url) {
        return EndpointKind::Nats;
    }
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(SLACK_HOST))) => EndpointKind::Slack,
        _ => EndpointKind::Http,
    }
}

/// Checks the URL of an endpoint of `project`, and gives it normalised. What is wrong displays as the end of a sentence:
/// `url must …`. `None` stands for a project that is not valid itself: it has no subjects.
pub fn vet_url(
    kind: EndpointKind,
    url: &str,
    policy: &EgressPolicy,
    project: Option<&ProjectId>,
) -> Result<String, String> {
    match kind {
        EndpointKind::Http | EndpointKind::Slack => policy
            .vet_url(url)
            .map(String::from)
            .map_err(|refused| refused.to_string()),
        EndpointKind::Nats => {
            let project = project.ok_or("needs a project")?;
            policy
                .nats_prefix
                .vet(url, project)
                .map(|address| address.to_string())
                .map_err(|refused| refused.to_string())
        }
    }
}

/// What an endpoint of `kind` is sent, in an envelope if it asks for that.
pub fn body(kind: EndpointKind, wants_envelope: bool, message: &Message<'_>) -> Body {
    let as_given = |bytes| Body {
        bytes,
        content_type: message.content_type.to_owned(),
    };
    match kind {
        EndpointKind::Http | EndpointKind::Nats => {
            let wrapped = wants_envelope.then(|| wrapped(message)).flatten();
            as_given(wrapped.unwrap_or_else(|| message.payload.clone()))
        }
        EndpointKind::Slack => Body {
            bytes: slack::message(message),
            content_type: "application/json".into(),
        },
    }
}

/// Every body that the message may have been sent as, however its endpoint was configured at the time.
pub fn bodies(message: &Message<'_>) -> Vec<Bytes> {
    let mut bodies = vec![message.payload.clone()];
    bodies.extend(wrapped(message));
    bodies.push(slack::message(message));
    bodies
}

fn wrapped(message: &Message<'_>) -> Option<Bytes> {
    let Message {
        delivery,
        payload,
        content_type,
        requested_at,
    } = *message;
    envelope(payload, content_type, &delivery.event_type, requested_at)
}

/// What the answer to an attempt that did not succeed means.
pub fn answer(kind: EndpointKind, attempt: &Attempt) -> Answer {
    let Some(response) = &attempt.response else {
        return if is_deserted(kind, attempt) {
            Answer::Gone
        } else {
            Answer::Retry
        };
    };
    if response.status == 410 {
        return Answer::Gone;
    }
    match kind {
        EndpointKind::Http | EndpointKind::Nats => Answer::Retry,
        EndpointKind::Slack => slack_error(&response.body).map_or(Answer::Retry, |error| error.answer),
    }
}

/// Whether the endpoint was left behind by a listener whose process was killed, or could not delete it.
fn is_deserted(kind: EndpointKind, attempt: &Attempt) -> bool {
    // Over NATS, not to connect is to find nobody listening.
    let finds_nobody = attempt
        .error
        .as_ref()
        .is_some_and(|error| error.class == ErrorClass::Connect);
    kind == EndpointKind::Nats
        && finds_nobody
        && attempt.number >= LISTENERS_LAST
        && is_listeners(&attempt.request.url)
}

/// What a response that is no success says about itself, beside its status.
pub fn explain(kind: EndpointKind, response: &AttemptResponse) -> Option<String> {
    match kind {
        EndpointKind::Http | EndpointKind::Nats => None,
        EndpointKind::Slack => {
            let error = slack_error(&response.body)?;
            Some(format!("{}, {}", error.code, error.meaning))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
