//! Decides what starts when. Does no IO, reads no clock, draws no randomness: it is told what happened
//! ([`Scheduler::handle_event`]), when to be woken ([`Scheduler::poll_timeout`]), and answers with what to do
//! ([`Scheduler::next_command`]).
//!
//! Each endpoint has a lane: a cap of attempts in flight, and a bounded queue behind it. Whenever a slot is free, the lane
//! with the fewest attempts in flight goes first, among equals the one that was served longest ago. So a receiver that
//! hangs holds what it has but never gets a slot that another lane waits for.
//!
//! What a full lane does with the next item depends on how fast it drains. A busy lane pauses the pull of its partition
//! for the moment that it needs; a slow one gives the item back to the log for later, so that its neighbours are not
//! held up.

mod interface;
mod lane;
mod partition;
mod recent;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

pub(crate) use self::interface::{AttemptKey, Command, Event, Item, Limits, Room, Stats};
use self::lane::{Lane, Turn};
use self::partition::Partition;
use self::recent::Recent;

/// How often full lanes and items that are held are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long work stays in the log that came for a partition whose lease is not held.
const UNLEASED_DELAY: Duration = Duration::from_secs(1);
/// How long a partition that is to be handed over waits for its attempts in flight. Beyond that they go on, reported as
/// being worked on, while the next owner delivers what waits: one endpoint that hangs must not hold up its neighbours.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);
/// How long work stays in the log that is handed over: until nats-server knows that we no longer pull.
const HAND_OVER_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Held<W> {
    work: Arc<W>,
    endpoint_id: EndpointId,
    arrived: Instant,
    /// Tells this stay apart from an earlier one of the same attempt.
    stay: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scheduler<W> {
    limits: Limits,
    lanes: HashMap<EndpointId, Lane>,
    partitions: BTreeMap<u16, Partition>,
    held: HashMap<AttemptKey, Held<W>>,
    /// The lanes that can start something, the next one first.
    ready: BTreeSet<Turn>,
    /// The lanes whose partition is paused for them.
    crowded: BTreeSet<EndpointId>,
    recent: Recent,
    /// What is held, in the order in which it is to be reported as being worked on.
    progress: VecDeque<(Instant, AttemptKey, u64)>,
    in_flight: usize,
    queued: Room,
    /// Counts starts, to serve lanes in turn.
    turns: u64,
    stays: u64,
    duplicates: u64,
    draining: bool,
    next_tick: Option<Instant>,
    commands: VecDeque<Command<W>>,
}

impl<W> Scheduler<W> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            recent: Recent::new(limits.remembered),
            limits,
            lanes: HashMap::new(),
            partitions: BTreeMap::new(),
            held: HashMap::new(),
            ready: BTreeSet::new(),
            crowded: BTreeSet::new(),
            progress: VecDeque::new(),
            in_flight: 0,
            queued: Room::default(),
            turns: 0,
            stays: 0,
            duplicates: 0,
            draining: false,
            next_tick: None,
            commands: VecDeque::new(),
        }
    }

    /// What to do next; `None` when there is nothing to do until the next event or timeout.
    pub(crate) fn next_command(&mut self) -> Option<Command<W>> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let expiry = self.partitions.values().filter_map(Partition::next_change).min();
        [self.next_tick, expiry].into_iter().flatten().min()
    }

    /// Does what the time asks for.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        if self.next_tick.is_some_and(|tick| tick <= now) {
            self.report_progress(now);
            self.ease_crowded(now);
            self.schedule_tick(now);
        }
    }

    pub(crate) fn handle_event(&mut self, event: Event<W>, now: Instant) {
        self.expire(now);
        match event {
            Event::Arrived(item) => self.arrived(item, now),
            Event::Finished { key, settled } => self.finished(key, settled, now),
            Event::Leased { partition, until } => self.leased(partition, until, now),
            Event::Releasing { partition } => self.leave(partition, true, now),
            Event::Lost { partition } => self.leave(partition, false, now),
            Event::Capped {
                endpoint_id,
                max_in_flight,
            } => {
                if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
                    lane.max_in_flight = max_in_flight.max(1);
                    self.set_turn(endpoint_id);
                }
            }
            Event::Drain => {
                self.draining = true;
                let endpoints: Vec<_> = self.lanes.keys().copied().collect();
                for endpoint_id in endpoints {
                    self.empty(endpoint_id, true);
                }
            }
        }
        self.start(now);
        if self.next_tick.is_none() {
            self.schedule_tick(now);
        }
    }

    /// Attempts in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The endpoints that have a lane.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.lanes.keys().copied()
    }

    /// Whether an endpoint has a lane.
    pub(crate) fn has_lane(&self, endpoint_id: EndpointId) -> bool {
        self.lanes.contains_key(&endpoint_id)
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            in_flight: self.in_flight,
            lanes: self.lanes.len(),
            queued: self.queued,
            paused_partitions: self
                .partitions
                .values()
                .filter(|partition| partition.crowded > 0)
                .count(),
            duplicates: self.duplicates,
        }
    }

    fn arrived(&mut self, item: Item<W>, now: Instant) {
        let Item {
            key,
            endpoint_id,
            partition,
            bytes,
            max_in_flight,
            work,
        } = item;
        if self.recent.contains(&key) {
            self.duplicates += 1;
            return self.commands.push_back(Command::Settle { work });
        }
        if self.held.contains_key(&key) {
            // Left unacknowledged: should the one that is held come to nothing, this one comes again.
            self.duplicates += 1;
            return;
        }
        if let Some(delay) = self.refusal(partition) {
            return self.commands.push_back(Command::Park { work, delay });
        }
        let free = self.limits.total.minus(self.queued);
        let has_slot = self.in_flight < self.limits.max_in_flight;
        let turns = self.turns;
        let lane = self
            .lanes
            .entry(endpoint_id)
            .or_insert_with(|| Lane::new(partition, turns, now));
        lane.max_in_flight = max_in_flight.max(1);
        let starts_at_once = has_slot && lane.is_empty() && lane.has_slot();
        // What is free for all lanes bounds each of them, so that the ones that hang cannot take all of it.
        let asked = lane.queued.plus(bytes);
        if !starts_at_once && !self.limits.lane.min(free).takes(asked) {
            // Some more may be on the way already when the pull is paused.
            let fits = self.limits.lane.times(2).takes(asked)
                && self.limits.total.times(2).takes(self.queued.plus(bytes));
            if lane.is_slow(now) || !fits {
                let delay = self.limits.overflow_delay;
                self.commands.push_back(Command::Park { work, delay });
                return self.set_turn(endpoint_id);
            }
            self.crowd(endpoint_id, now);
        }
        self.stays += 1;
        self.progress
            .push_back((now + self.limits.progress_interval, key, self.stays));
        self.held.insert(
            key,
            Held {
                work,
                endpoint_id,
                arrived: now,
                stay: self.stays,
            },
        );
        self.queued = self.queued.plus(bytes);
        if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
            lane.push(key, bytes);
        }
        self.set_turn(endpoint_id);
    }

    /// When to deliver work again that cannot be taken now because of its partition; `None` when it can be taken.
    fn refusal(&self, partition: u16) -> Option<Duration> {
        match self.partitions.get(&partition) {
            _ if self.draining => Some(HAND_OVER_DELAY),
            Some(partition) if partition.is_leased() => None,
            Some(partition) if partition.release_by.is_some() => Some(HAND_OVER_DELAY),
            // It may be ours again in a moment: at once, it would come round and round.
            _ => Some(UNLEASED_DELAY),
        }
    }

    fn finished(&mut self, key: AttemptKey, settled: bool, now: Instant) {
        let Some(held) = self.held.remove(&key) else {
            return;
        };
        if settled {
            self.recent.insert(key);
        }
        self.in_flight -= 1;
        let Some(lane) = self.lanes.get_mut(&held.endpoint_id) else {
            return;
        };
        lane.finished(now);
        let number = lane.partition;
        self.set_turn(held.endpoint_id);
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.in_flight -= 1;
            self.settle_partition(number, now);
        }
    }

    fn leased(&mut self, number: u16, until: Instant, now: Instant) {
        if until <= now {
            return;
        }
        let partition = self.partitions.entry(number).or_default();
        let is_news = !partition.is_leased();
        partition.leased_until = Some(until);
        partition.release_by = None;
        if is_news {
            for endpoint_id in self.lanes_of(number) {
                self.set_turn(endpoint_id);
            }
        }
    }

    /// Stops starting anything for a partition; what waits is given back, or forgotten when it is somebody else's.
    fn leave(&mut self, number: u16, hand_over: bool, now: Instant) {
        let partition = self.partitions.entry(number).or_default();
        partition.leased_until = None;
        partition.release_by = hand_over.then(|| now + HAND_OVER_PATIENCE);
        for endpoint_id in self.lanes_of(number) {
            self.empty(endpoint_id, hand_over);
        }
        self.settle_partition(number, now);
    }

    /// Hands a partition over when its time has come, and forgets one that there is nothing to know of.
    fn settle_partition(&mut self, number: u16, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&number) else {
            return;
        };
        if partition
            .release_by
            .is_some_and(|by| partition.in_flight == 0 || by <= now)
        {
            partition.release_by = None;
            self.commands.push_back(Command::HandOver { partition: number });
        }
        if partition.is_forgotten() {
            self.partitions.remove(&number);
        }
    }

    fn expire(&mut self, now: Instant) {
        let is_over = |partition: &Partition| partition.next_change().is_some_and(|at| at <= now);
        let over: Vec<u16> = self
            .partitions
            .iter()
            .filter(|(_, partition)| is_over(partition))
            .map(|(&number, _)| number)
            .collect();
        for number in over {
            if let Some(partition) = self.partitions.get_mut(&number) {
                partition.leased_until = None;
            }
            // What waits is kept: the lease may be renewed yet.
            for endpoint_id in self.lanes_of(number) {
                self.set_turn(endpoint_id);
            }
            self.settle_partition(number, now);
        }
    }

    fn lanes_of(&self, partition: u16) -> Vec<EndpointId> {
        let is_of = |lane: &Lane| lane.partition == partition;
        self.lanes
            .iter()
            .filter(|(_, lane)| is_of(lane))
            .map(|(&endpoint_id, _)| endpoint_id)
            .collect()
    }

    /// Lets go of everything that waits in a lane.
    fn empty(&mut self, endpoint_id: EndpointId, give_back: bool) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        while let Some((key, bytes)) = lane.pop() {
            self.queued = self.queued.minus(Room { items: 1, bytes });
            if let Some(held) = self.held.remove(&key)
                && give_back
            {
                self.commands.push_back(Command::Park {
                    work: held.work,
                    delay: HAND_OVER_DELAY,
                });
            }
        }
        self.uncrowd(endpoint_id);
        self.set_turn(endpoint_id);
    }

    /// Puts a lane into its place among the ready ones, or takes it out; removes one that is idle.
    fn set_turn(&mut self, endpoint_id: EndpointId) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let is_leased = self
            .partitions
            .get(&lane.partition)
            .is_some_and(Partition::is_leased);
        let turn = (is_leased && !lane.is_empty() && lane.has_slot()).then_some(Turn {
            in_flight: lane.in_flight,
            served: lane.served,
            endpoint_id,
        });
        if lane.turn != turn {
            if let Some(old) = lane.turn {
                self.ready.remove(&old);
            }
            self.ready.extend(turn);
            lane.turn = turn;
        }
        if lane.is_empty() && lane.in_flight == 0 {
            self.lanes.remove(&endpoint_id);
        }
    }

    fn start(&mut self, now: Instant) {
        while self.in_flight < self.limits.max_in_flight
            && let Some(turn) = self.ready.pop_first()
        {
            let Some(lane) = self.lanes.get_mut(&turn.endpoint_id) else {
                continue;
            };
            lane.turn = None;
            let Some((key, bytes)) = lane.pop() else { continue };
            self.queued = self.queued.minus(Room { items: 1, bytes });
            self.turns += 1;
            lane.served = self.turns;
            lane.in_flight += 1;
            self.in_flight += 1;
            if let Some(partition) = self.partitions.get_mut(&lane.partition) {
                partition.in_flight += 1;
            }
            if let Some(held) = self.held.get(&key) {
                let (work, arrived) = (held.work.clone(), held.arrived);
                self.commands.push_back(Command::Start { key, work, arrived });
            }
            self.set_turn(turn.endpoint_id);
            self.ease(turn.endpoint_id, now);
        }
    }

    /// Pauses the partition of a lane that is full for a moment.
    fn crowd(&mut self, endpoint_id: EndpointId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        if lane.crowded {
            return;
        }
        lane.crowded = true;
        self.crowded.insert(endpoint_id);
        if let Some(partition) = self.partitions.get_mut(&lane.partition) {
            partition.crowded += 1;
            if partition.crowded == 1 {
                self.commands.push_back(Command::Pause {
                    partition: lane.partition,
                });
            }
        }
        let tick = now + TICK;
        self.next_tick = Some(self.next_tick.map_or(tick, |next| next.min(tick)));
    }

    fn uncrowd(&mut self, endpoint_id: EndpointId) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        if !std::mem::take(&mut lane.crowded) {
            return;
        }
        self.crowded.remove(&endpoint_id);
        if let Some(partition) = self.partitions.get_mut(&lane.partition) {
            partition.crowded -= 1;
            if partition.crowded == 0 {
                self.commands.push_back(Command::Resume {
                    partition: lane.partition,
                });
            }
        }
    }

    /// Lets the partition of a full lane go on once the lane is half empty, or has turned out to be slow.
    fn ease(&mut self, endpoint_id: EndpointId, now: Instant) {
        let Some(lane) = self.lanes.get(&endpoint_id).filter(|lane| lane.crowded) else {
            return;
        };
        let room = self.limits.lane.min(self.limits.total.minus(self.queued));
        if lane.is_empty() || room.takes(lane.queued.times(2)) || lane.is_slow(now) {
            self.uncrowd(endpoint_id);
        }
    }

    fn ease_crowded(&mut self, now: Instant) {
        let crowded: Vec<_> = self.crowded.iter().copied().collect();
        for endpoint_id in crowded {
            self.ease(endpoint_id, now);
        }
    }

    fn report_progress(&mut self, now: Instant) {
        while let Some(&(due, key, stay)) = self.progress.front()
            // Not the ones that are put back below, which are due in two ticks or more.
            && due < now + TICK
        {
            self.progress.pop_front();
            if let Some(held) = self.held.get(&key).filter(|held| held.stay == stay) {
                self.commands.push_back(Command::Progress {
                    work: held.work.clone(),
                });
                self.progress
                    .push_back((now + self.limits.progress_interval, key, stay));
            }
        }
    }

    fn schedule_tick(&mut self, now: Instant) {
        let progress = self.progress.front().map(|&(due, ..)| due);
        self.next_tick = if self.crowded.is_empty() {
            progress
        } else {
            Some(now + TICK)
        };
    }
}
