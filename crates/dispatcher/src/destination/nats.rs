//! Publishes a request on a NATS subject: its headers as headers, its body as payload.

use std::time::Duration;

use cuitty_webhooks_domain::attempt::{AttemptError, ErrorClass};
use cuitty_webhooks_domain::subject::NatsAddress;
use cuitty_webhooks_log::{Log, Notification, NotifyError};
use tokio::time::Instant;

use super::NotSent;
use crate::attempt::{DELIVERY_ID, Outgoing};
use crate::http::{Exchange, readable};

/// Publishes over the log's connection. What comes back is no response: the exchange has only a time, or an error.
pub(super) async fn publish(
    log: &Log,
    address: &NatsAddress,
    request: Outgoing,
    limit: Duration,
) -> Result<Exchange, NotSent> {
    let Outgoing { headers, body, .. } = request;
    let notification = Notification {
        subject: address.subject.clone(),
        id: headers.get(DELIVERY_ID).map(readable).unwrap_or_default(),
        headers: headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), readable(value)))
            .collect(),
        payload: body,
        wants_reply: address.wants_reply,
    };
    let started = Instant::now();
    let error = match log.notify(notification, limit).await {
        Ok(()) => None,
        Err(NotifyError::Unavailable) => return Err(NotSent::NoNats),
        Err(error) => Some(AttemptError {
            class: class(&error),
            message: error.to_string(),
        }),
    };
    Ok(Exchange {
        first_byte: error.is_none().then(|| started.elapsed()),
        error,
        ..Exchange::default()
    })
}

fn class(error: &NotifyError) -> ErrorClass {
    match error {
        NotifyError::NobodyListens | NotifyError::Unavailable => ErrorClass::Connect,
        NotifyError::NoReply(_) => ErrorClass::Timeout,
        NotifyError::Refused(_) => ErrorClass::Status,
        NotifyError::Unfit(_) => ErrorClass::Configuration,
    }
}
