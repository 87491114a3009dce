//! The dispatcher as a process part: the loop that carries the scheduler's commands out.

mod puller;
mod replies;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::seal::KeyRing;
use cuitty_webhooks_log::directory::{Directory, Entry};
use cuitty_webhooks_log::membership::{Membership, MembershipEvent};
use cuitty_webhooks_log::{Log, LogError, WorkEvent};
use futures_util::FutureExt;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, warn};

use self::puller::{Pulled, Puller};
use self::replies::Replies;
use crate::config::DispatcherConfig;
use crate::engine::{Engine, Entropy, LATER, Work};
use crate::error::DispatcherError;
use crate::http::HttpClient;
use crate::metrics::{Metrics, ParkReason};
use crate::scheduler::{AttemptKey, Command, Event, Item, Limits, Room, Scheduler};
use crate::target::Targets;

/// What is pulled but not yet scheduled, all partitions together.
const PULLED: usize = 256;
/// Pulled items that are scheduled in one go.
const BATCH: usize = 64;
/// What holding an item costs beside its payload, in bytes.
const ITEM_BYTES: usize = 512;
/// Settled attempts that are remembered, to recognise one that comes again.
const REMEMBERED: usize = 1 << 16;
/// How often leases are looked at and gauges set.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Pause between tries to join while the log is not available.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// How long leaving may take: what is not given up by then runs out.
const LEAVE_TIME: Duration = Duration::from_secs(2);
/// How long work stays in the log whose endpoint the directory does not know: from the first, doubled, up to the last.
const UNKNOWN_DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long work stays in the log that this version cannot read: until one comes that can, the one that wrote it perhaps.
const UNREADABLE_DELAY: Duration = Duration::from_mins(5);

/// Delivers the work of the partitions that it holds.
///
/// [`Dispatcher::build`] checks the configuration, [`Dispatcher::run`] joins the dispatchers and works until it is told to
/// stop.
pub struct Dispatcher {
    config: DispatcherConfig,
    id: String,
    log: Log,
    directory: Directory,
    targets: Targets,
    http: HttpClient,
    clock: Clock,
    rng: StdRng,
    joined: watch::Sender<bool>,
}

impl Dispatcher {
    /// Checks `config` and makes the HTTP client. `key_ring` opens the endpoints' secrets; `policy` says which addresses may
    /// be reached.
    pub fn build(
        config: DispatcherConfig,
        log: Log,
        directory: Directory,
        key_ring: KeyRing,
        policy: EgressPolicy,
        clock: Clock,
        mut rng: StdRng,
    ) -> Result<Self, DispatcherError> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(DispatcherError::config(problem.setting, problem.message));
        }
        let id = if config.id.is_empty() {
            format!("dsp-{:012x}", rng.random::<u64>() >> 16)
        } else {
            config.id.clone()
        };
        let http = HttpClient::build(&config.http, policy.clone())?;
        Ok(Self {
            targets: Targets::new(key_ring, policy),
            config,
            id,
            log,
            directory,
            http,
            clock,
            rng,
            joined: watch::Sender::default(),
        })
    }

    /// Its name among the dispatchers.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is one of the dispatchers, for readiness: work comes to it only then.
    pub fn joined(&self) -> watch::Receiver<bool> {
        self.joined.subscribe()
    }

    /// Works until `soft` is cancelled, then stops pulling, finishes what is in flight for at most `drain_timeout`, and
    /// gives its partitions up. `hard` ends it at once; what was in flight comes again.
    ///
    /// An outage of the log is waited out.
    pub async fn run(self, soft: CancellationToken, hard: CancellationToken) -> Result<(), DispatcherError> {
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let membership = loop {
            let joined = tokio::select! {
                () = soft.cancelled() => return Ok(()),
                () = hard.cancelled() => return Ok(()),
                joined = Membership::join(&self.log, &self.id, stop.clone()) => joined,
            };
            match joined {
                Ok(membership) => break membership,
                Err(error @ LogError::Unavailable(_)) => {
                    warn!(%error, "cannot join the dispatchers yet");
                    sleep(JOIN_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let joined = self.joined.clone();
        joined.send_replace(true);
        let service = Service::new(self, membership);
        let span = tracing::info_span!("dispatcher", dispatcher.id = service.engine.dispatcher_id);
        service.run(soft, hard).instrument(span).await;
        joined.send_replace(false);
        Ok(())
    }
}

struct Service {
    config: DispatcherConfig,
    log: Log,
    directory: Directory,
    membership: Membership,
    engine: Arc<Engine>,
    metrics: Metrics,
    rng: StdRng,
    scheduler: Scheduler<Work>,
    attempts: JoinSet<(AttemptKey, bool)>,
    /// By partition; those that are being closed too.
    pullers: HashMap<u16, Puller>,
    pulled: mpsc::Sender<Pulled>,
    arrivals: mpsc::Receiver<Pulled>,
    replies: Replies,
    /// Of the scheduler's figure, what the counter has.
    duplicates: u64,
    is_draining: bool,
}

impl Service {
    fn new(dispatcher: Dispatcher, membership: Membership) -> Self {
        let Dispatcher {
            config,
            id,
            log,
            directory,
            targets,
            http,
            clock,
            rng,
            joined: _,
        } = dispatcher;
        let metrics = Metrics::new();
        let engine = Engine {
            dispatcher_id: id,
            log: log.clone(),
            directory: directory.clone(),
            holdings: membership.holdings(),
            targets,
            http,
            clock,
            metrics: metrics.clone(),
        };
        let limits = Limits {
            max_in_flight: config.max_in_flight,
            lane: Room {
                items: config.lanes.max_items,
                bytes: config.lanes.max_bytes,
            },
            total: Room {
                items: config.lanes.total_items,
                bytes: config.lanes.total_bytes,
            },
            overflow_delay: config.lanes.overflow_delay,
            progress_interval: config.progress_interval,
            remembered: REMEMBERED,
        };
        let (pulled, arrivals) = mpsc::channel(PULLED);
        Self {
            replies: Replies::start(log.clone()),
            scheduler: Scheduler::new(limits),
            engine: Arc::new(engine),
            attempts: JoinSet::new(),
            pullers: HashMap::new(),
            duplicates: 0,
            is_draining: false,
            config,
            log,
            directory,
            membership,
            metrics,
            rng,
            pulled,
            arrivals,
        }
    }

    async fn run(mut self, soft: CancellationToken, hard: CancellationToken) {
        let mut endpoint_changes = self.directory.changes();
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut drain_until: Option<Instant> = None;
        let timer = sleep(Duration::ZERO);
        tokio::pin!(timer);
        let (asked_softly, asked_hard) = (soft.cancelled(), hard.cancelled());
        tokio::pin!(asked_softly, asked_hard);

        loop {
            if drain_until.is_some() && self.scheduler.in_flight() == 0 && self.pullers.is_empty() {
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
        self.attempts.abort_all();
        while self.attempts.join_next().await.is_some() {}
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
                if let Some(until) = self.membership.held_until(partition) {
                    self.scheduler
                        .handle_event(Event::Leased { partition, until }, now);
                }
                let puller = Puller::start(self.log.clone(), partition, self.pulled.clone());
                self.pullers.insert(partition, puller);
            }
            MembershipEvent::Release { partition } => match self.pullers.get_mut(&partition) {
                Some(puller) => puller.close(),
                None => self.scheduler.handle_event(Event::Releasing { partition }, now),
            },
            MembershipEvent::Lost { partition } => {
                // Dropping it closes it.
                self.pullers.remove(&partition);
                self.scheduler.handle_event(Event::Lost { partition }, now);
            }
        }
    }

    fn arrived(&mut self, pulled: Pulled, now: Instant) {
        match pulled {
            Pulled::Item(work) => self.item_arrived(work, now),
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
        let (delivery, number, bytes) = match &work.item.event {
            WorkEvent::Requested(requested) => (&requested.delivery, 1, requested.payload.len()),
            WorkEvent::Due(due) => (&due.delivery, due.attempt_number, 0),
            WorkEvent::Unreadable(error) => {
                self.metrics.unreadable.increment(1);
                error!(partition = work.partition, log.seq = work.item.sequence, %error, "work item cannot be read by this version");
                self.metrics.parked(ParkReason::Unreadable);
                return self.replies.park(work, UNREADABLE_DELAY);
            }
        };
        let endpoint_id = delivery.endpoint_id;
        let Some(entry) = self.directory.get(endpoint_id) else {
            let delay = unknown_delay(work.item.delivered);
            debug!(endpoint.id = %endpoint_id, ?delay, "endpoint is not known yet");
            self.metrics.parked(ParkReason::UnknownEndpoint);
            return self.replies.park(work, delay);
        };
        let item = Item {
            key: AttemptKey {
                delivery_id: delivery.delivery_id,
                number,
            },
            endpoint_id,
            partition: work.partition,
            bytes: bytes + ITEM_BYTES,
            max_in_flight: cap(&entry),
            work,
        };
        self.scheduler.handle_event(Event::Arrived(item), now);
    }

    fn ended(&mut self, first: Result<(AttemptKey, bool), JoinError>) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(ended) = next {
            // A panic is caught inside of the task; what is left is an abort, after which nothing is asked any more.
            if let Ok((key, settled)) = ended {
                self.scheduler.handle_event(Event::Finished { key, settled }, now);
            }
            next = self.attempts.try_join_next();
        }
    }

    /// Takes over an endpoint's cap; everybody's when changes were missed.
    fn endpoint_changed(&mut self, changed: Option<EndpointId>) {
        let affected: Vec<EndpointId> = match changed {
            Some(endpoint_id) if self.scheduler.has_lane(endpoint_id) => vec![endpoint_id],
            Some(_) => return,
            None => self.scheduler.endpoints().collect(),
        };
        let now = Instant::now();
        for endpoint_id in affected {
            if let Some(entry) = self.directory.get(endpoint_id) {
                let max_in_flight = cap(&entry);
                self.scheduler.handle_event(
                    Event::Capped {
                        endpoint_id,
                        max_in_flight,
                    },
                    now,
                );
            }
        }
    }

    fn keep_house(&mut self) {
        let now = Instant::now();
        for (&partition, puller) in &self.pullers {
            if !puller.is_closing()
                && let Some(until) = self.membership.held_until(partition)
            {
                self.scheduler
                    .handle_event(Event::Leased { partition, until }, now);
            }
        }
        let stats = self.scheduler.stats();
        self.metrics.in_flight.set(stats.in_flight as f64);
        self.metrics.lanes.set(stats.lanes as f64);
        self.metrics.queued.set(stats.queued.items as f64);
        self.metrics.queued_bytes.set(stats.queued.bytes as f64);
        self.metrics.paused_partitions.set(stats.paused_partitions as f64);
        self.metrics
            .duplicates
            .increment(stats.duplicates - self.duplicates);
        self.duplicates = stats.duplicates;
    }

    fn execute(&mut self, command: Command<Work>) {
        match command {
            Command::Start { key, work, arrived } => self.start(key, work, arrived),
            Command::Park { work, delay } => {
                self.metrics.parked(ParkReason::Scheduler);
                self.replies.park(work, delay);
            }
            Command::Settle { work } => self.replies.settle(work),
            Command::Progress { work } => self.replies.progress(work),
            Command::Pause { partition } => self.set_paused(partition, true),
            Command::Resume { partition } => self.set_paused(partition, false),
            Command::HandOver { partition } => self.membership.released(partition),
        }
    }

    fn start(&mut self, key: AttemptKey, work: Arc<Work>, arrived: Instant) {
        let engine = self.engine.clone();
        let entropy = Entropy::draw(&mut self.rng);
        let replies = self.replies.clone();
        self.attempts.spawn(async move {
            let attempt = AssertUnwindSafe(engine.carry_out(key, &work, arrived, entropy));
            let settled = attempt.catch_unwind().await.unwrap_or_else(|_| {
                error!(
                    log.seq = work.item.sequence,
                    "attempt panicked, it will be repeated"
                );
                replies.park(work, LATER);
                false
            });
            (key, settled)
        });
    }

    fn set_paused(&self, partition: u16, paused: bool) {
        if let Some(puller) = self.pullers.get(&partition) {
            puller.set_paused(paused);
        }
    }
}

/// How long an item stays in the log whose endpoint was not known `delivered` times.
fn unknown_delay(delivered: u64) -> Duration {
    let (first, last) = UNKNOWN_DELAYS;
    let doublings = delivered.clamp(1, 16) as u32 - 1;
    (first * 2u32.pow(doublings)).min(last)
}

/// How many attempts an endpoint takes at the same time. One whose order matters takes one.
fn cap(entry: &Entry) -> u32 {
    let settings = &entry.endpoint.settings;
    if settings.ordered {
        1
    } else {
        settings.max_in_flight
    }
}
