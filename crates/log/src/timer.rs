//! Retry timers: messages that nats-server stores and publishes when their time has come.

use std::collections::HashMap;

use async_nats::header::{NATS_MESSAGE_TTL, NATS_ROLLUP, NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream::ErrorCode;
use bytes::Bytes;
use chrono::SecondsFormat;
use cuitty_webhooks_domain::delivery::Due;
use cuitty_webhooks_domain::ids::DeliveryId;
use serde::Deserialize;
use serde_json::json;
use tracing::instrument;

use crate::Log;
use crate::append::Outgoing;
use crate::codec;
use crate::entries::ROLLUP_SUBJECT;
use crate::error::LogError;
use crate::subjects::{Subject, partition_of, timers_of};
use crate::topology::STREAM;

/// How long what takes the place of a cancelled timer stays.
const SILENCED: &str = "1s";

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
        self.silence(subject).await
    }

    /// Removes every timer of a delivery that still waits. An attempt that is under way may arm another one.
    #[instrument(name = "log.cancel_timers", level = "debug", skip_all, fields(delivery.id = %delivery_id))]
    pub async fn cancel_timers(&self, delivery_id: DeliveryId) -> Result<(), LogError> {
        let unnumbered = Subject::Timer {
            delivery_id,
            attempt: None,
        };
        for filter in [timers_of(delivery_id), unnumbered.to_string()] {
            for subject in self.waiting_timers(&filter).await? {
                if let Ok(subject @ Subject::Timer { .. }) = subject.parse() {
                    self.silence(subject).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether the timer of an attempt waits, as the stream's leader knows it.
    pub async fn has_timer(&self, delivery_id: DeliveryId, attempt: u32) -> Result<bool, LogError> {
        let subject = Subject::Timer {
            delivery_id,
            attempt: Some(attempt),
        };
        let subject = subject.to_string();
        let waiting = self.retried(|| self.leader_last(STREAM, &subject)).await?;
        Ok(waiting.is_some_and(|message| message.headers.get(NATS_SCHEDULE).is_some()))
    }

    /// The subjects of `filter` that hold a message, as the stream's leader knows them.
    async fn waiting_timers(&self, filter: &str) -> Result<Vec<String>, LogError> {
        let request = json!({ "subjects_filter": filter });
        let api = format!("STREAM.INFO.{STREAM}");
        let info: SubjectsInfo = self
            .retried(|| async {
                self.js_api(&api, &request)
                    .await?
                    .map_err(|error| match error.error_code() {
                        ErrorCode::STREAM_NOT_FOUND => LogError::NoTopology {
                            stream: STREAM.into(),
                        },
                        _ => LogError::from_jetstream(&error),
                    })
            })
            .await?;
        Ok(info.state.subjects.unwrap_or_default().into_keys().collect())
    }

    /// Puts a message that fires never and goes soon in the place of a timer. Purging would do, but who may purge one subject of
    /// a stream may purge all of it.
    async fn silence(&self, subject: Subject) -> Result<(), LogError> {
        let headers = vec![
            (NATS_ROLLUP, ROLLUP_SUBJECT.to_owned()),
            (NATS_MESSAGE_TTL, SILENCED.to_owned()),
        ];
        self.append(Outgoing {
            headers,
            ..Outgoing::new(subject, Bytes::new())
        })
        .await?;
        Ok(())
    }
}

/// What a stream's information says of its subjects.
#[derive(Deserialize)]
struct SubjectsInfo {
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    subjects: Option<HashMap<String, u64>>,
}
