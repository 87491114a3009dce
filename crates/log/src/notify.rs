//! Notifications: messages on plain subjects, outside of the log, for whoever subscribes there or stores them in a stream.

use async_nats::header::{HeaderMap, HeaderName, HeaderValue, NATS_MESSAGE_ID};
use async_nats::{Client, Message, PublishErrorKind, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::{Duration, timeout};

use crate::Log;

/// Header that a NATS service sets when it answers with an error.
pub(crate) const SERVICE_ERROR: &str = "Nats-Service-Error";

/// A message to whoever listens.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Where it is published.
    pub subject: String,
    /// Its id, by which a stream that stores it knows it when it comes again.
    pub id: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// What it says.
    pub payload: Bytes,
    /// Whether somebody has to answer: the stream that stores it, or a subscriber.
    pub wants_reply: bool,
}

/// A notification was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// nats-server cannot be reached, or did not take it in time. Says nothing about who listens.
    #[error("nats-server does not answer")]
    Unavailable,
    /// Nobody subscribes to the subject, and no stream stores it.
    #[error("nobody listens on the subject")]
    NobodyListens,
    /// Somebody listens, nobody has answered in time.
    #[error("no reply within {0:?}")]
    NoReply(Duration),
    /// The answer is an error.
    #[error("refused: {0}")]
    Refused(String),
    /// A header or the size is not what nats-server takes.
    #[error("cannot be published: {0}")]
    Unfit(String),
}

/// What JetStream answers when it does not store a message.
#[derive(Deserialize)]
struct PubAck {
    error: PubAckError,
}

#[derive(Deserialize)]
struct PubAckError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Log {
    /// Publishes `notification`, and waits until nats-server has passed it on, or until it is answered, for at most `limit`.
    pub async fn notify(&self, notification: Notification, limit: Duration) -> Result<(), NotifyError> {
        if !self.is_connected() {
            return Err(NotifyError::Unavailable);
        }
        let wants_reply = notification.wants_reply;
        let sent = timeout(limit, notify(self.client(), notification)).await;
        sent.unwrap_or_else(|_| {
            Err(if wants_reply && self.is_connected() {
                NotifyError::NoReply(limit)
            } else {
                NotifyError::Unavailable
            })
        })
    }
}

async fn notify(client: &Client, notification: Notification) -> Result<(), NotifyError> {
    let Notification {
        subject,
        id,
        headers,
        payload,
        wants_reply,
    } = notification;
    let headers = header_map(&id, &headers)?;
    let unavailable = |_| NotifyError::Unavailable;
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| NotifyError::Unavailable)?;
    client
        .publish_with_reply_and_headers(subject, inbox.clone(), headers, payload)
        .await
        .map_err(|error| match error.kind() {
            PublishErrorKind::Send => NotifyError::Unavailable,
            _ => NotifyError::Unfit(error.to_string()),
        })?;
    if !wants_reply {
        // nats-server takes what comes over a connection in turn, and says at once that nobody listens: once this one is
        // back, the notification has been passed on.
        client.publish(inbox, Bytes::new()).await.map_err(unavailable)?;
    }
    judge(&answers.next().await.ok_or(NotifyError::Unavailable)?)
}

fn header_map(id: &str, given: &[(String, String)]) -> Result<HeaderMap, NotifyError> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id);
    for (name, value) in given {
        let parsed = name
            .parse::<HeaderName>()
            .ok()
            .zip(value.parse::<HeaderValue>().ok());
        let (name, value) =
            parsed.ok_or_else(|| NotifyError::Unfit(format!("header {}", name.escape_default())))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What an answer means: that nobody listens, an error, or anything else, which is a success.
fn judge(answer: &Message) -> Result<(), NotifyError> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(NotifyError::NobodyListens);
    }
    let service_error = answer
        .headers
        .as_ref()
        .and_then(|headers| headers.get(SERVICE_ERROR));
    if let Some(error) = service_error {
        return Err(NotifyError::Refused(error.as_str().to_owned()));
    }
    match serde_json::from_slice::<PubAck>(&answer.payload) {
        Ok(PubAck { error }) => Err(NotifyError::Refused(format!(
            "{} ({})",
            error.description, error.err_code
        ))),
        Err(_) => Ok(()),
    }
}
