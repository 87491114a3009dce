//! Going through what a stream holds, once.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::{datetime, jetstream};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::Log;
use crate::consume;
use crate::error::LogError;

/// Messages that are read at once.
const BATCH: usize = 500;
/// How long nats-server keeps the consumer of a process that died.
const INACTIVE: Duration = Duration::from_secs(30);

/// What of a stream is gone through.
pub(crate) struct Selection<'a> {
    pub(crate) stream: &'a str,
    pub(crate) filter: &'a str,
    pub(crate) from: DeliverPolicy,
    pub(crate) headers_only: bool,
}

/// Hands every selected message that `stream` holds at this moment to `visit`, in order.
///
/// [`LogError::Unavailable`] when a part of it was not to be had.
pub(crate) async fn scan(
    log: &Log,
    selection: Selection<'_>,
    mut visit: impl FnMut(&jetstream::Message, jetstream::message::Info<'_>) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let config = pull::Config {
        deliver_policy: selection.from,
        filter_subject: selection.filter.to_owned(),
        headers_only: selection.headers_only,
        ..pull::Config::default()
    };
    let consumer = log.reading(selection.stream, INACTIVE, config).await?;
    let (mut delivered, count) = (0, consumer.cached_info().num_pending);
    while delivered < count {
        let before = delivered;
        let fetched = consumer.fetch().max_messages(BATCH).messages().await;
        let mut batch = fetched.map_err(LogError::unavailable)?;
        let patience = log.config().request_timeout;
        while let Some(message) = timeout(patience, batch.next())
            .await
            .map_err(|_| LogError::Unavailable("messages stopped coming".into()))?
        {
            let message = message.map_err(|error| LogError::unavailable(&*error))?;
            let position = consume::position(&message)?;
            delivered += 1;
            if position.consumer_sequence != delivered {
                return Err(LogError::Unavailable("a message is missing".into()));
            }
            visit(&message, position)?;
        }
        // What was to come was removed meanwhile.
        if delivered == before {
            break;
        }
    }
    Ok(())
}

/// Everything that was stored at `start` or later.
pub(crate) fn since(start: DateTime<Utc>) -> Result<DeliverPolicy, LogError> {
    let nanos = i128::from(start.timestamp_micros()) * 1000;
    let start_time = datetime::from_nanos(nanos).map_err(|error| LogError::Protocol(error.to_string()))?;
    Ok(DeliverPolicy::ByStartTime { start_time })
}
