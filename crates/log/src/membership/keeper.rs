//! The task that carries out what the [`Planner`] decides.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::planner::{Action, Answer, Planner, Request};
use super::roster::{self, Written};
use super::{Holdings, MembershipEvent};
use crate::entries::KV_OPERATION;
use crate::follow::{Followed, Follower};
use crate::lease::{self, Lease, Leases};
use crate::metrics::names;
use crate::topology::DISPATCHERS_BUCKET;
use crate::{Log, LogError};

/// What stands before a key in its subject.
const KEYS: &str = "$KV.WEBHOOKS_DISPATCHERS.";

/// What the dispatcher asks for.
pub(super) enum Command {
    Released(u16),
    Retire,
    Leave(oneshot::Sender<()>),
}

/// What a request has come back with.
enum Done {
    Beat(Result<(), LogError>),
    Lease {
        partition: u16,
        request: Request,
        lease: Lease,
        result: Result<bool, LogError>,
    },
}

type Pending = Pin<Box<dyn Future<Output = Done> + Send>>;

pub(super) struct Keeper {
    id: String,
    /// Tells this process from another one of the same id.
    token: String,
    bucket: Leases,
    ttl: Duration,
    planner: Planner,
    follower: Follower,
    /// By partition; `None` while a request about it is under way.
    leases: Vec<Option<Lease>>,
    /// Whether a write of the heartbeat is under way.
    is_beating: bool,
    /// Whether the heartbeat was deleted, for good.
    is_withdrawn: bool,
    pending: FuturesUnordered<Pending>,
    holdings: Holdings,
    events: mpsc::UnboundedSender<MembershipEvent>,
}

impl Keeper {
    /// Writes the first heartbeat and learns who else is there.
    pub(super) async fn join(
        log: &Log,
        id: &str,
        partitions: u16,
        holdings: Holdings,
        events: mpsc::UnboundedSender<MembershipEvent>,
    ) -> Result<Self, LogError> {
        let bucket = Leases::new(log);
        let (token, ttl) = (log.unique_token(), bucket.ttl().await?);
        // Before the follower starts, so that the age of what it finds can be told from this entry's.
        bucket.put(&roster::member_key(id), &token).await?;
        let mut keeper = Self {
            planner: Planner::new(id, lease::value(id, &token), ttl, partitions, Instant::now()),
            follower: Follower::new(log, format!("KV_{DISPATCHERS_BUCKET}")),
            leases: (0..partitions)
                .map(|partition| Some(bucket.lease(&roster::partition_key(partition), id, &token)))
                .collect(),
            id: id.to_owned(),
            token,
            bucket,
            ttl,
            is_beating: false,
            is_withdrawn: false,
            pending: FuturesUnordered::new(),
            holdings,
            events,
        };
        while !keeper.planner.is_following() {
            let followed = keeper.follower.next().await?;
            keeper.followed(followed);
        }
        info!(
            dispatcher.id = id,
            others = keeper.planner.roster.members().count().saturating_sub(1),
            "joined the dispatchers"
        );
        Ok(keeper)
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(Planner::tick(self.ttl));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.act();
            tokio::select! {
                () = stop.cancelled() => return,
                command = commands.recv() => match command {
                    Some(Command::Released(partition)) => self.planner.released(partition, Instant::now()),
                    Some(Command::Retire) => self.planner.retire(),
                    Some(Command::Leave(done)) => {
                        self.leave().await;
                        // Whoever asked may have stopped waiting.
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                Some(done) = self.pending.next() => self.answered(done),
                followed = self.follower.next() => match followed {
                    Ok(followed) => self.followed(followed),
                    Err(error) => self.lost_sight(&error),
                },
                _ = tick.tick() => {}
            }
        }
    }

    /// Takes in what came from the bucket.
    fn followed(&mut self, followed: Followed) {
        let now = Instant::now();
        match followed {
            Followed::Attached => {}
            Followed::Restarted => {
                self.planner.detached();
                self.planner.roster.clear();
            }
            Followed::CaughtUp { .. } => self.planner.following(now),
            Followed::Message {
                stored_at, message, ..
            } => {
                if let Some(key) = message.subject.strip_prefix(KEYS) {
                    let value = is_put(&message).then(|| message.payload.to_vec());
                    self.planner.roster.written(
                        Written {
                            key: key.to_owned(),
                            value,
                            stored_at,
                        },
                        now,
                    );
                }
            }
        }
    }

    fn lost_sight(&mut self, error: &LogError) {
        if self.planner.is_following() {
            metrics::counter!(names::REATTACHED, "use" => "membership").increment(1);
            warn!(%error, "lost sight of the other dispatchers, looking again");
        }
        debug!(%error, "the other dispatchers are out of sight");
        self.planner.detached();
    }

    /// Carries out what the planner wants now.
    fn act(&mut self) {
        let actions = self.planner.poll(Instant::now());
        // Before anything is told: who is told of a loss finds it here.
        self.publish();
        for action in actions {
            match action {
                Action::Tell(event) => self.tell(event),
                Action::Beat => self.beat(),
                Action::Request(partition, request) => self.request(partition, request),
            }
        }
        self.withdraw();
    }

    fn beat(&mut self) {
        if std::mem::replace(&mut self.is_beating, true) {
            return;
        }
        let (bucket, key, token) = (
            self.bucket.clone(),
            roster::member_key(&self.id),
            self.token.clone(),
        );
        self.pending.push(Box::pin(
            async move { Done::Beat(bucket.put(&key, &token).await) },
        ));
    }

    /// Deletes the heartbeat of a member that retires, so that the others share without it.
    fn withdraw(&mut self) {
        // Not before a write that is under way has ended: it would come after the deletion.
        if self.is_beating || self.is_withdrawn || !self.planner.is_retiring() {
            return;
        }
        self.is_withdrawn = true;
        let (bucket, key) = (self.bucket.clone(), roster::member_key(&self.id));
        self.pending
            .push(Box::pin(async move { Done::Beat(bucket.delete(&key).await) }));
    }

    fn request(&mut self, partition: u16, request: Request) {
        let lease = self.leases.get_mut(usize::from(partition)).and_then(Option::take);
        let Some(mut lease) = lease else { return };
        self.pending.push(Box::pin(async move {
            let result = match request {
                Request::Acquire => {
                    // It may be held still although its loss was told.
                    lease.forget();
                    lease.try_acquire().await
                }
                Request::Renew => lease.renew().await,
                Request::Release => lease.release().await.map(|()| false),
            };
            Done::Lease {
                partition,
                request,
                lease,
                result,
            }
        }));
    }

    fn answered(&mut self, done: Done) {
        match done {
            Done::Beat(result) => {
                self.is_beating = false;
                if let Err(error) = result {
                    debug!(%error, "no answer about the heartbeat");
                }
            }
            Done::Lease {
                partition,
                request,
                lease,
                result,
            } => {
                let answer = match (result, lease.held_until(), lease.epoch()) {
                    (Ok(true), Some(until), Some(epoch)) => Answer::Held { until, epoch },
                    (Ok(_), ..) => Answer::NotHeld,
                    (Err(error), ..) => {
                        debug!(%error, partition, ?request, "no answer about a lease");
                        Answer::Unknown
                    }
                };
                if let Some(slot) = self.leases.get_mut(usize::from(partition)) {
                    *slot = Some(lease);
                }
                let event = self.planner.answered(partition, request, answer, Instant::now());
                self.publish();
                if let Some(event) = event {
                    self.tell(event);
                }
            }
        }
    }

    /// Shows what is held.
    fn publish(&self) {
        let mut held = 0u32;
        for partition in 0..self.planner.partitions() {
            let until = self.planner.held_until(partition);
            self.holdings.set(partition, until);
            held += u32::from(until.is_some());
        }
        metrics::gauge!(names::PARTITIONS_HELD).set(held);
        metrics::gauge!(names::MEMBERS).set(self.planner.members() as f64);
    }

    fn tell(&self, event: MembershipEvent) {
        match event {
            MembershipEvent::Acquired { partition, epoch } => info!(partition, epoch, "acquired a partition"),
            MembershipEvent::Release { partition } => info!(partition, "handing a partition over"),
            MembershipEvent::Lost { partition } => {
                metrics::counter!(names::PARTITIONS_LOST).increment(1);
                warn!(partition, "lost a partition");
            }
        }
        // A membership that was dropped ends this task.
        let _ = self.events.send(event);
    }

    /// Gives everything up, as far as answers come in time; the rest runs out.
    async fn leave(&mut self) {
        self.planner.abandon(Instant::now());
        self.publish();
        // After the heartbeat that may be under way, its deletion.
        loop {
            self.withdraw();
            let Some(done) = self.pending.next().await else {
                break;
            };
            self.answered(done);
        }
        let released = join_all(self.leases.iter_mut().flatten().map(Lease::release)).await;
        let failed = released.iter().filter(|result| result.is_err()).count();
        info!(dispatcher.id = self.id, failed, "left the dispatchers");
    }
}

/// Whether a message of a bucket sets its key; deletions and purges carry a header that says so.
fn is_put(message: &async_nats::Message) -> bool {
    message
        .headers
        .as_ref()
        .is_none_or(|headers| headers.get(KV_OPERATION).is_none())
}
