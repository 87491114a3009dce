//! Receiving notifications: what [`Log::notify`] publishes on a subject, by whatever process.

use async_nats::header::{HeaderMap, HeaderValue, NATS_MESSAGE_ID};
use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::notify::SERVICE_ERROR;
use crate::{Log, LogError};

/// Bytes of an error that are told in an answer.
const ERROR_BYTES: usize = 256;

/// A subscription to one subject. Dropping it ends it; it outlives losses of the connection.
#[derive(Debug)]
pub struct Listener {
    log: Log,
    subscriber: Subscriber,
}

/// A notification that arrived.
#[derive(Debug)]
pub struct Notified {
    /// Names and values, as they were published.
    pub headers: Vec<(String, String)>,
    /// What it says.
    pub payload: Bytes,
    /// Where an answer is awaited.
    pub answer_to: Option<AnswerTo>,
}

/// Where somebody awaits an answer.
#[derive(Debug)]
pub struct AnswerTo(Subject);

impl Log {
    /// Subscribes to `subject`. When it returns, nats-server knows who listens.
    pub async fn listen(&self, subject: String) -> Result<Listener, LogError> {
        let unavailable = |error: String| LogError::Unavailable(error);
        let client = self.client();
        let subscriber = client
            .subscribe(subject)
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        client
            .flush()
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Listener {
            log: self.clone(),
            subscriber,
        })
    }
}

impl Listener {
    /// The next notification; `None` once the connection is closed for good.
    pub async fn next(&mut self) -> Option<Notified> {
        let message = self.subscriber.next().await?;
        let headers = message.headers.unwrap_or_default();
        Some(Notified {
            headers: headers
                .iter()
                .filter(|(name, _)| **name != NATS_MESSAGE_ID)
                .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.to_string())))
                .collect(),
            payload: message.payload,
            answer_to: message.reply.map(AnswerTo),
        })
    }

    /// Answers: that the notification was taken, or why not. When the connection is down the answer is lost, as if none
    /// had been given.
    pub async fn answer(&self, to: AnswerTo, error: &str) {
        let mut headers = HeaderMap::new();
        if !error.is_empty() {
            headers.insert(SERVICE_ERROR, one_line(error));
        }
        if let Err(error) = self
            .log
            .client()
            .publish_with_headers(to.0, headers, Bytes::new())
            .await
        {
            tracing::debug!(%error, "an answer is lost");
        }
    }
}

/// What fits in a header.
fn one_line(text: &str) -> HeaderValue {
    let end = text.floor_char_boundary(ERROR_BYTES);
    let line = text[..end].replace(char::is_control, " ");
    line.parse().unwrap_or_else(|_| HeaderValue::from("not taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_an_answer_is_one_line_that_is_not_too_long() {
        assert_eq!(one_line("500\r\nNats-Msg-Id: x").as_str(), "500  Nats-Msg-Id: x");
        assert_eq!(one_line(&"ö".repeat(200)).as_str(), "ö".repeat(128));
    }
}
