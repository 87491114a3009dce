//! One task per partition that pulls its work.

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_log::{Lanes, Log, LogError, WorkStream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::engine::Work;

/// How long it may take to learn what is saved of the lanes.
const CATCH_UP_TIME: Duration = Duration::from_secs(5);
/// Pause between tries to attach while the log is not available.
const ATTACH_PAUSE: Duration = Duration::from_secs(1);

/// What a puller tells.
#[derive(Debug)]
pub(super) enum Pulled {
    /// Work has come.
    Item(Arc<Work>),
    /// Items are about to come, and what is saved of the partition's lanes is known.
    Attached { partition: u16 },
    /// Nothing more comes from this puller.
    Closed { partition: u16, puller: PullerId },
}

/// Tells a puller apart from another one of the same partition.
#[derive(Debug, Clone)]
pub(super) struct PullerId(Arc<()>);

/// The handle of a puller. Dropped, it closes.
#[derive(Debug)]
pub(super) struct Puller {
    id: PullerId,
    stop: CancellationToken,
    paused: watch::Sender<bool>,
    _stopped: DropGuard,
}

impl Puller {
    pub(super) fn start(log: Log, lanes: Lanes, partition: u16, pulled: mpsc::Sender<Pulled>) -> Self {
        let id = PullerId(Arc::new(()));
        let stop = CancellationToken::new();
        let (paused, is_paused) = watch::channel(false);
        let task = Task {
            log,
            lanes,
            partition,
            pulled,
            is_paused,
        };
        tokio::spawn(task.run(id.clone(), stop.clone()));
        Self {
            id,
            _stopped: stop.clone().drop_guard(),
            stop,
            paused,
        }
    }

    pub(super) fn is(&self, other: &PullerId) -> bool {
        Arc::ptr_eq(&self.id.0, &other.0)
    }

    /// Stops pulling; [`Pulled::Closed`] comes when what was pulled has been handed on or back.
    pub(super) fn close(&mut self) {
        self.stop.cancel();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }
}

struct Task {
    log: Log,
    lanes: Lanes,
    partition: u16,
    pulled: mpsc::Sender<Pulled>,
    is_paused: watch::Receiver<bool>,
}

impl Task {
    async fn run(mut self, id: PullerId, stop: CancellationToken) {
        let mut stream = None;
        stop.run_until_cancelled(self.pull(&mut stream)).await;
        if let Some(stream) = stream {
            stream.close().await;
        }
        // A service that has ended asks for nothing any more.
        let _ = self
            .pulled
            .send(Pulled::Closed {
                partition: self.partition,
                puller: id,
            })
            .await;
    }

    async fn pull(&mut self, slot: &mut Option<WorkStream>) {
        let stream = loop {
            match self.attach().await {
                Ok(stream) => break slot.insert(stream),
                Err(error) => {
                    warn!(partition = self.partition, %error, "cannot pull yet");
                    sleep(ATTACH_PAUSE).await;
                }
            }
        };
        let partition = self.partition;
        if self.pulled.send(Pulled::Attached { partition }).await.is_err() {
            return;
        }
        // Ends when the handle is gone.
        while self.is_paused.wait_for(|paused| !paused).await.is_ok() {
            // Room first: what is pulled must not get lost when this is stopped.
            let Ok(room) = self.pulled.reserve().await else {
                return;
            };
            match stream.next().await {
                Ok(item) => room.send(Pulled::Item(Arc::new(Work::pulled(partition, item)))),
                Err(error) => warn!(partition, %error, "pull interrupted, going on"),
            }
        }
    }

    /// What the owner before saved of its lanes is known before anything is pulled.
    async fn attach(&self) -> Result<WorkStream, LogError> {
        self.lanes.catch_up(CATCH_UP_TIME).await?;
        self.log.work(self.partition).await
    }
}
