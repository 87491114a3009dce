//! Decides what starts when. Does no IO, reads no clock, draws no randomness: it is told what happened
//! ([`Scheduler::handle_event`]), when to be woken ([`Scheduler::poll_timeout`]), and answers with what to do
//! ([`Scheduler::next_command`]).
//!
//! Each endpoint has a lane: a cap of attempts in flight that the endpoint earns by answering well, a rate limit, a
//! breaker, and a bounded queue. Whenever a slot is free, the lane with the fewest attempts in flight goes first, among
//! equals the one that was served longest ago. Lanes whose endpoints have not shown lately that they answer share half of
//! the slots, so that receivers that hang leave the other half to those that do not.
//!
//! A lane is live, fed by its partition's consumer, or detached: then the consumer's items for it are acknowledged
//! unread, and it reads the log itself, by its own subject from its cursor, at its own pace. A lane detaches when its
//! queue is full, when its breaker opens, or when it is ordered and its head has to wait for a retry; so that an endpoint
//! that is slow or dead takes neither memory nor the consumer's room for what is under way. It rejoins at the tail.
//!
//! What must survive this process is saved ([`Command::Save`]) before anything relies on it.

mod attempts;
mod backlog;
mod breaker;
mod feeding;
mod interface;
mod lane;
mod pace;
mod partition;
mod recent;
mod saving;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

pub(crate) use self::breaker::BreakerRules;
pub(crate) use self::interface::{
    AttemptKey, Blocked, BreakerState, Command, Ended, Event, Health, Item, Known, LaneId, LaneSettings,
    LaneState, Limits, Recovered, Room, Sign,
};
use self::lane::{Lane, Place, Queued, Turn};
use self::partition::Partition;
use self::recent::Recent;
pub(crate) use self::stats::{HeldBy, Stats};

/// How long before an item that is held is reported as being worked on it may be, to report many at once.
const PROGRESS_SLACK: Duration = Duration::from_millis(100);
/// How long work stays in the log that came for a partition whose lease is not held.
const UNLEASED_DELAY: Duration = Duration::from_secs(1);
/// How long a partition that is to be handed over waits for its attempts in flight. Beyond that they go on, reported as
/// being worked on, while the next owner delivers what waits: one endpoint that hangs must not hold up its neighbours.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);
/// How long work stays in the log that is handed over: until nats-server knows that we no longer pull.
const HAND_OVER_DELAY: Duration = Duration::from_millis(100);

/// Something that waits in a lane, or is being attempted.
#[derive(Debug)]
struct Held<W> {
    work: Arc<W>,
    endpoint_id: EndpointId,
    sequence: u64,
    bytes: usize,
    deadline: Instant,
    /// Its attempt is not to be made before then.
    not_before: Option<Instant>,
    arrived: Instant,
    /// How long it had been due then.
    waited: Duration,
    /// Whether the log is to be asked first if the attempt was made.
    verify: bool,
    /// Whether the partition's consumer delivered it, so that it is to be acknowledged.
    pulled: bool,
    /// Of which partition it is counted as in flight.
    in_flight: Option<u16>,
    /// Of the lane that took it in.
    life: u64,
    /// Tells this stay apart from an earlier one of the same attempt.
    stay: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scheduler<W> {
    limits: Limits,
    lanes: HashMap<EndpointId, Lane<W>>,
    partitions: BTreeMap<u16, Partition>,
    held: HashMap<AttemptKey, Held<W>>,
    /// What closed lanes left in flight, which counts for the next lanes of their endpoints.
    left: HashMap<EndpointId, BTreeMap<AttemptKey, u64>>,
    /// The lanes that can start something, the next one first: of endpoints that answer well, and of others.
    ready: [BTreeSet<Turn>; 2],
    /// The lanes that are to be looked at later.
    wakes: BTreeSet<(Instant, EndpointId)>,
    /// When each of them is.
    wake_of: HashMap<EndpointId, Instant>,
    recent: Recent,
    /// What was pulled and is held, in the order in which it is to be reported as being worked on.
    progress: VecDeque<(Instant, AttemptKey, u64)>,
    in_flight: usize,
    /// Of those, attempts at endpoints that had not shown that they answer well.
    unproven: HashSet<AttemptKey>,
    /// What waits in queues.
    queued: Room,
    /// Of that, what was pulled.
    pulled: Room,
    /// What was pulled and waits elsewhere: aside until its lane is recovered, or to be acknowledged unread.
    apart: Room,
    /// Counts starts, to serve lanes in turn.
    turns: u64,
    stays: u64,
    /// Counts lanes that came to be.
    lives: u64,
    duplicates: u64,
    skipped: u64,
    is_paused: bool,
    draining: bool,
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
            left: HashMap::new(),
            ready: [BTreeSet::new(), BTreeSet::new()],
            wakes: BTreeSet::new(),
            wake_of: HashMap::new(),
            progress: VecDeque::new(),
            in_flight: 0,
            unproven: HashSet::new(),
            queued: Room::default(),
            pulled: Room::default(),
            apart: Room::default(),
            turns: 0,
            stays: 0,
            lives: 0,
            duplicates: 0,
            skipped: 0,
            is_paused: false,
            draining: false,
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
        let progress = self.progress.front().map(|&(due, ..)| due);
        let wake = self.wakes.first().map(|&(at, _)| at);
        [expiry, progress, wake].into_iter().flatten().min()
    }

    /// Does what the time asks for.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.wake(now);
        self.report_progress(now);
        self.start(now);
        self.pause_or_resume();
    }

    pub(crate) fn handle_event(&mut self, event: Event<W>, now: Instant) {
        self.expire(now);
        match event {
            Event::Lane {
                endpoint_id,
                partition,
                settings,
                state,
            } => self.open_lane(endpoint_id, partition, settings, state, now),
            Event::Pulled {
                endpoint_id,
                item,
                first,
            } => self.pulled(endpoint_id, item, first, now),
            Event::Read { lane, .. }
            | Event::ReadFailed { lane }
            | Event::Recovered { lane, .. }
            | Event::Saved { lane }
            | Event::Fenced { lane }
                if !self.is_current(lane) => {}
            Event::Read {
                lane,
                items,
                end,
                at_tail,
            } => self.read(lane.endpoint_id, items, end, at_tail, now),
            Event::ReadFailed { lane } => self.read_failed(lane.endpoint_id, now),
            Event::Recovered { lane, recovered } => self.recovered(lane.endpoint_id, recovered, now),
            Event::Saved { lane } => self.saved(lane.endpoint_id, now),
            Event::Fenced { lane } => self.close_lane(lane.endpoint_id, false),
            Event::Ended { key, ended } => self.ended(key, ended, now),
            Event::Leased { partition, until } => self.leased(partition, until, now),
            Event::Releasing { partition } => self.release(partition, now),
            Event::Lost { partition } => self.lose(partition, now),
            Event::Changed {
                endpoint_id,
                settings,
                probe,
            } => {
                if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
                    lane.configure(settings, now);
                    if probe {
                        lane.changed(now);
                    }
                    self.look_at(endpoint_id, now);
                }
            }
            Event::Cancelled {
                endpoint_id,
                delivery_id,
            } => {
                if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
                    lane.cancel(delivery_id, now);
                    self.look_at(endpoint_id, now);
                }
            }
            Event::Drain => self.drain(now),
        }
        self.start(now);
        self.pause_or_resume();
    }

    /// Attempts in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether nothing is in flight and nothing is left to save.
    pub(crate) fn is_settled(&self) -> bool {
        let is_saved = |lane: &Lane<W>| lane.saves.running.is_none() && lane.saves.wanted.is_none();
        self.in_flight == 0 && self.lanes.values().all(is_saved)
    }

    /// The endpoints that have a lane.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.lanes.keys().copied()
    }

    /// Whether an endpoint has a lane.
    pub(crate) fn has_lane(&self, endpoint_id: EndpointId) -> bool {
        self.lanes.contains_key(&endpoint_id)
    }

    /// The endpoint of an attempt that waits or is in flight.
    pub(crate) fn endpoint_of(&self, key: AttemptKey) -> Option<EndpointId> {
        self.held.get(&key).map(|held| held.endpoint_id)
    }

    fn is_current(&self, lane: LaneId) -> bool {
        self.lanes
            .get(&lane.endpoint_id)
            .is_some_and(|current| current.life == lane.life)
    }

    /// Makes an endpoint's lane, unless it has one, or its partition is somebody else's.
    fn open_lane(
        &mut self,
        endpoint_id: EndpointId,
        partition: u16,
        settings: LaneSettings,
        state: Option<LaneState>,
        now: Instant,
    ) {
        let is_ours = |partition: &Partition| partition.is_ours && partition.release_by.is_none();
        if self.lanes.contains_key(&endpoint_id) || !self.partitions.get(&partition).is_some_and(is_ours) {
            return;
        }
        self.lives += 1;
        let mut lane = Lane::new(partition, settings, state, self.limits.breaker, now);
        lane.life = self.lives;
        lane.served = self.turns;
        lane.in_flight = self.left.remove(&endpoint_id).unwrap_or_default();
        self.lanes.insert(endpoint_id, lane);
        self.recover(endpoint_id);
    }

    /// Forgets a lane. What it holds is given back, or left to whoever has the partition now.
    fn close_lane(&mut self, endpoint_id: EndpointId, give_back: bool) {
        self.empty(endpoint_id, give_back);
        self.take_place(endpoint_id, Place::Idle);
        if let Some(mut lane) = self.lanes.remove(&endpoint_id) {
            self.apart = self.apart.minus(lane.apart);
            if give_back {
                let delay = HAND_OVER_DELAY;
                let unread = lane.unread().into_iter();
                self.commands
                    .extend(unread.map(|work| Command::Park { work, delay }));
            }
            if !lane.in_flight.is_empty() {
                let left = lane.in_flight.into_keys().map(|key| (key, 0));
                self.left.insert(endpoint_id, left.collect());
            }
        }
    }

    /// Takes an item into its lane.
    fn hold(&mut self, endpoint_id: EndpointId, item: Item<W>, pulled: bool, queued: Queued, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        self.stays += 1;
        if pulled {
            self.progress
                .push_back((now + self.limits.progress_interval, queued.key, self.stays));
        }
        self.held.insert(
            queued.key,
            Held {
                work: item.work,
                endpoint_id,
                sequence: item.sequence,
                bytes: item.bytes,
                deadline: item.deadline,
                not_before: queued.not_before,
                verify: queued.verify,
                arrived: now,
                waited: item.waited,
                pulled,
                in_flight: None,
                life: lane.life,
                stay: self.stays,
            },
        );
        self.queued = self.queued.plus(queued.bytes);
        if pulled {
            self.pulled = self.pulled.plus(queued.bytes);
        }
        lane.push(queued);
    }

    /// An item has left its queue.
    fn unqueued(&mut self, bytes: usize, pulled: bool) {
        let room = Room { items: 1, bytes };
        self.queued = self.queued.minus(room);
        if pulled {
            self.pulled = self.pulled.minus(room);
        }
    }

    /// Lets go of everything that waits in a lane.
    fn empty(&mut self, endpoint_id: EndpointId, give_back: bool) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        lane.parting = lane.blocked().or(lane.parting);
        let apart = lane.apart;
        let mut works = lane.aside();
        self.apart = self.apart.minus(apart.minus(lane.apart));
        for queued in lane.take_out(|_| true) {
            if let Some(held) = self.held.remove(&queued.key) {
                self.unqueued(queued.bytes, held.pulled);
                works.extend(held.pulled.then_some(held.work));
            }
        }
        if give_back {
            let delay = HAND_OVER_DELAY;
            self.commands
                .extend(works.into_iter().map(|work| Command::Park { work, delay }));
        }
    }

    /// Looks at a lane: what it can start, what it must read or save, whether it is needed.
    fn look_at(&mut self, endpoint_id: EndpointId, now: Instant) {
        self.refill(endpoint_id, now);
        self.save(endpoint_id, now);
        let Some(lane) = self.lanes.get(&endpoint_id) else {
            return;
        };
        let is_leased = self
            .partitions
            .get(&lane.partition)
            .is_some_and(Partition::is_leased);
        let place = if is_leased && !self.draining {
            lane.place_at(endpoint_id, now)
        } else {
            Place::Idle
        };
        self.take_place(endpoint_id, place);
        match self.lanes.get(&endpoint_id).and_then(Lane::forgotten_at) {
            Some(at) if at <= now => {
                self.set_wake(endpoint_id, None);
                self.lanes.remove(&endpoint_id);
            }
            Some(at) => self.set_wake(endpoint_id, Some(at)),
            None => {}
        }
    }

    fn take_place(&mut self, endpoint_id: EndpointId, place: Place) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let before = std::mem::replace(&mut lane.place, place);
        let (saves, reads) = (lane.save_at(self.limits.save_interval), lane.read_at);
        if before != place {
            if let Place::Ready { turn, proven } = before {
                self.ready[usize::from(!proven)].remove(&turn);
            }
            if let Place::Ready { turn, proven } = place {
                self.ready[usize::from(!proven)].insert(turn);
            }
        }
        let starts = match place {
            Place::Waiting(at) => Some(at),
            Place::Idle | Place::Ready { .. } => None,
        };
        self.set_wake(endpoint_id, [starts, saves, reads].into_iter().flatten().min());
    }

    fn set_wake(&mut self, endpoint_id: EndpointId, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.wake_of.insert(endpoint_id, at),
            None => self.wake_of.remove(&endpoint_id),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.wakes.remove(&(before, endpoint_id));
        }
        self.wakes.extend(at.map(|at| (at, endpoint_id)));
    }

    fn wake(&mut self, now: Instant) {
        while let Some(&(at, endpoint_id)) = self.wakes.first()
            && at <= now
        {
            self.set_wake(endpoint_id, None);
            self.look_at(endpoint_id, now);
        }
    }

    fn report_progress(&mut self, now: Instant) {
        while let Some(&(due, key, stay)) = self.progress.front()
            // Not the ones that are put back below.
            && due < now + PROGRESS_SLACK
        {
            self.progress.pop_front();
            if let Some(held) = self.held.get(&key).filter(|held| held.stay == stay) {
                let work = held.work.clone();
                self.commands.push_back(Command::Progress { work });
                self.progress
                    .push_back((now + self.limits.progress_interval, key, stay));
            }
        }
    }

    /// Stops pulling while too much is held that was pulled, until a quarter of the room is free again. Lanes detach long
    /// before, so this is for a log that is slow to store that they do. What lanes have read does not count: it is theirs
    /// to wait for, and must not hold up what comes for others.
    fn pause_or_resume(&mut self) {
        let total = self.limits.total;
        let held = Room {
            items: self.pulled.items + self.apart.items,
            bytes: self.pulled.bytes + self.apart.bytes,
        };
        if !self.is_paused && !total.takes(held) {
            self.is_paused = true;
            self.commands.push_back(Command::Pause);
        } else if self.is_paused && total.most().takes(held) {
            self.is_paused = false;
            self.commands.push_back(Command::Resume);
        }
    }
}
