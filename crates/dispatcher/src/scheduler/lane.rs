//! What the scheduler knows of one endpoint, and when the next of its attempts may start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use tokio::time::Instant;

use super::backlog::Backlog;
use super::breaker::{Breaker, BreakerRules, Permit};
use super::interface::{AttemptKey, Blocked, Health, Item, LaneSettings, LaneState, Limits, Room, Sign};
use super::pace::{RateLimit, Window};

/// How long it is remembered of an endpoint without work that it answers well.
const MEMORY: Duration = Duration::from_mins(10);
/// How long an endpoint that asked to be disabled is left alone while it is not: longer than another projector takes to go on
/// where one was killed. If nobody disables it meanwhile, it is asked again.
const GONE_PATIENCE: Duration = Duration::from_secs(30);

/// When a ready lane is served, relative to the others: fewest in flight first, then longest unserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) in_flight: usize,
    pub(super) served: u64,
    pub(super) endpoint_id: EndpointId,
}

/// Where a lane stands among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It has nothing to start, or waits for something else than time.
    Idle,
    /// It can start something.
    Ready { turn: Turn, proven: bool },
    /// It can start something then.
    Waiting(Instant),
}

/// Where a lane's work comes from.
#[derive(Debug)]
pub(super) enum Feed<W> {
    /// Not known yet: the log is asked what is done. Meanwhile pulled items are kept aside.
    /// They stand by sequence, with whether they came for the first time. `state` is what was saved.
    Recovering {
        state: Option<LaneState>,
        aside: BTreeMap<u64, (Item<W>, bool)>,
    },
    /// From the partition's consumer. Of what that delivers, what lies above `handled.0` and up to `handled.1` is done:
    /// the lane read it itself when it was detached.
    Live { handled: (u64, u64) },
    /// From the log itself; the consumer's items are acknowledged unread, as soon as it is saved that they are.
    /// They stand by sequence.
    Detaching {
        backlog: Backlog,
        unread: BTreeMap<u64, Arc<W>>,
    },
    /// From the log itself; the consumer's items are acknowledged unread.
    Detached { backlog: Backlog },
    /// From the consumer again, while the last of what the lane read itself is done.
    Rejoining { backlog: Backlog },
}

/// Something that waits in a lane.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) key: AttemptKey,
    pub(super) sequence: u64,
    pub(super) bytes: usize,
    /// When it is ended without an attempt.
    pub(super) deadline: Instant,
    /// Not to be started before then.
    pub(super) not_before: Option<Instant>,
    /// Whether it was pulled, and nobody had it before.
    pub(super) fresh: bool,
    /// Whether the log is to be asked first if the attempt was made.
    pub(super) verify: bool,
}

/// Saves of the lane's state: one at a time.
#[derive(Debug)]
pub(super) struct Saves {
    /// What the one under way says: whether the lane is detached.
    pub(super) running: Option<bool>,
    /// Whether there is something new to save, and whether it can wait.
    pub(super) wanted: Option<Urgency>,
    /// When the last one was begun, or when the lane came to be.
    pub(super) last: Instant,
}

/// How soon a lane's state must be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Once in a while.
    Later,
    /// Now.
    Now,
}

#[derive(Debug)]
pub(super) struct Lane<W> {
    pub(super) partition: u16,
    /// Tells it from an earlier one of the same endpoint.
    pub(super) life: u64,
    pub(super) settings: LaneSettings,
    pub(super) feed: Feed<W>,
    pub(super) breaker: Breaker,
    pub(super) queued: Room,
    /// What was pulled and waits elsewhere: aside, or unread.
    pub(super) apart: Room,
    /// Attempts in flight, with the last outcome of the lane that was known when they started.
    pub(super) in_flight: BTreeMap<AttemptKey, u64>,
    pub(super) saves: Saves,
    /// Whether a read or a recovery is under way.
    pub(super) is_reading: bool,
    /// Not to be read before then: the last read failed, or found nothing.
    pub(super) read_at: Option<Instant>,
    /// Number of the scheduler's start that was this lane's last, or the last one before it came to be.
    pub(super) served: u64,
    pub(super) place: Place,
    /// Sequence of the last outcome of the lane that is known.
    pub(super) outcomes_to: u64,
    /// What it was waiting for when its queue was given back.
    pub(super) parting: Option<Blocked>,
    /// In the order of the log.
    queue: VecDeque<Queued>,
    window: Window,
    rate: Option<RateLimit>,
    /// The endpoint asked to be left alone until then.
    hold: Option<Instant>,
    /// The endpoint asked to be disabled: nothing is sent before it has been changed, or until then.
    gone_until: Option<Instant>,
    /// When an attempt last ended, or the lane came to be.
    heard: Instant,
}

impl<W> Lane<W> {
    pub(super) fn new(
        partition: u16,
        settings: LaneSettings,
        state: Option<LaneState>,
        rules: BreakerRules,
        now: Instant,
    ) -> Self {
        let breaker = state.as_ref().map_or_else(
            || Breaker::new(rules, now),
            |state| {
                let Health {
                    breaker,
                    consecutive_failures,
                } = state.health;
                Breaker::restored(rules, breaker, consecutive_failures, now)
            },
        );
        let feed = if settings.ordered || state.as_ref().is_some_and(|state| state.detached) {
            let aside = BTreeMap::new();
            Feed::Recovering { state, aside }
        } else {
            Feed::Live {
                handled: state.map_or((0, 0), |state| (state.floor, state.cursor)),
            }
        };
        Self {
            partition,
            rate: settings.rate.map(|rate| RateLimit::new(rate, now)),
            settings,
            feed,
            breaker,
            queued: Room::default(),
            apart: Room::default(),
            in_flight: BTreeMap::new(),
            saves: Saves {
                running: None,
                wanted: None,
                last: now,
            },
            is_reading: false,
            read_at: None,
            served: 0,
            life: 0,
            parting: None,
            place: Place::Idle,
            outcomes_to: 0,
            queue: VecDeque::new(),
            window: Window::new(),
            hold: None,
            gone_until: None,
            heard: now,
        }
    }

    pub(super) fn configure(&mut self, settings: LaneSettings, now: Instant) {
        match (&mut self.rate, settings.rate) {
            (Some(limit), Some(rate)) => limit.set(rate),
            (limit, rate) => *limit = rate.map(|rate| RateLimit::new(rate, now)),
        }
        self.settings = settings;
    }

    /// Its endpoint has been changed, so that what it was has been answered for.
    pub(super) fn changed(&mut self, now: Instant) {
        self.gone_until = None;
        self.breaker.hurry(now);
    }

    /// Attempts at a time that the endpoint may have at most.
    fn cap(&self) -> u32 {
        if self.settings.ordered {
            1
        } else {
            self.settings.max_in_flight.max(1)
        }
    }

    /// Puts an item into its place, by the order of the log.
    pub(super) fn push(&mut self, queued: Queued) {
        self.queued = self.queued.plus(queued.bytes);
        let after = self
            .queue
            .iter()
            .rev()
            .take_while(|other| other.sequence > queued.sequence)
            .count();
        self.queue.insert(self.queue.len() - after, queued);
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.forget(queued.bytes);
        Some(queued)
    }

    /// Takes out what `takes` says, in order.
    pub(super) fn take_out(&mut self, takes: impl Fn(&Queued) -> bool) -> Vec<Queued> {
        let (out, rest): (Vec<_>, Vec<_>) = self.queue.drain(..).partition(takes);
        self.queue = rest.into();
        for queued in &out {
            self.forget(queued.bytes);
        }
        out
    }

    fn forget(&mut self, bytes: usize) {
        self.queued = self.queued.minus(Room { items: 1, bytes });
    }

    /// What waits first.
    pub(super) fn head(&self) -> Option<&Queued> {
        self.queue.front()
    }

    /// The places in the log of what waits.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.queue.iter().map(|queued| queued.sequence)
    }

    /// Whether its endpoint has shown lately that it answers well.
    pub(super) fn is_proven(&self) -> bool {
        self.window.is_proven()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What it waits for when it is ordered and its head has failed.
    pub(super) fn blocked(&self) -> Option<Blocked> {
        let head = self.queue.front().filter(|_| self.settings.ordered)?;
        Some(Blocked {
            delivery_id: head.key.delivery_id,
            attempts: head.key.number - 1,
            until: head.not_before.filter(|_| head.key.number > 1)?,
        })
    }

    /// Ends what waits for that delivery without an attempt: before anything else, or where order matters, in its turn.
    pub(super) fn cancel(&mut self, delivery_id: DeliveryId, now: Instant) {
        if self.settings.ordered {
            let cancelled = self
                .queue
                .iter_mut()
                .filter(|queued| queued.key.delivery_id == delivery_id);
            return cancelled.for_each(|queued| queued.deadline = now);
        }
        for mut queued in self.take_out(|queued| queued.key.delivery_id == delivery_id) {
            queued.deadline = now;
            self.queued = self.queued.plus(queued.bytes);
            self.queue.push_front(queued);
        }
    }

    /// Whether it is ended without a request, so that no limit of the endpoint's matters.
    fn is_over(&self, queued: &Queued, now: Instant) -> bool {
        queued.deadline <= now || !self.settings.active
    }

    /// Where it stands, its partition being leased.
    pub(super) fn place_at(&self, endpoint_id: EndpointId, now: Instant) -> Place {
        let Some(head) = self.queue.front() else {
            return Place::Idle;
        };
        let in_flight = self.in_flight.len();
        let is_full = in_flight >= self.cap() as usize;
        let ready = Place::Ready {
            turn: Turn {
                in_flight,
                served: self.served,
                endpoint_id,
            },
            proven: self.window.is_proven(),
        };
        if self.is_over(head, now) {
            return if is_full { Place::Idle } else { ready };
        }
        let limit = if self.breaker.is_closed() {
            self.window.size(self.cap())
        } else {
            1
        };
        if is_full {
            return Place::Idle;
        } else if in_flight >= limit as usize {
            return Place::Waiting(head.deadline);
        }
        let probe = match self.breaker.permit(now) {
            Permit::Wait(until) => Some(until),
            Permit::Free | Permit::Probe => None,
        };
        let rate = self.rate.as_ref().map(RateLimit::next);
        let until = [head.not_before, self.hold, self.gone_until, probe, rate]
            .into_iter()
            .flatten()
            .max();
        match until.filter(|&until| until > now) {
            Some(until) => Place::Waiting(until.min(head.deadline)),
            None => ready,
        }
    }

    /// Starts what [`Self::pop`] gave; whether that heeds the limits of the endpoint, which do not matter to what is over.
    pub(super) fn started(&mut self, queued: &Queued, turn: u64, now: Instant) -> bool {
        self.served = turn;
        self.in_flight.insert(queued.key, self.outcomes_to);
        let may_send = !self.is_over(queued, now);
        if may_send {
            self.breaker.started();
            if let Some(rate) = &mut self.rate {
                rate.started(now);
            }
        }
        may_send
    }

    /// Takes in how an attempt ended; whether the breaker has changed its state.
    pub(super) fn heed(&mut self, sign: Sign, outcome: Option<u64>, now: Instant) -> bool {
        self.outcomes_to = self.outcomes_to.max(outcome.unwrap_or(0));
        self.heard = now;
        let (before, cap) = (self.breaker.state(), self.cap());
        match sign {
            Sign::Silent => {}
            Sign::Success => {
                self.breaker.succeeded(now);
                self.window.succeeded(cap);
            }
            Sign::Refusal => self.breaker.failed(&self.settings.probe_delays, now),
            Sign::Failure => {
                self.breaker.failed(&self.settings.probe_delays, now);
                self.window.failed(cap);
            }
            Sign::Throttle(least) => {
                self.breaker.failed(&self.settings.probe_delays, now);
                self.window.failed(cap);
                self.hold = self.hold.max(Some(now + least));
            }
            Sign::Gone => {
                self.breaker.failed(&self.settings.probe_delays, now);
                self.gone_until = Some(now + GONE_PATIENCE);
            }
        }
        std::mem::discriminant(&before) != std::mem::discriminant(&self.breaker.state())
    }

    /// How much it wants to read now, and from where; nothing while it has enough, or cannot start anything anyway. `spare`
    /// is what all lanes together may read beyond what they have; each may have one item.
    pub(super) fn wants_read(&self, limits: &Limits, spare: Room, now: Instant) -> Option<(u64, Room)> {
        let Feed::Detached { backlog } = &self.feed else {
            return None;
        };
        if self.is_reading || self.read_at.is_some_and(|at| now < at) {
            return None;
        }
        let window = if !self.settings.active || self.breaker.is_closed() && self.blocked().is_none() {
            let ahead = (2 * self.window.size(self.cap()) as usize).max(16);
            Room {
                items: ahead.min(limits.window.items),
                ..limits.window
            }
        } else {
            // Its deadline and its turn as the next probe are all that matters.
            Room {
                items: 1,
                ..limits.window
            }
        };
        let window = Room {
            items: window.items.min(spare.items).max(1),
            bytes: window.bytes.min(spare.bytes).max(1),
        };
        let is_low =
            self.queued.items * 2 < window.items && self.queued.bytes * 2 < window.bytes && self.keeps_up();
        is_low.then(|| (backlog.next(), window.minus(self.queued)))
    }

    /// Whether it gets through what it is given: of an endpoint that has not shown lately that it answers, less waits than
    /// could be in flight. It is not worth it to read ahead for others, and fed by the consumer they would be full soon, and
    /// detach again.
    pub(super) fn keeps_up(&self) -> bool {
        self.is_proven() || !self.settings.active || self.queued.items < self.window.size(self.cap()) as usize
    }

    /// What is to be saved of it.
    pub(super) fn state(&self) -> LaneState {
        let mut state = LaneState {
            detached: false,
            floor: 0,
            cursor: 0,
            done: Vec::new(),
            outcomes_from: self.in_flight.values().copied().min().unwrap_or(self.outcomes_to),
            health: Health {
                breaker: self.breaker.state(),
                consecutive_failures: self.breaker.consecutive_failures(),
            },
            blocked: self.blocked().or(self.parting),
        };
        match &self.feed {
            Feed::Live { handled } => (state.floor, state.cursor) = *handled,
            Feed::Detaching { backlog, .. } | Feed::Detached { backlog } => {
                state.detached = true;
                backlog.save(&mut state);
            }
            Feed::Rejoining { backlog } => {
                state.detached = !backlog.is_done();
                backlog.save(&mut state);
            }
            // Nothing is saved before it is known.
            Feed::Recovering { .. } => {}
        }
        // Outcomes stand behind the items that they are of, so those up to the cursor tell nothing of what lies beyond it.
        state.outcomes_from = if self.settings.ordered {
            // How often the head was attempted must be found again.
            state.cursor
        } else {
            state.outcomes_from.max(state.cursor)
        };
        state
    }

    pub(super) fn backlog(&mut self) -> Option<&mut Backlog> {
        match &mut self.feed {
            Feed::Recovering { .. } | Feed::Live { .. } => None,
            Feed::Detaching { backlog, .. } | Feed::Detached { backlog } | Feed::Rejoining { backlog } => {
                Some(backlog)
            }
        }
    }

    pub(super) fn want_save(&mut self, urgency: Urgency) {
        self.saves.wanted = self.saves.wanted.max(Some(urgency));
    }

    /// When its state is to be saved; `None` when it need not be, or is being saved.
    pub(super) fn save_at(&self, interval: Duration) -> Option<Instant> {
        if self.saves.running.is_some() || matches!(self.feed, Feed::Recovering { .. }) {
            return None;
        }
        match self.saves.wanted? {
            Urgency::Now => Some(self.saves.last),
            Urgency::Later => Some(self.saves.last + interval),
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.in_flight.is_empty()
            && matches!(self.feed, Feed::Live { .. })
            && !self.settings.ordered
            && self.saves.running.is_none()
            && self.saves.wanted.is_none()
            && self.breaker.is_closed()
            && self.breaker.consecutive_failures() == 0
    }

    /// When an idle lane has nothing to remember any more: a new one would be no different.
    pub(super) fn forgotten_at(&self) -> Option<Instant> {
        let proven = self.window.is_proven().then_some(self.heard + MEMORY);
        let rate = self.rate.as_ref().map(RateLimit::idle_at);
        let remembered = [Some(self.heard), proven, rate, self.hold]
            .into_iter()
            .flatten()
            .max();
        remembered.filter(|_| self.is_idle())
    }
}
