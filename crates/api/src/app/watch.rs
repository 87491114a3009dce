//! Delivery events as they happen: one reader of the log's tail per process, shared by everybody who watches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cuitty_webhooks_domain::delivery::{DeliveryEvent, Requested};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_log::{EventBody, EventReader, Log, StoredEvent};
use futures_util::future::BoxFuture;
use futures_util::{Stream, stream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;

use super::input::Violations;
use super::places::{Places, TakenPlace};
use super::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;
use crate::metrics as names;

/// Most events that are read at once.
const BATCH: usize = 256;
/// How long a read waits for the first event; also how soon the reader notices that nobody watches any more.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Pause after the log could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// A delivery event, shared by all watchers.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) sequence: u64,
    pub(crate) event: DeliveryEvent,
}

impl Watched {
    /// Only what a watcher is shown: requests, without their payloads, and the ends of attempts.
    fn new(stored: StoredEvent) -> Option<Self> {
        let event = match stored.body {
            EventBody::Event(DeliveryEvent::Requested(requested)) => DeliveryEvent::Requested(Requested {
                payload: Bytes::new(),
                ..requested
            }),
            EventBody::Event(event @ DeliveryEvent::Concluded(_)) => event,
            _ => return None,
        };
        Some(Self {
            sequence: stored.sequence,
            event,
        })
    }
}

/// Which events a watcher is shown.
#[derive(Debug, Clone)]
struct Filter {
    project_id: Option<ProjectId>,
    endpoint_id: Option<EndpointId>,
}

impl Filter {
    fn selects(&self, event: &DeliveryEvent) -> bool {
        let delivery = match event {
            DeliveryEvent::Requested(requested) => &requested.delivery,
            DeliveryEvent::Concluded(concluded) => &concluded.delivery,
            DeliveryEvent::Due(_) | DeliveryEvent::Unmatched(_) => return false,
        };
        self.project_id
            .as_ref()
            .is_none_or(|id| *id == delivery.project_id)
            && self.endpoint_id.is_none_or(|id| id == delivery.endpoint_id)
    }
}

/// Hands the log's tail out to watchers. The tail is read while somebody watches.
#[derive(Debug)]
pub(super) struct WatchHub {
    shared: Arc<Shared>,
    watchers: Places,
}

struct Shared {
    log: Log,
    events: broadcast::Sender<Arc<Watched>>,
    /// Whether the reader runs. Held while it is started and while it decides to end, so that neither misses the other.
    is_reading: Mutex<bool>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("watchers", &self.events.receiver_count())
            .finish_non_exhaustive()
    }
}

/// One watcher's place in the hub; dropping it makes room for another.
struct Subscription {
    events: broadcast::Receiver<Arc<Watched>>,
    filter: Filter,
    stop: CancellationToken,
    /// Resolves when the watcher's key is revoked.
    revoked: BoxFuture<'static, ()>,
    _place: TakenPlace,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        metrics::gauge!(names::WATCHERS).decrement(1.0);
    }
}

impl App {
    /// The delivery events of a project or an endpoint from now on. The stream ends with an error when its reader falls
    /// behind, when its key is revoked, or when the service shuts down.
    #[tracing::instrument(name = "api.watch_deliveries", skip_all)]
    pub(crate) async fn watch_deliveries(
        &self,
        caller: &Caller,
        project_id: &str,
        endpoint_id: &str,
    ) -> Result<impl Stream<Item = Result<Arc<Watched>, AppError>> + Send + use<>, AppError> {
        observed("watch_deliveries", async {
            caller.require(Scope::Read)?;
            let (project_id, endpoint_id) =
                self.scope_of(caller, project_id, endpoint_id, Violations::default())?;
            let filter = Filter {
                project_id,
                endpoint_id,
            };
            let revoked = Box::pin(self.keys.revoked(caller));
            self.watches.subscribe(caller, filter, revoked).await
        })
        .await
    }
}

impl WatchHub {
    pub(super) fn new(log: Log, max_watchers: usize, buffer: usize) -> Self {
        let shared = Shared {
            log,
            events: broadcast::Sender::new(buffer.max(1)),
            is_reading: Mutex::new(false),
            stop: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
            watchers: Places::new(max_watchers),
        }
    }

    pub(super) fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Resolves when the streams are to end.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.stop.clone().cancelled_owned()
    }

    /// A place among those who watch.
    pub(super) fn place(&self, caller: &Caller) -> Result<TakenPlace, AppError> {
        if self.shared.stop.is_cancelled() {
            return Err(AppError::ShuttingDown);
        }
        self.watchers.take(caller).map_err(AppError::TooManyWatchers)
    }

    async fn subscribe(
        &self,
        caller: &Caller,
        filter: Filter,
        revoked: BoxFuture<'static, ()>,
    ) -> Result<impl Stream<Item = Result<Arc<Watched>, AppError>> + Send + use<>, AppError> {
        let place = self.place(caller)?;
        let mut is_reading = self.shared.is_reading.lock().await;
        let tail = if *is_reading {
            None
        } else {
            Some(self.shared.log.tail().await?)
        };
        let events = self.shared.events.subscribe();
        if let Some(tail) = tail {
            *is_reading = true;
            tokio::spawn(read(Arc::clone(&self.shared), tail));
        }
        drop(is_reading);
        metrics::gauge!(names::WATCHERS).increment(1.0);
        let stop = self.shared.stop.clone();
        Ok(stream::unfold(
            Some(Subscription {
                events,
                filter,
                stop,
                revoked,
                _place: place,
            }),
            next,
        ))
    }
}

/// The next event that a watcher is shown. After an error there is none.
async fn next(
    subscription: Option<Subscription>,
) -> Option<(Result<Arc<Watched>, AppError>, Option<Subscription>)> {
    let mut subscription = subscription?;
    loop {
        let received = tokio::select! {
            () = subscription.stop.cancelled() => return Some((Err(AppError::ShuttingDown), None)),
            () = &mut subscription.revoked => return Some((Err(AppError::WrongKey), None)),
            received = subscription.events.recv() => received,
        };
        match received {
            Ok(watched) if subscription.filter.selects(&watched.event) => {
                return Some((Ok(watched), Some(subscription)));
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => return Some((Err(AppError::WatcherBehind(missed)), None)),
            Err(RecvError::Closed) => return Some((Err(AppError::ShuttingDown), None)),
        }
    }
}

/// Reads the tail until nobody watches.
async fn read(shared: Arc<Shared>, mut tail: EventReader) {
    while !shared.stop.is_cancelled() {
        match tail.next_batch(BATCH, BATCH_WAIT).await {
            Ok(batch) => {
                for watched in batch.into_iter().filter_map(Watched::new) {
                    // Nobody listening is noticed below.
                    let _ = shared.events.send(Arc::new(watched));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the log for watchers");
                tokio::time::sleep(READ_RETRY).await;
            }
        }
        let mut is_reading = shared.is_reading.lock().await;
        if shared.events.receiver_count() == 0 {
            *is_reading = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests;
