//! Events over NATS: published on a subject of their project and type, stored, and taken from there by the service.

use std::time::Duration;

use async_nats::jetstream::context::{PublishError as JetStreamError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{ConnectOptions, ServerAddr, jetstream};
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use cuitty_webhooks_proto::v1;
use futures_util::{Stream, StreamExt};
use percent_encoding::percent_decode_str;

use crate::keys::Keys;
use crate::patience::Patience;

/// What the subjects of events begin with.
const PREFIX: &str = "cuitty.events";
const ENDPOINT_ID: &str = "Cuitty-Endpoint-Id";
const CONTENT_TYPE: &str = "Content-Type";
/// How long a publish is repeated.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nats-server may take to forget an id, with some to spare.
const FORGOTTEN: Duration = Duration::from_millis(150);
/// What JetStream answers while a message with the same id is on its way into the stream.
const IN_PROCESS: u64 = 10158;
/// Events on their way at the same time.
const WINDOW: usize = 256;

/// Publishes events over NATS. Clones share the connection, which is made again when it is lost.
///
/// Once a publish is answered the event is stored, on nats-server's disk, and will be delivered. Nobody says whether the
/// service takes it: what it cannot take goes to `webhooks.ingest.rejected.<project>`.
#[derive(Clone)]
pub struct Publisher {
    jetstream: jetstream::Context,
    keys: Keys,
    patience: Duration,
}

/// An event that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its sequence in the stream of events.
    pub sequence: u64,
}

/// Why an event was not stored, or may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// A field of the event cannot be used.
    #[error("{field} {message}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// nats-server cannot be reached or did not answer, for as long as the publisher's patience lasts. The event may be
    /// stored: whoever repeats it later should do so under the same idempotency key.
    #[error("nats-server is not available: {0}")]
    Unavailable(String),
    /// There is no stream for events: the service was never started on this nats-server, or the account is another one.
    #[error("nats-server has no stream for {PREFIX}.>")]
    NoStream,
    /// nats-server does not take the event.
    #[error("nats-server refuses the event: {0}")]
    Refused(String),
    /// nats-server drops the event for as long as the publisher's patience lasts: it has stored another one with this
    /// idempotency key, and asks neither for its project nor for its contents.
    #[error("nats-server has just stored another event with this idempotency key")]
    Recognised,
}

impl Publisher {
    /// Connects to one of these nats-servers, separated by commas, such as `nats://user:password@127.0.0.1:4222`, or a token
    /// instead of user and password, percent-encoded; the first one's are used for all. Answers to a user arrive under
    /// `_INBOX.<user>`, which may be all that it may subscribe to.
    pub async fn connect(urls: &str) -> Result<Self, PublishError> {
        let options = match login(urls) {
            None => ConnectOptions::new(),
            Some((token, None)) => ConnectOptions::with_token(token),
            Some((user, Some(password))) => match inbox_of(&user) {
                None => ConnectOptions::with_user_and_password(user, password),
                Some(inbox) => {
                    ConnectOptions::with_user_and_password(user, password).custom_inbox_prefix(inbox)
                }
            },
        };
        let servers: Vec<_> = urls.split(',').map(str::trim).collect();
        let connected = options.connect(servers).await;
        let client = connected.map_err(|error| PublishError::Unavailable(error.to_string()))?;
        Ok(Self::new(client))
    }

    /// Over a connection of the caller's own, with its credentials and TLS.
    pub fn new(client: async_nats::Client) -> Self {
        Self {
            jetstream: jetstream::new(client),
            keys: Keys::new(),
            patience: PATIENCE,
        }
    }

    /// How long a publish is repeated while nats-server does not answer: 10 s unless set; zero means not at all.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Publishes an event and waits until it is stored. It gets an idempotency key if it has none, so that what is repeated
    /// here is delivered once.
    pub async fn publish(&self, event: v1::DeliverRequest) -> Result<Published, PublishError> {
        let (subject, message) = self.message(event)?;
        let mut patience = Patience::new(self.patience);
        loop {
            let (error, pause) = match self.once(subject.clone(), message.clone()).await {
                // Of this project and these contents or not: once the id is forgotten the event is stored, and the service
                // knows repetitions by more than the id.
                Ok(PublishAck { duplicate: true, .. }) => (PublishError::Recognised, Some(FORGOTTEN)),
                Ok(PublishAck { sequence, .. }) => return Ok(Published { sequence }),
                Err(error) if is_passing(&error) => (told(&error), None),
                Err(error) => return Err(told(&error)),
            };
            if !patience.pause(pause).await {
                return Err(error);
            }
        }
    }

    /// Publishes events, many of them at the same time, and tells what became of each: its place among them, from 0, in the
    /// order of the answers.
    pub fn publish_all<'a>(
        &'a self,
        events: impl Stream<Item = v1::DeliverRequest> + 'a,
    ) -> impl Stream<Item = (usize, Result<Published, PublishError>)> + 'a {
        events
            .enumerate()
            .map(async |(place, event)| (place, self.publish(event).await))
            .buffer_unordered(WINDOW)
    }

    async fn once(&self, subject: String, message: PublishMessage) -> Result<PublishAck, JetStreamError> {
        self.jetstream.send_publish(subject, message).await?.await
    }

    fn message(&self, event: v1::DeliverRequest) -> Result<(String, PublishMessage), PublishError> {
        let project: ProjectId = parse("project_id", &event.project_id)?;
        let event_type: EventType = parse("event_type", &event.event_type)?;
        let key = if event.idempotency_key.is_empty() {
            self.keys.next()
        } else {
            event.idempotency_key
        };
        let mut headers = async_nats::HeaderMap::new();
        let given = [
            ("idempotency_key", "Nats-Msg-Id", key),
            ("endpoint_id", ENDPOINT_ID, event.endpoint_id),
            ("content_type", CONTENT_TYPE, event.content_type),
        ];
        for (field, name, value) in given {
            if !value.is_empty() {
                headers.insert(name, parse::<async_nats::HeaderValue>(field, &value)?);
            }
        }
        let message = PublishMessage::build().headers(headers).payload(event.payload);
        Ok((format!("{PREFIX}.{project}.{event_type}"), message))
    }
}

/// Whether it may go well a moment later: a server that is away, a stream that has no leader for now or is not made yet, an
/// earlier try that is on its way.
fn is_passing(error: &JetStreamError) -> bool {
    match error.kind() {
        PublishErrorKind::StreamNotFound
        | PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending => true,
        PublishErrorKind::Other => std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<jetstream::Error>())
            .is_some_and(|answer| answer.code() >= 500 || answer.error_code().0 == IN_PROCESS),
        _ => false,
    }
}

fn told(error: &JetStreamError) -> PublishError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => PublishError::NoStream,
        _ if is_passing(error) => PublishError::Unavailable(error.to_string()),
        _ => PublishError::Refused(error.to_string()),
    }
}

fn parse<T: std::str::FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, PublishError> {
    text.parse().map_err(|error: T::Err| PublishError::Invalid {
        field,
        message: error.to_string(),
    })
}

/// What stands before `@` in the first of these addresses: a user and a password, or a token. The client of NATS looks for it
/// in its options only.
fn login(urls: &str) -> Option<(String, Option<String>)> {
    let first: ServerAddr = urls.split(',').next()?.trim().parse().ok()?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decoded(first.username()?), first.password().map(decoded)))
}

/// Where the answers to a user arrive, if its name can be a token of a subject.
fn inbox_of(user: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    user.bytes().all(is_plain).then(|| format!("_INBOX.{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_user_with_a_password_or_a_token() {
        let user = |name: &str, password: &str| Some((name.to_owned(), Some(password.to_owned())));
        for (urls, expected) in [
            (
                "nats://module-budgets:secret@127.0.0.1:4222",
                user("module-budgets", "secret"),
            ),
            ("nats://a_1:x%40y@one:4222,nats://two:4222", user("a_1", "x@y")),
            ("nats://token@127.0.0.1:4222", Some(("token".to_owned(), None))),
            ("nats://127.0.0.1:4222", None),
            ("", None),
        ] {
            assert_eq!(login(urls), expected, "{urls}");
        }
    }

    #[test]
    fn a_user_whose_name_is_a_token_of_a_subject_has_an_inbox() {
        assert_eq!(
            inbox_of("module-budgets").as_deref(),
            Some("_INBOX.module-budgets")
        );
        for user in ["a.b", "a b", "*", ">"] {
            assert_eq!(inbox_of(user), None, "{user}");
        }
    }
}
