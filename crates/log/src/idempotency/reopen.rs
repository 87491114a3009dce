//! The idempotency keys of a log that was restored.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_domain::ids::MessageId;

use super::Record;
use crate::error::LogError;
use crate::scan::{Selection, scan, since};
use crate::topology::IDEMPOTENCY_BUCKET;
use crate::{EventBody, Log};

/// How far the clocks of a cluster's servers may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

impl Log {
    /// Opens the keys again that name a place in the log behind `last_sequence`, stored at `last_at`, where their message is
    /// not: it came after the log was taken. Whoever repeats such a request has it carried out, under the ids that it had.
    /// How many there were.
    pub(crate) async fn reopen_keys(
        &self,
        last_sequence: u64,
        last_at: DateTime<Utc>,
    ) -> Result<u64, LogError> {
        let keys = Selection {
            stream: &format!("KV_{IDEMPOTENCY_BUCKET}"),
            filter: &format!("$KV.{IDEMPOTENCY_BUCKET}.>"),
            from: if last_sequence == 0 {
                DeliverPolicy::All
            } else {
                since(last_at - CLOCK_SKEW)?
            },
            headers_only: false,
        };
        let mut later = Vec::new();
        scan(self, keys, |message, _| {
            if let Ok(record) = Record::decode(&message.payload)
                && let Some(sequence) = record.log_sequence
                && sequence > last_sequence
            {
                later.push((message.subject.to_string(), sequence, record));
            }
            Ok(())
        })
        .await?;
        let mut reopened = 0;
        for (subject, sequence, record) in later {
            if !self.is_at(record.intent.message_id, sequence).await? {
                let open = Record {
                    log_sequence: None,
                    ..record
                };
                self.put_entry(&subject, open.encode()?, None).await?;
                reopened += 1;
            }
        }
        Ok(reopened)
    }

    /// Whether the log holds this message at `sequence`. By then, a timer that has fired may be there.
    async fn is_at(&self, message_id: MessageId, sequence: u64) -> Result<bool, LogError> {
        let found = self.get(sequence).await?.map(|found| found.body);
        Ok(match found {
            Some(EventBody::Event(DeliveryEvent::Requested(requested))) => {
                requested.delivery.message_id == message_id
            }
            Some(EventBody::Event(DeliveryEvent::Unmatched(message))) => message.message_id == message_id,
            _ => false,
        })
    }
}
