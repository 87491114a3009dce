//! The loop that carries the scheduler's commands out.

mod errands;
mod items;
mod lag;
mod puller;
mod replies;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_log::directory::{Directory, Entry};
use cuitty_webhooks_log::membership::{Membership, MembershipEvent};
use cuitty_webhooks_log::{Cancellations, Log, WorkEvent};
use futures_util::FutureExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use self::errands::{Errands, Owner, Times};
use self::items::{item, unknown_delay};
use self::lag::LagWatch;
use self::puller::{Pulled, Puller};
use self::replies::Replies;
use crate::config::DispatcherConfig;
use crate::destination::Sender;
use crate::dispatcher::Dispatcher;
use crate::engine::{Engine, Entropy, LATER, Past, Task, Work};
use crate::metrics::{Metrics, ParkReason};
use crate::scheduler::{AttemptKey, Command, Ended, Event, LaneId, LaneSettings, Limits, Room, Scheduler};

/// What is pulled but not yet scheduled, all partitions together.
const PULLED: usize = 256;
/// Pulled items that are scheduled in one go.
const BATCH: usize = 64;
/// Settled attempts that are remembered, to recognise one that comes again.
const REMEMBERED: usize = 1 << 16;
/// How often leases are looked at and gauges set.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// How long leaving may take: what is not given up by then runs out.
const LEAVE_TIME: Duration = Duration::from_secs(2);
/// How long work stays in the log that this version cannot read: until one comes that can, the one that wrote it perhaps.
const UNREADABLE_DELAY: Duration = Duration::from_mins(5);

pub(crate) struct Service {
    config: DispatcherConfig,
    log: Log,
    directory: Directory,
    cancellations: Cancellations,
    membership: Membership,
    engine: Arc<Engine>,
    errands: Errands,
    metrics: Metrics,
    rng: StdRng,
    scheduler: Scheduler<Work>,
    attempts: JoinSet<(AttemptKey, Ended)>,
    /// Errands under way, each ending with what the scheduler is to be told.
    running: JoinSet<Event<Work>>,
    /// By partition; those that are being closed too.
    pullers: HashMap<u16, Puller>,
    /// By partition that is ours; cancelled when it is not any more.
    tenures: HashMap<u16, DropGuard>,
    pulled: mpsc::Sender<Pulled>,
    arrivals: mpsc::Receiver<Pulled>,
    replies: Replies,
    /// Of the scheduler's figures, what the counters have: duplicates, and items left to detached lanes.
    counted: (u64, u64),
    _lag: LagWatch,
    is_draining: bool,
}

impl Service {
    pub(crate) fn new(dispatcher: Dispatcher, reads: Log, membership: Membership) -> Self {
        let metrics = Metrics::new(dispatcher.config.max_in_flight);
        let limits = limits(&dispatcher.config);
        let (id, log, clock) = (dispatcher.id, dispatcher.log, dispatcher.clock);
        let (lanes, cancellations) = (dispatcher.lanes, dispatcher.cancellations);
        let engine = Engine {
            dispatcher_id: id.clone(),
            log: log.clone(),
            directory: dispatcher.directory.clone(),
            cancellations: cancellations.clone(),
            past: Past::new(reads.clone()),
            holdings: membership.holdings(),
            targets: dispatcher.targets,
            sender: Sender {
                http: dispatcher.http,
                log: log.clone(),
            },
            clock,
            metrics: metrics.clone(),
        };
        let (pulled, arrivals) = mpsc::channel(PULLED);
        Self {
            replies: Replies::start(log.clone()),
            _lag: LagWatch::start(reads.clone(), membership.holdings(), clock),
            errands: Errands::new(reads, lanes, clock, id, metrics.clone()),
            scheduler: Scheduler::new(limits),
            engine: Arc::new(engine),
            attempts: JoinSet::new(),
            running: JoinSet::new(),
            pullers: HashMap::new(),
            tenures: HashMap::new(),
            counted: (0, 0),
            is_draining: false,
            config: dispatcher.config,
            directory: dispatcher.directory,
            rng: dispatcher.rng,
            log,
            cancellations,
            membership,
            metrics,
            pulled,
            arrivals,
        }
    }

    pub(crate) async fn run(mut self, soft: CancellationToken, hard: CancellationToken) {
        let mut endpoint_changes = self.directory.changes();
        let mut cancelled = self.cancellations.changes();
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut drain_until: Option<Instant> = None;
        let timer = sleep(Duration::ZERO);
        tokio::pin!(timer);
        let (asked_softly, asked_hard) = (soft.cancelled(), hard.cancelled());
        tokio::pin!(asked_softly, asked_hard);

        loop {
            if drain_until.is_some() && self.scheduler.is_settled() && self.pullers.is_empty() {
                break;
            }
            let wake = [self.scheduler.poll_timeout(), drain_until]
                .into_iter()
                .flatten()
                .min();
            if let Some(wake) = wake
                && timer.deadline() != wake
            {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                // What comes seldom stands first, so that a flood of work cannot hold it up.
                biased;
                () = &mut asked_hard => break,
                () = &mut asked_softly, if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + self.config.drain_timeout);
                    self.drain();
                }
                () = &mut timer, if wake.is_some() => {
                    let now = Instant::now();
                    if drain_until.is_some_and(|until| until <= now) {
                        warn!(in_flight = self.scheduler.in_flight(), "drain_timeout is over, giving up");
                        break;
                    }
                    self.scheduler.handle_timeout(now);
                }
                _ = housekeeping.tick() => self.keep_house(),
                event = self.membership.next() => self.membership_changed(event),
                changed = endpoint_changes.recv() => self.endpoint_changed(changed.ok()),
                // Missed ones are seen when their turn comes.
                Ok((endpoint_id, delivery_id)) = cancelled.recv() => self.cancelled(endpoint_id, delivery_id),
                Some(done) = self.running.join_next() => self.errand_done(done),
                Some(ended) = self.attempts.join_next() => self.ended(ended),
                _ = self.arrivals.recv_many(&mut batch, BATCH) => {
                    let now = Instant::now();
                    batch.drain(..).for_each(|pulled| self.arrived(pulled, now));
                }
            }
            while let Some(command) = self.scheduler.next_command() {
                self.execute(command);
            }
        }
        self.finish().await;
    }

    fn drain(&mut self) {
        info!(
            in_flight = self.scheduler.in_flight(),
            "stopped pulling, finishing what is in flight"
        );
        self.is_draining = true;
        self.membership.retire();
        self.pullers.values_mut().for_each(Puller::close);
        self.scheduler.handle_event(Event::Drain, Instant::now());
    }

    async fn finish(mut self) {
        self.attempts.shutdown().await;
        self.running.shutdown().await;
        self.replies.finish().await;
        // On the connection that the last acknowledgements were written to, so they are read before it.
        if timeout(LEAVE_TIME, self.membership.leave()).await.is_err() {
            warn!("leaving took too long, the leases run out instead");
        }
        info!("dispatcher has stopped");
    }

    fn membership_changed(&mut self, event: MembershipEvent) {
        let now = Instant::now();
        match event {
            MembershipEvent::Acquired { partition, .. } if self.is_draining => {
                self.membership.released(partition);
            }
            MembershipEvent::Acquired { partition, .. } => {
                self.tenures
                    .insert(partition, CancellationToken::new().drop_guard());
                self.lease(partition, now);
                let (log, lanes) = (self.log.clone(), self.errands.lanes().clone());
                let puller = Puller::start(log, lanes, partition, self.pulled.clone());
                self.pullers.insert(partition, puller);
            }
            MembershipEvent::Release { partition } => match self.pullers.get_mut(&partition) {
                Some(puller) => puller.close(),
                None => self.scheduler.handle_event(Event::Releasing { partition }, now),
            },
            MembershipEvent::Lost { partition } => {
                // Dropping them closes them.
                self.pullers.remove(&partition);
                self.tenures.remove(&partition);
                self.scheduler.handle_event(Event::Lost { partition }, now);
            }
        }
    }

    fn lease(&mut self, partition: u16, now: Instant) {
        if let Some(until) = self.membership.held_until(partition) {
            self.scheduler
                .handle_event(Event::Leased { partition, until }, now);
        }
    }

    fn arrived(&mut self, pulled: Pulled, now: Instant) {
        match pulled {
            Pulled::Item(work) => self.item_arrived(work, now),
            // What the owner before had detached.
            Pulled::Attached { partition } => {
                for endpoint_id in self.errands.detached(partition) {
                    self.open_lane(endpoint_id, partition, now);
                }
            }
            Pulled::Closed { partition, puller } => {
                if self
                    .pullers
                    .get(&partition)
                    .is_some_and(|current| current.is(&puller))
                {
                    self.pullers.remove(&partition);
                    self.scheduler.handle_event(Event::Releasing { partition }, now);
                }
            }
        }
    }

    fn item_arrived(&mut self, work: Arc<Work>, now: Instant) {
        let (partition, first) = (work.partition, work.delivered == 1);
        let endpoint_id = match &work.event {
            WorkEvent::Requested(requested) => requested.delivery.endpoint_id,
            WorkEvent::Due(due) => due.delivery.endpoint_id,
            WorkEvent::Unreadable(error) => {
                self.metrics.unreadable.increment(1);
                error!(partition, log.seq = work.sequence, %error, "work item cannot be read by this version");
                self.metrics.parked(ParkReason::Unreadable);
                return self.replies.park(work, UNREADABLE_DELAY);
            }
        };
        if !self.open_lane(endpoint_id, partition, now) {
            let delay = unknown_delay(work.delivered);
            debug!(endpoint.id = %endpoint_id, ?delay, "endpoint is not known yet");
            self.metrics.parked(ParkReason::UnknownEndpoint);
            return self.replies.park(work, delay);
        }
        let times = Times {
            utc: (self.engine.clock)(),
            instant: now,
        };
        if let WorkEvent::Due(due) = &work.event
            && first
        {
            self.metrics.timer(times.since(due.due_at));
        }
        if let Some(item) = item(work, times) {
            let event = Event::Pulled {
                endpoint_id,
                item,
                first,
            };
            self.scheduler.handle_event(event, now);
        }
    }

    /// Makes an endpoint's lane if it has none; `false` when the directory does not know the endpoint.
    fn open_lane(&mut self, endpoint_id: EndpointId, partition: u16, now: Instant) -> bool {
        if self.scheduler.has_lane(endpoint_id) {
            return true;
        }
        let Some(entry) = self.directory.get(endpoint_id) else {
            return false;
        };
        let event = Event::Lane {
            endpoint_id,
            partition,
            settings: settings(&entry),
            state: self.errands.saved(endpoint_id),
        };
        self.scheduler.handle_event(event, now);
        true
    }

    /// Opens a fenced lane anew when its partition is still ours: the save that came first was the last owner's, and nobody else
    /// reads on in what that says is detached.
    fn reopen_lane(&mut self, endpoint_id: EndpointId, now: Instant) {
        let Some(partition) = self.directory.get(endpoint_id).map(|entry| entry.partition) else {
            return;
        };
        let is_ours = self
            .pullers
            .get(&partition)
            .is_some_and(|puller| !puller.is_closing());
        if is_ours && self.errands.lanes().is_detached(endpoint_id) {
            self.open_lane(endpoint_id, partition, now);
        }
    }

    fn ended(&mut self, first: Result<(AttemptKey, Ended), JoinError>) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(ended) = next {
            // A panic is caught inside of the task; what is left is an abort, after which nothing is asked any more.
            if let Ok((key, ended)) = ended {
                // While it was in flight it could not be taken out of its lane, into which it may be put back now.
                let cancelled = self.cancellations.contains(key.delivery_id);
                let endpoint_id = cancelled.then(|| self.scheduler.endpoint_of(key)).flatten();
                self.scheduler.handle_event(Event::Ended { key, ended }, now);
                if let Some(endpoint_id) = endpoint_id {
                    self.cancelled(endpoint_id, key.delivery_id);
                }
            }
            next = self.attempts.try_join_next();
        }
    }

    fn errand_done(&mut self, done: Result<Event<Work>, JoinError>) {
        match done {
            Ok(event) => {
                let now = Instant::now();
                let fenced = match &event {
                    Event::Fenced { lane } => Some(lane.endpoint_id),
                    _ => None,
                };
                self.scheduler.handle_event(event, now);
                if let Some(endpoint_id) = fenced {
                    self.reopen_lane(endpoint_id, now);
                }
            }
            Err(error) if error.is_cancelled() => {}
            // Its lane would wait for ever; everything that is not done comes again to a dispatcher that starts anew.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Takes over an endpoint's settings; everybody's when changes were missed.
    fn endpoint_changed(&mut self, changed: Option<EndpointId>) {
        let affected: Vec<EndpointId> = match changed {
            Some(endpoint_id) if self.scheduler.has_lane(endpoint_id) => vec![endpoint_id],
            Some(_) => return,
            None => self.scheduler.endpoints().collect(),
        };
        let now = Instant::now();
        for endpoint_id in affected {
            if let Some(entry) = self.directory.get(endpoint_id) {
                let event = Event::Changed {
                    endpoint_id,
                    settings: settings(&entry),
                    probe: changed.is_some(),
                };
                self.scheduler.handle_event(event, now);
            }
        }
    }

    fn cancelled(&mut self, endpoint_id: EndpointId, delivery_id: DeliveryId) {
        let event = Event::Cancelled {
            endpoint_id,
            delivery_id,
        };
        self.scheduler.handle_event(event, Instant::now());
    }

    fn keep_house(&mut self) {
        let now = Instant::now();
        let partitions: Vec<u16> = self
            .pullers
            .iter()
            .filter(|(_, puller)| !puller.is_closing())
            .map(|(&partition, _)| partition)
            .collect();
        for partition in partitions {
            self.lease(partition, now);
        }
        let stats = self.scheduler.stats(now);
        self.metrics.stats(&stats);
        let (duplicates, skipped) = std::mem::replace(&mut self.counted, (stats.duplicates, stats.skipped));
        self.metrics.duplicates.increment(stats.duplicates - duplicates);
        self.metrics.skipped.increment(stats.skipped - skipped);
    }

    fn execute(&mut self, command: Command<Work>) {
        match command {
            Command::Start {
                key,
                work,
                arrived,
                verify,
                may_send,
            } => self.start(
                key,
                work,
                Task {
                    arrived,
                    verify,
                    may_send,
                },
            ),
            Command::Park { work, delay } => {
                self.metrics.parked(ParkReason::Scheduler);
                self.replies.park(work, delay);
            }
            Command::Settle { work } => self.replies.settle(work),
            Command::Progress { work } => self.replies.progress(work),
            Command::Save { lane, state } => {
                self.run_errand(lane, |errands, owner| errands.save(owner, state));
            }
            Command::Read { lane, from, room } => {
                self.run_errand(lane, |errands, owner| errands.read(owner, from, room));
            }
            Command::Recover { lane, state } => {
                self.run_errand(lane, |errands, owner| errands.recover(owner, state));
            }
            Command::Pause => self.pullers.values().for_each(|puller| puller.set_paused(true)),
            Command::Resume => self.pullers.values().for_each(|puller| puller.set_paused(false)),
            Command::HandOver { partition } => {
                self.tenures.remove(&partition);
                self.membership.released(partition);
            }
        }
    }

    fn start(&mut self, key: AttemptKey, work: Arc<Work>, task: Task) {
        let engine = self.engine.clone();
        let entropy = Entropy::draw(&mut self.rng);
        self.attempts.spawn(async move {
            let attempt = AssertUnwindSafe(engine.carry_out(key, &work, task, entropy));
            let ended = attempt.catch_unwind().await.unwrap_or_else(|_| {
                error!(log.seq = work.sequence, "attempt panicked, it will be repeated");
                Ended::NotNow(LATER)
            });
            (key, ended)
        });
    }

    fn run_errand<F>(&mut self, lane: LaneId, errand: impl FnOnce(Errands, Owner) -> F)
    where
        F: Future<Output = Event<Work>> + Send + 'static,
    {
        // The directory forgets no endpoint, and a lane is of one that it knew.
        let Some(entry) = self.directory.get(lane.endpoint_id) else {
            return;
        };
        let Some(tenure) = self.tenures.get(&entry.partition) else {
            return;
        };
        let owner = Owner {
            lane,
            project_id: entry.endpoint.project_id.clone(),
            partition: entry.partition,
            tenure: tenure.token().clone(),
        };
        self.running.spawn(errand(self.errands.clone(), owner));
    }
}

fn limits(config: &DispatcherConfig) -> Limits {
    let lanes = &config.lanes;
    let room = |items, bytes| Room { items, bytes };
    Limits {
        max_in_flight: config.max_in_flight,
        lane: room(lanes.max_items, lanes.max_bytes),
        total: room(lanes.total_items, lanes.total_bytes),
        window: room(lanes.window_items, lanes.window_bytes),
        progress_interval: config.progress_interval,
        save_interval: lanes.save_interval,
        remembered: REMEMBERED,
        breaker: config.breaker.rules(),
    }
}

/// What a lane needs to know of its endpoint.
fn settings(entry: &Entry) -> LaneSettings {
    let settings = &entry.endpoint.settings;
    LaneSettings {
        max_in_flight: settings.max_in_flight,
        rate: settings.rate_limit_per_second,
        ordered: settings.ordered,
        active: entry.endpoint.is_active(),
        probe_delays: settings.retry_schedule().delays().into(),
    }
}
