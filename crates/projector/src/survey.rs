//! What the active projector shows of the log and the history as a whole, because one process has to.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::{Log, LogError, StreamStorage};
use metrics::gauge;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::ProjectorStatus;
use crate::error::ProjectorError;
use crate::metrics as names;

/// How often the lag is measured.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// How often the backlog and the streams are looked at: one statement and ten requests.
const INTERVAL: Duration = Duration::from_secs(30);

/// Sets the gauges until it is dropped, and back to 0 then: another process shows them from then on.
pub(crate) struct Survey {
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) status: watch::Receiver<ProjectorStatus>,
    pub(crate) clock: Clock,
}

impl Survey {
    pub(crate) async fn run(self) {
        let lag = async {
            loop {
                if let Err(error) = self.measure_lag().await {
                    debug!(%error, "the lag is not known");
                }
                sleep(LAG_INTERVAL).await;
            }
        };
        let everything = async {
            loop {
                if let Err(error) = self.look_around().await {
                    debug!(%error, "the backlog and the streams are not known");
                }
                sleep(INTERVAL).await;
            }
        };
        tokio::join!(lag, everything);
    }

    async fn measure_lag(&self) -> Result<(), LogError> {
        let last = self.log.end().await?;
        let checkpoint = self.status.borrow().checkpoint;
        let lag = last.saturating_sub(checkpoint);
        let oldest = if lag == 0 {
            None
        } else {
            self.log.stored_at(checkpoint + 1).await?
        };
        gauge!(names::LAG).set(lag as f64);
        gauge!(names::LAG_SECONDS).set(self.age(oldest));
        Ok(())
    }

    async fn look_around(&self) -> Result<(), ProjectorError> {
        let backlog = self.store.backlog((self.clock)()).await?;
        gauge!(names::PENDING).set(backlog.pending as f64);
        gauge!(names::PENDING_RETRIES).set(backlog.retries as f64);
        gauge!(names::OLDEST_PENDING).set(self.age(backlog.oldest));

        let storage = self.log.storage().await?;
        gauge!(names::STORAGE).set(storage.used as f64);
        gauge!(names::STORAGE_LIMIT).set(storage.limit.unwrap_or(0) as f64);
        for stream in &storage.streams {
            self.show(stream);
        }
        Ok(())
    }

    fn show(&self, stream: &StreamStorage) {
        let name = stream.name;
        gauge!(names::STREAM_MESSAGES, "stream" => name).set(stream.messages as f64);
        gauge!(names::STREAM_BYTES, "stream" => name).set(stream.bytes as f64);
        gauge!(names::STREAM_AGE, "stream" => name).set(self.age(stream.oldest));
        gauge!(names::STREAM_MAX_AGE, "stream" => name).set(stream.max_age.as_secs_f64());
        names::replicas(name, stream.current_replicas, stream.other_replicas);
    }

    /// Seconds that have passed since then; 0 when there is nothing.
    fn age(&self, since: Option<DateTime<Utc>>) -> f64 {
        let age = since.and_then(|since| ((self.clock)() - since).to_std().ok());
        age.unwrap_or_default().as_secs_f64()
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        names::clear_survey();
    }
}
