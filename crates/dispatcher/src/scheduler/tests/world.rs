//! A simulated world around schedulers: the log, its consumers, endpoints, dispatchers, leases, and time.

use std::collections::BTreeSet;

use cuitty_webhooks_domain::ids::DeliveryId;

use super::super::*;
use super::checks::Shadow;
use super::consumer::{Consumer, Delivered};
use super::log::{Log, PARTITIONS, Work, partition};
use super::receiver::{Answer, Chance, Receiver, Setup};

/// Items that are on their way to one dispatcher.
pub(super) const IN_TRANSIT: usize = 4;

/// One life of a dispatcher's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) dispatcher: usize,
    pub(super) run: u64,
}

/// What happens at a certain time.
#[derive(Debug)]
pub(super) enum Happening {
    Timer(AttemptKey),
    /// Something comes to a dispatcher.
    Told(Run, Told),
    /// A save reaches the log.
    Land(Run, LaneId, u64, LaneState),
    /// A read or a recovery reaches the log.
    Serve(Run, Command<Work>),
    /// An attempt has gone as it was to go.
    Answered(Run, AttemptKey, Answer),
    /// Its outcome is stored; the dispatcher acknowledges the item, if `acks`.
    Ended {
        to: Run,
        key: AttemptKey,
        ended: Ended,
        acks: bool,
    },
    /// A dispatcher looks after its leases.
    Keep(Run),
    Restart(usize),
}

/// What a dispatcher is told.
#[derive(Debug)]
pub(super) enum Told {
    Event(Event<Work>),
    Pulled(Delivered),
    Acquired(u16, Instant),
    /// A partition is to be given up that was acquired for the so-many-th time.
    Releasing(u16, u64),
}

/// What a dispatcher believes of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    Not,
    Held(Instant),
    Releasing(Instant),
}

impl Holding {
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Self::Not => None,
            Self::Held(until) | Self::Releasing(until) => Some(until),
        }
    }
}

/// Something that was started and has not ended.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) endpoint: u8,
    pub(super) work: Arc<Work>,
    pub(super) is_sent: bool,
    /// Whether its lane is somebody else's by now, or nobody's.
    pub(super) is_orphan: bool,
    /// Whether the endpoint had shown that it answers when it was started.
    pub(super) is_proven: bool,
}

#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) run: u64,
    /// `None` when it is down.
    pub(super) scheduler: Option<Scheduler<Work>>,
    /// What it was told while it was stalled.
    pub(super) inbox: VecDeque<Told>,
    pub(super) stalled_until: Instant,
    /// Until when it cannot renew its leases.
    pub(super) cut_until: Instant,
    /// Since when it is being shut down.
    pub(super) draining: Option<Instant>,
    pub(super) is_paused: bool,
    pub(super) holdings: Vec<Holding>,
    /// By partition, how often it was acquired.
    pub(super) epochs: Vec<u64>,
    /// When its scheduler was asked to give a partition up.
    pub(super) releasing: Vec<Option<Instant>>,
    pub(super) in_transit: usize,
    pub(super) last_arrival: Instant,
    pub(super) requests: BTreeMap<AttemptKey, Request>,
    /// What is known of the saved lanes.
    pub(super) revisions: HashMap<LaneId, u64>,
    pub(super) shadows: BTreeMap<u8, Shadow>,
}

impl Dispatcher {
    fn new(now: Instant) -> Self {
        Self {
            run: 0,
            scheduler: None,
            inbox: VecDeque::new(),
            stalled_until: now,
            cut_until: now,
            draining: None,
            is_paused: false,
            holdings: vec![Holding::Not; usize::from(PARTITIONS)],
            epochs: vec![0; usize::from(PARTITIONS)],
            releasing: vec![None; usize::from(PARTITIONS)],
            in_transit: 0,
            last_arrival: now,
            requests: BTreeMap::new(),
            revisions: HashMap::new(),
            shadows: BTreeMap::new(),
        }
    }

    /// When it has something to do.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let due = if self.inbox.is_empty() {
            self.scheduler.as_ref()?.poll_timeout()?
        } else {
            now
        };
        Some(due.max(self.stalled_until))
    }
}

/// Who holds a partition, as the log sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) holder: Run,
    pub(super) until: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) chance: Chance,
    pub(super) limits: Limits,
    pub(super) log: Log,
    pub(super) consumers: Vec<Consumer>,
    pub(super) receivers: Vec<Receiver>,
    pub(super) dispatchers: Vec<Dispatcher>,
    pub(super) leases: Vec<Option<Lease>>,
    /// By partition, the dispatcher that should have it.
    pub(super) wanted: Vec<usize>,
    /// Until when the log is slow.
    pub(super) slow_until: Instant,
    /// Deliveries with an attempt that was in flight when its dispatcher lost it, which may be repeated.
    pub(super) excused: BTreeSet<DeliveryId>,
    happenings: BTreeMap<(Instant, u64), Happening>,
    count: u64,
}

impl World {
    pub(super) fn new(seed: u64, limits: Limits, setups: &[Setup]) -> Self {
        let now = Instant::now();
        let mut world = Self {
            now,
            chance: Chance(seed),
            limits,
            log: Log::default(),
            consumers: (0..PARTITIONS).map(Consumer::new).collect(),
            receivers: setups.iter().map(Receiver::new).collect(),
            dispatchers: (0..2).map(|_| Dispatcher::new(now)).collect(),
            leases: vec![None; usize::from(PARTITIONS)],
            wanted: (0..usize::from(PARTITIONS)).collect(),
            slow_until: now,
            excused: BTreeSet::new(),
            happenings: BTreeMap::new(),
            count: 0,
        };
        (0..world.dispatchers.len()).for_each(|dispatcher| world.restart(dispatcher));
        world
    }

    pub(super) fn at(&mut self, at: Instant, happening: Happening) {
        self.count += 1;
        assert!(self.count < 200_000, "the world does not come to rest");
        self.happenings.insert((at, self.count), happening);
    }

    /// How long the log takes for something.
    pub(super) fn latency(&mut self) -> Duration {
        let longest = if self.now < self.slow_until { 4000 } else { 20 };
        self.chance.millis(1, longest)
    }

    /// The scheduler of a process that is still the same.
    pub(super) fn is_alive(&self, run: Run) -> bool {
        let dispatcher = &self.dispatchers[run.dispatcher];
        dispatcher.run == run.run && dispatcher.scheduler.is_some()
    }

    pub(super) fn run_of(&self, dispatcher: usize) -> Run {
        let run = self.dispatchers[dispatcher].run;
        Run { dispatcher, run }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.pump();
            let happening = self.happenings.first_key_value().map(|(&(at, _), _)| at);
            let wakes = self
                .dispatchers
                .iter()
                .filter_map(|dispatcher| dispatcher.wake(self.now));
            let again = self
                .consumers
                .iter()
                .filter_map(|consumer| consumer.wake(self.now));
            let Some(next) = happening
                .into_iter()
                .chain(wakes)
                .chain(again)
                .min()
                .filter(|&next| next <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            self.wake_dispatchers();
            while let Some(entry) = self.happenings.first_entry()
                && entry.key().0 <= self.now
            {
                let happening = entry.remove();
                self.happen(happening);
            }
        }
        self.now = end;
    }

    fn wake_dispatchers(&mut self) {
        for index in 0..self.dispatchers.len() {
            if self.dispatchers[index]
                .wake(self.now)
                .is_none_or(|at| at > self.now)
            {
                continue;
            }
            // Both are due after a stall: either may come first.
            if self.chance.percent(50) {
                self.time_out(index);
            }
            while let Some(told) = self.dispatchers[index].inbox.pop_front() {
                self.handle(index, told);
            }
            self.time_out(index);
        }
    }

    fn time_out(&mut self, index: usize) {
        let now = self.now;
        let Some(scheduler) = &mut self.dispatchers[index].scheduler else {
            return;
        };
        if scheduler.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        scheduler.handle_timeout(now);
        self.obey(index);
        let next = self.dispatchers[index]
            .scheduler
            .as_ref()
            .and_then(Scheduler::poll_timeout);
        assert!(next.is_none_or(|next| next > now), "woken for nothing");
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer(key) => {
                if self.log.timers.get(&key) == Some(&self.now) {
                    self.log.timers.remove(&key);
                    self.log.due(key);
                }
            }
            Happening::Land(to, lane, revision, state) => self.land(to, lane, revision, state),
            Happening::Restart(dispatcher) => self.restart(dispatcher),
            Happening::Told(to, _)
            | Happening::Serve(to, _)
            | Happening::Answered(to, ..)
            | Happening::Ended { to, .. }
            | Happening::Keep(to)
                if !self.is_alive(to) => {}
            Happening::Told(to, told) => self.tell(to.dispatcher, told),
            Happening::Serve(to, command) => self.serve(to, command),
            Happening::Answered(to, key, answer) => self.answered(to, key, answer),
            Happening::Ended { to, key, ended, acks } => self.end(to, key, ended, acks),
            Happening::Keep(to) => self.keep(to),
        }
    }

    /// Tells a dispatcher something, when it listens again.
    pub(super) fn tell(&mut self, dispatcher: usize, told: Told) {
        let this = &mut self.dispatchers[dispatcher];
        if this.scheduler.is_none() {
            return;
        }
        if self.now < this.stalled_until || !this.inbox.is_empty() {
            this.inbox.push_back(told);
        } else {
            self.handle(dispatcher, told);
        }
    }

    /// Lets the consumers deliver what they can.
    fn pump(&mut self) {
        for number in 0..usize::from(PARTITIONS) {
            let pulls = |this: &Dispatcher| matches!(this.holdings[number], Holding::Held(_));
            let Some(index) = self.dispatchers.iter().position(pulls) else {
                continue;
            };
            while !self.dispatchers[index].is_paused
                && self.dispatchers[index].in_transit < IN_TRANSIT
                && let Some(delivered) = self.consumers[number].next(&self.log, self.now)
            {
                if delivered.is_overdue {
                    self.check_silence(delivered.sequence);
                }
                let latency = self.chance.millis(0, 20);
                let this = &mut self.dispatchers[index];
                this.in_transit += 1;
                this.last_arrival = this.last_arrival.max(self.now + latency);
                let at = this.last_arrival;
                let told = Happening::Told(self.run_of(index), Told::Pulled(delivered));
                self.at(at, told);
            }
        }
    }

    /// A process ends: what it had in flight was sent, and its outcome may be stored.
    pub(super) fn stop(&mut self, index: usize) {
        let this = &mut self.dispatchers[index];
        this.scheduler = None;
        this.inbox.clear();
        this.holdings.fill(Holding::Not);
        let requests = std::mem::take(&mut this.requests);
        for (key, request) in requests {
            if request.is_sent && !self.log.is_made(key) {
                if self.chance.percent(30) {
                    let (answer, _) = self.receivers[usize::from(request.endpoint)]
                        .mood
                        .answer(&mut self.chance);
                    self.conclude(key, answer, request.is_orphan);
                } else {
                    self.excused.insert(key.delivery_id);
                }
            }
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        if self.dispatchers[index].scheduler.is_some() {
            return;
        }
        let run = self.dispatchers[index].run + 1;
        self.dispatchers[index] = Dispatcher {
            run,
            scheduler: Some(Scheduler::new(self.limits.clone())),
            ..Dispatcher::new(self.now)
        };
        self.at(self.now, Happening::Keep(self.run_of(index)));
    }

    /// Somebody else goes on with what a dispatcher has in flight of a partition, or of one endpoint.
    pub(super) fn orphan(&mut self, dispatcher: usize, number: u16, endpoint: Option<u8>) {
        for (key, request) in &mut self.dispatchers[dispatcher].requests {
            if partition(request.endpoint) == number && endpoint.is_none_or(|only| only == request.endpoint) {
                request.is_orphan = true;
                if request.is_sent && !self.log.is_made(*key) {
                    self.excused.insert(key.delivery_id);
                }
            }
        }
    }
}
