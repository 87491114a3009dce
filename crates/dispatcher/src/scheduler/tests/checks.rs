//! The rules.

use std::time::Duration;

use super::super::*;
use super::consumer::ACK_WAIT;
use super::log::{Work, endpoint, number, partition};
use super::world::{IN_TRANSIT, Run, World};

/// What the world knows of a lane, to check what it starts.
#[derive(Debug)]
pub(super) struct Shadow {
    settings: LaneSettings,
    /// Failures since the last success.
    failures: u32,
    /// When the next probe may start; `None` while the breaker is closed.
    gate: Option<Instant>,
    /// The endpoint asked to be left alone until then.
    hold: Option<Instant>,
    pub(super) is_proven: bool,
    /// Attempts, since the rate was set.
    sends: Vec<Instant>,
}

impl Shadow {
    pub(super) fn new(settings: LaneSettings, state: Option<&LaneState>, now: Instant) -> Self {
        Self {
            settings,
            failures: state.map_or(0, |state| state.health.consecutive_failures),
            gate: match state.map(|state| state.health.breaker) {
                Some(BreakerState::Open { until, .. }) => Some(until),
                Some(BreakerState::HalfOpen { .. }) => Some(now),
                Some(BreakerState::Closed) | None => None,
            },
            hold: None,
            is_proven: false,
            sends: Vec::new(),
        }
    }
}

impl World {
    /// Takes in what a scheduler is about to be told.
    pub(super) fn foresee(&mut self, index: usize, event: &Event<Work>) {
        let now = self.now;
        let this = &mut self.dispatchers[index];
        match event {
            Event::Ended { key, ended } => {
                let request = this.requests.remove(key).unwrap();
                let (Ended::Recorded { sign, .. } | Ended::Blocked { sign, .. }) = *ended else {
                    return;
                };
                let lane = this
                    .scheduler
                    .as_ref()
                    .and_then(|scheduler| scheduler.lanes.get(&endpoint(request.endpoint)));
                let Some(shadow) = this.shadows.get_mut(&request.endpoint).filter(|_| lane.is_some()) else {
                    return;
                };
                match sign {
                    Sign::Silent => {}
                    Sign::Success => {
                        (shadow.failures, shadow.gate, shadow.hold) = (0, None, None);
                        shadow.is_proven = true;
                    }
                    Sign::Refusal | Sign::Gone => shadow.failures += 1,
                    Sign::Failure => {
                        shadow.failures += 1;
                        shadow.is_proven = false;
                    }
                    Sign::Throttle(least) => {
                        shadow.failures += 1;
                        shadow.is_proven = false;
                        shadow.hold = shadow.hold.max(Some(now + least));
                    }
                }
            }
            Event::Changed {
                endpoint_id,
                settings,
                probe,
            } => {
                if let Some(shadow) = this.shadows.get_mut(&number(*endpoint_id)) {
                    shadow.settings = settings.clone();
                    shadow.sends.clear();
                    if *probe {
                        shadow.gate = shadow.gate.map(|gate| gate.min(now));
                    }
                }
            }
            _ => {}
        }
    }

    /// Looks at a scheduler that has nothing to say.
    pub(super) fn observe(&mut self, index: usize) {
        let this = &mut self.dispatchers[index];
        let Some(scheduler) = &this.scheduler else { return };
        assert_eq!(scheduler.in_flight(), this.requests.len());
        for (&endpoint_id, lane) in &scheduler.lanes {
            let shadow = this.shadows.get_mut(&number(endpoint_id)).unwrap();
            match lane.breaker.state() {
                BreakerState::Closed => shadow.gate = None,
                BreakerState::Open { until, .. } => shadow.gate = Some(until),
                BreakerState::HalfOpen { .. } => shadow.gate = shadow.gate.or(Some(self.now)),
            }
            let must_open = shadow.failures >= self.limits.breaker.consecutive_failures;
            assert!(!must_open || !lane.breaker.is_closed(), "still closed");
        }
        if let Some(scheduler) = &self.dispatchers[index].scheduler {
            self.check_bounds(scheduler);
            self.check_attention(scheduler);
        }
    }

    /// Not more is held than the limits say, and it is counted right.
    fn check_bounds(&self, scheduler: &Scheduler<Work>) {
        let Limits {
            max_in_flight,
            total,
            window,
            ..
        } = self.limits;
        let lanes = || scheduler.lanes.values();
        let waiting: usize = lanes().map(|lane| lane.queued.items).sum();
        let apart: usize = lanes().map(|lane| lane.apart.items).sum();
        let pulled = scheduler
            .held
            .values()
            .filter(|held| held.pulled && held.in_flight.is_none())
            .count();
        assert_eq!(scheduler.held.len(), waiting + scheduler.in_flight());
        assert_eq!(
            (
                scheduler.queued.items,
                scheduler.pulled.items,
                scheduler.apart.items
            ),
            (waiting, pulled, apart)
        );

        // What is on its way when the pulling is paused, and what was in flight and waits again, come on top.
        assert!(
            pulled + apart <= total.items + 1 + IN_TRANSIT + max_in_flight,
            "too much is held"
        );
        let mut read: BTreeMap<EndpointId, usize> = BTreeMap::new();
        for held in scheduler.held.values().filter(|held| !held.pulled) {
            *read.entry(held.endpoint_id).or_default() += 1;
        }
        assert!(
            read.values().all(|&read| read <= window.items + max_in_flight),
            "too much is read ahead"
        );
        if scheduler.is_paused {
            let bytes = scheduler.pulled.bytes + scheduler.apart.bytes;
            assert!(
                pulled + apart > total.items * 3 / 4 || bytes > total.bytes * 3 / 4,
                "paused for nothing"
            );
        }
    }

    /// A lane that can start, read or save something does so, or is looked at when it can.
    fn check_attention(&self, scheduler: &Scheduler<Work>) {
        let now = self.now;
        if scheduler.poll_timeout().is_some_and(|at| at <= now) {
            return;
        }
        let is_full = scheduler.in_flight == self.limits.max_in_flight;
        let is_half_full = scheduler.unproven.len() >= self.limits.max_in_flight.div_ceil(2);
        let [proven, unproven] = &scheduler.ready;
        assert!(
            is_full || proven.is_empty() && (is_half_full || unproven.is_empty()),
            "a slot is left free"
        );
        for (&endpoint_id, lane) in &scheduler.lanes {
            let looks = scheduler.wake_of.get(&endpoint_id);
            let is_looked_at = |by: Instant| looks.is_some_and(|&at| at <= by);
            if let Some(at) = lane.save_at(self.limits.save_interval) {
                assert!(is_looked_at(at), "a save is forgotten");
            }
            if scheduler.draining
                || !scheduler
                    .partitions
                    .get(&lane.partition)
                    .is_some_and(Partition::is_leased)
            {
                continue;
            }
            let place = lane.place_at(endpoint_id, now);
            assert_eq!(lane.place, place, "a start is forgotten");
            if let Place::Waiting(at) = place {
                assert!(is_looked_at(at), "a start is forgotten");
            }
            let may_read = lane.wants_read(&self.limits, Room::default(), now).is_some();
            assert!(!may_read, "a read is forgotten");
            if let Some(at) = lane.read_at {
                assert!(is_looked_at(at), "a read is forgotten");
            }
        }
    }

    /// What holds of everything that is started.
    pub(super) fn check_start(&self, me: Run, key: AttemptKey) {
        let this = &self.dispatchers[me.dispatcher];
        let numeral = self.log.deliveries[&key.delivery_id].endpoint;
        assert!(!this.requests.contains_key(&key), "{key:?} is started twice");
        assert!(
            this.requests.len() < self.limits.max_in_flight,
            "too many in flight"
        );
        let unproven = this
            .requests
            .values()
            .filter(|request| !request.is_proven)
            .count();
        let share = self.limits.max_in_flight.div_ceil(2);
        assert!(
            this.shadows[&numeral].is_proven || unproven < share,
            "too many in flight that prove nothing"
        );
        let lease = self.leases[usize::from(partition(numeral))];
        assert!(
            lease.is_some_and(|lease| lease.holder == me && self.now < lease.until),
            "without a lease"
        );
        assert!(
            this.scheduler
                .as_ref()
                .is_some_and(|scheduler| !scheduler.draining),
            "while draining"
        );
    }

    /// What holds of every attempt that is sent.
    pub(super) fn check_send(&mut self, me: Run, key: AttemptKey) {
        let now = self.now;
        let delivery = &self.log.deliveries[&key.delivery_id];
        let is_excused = self.excused.contains(&key.delivery_id);
        assert!(!delivery.is_ended || is_excused, "{key:?} is sent after its end");
        let is_new = delivery.outcomes.range(key.number..).next().is_none();
        assert!(is_new || is_excused, "{key:?} is sent again");
        if key.number > 1 {
            let due = delivery.outcomes.get(&(key.number - 1));
            let due = due.unwrap_or_else(|| panic!("{key:?} is sent, and not the one before"));
            assert!(due.is_none_or(|due| due <= now), "{key:?} is sent too early");
        }

        let mut in_flight = 0;
        for (index, other) in self.dispatchers.iter().enumerate() {
            let mut requests = other.requests.iter();
            assert!(
                requests.all(|(&other, request)| other != key || request.is_orphan),
                "{key:?} is sent twice"
            );
            let counts = |request: &&super::world::Request| {
                request.endpoint == delivery.endpoint
                    && request.is_sent
                    && (!request.is_orphan || index == me.dispatcher)
            };
            in_flight += other.requests.values().filter(counts).count();
        }
        let shadow = self.dispatchers[me.dispatcher]
            .shadows
            .get_mut(&delivery.endpoint)
            .unwrap();
        assert!(
            in_flight < shadow.settings.max_in_flight as usize,
            "too many in flight at an endpoint"
        );
        assert!(shadow.hold.is_none_or(|hold| hold <= now), "not left alone");
        if let Some(gate) = shadow.gate {
            assert!(gate <= now && in_flight == 0, "the breaker is open");
        }
        shadow.sends.push(now);
        if let Some(rate) = shadow.settings.rate {
            let interval = Duration::from_secs(1) / rate;
            for (others, &since) in shadow.sends.iter().rev().enumerate() {
                let least = interval * others as u32;
                assert!(
                    now - since + Duration::from_millis(101) >= least,
                    "faster than {rate}/s"
                );
            }
        }
        if shadow.settings.ordered {
            assert_eq!(in_flight, 0, "one at a time");
            let before = self.log.order.iter().map(|id| &self.log.deliveries[id]);
            let mut before = before.filter(|other| other.endpoint == delivery.endpoint);
            assert!(
                before.all(|other| other.is_ended || other.sequence >= delivery.sequence),
                "{key:?} is out of order"
            );
        }
    }

    /// An item is acknowledged: its attempt is recorded, or the lane that is saved reads it, or another one for the same
    /// attempt.
    pub(super) fn check_settled(&self, sequence: u64) {
        let (numeral, key) = self.log.work(sequence).unwrap();
        let state = self
            .log
            .lanes
            .get(&numeral)
            .map(|(_, state)| state)
            .filter(|state| state.detached);
        let consumer = &self.consumers[usize::from(partition(numeral))];
        let comes = |place: u64| {
            state.is_some_and(|state| place > state.cursor && !state.done.contains(&place))
                || place != sequence && consumer.pending.contains_key(&place)
        };
        let is_safe = self.log.is_made(key) || self.log.places(key).any(comes);
        assert!(is_safe, "item {sequence} is acknowledged, and lost: {state:?}");
    }

    /// An item comes again because nobody said a word about it.
    pub(super) fn check_silence(&self, sequence: u64) {
        for this in &self.dispatchers {
            let is_past = |at: Instant| at + ACK_WAIT < self.now;
            let Some(scheduler) = this.scheduler.as_ref().filter(|_| is_past(this.stalled_until)) else {
                continue;
            };
            let mut held = scheduler
                .held
                .values()
                .filter(|held| held.pulled && is_past(held.arrived));
            assert!(
                held.all(|held| held.work.sequence != sequence),
                "item {sequence} is held in silence"
            );
        }
    }

    /// A partition is handed over.
    pub(super) fn check_hand_over(&self, index: usize, number: u16) {
        let this = &self.dispatchers[index];
        let since = this.releasing[usize::from(number)];
        if since.is_some_and(|since| self.now < since + HAND_OVER_PATIENCE) {
            let is_of = |request: &&super::world::Request| {
                partition(request.endpoint) == number && !request.is_orphan
            };
            assert_eq!(
                this.requests.values().filter(is_of).count(),
                0,
                "handed over too early"
            );
        }
    }

    /// Whether everything is done, and every lane is as if nothing had ever happened.
    pub(super) fn unfinished(&self) -> Option<String> {
        let open = self.log.order.iter().find(|id| !self.log.deliveries[id].is_ended);
        if let Some(id) = open {
            return Some(format!(
                "{id:?} has no final state: {:?}",
                self.log.deliveries[id]
            ));
        }
        if !self.log.timers.is_empty() {
            return Some("timers".to_owned());
        }
        for consumer in &self.consumers {
            if !consumer.is_idle(&self.log) {
                return Some(format!("{consumer:?}"));
            }
        }
        let mut schedulers = self.dispatchers.iter().filter_map(|this| this.scheduler.as_ref());
        let is_live = |lane: &Lane<Work>| matches!(lane.feed, lane::Feed::Live { .. });
        schedulers
            .find(|scheduler| !scheduler.is_settled() || !scheduler.lanes.values().all(is_live))
            .map(|scheduler| format!("{:?}", scheduler.lanes))
    }
}
