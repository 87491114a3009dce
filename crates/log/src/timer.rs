//! Retry timers: messages that nats-server stores and publishes when their time has come.

use async_nats::header::{NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream::ErrorCode;
use chrono::SecondsFormat;
use cuitty_webhooks_domain::delivery::Due;
use cuitty_webhooks_domain::ids::DeliveryId;
use serde::de::IgnoredAny;
use serde_json::json;
use tracing::instrument;

use crate::Log;
use crate::append::Outgoing;
use crate::codec;
use crate::error::LogError;
use crate::subjects::{Subject, partition_of, timers_of};
use crate::topology::STREAM;

impl Log {
    /// Has `due` arrive as work at its time; resolves when nats-server has stored it. An attempt has one timer: arming
    /// it again replaces the one that waits, and leaves those of the delivery's other attempts alone. A time that has
    /// passed fires at once.
    ///
    /// A timer may fire twice, as after an acknowledgement that was lost: whoever takes the work must tell.
    #[instrument(name = "log.arm_timer", level = "debug", skip_all, fields(delivery.id = %due.delivery.delivery_id))]
    pub async fn arm_timer(&self, due: &Due) -> Result<(), LogError> {
        let delivery = &due.delivery;
        let target = Subject::Work {
            partition: partition_of(delivery.endpoint_id, self.stored_partitions().await?),
            project_id: delivery.project_id.clone(),
            endpoint_id: delivery.endpoint_id,
            due: true,
        };
        let at = due.due_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let headers = vec![
            (NATS_SCHEDULE, format!("@at {at}")),
            (NATS_SCHEDULE_TARGET, target.to_string()),
        ];
        let subject = Subject::Timer {
            delivery_id: delivery.delivery_id,
            attempt: Some(due.attempt_number),
        };
        self.append(Outgoing {
            headers,
            ..Outgoing::new(subject, codec::encode_due(due))
        })
        .await?;
        Ok(())
    }

    /// Removes the timer of an attempt, if it still waits. One that has fired is work already.
    #[instrument(name = "log.cancel_timer", level = "debug", skip_all, fields(delivery.id = %delivery_id, attempt.number = attempt))]
    pub async fn cancel_timer(&self, delivery_id: DeliveryId, attempt: u32) -> Result<(), LogError> {
        let subject = Subject::Timer {
            delivery_id,
            attempt: Some(attempt),
        };
        self.purge(&subject.to_string()).await
    }

    /// Removes every timer of a delivery that still waits. An attempt that is under way may arm another one.
    #[instrument(name = "log.cancel_timers", level = "debug", skip_all, fields(delivery.id = %delivery_id))]
    pub async fn cancel_timers(&self, delivery_id: DeliveryId) -> Result<(), LogError> {
        let unnumbered = Subject::Timer {
            delivery_id,
            attempt: None,
        };
        self.purge(&timers_of(delivery_id)).await?;
        self.purge(&unnumbered.to_string()).await
    }

    /// Whether the timer of an attempt waits, as the stream's leader knows it.
    pub async fn has_timer(&self, delivery_id: DeliveryId, attempt: u32) -> Result<bool, LogError> {
        let subject = Subject::Timer {
            delivery_id,
            attempt: Some(attempt),
        };
        let subject = subject.to_string();
        let waiting = self.retried(|| self.leader_last(STREAM, &subject)).await?;
        Ok(waiting.is_some())
    }

    /// Removes the messages that `filter` selects.
    async fn purge(&self, filter: &str) -> Result<(), LogError> {
        let request = json!({ "filter": filter });
        let api = format!("STREAM.PURGE.{STREAM}");
        self.retried(|| async {
            let answer: Result<IgnoredAny, _> = self.js_api(&api, &request).await?;
            answer.map_err(|error| match error.error_code() {
                ErrorCode::STREAM_NOT_FOUND => LogError::NoTopology {
                    stream: STREAM.into(),
                },
                _ => LogError::from_jetstream(&error),
            })
        })
        .await?;
        Ok(())
    }
}
