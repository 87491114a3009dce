//! Where a lane's work comes from: pulled for it, or read by it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::breaker::Permit;
use super::interface::{AttemptKey, Command, Item, Known, LaneId, Limits, Recovered, Room};
use super::lane::{Feed, Lane, Queued, Urgency};
use super::partition::Partition;
use super::{HAND_OVER_DELAY, Held, Scheduler, UNLEASED_DELAY};

/// How long a lane waits before it reads again when a read failed, or found nothing although there is something.
const READ_PAUSE: Duration = Duration::from_millis(500);
/// Lanes of endpoints that have not shown that they answer may hold one in so many of what is free.
const UNPROVEN_PART: usize = 8;

impl<W> Lane<W> {
    pub(super) fn is_detached(&self) -> bool {
        matches!(self.feed, Feed::Detaching { .. } | Feed::Detached { .. })
    }

    /// What was kept aside during a recovery, which it leaves behind.
    pub(super) fn aside(&mut self) -> Vec<Arc<W>> {
        match &mut self.feed {
            Feed::Recovering { aside, .. } => {
                self.apart = Room::default();
                std::mem::take(aside)
                    .into_values()
                    .map(|(item, _)| item.work)
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// What is not to be acknowledged unread after all.
    pub(super) fn unread(&mut self) -> Vec<Arc<W>> {
        match &mut self.feed {
            Feed::Detaching { unread, .. } => std::mem::take(unread).into_values().collect(),
            _ => Vec::new(),
        }
    }

    /// What the lane may hold of what is pulled, `pulled` being what all lanes hold.
    ///
    /// All lanes share half of the total; the rest is for what waits to be acknowledged unread. Each may hold as much as the
    /// others leave free: few lanes get much, many get little. Of an endpoint that has not shown lately that it answers it is
    /// a part of that, or receivers that hang would fill what others need. One that answers may always hold one item, so
    /// that lanes do not detach because all are busy.
    fn room(&self, limits: &Limits, pulled: Room) -> Room {
        let free = limits.total.part(2).minus(pulled);
        let free = if self.is_proven() {
            let least = usize::from(self.is_empty());
            Room {
                items: free.items.max(least),
                ..free
            }
        } else {
            free.part(UNPROVEN_PART)
        };
        limits.lane.min(free)
    }

    /// Whether a pulled item can be held, `room` being what the lane may hold.
    fn takes(&self, bytes: usize, room: Room, now: Instant) -> bool {
        if self.breaker.is_closed() {
            room.takes(self.queued.plus(bytes))
        } else {
            // As the probe, and nothing behind it.
            self.breaker.permit(now) == Permit::Probe && self.is_empty() && self.in_flight.is_empty()
        }
    }
}

impl<W> Scheduler<W> {
    /// Asks the log what is done, if the lane cannot know.
    ///
    /// One whose order matters waits for what an earlier lane left in flight, for that may be what comes first.
    pub(super) fn recover(&mut self, endpoint_id: EndpointId) {
        if let Some(lane) = self.lanes.get_mut(&endpoint_id)
            && let Feed::Recovering { state, .. } = &mut lane.feed
            && !lane.is_reading
            && (!lane.settings.ordered || lane.in_flight.is_empty())
        {
            let state = state.take();
            lane.is_reading = true;
            let life = lane.life;
            let lane = LaneId { endpoint_id, life };
            self.commands.push_back(Command::Recover { lane, state });
        }
    }

    pub(super) fn recovered(&mut self, endpoint_id: EndpointId, recovered: Recovered, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        lane.is_reading = false;
        lane.outcomes_to = lane.outcomes_to.max(recovered.outcomes_to);
        // Also when that is how it was saved: a save of the last owner's that comes late must not come after this.
        lane.want_save(Urgency::Now);
        let backlog = Backlog::recovered(recovered);
        let unread = BTreeMap::new();
        let feed = Feed::Detaching { backlog, unread };
        let feed = std::mem::replace(&mut lane.feed, feed);
        self.apart = self.apart.minus(std::mem::take(&mut lane.apart));
        if let Feed::Recovering { aside, .. } = feed {
            for (item, first) in aside.into_values() {
                self.pulled(endpoint_id, item, first, now);
            }
        }
        self.look_at(endpoint_id, now);
    }

    /// The partition's consumer delivered an item.
    pub(super) fn pulled(&mut self, endpoint_id: EndpointId, item: Item<W>, first: bool, now: Instant) {
        if self.recent.contains(&item.key) {
            self.duplicates += 1;
            return self.commands.push_back(Command::Settle { work: item.work });
        }
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            // Fenced or lost a moment ago.
            let (work, delay) = (item.work, HAND_OVER_DELAY);
            return self.commands.push_back(Command::Park { work, delay });
        };
        if let Some(delay) = refusal(self.partitions.get(&lane.partition), self.draining) {
            if delay == UNLEASED_DELAY && first && lane.settings.ordered {
                // What follows may be delivered before it comes again.
                match &mut lane.feed {
                    Feed::Live { handled } if handled.1 < item.sequence => {
                        self.detach(endpoint_id, Some(item));
                        return self.look_at(endpoint_id, now);
                    }
                    Feed::Rejoining { backlog } if backlog.next() <= item.sequence => {
                        self.detach(endpoint_id, Some(item));
                        return self.look_at(endpoint_id, now);
                    }
                    Feed::Detaching { backlog, .. } | Feed::Detached { backlog } => {
                        backlog.skip(item.sequence);
                    }
                    _ => {}
                }
            }
            let work = item.work;
            return self.commands.push_back(Command::Park { work, delay });
        }
        let sequence = item.sequence;
        // Whether it may have been worked on before. What lies up to the floor is, also by a lane that was ahead of the consumer.
        let is_old = match &mut lane.feed {
            Feed::Recovering { aside, .. } => {
                if let Entry::Vacant(place) = aside.entry(sequence) {
                    lane.apart = lane.apart.plus(item.bytes);
                    self.apart = self.apart.plus(item.bytes);
                    place.insert((item, first));
                }
                return;
            }
            Feed::Live { handled: (floor, to) } if *floor < sequence && sequence <= *to => {
                self.skipped += 1;
                return self.commands.push_back(Command::Settle { work: item.work });
            }
            Feed::Live { handled: (floor, _) } => !first || sequence <= *floor,
            Feed::Detaching { backlog, unread } if sequence > backlog.floor() => {
                backlog.skip(sequence);
                if let Entry::Vacant(place) = unread.entry(sequence) {
                    lane.apart = lane.apart.plus(item.bytes);
                    self.apart = self.apart.plus(item.bytes);
                    place.insert(item.work);
                }
                return;
            }
            Feed::Detached { backlog } if sequence > backlog.floor() => {
                backlog.skip(sequence);
                self.skipped += 1;
                self.commands.push_back(Command::Settle { work: item.work });
                return self.look_at(endpoint_id, now);
            }
            Feed::Rejoining { backlog } if backlog.floor() < sequence && sequence < backlog.next() => {
                self.skipped += 1;
                return self.commands.push_back(Command::Settle { work: item.work });
            }
            Feed::Detaching { .. } | Feed::Detached { .. } => true,
            Feed::Rejoining { backlog } => !first || sequence <= backlog.floor(),
        };
        if self.held.contains_key(&item.key) {
            // Left unacknowledged: should the one that is held come to nothing, this one comes again.
            self.duplicates += 1;
            return;
        }
        let room = lane.room(&self.limits, self.pulled);
        if !is_old && !lane.takes(item.bytes, room, now) {
            self.detach(endpoint_id, Some(item));
        } else {
            let queued = Queued {
                key: item.key,
                sequence,
                bytes: item.bytes,
                deadline: item.deadline,
                not_before: None,
                fresh: !is_old,
                verify: is_old,
            };
            self.hold(endpoint_id, item, true, queued, now);
        }
        self.look_at(endpoint_id, now);
    }

    /// Lets a lane read the log itself, from the first item on that waits in it and was not delivered before, or from
    /// `next`, which is such an item. What was delivered before stays, for something behind it may be done.
    pub(super) fn detach(&mut self, endpoint_id: EndpointId, next: Option<Item<W>>) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let taken = lane.take_out(|queued| queued.fresh);
        // What was cancelled stands first, whatever its place in the log.
        let sequences = || {
            taken
                .iter()
                .map(|queued| queued.sequence)
                .chain(next.as_ref().map(|item| item.sequence))
        };
        let Some(first) = sequences().min() else {
            return;
        };
        let mut unread = Vec::with_capacity(taken.len() + 1);
        for queued in taken {
            self.unqueued(queued.bytes, true);
            let held = self.held.remove(&queued.key);
            unread.extend(held.map(|held| (held.sequence, held.bytes, held.work)));
        }
        unread.extend(next.map(|item| (item.sequence, item.bytes, item.work)));
        self.detach_at(endpoint_id, first - 1, unread);
    }

    /// Lets a lane read the log itself after `cursor`. `works` are its pulled items from there on: sequence, bytes, work.
    fn detach_at(&mut self, endpoint_id: EndpointId, cursor: u64, works: Vec<(u64, usize, Arc<W>)>) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let feed = std::mem::replace(&mut lane.feed, Feed::Live { handled: (0, 0) });
        let (mut backlog, mut unread) = match feed {
            Feed::Rejoining { backlog } | Feed::Detached { backlog } => (backlog, BTreeMap::new()),
            Feed::Detaching { backlog, unread } => (backlog, unread),
            Feed::Live { handled: (_, done) } => {
                // Where order matters, whoever has the lane next must not begin behind what is not done.
                let in_flight = lane.in_flight.keys().filter_map(|key| self.held.get(key));
                let open = in_flight.map(|held| held.sequence).chain(lane.waiting());
                let open: Vec<u64> = open
                    .filter(|&sequence| lane.settings.ordered && sequence > done)
                    .collect();
                let floor = open.iter().map(|sequence| sequence - 1).fold(cursor, u64::min);
                let mut backlog = Backlog::new(floor);
                for sequence in open {
                    backlog.read(sequence);
                }
                lane.outcomes_to = lane.outcomes_to.max(floor);
                (backlog, BTreeMap::new())
            }
            // It holds nothing that could be detached.
            Feed::Recovering { .. } => {
                lane.feed = feed;
                return;
            }
        };
        for (sequence, bytes, work) in works {
            backlog.skip(sequence);
            if unread.insert(sequence, work).is_none() {
                lane.apart = lane.apart.plus(bytes);
                self.apart = self.apart.plus(bytes);
            }
        }
        lane.feed = Feed::Detaching { backlog, unread };
        lane.want_save(Urgency::Now);
    }

    /// An attempt of an ordered endpoint failed: the next one of the same delivery comes before anything else.
    pub(super) fn block(&mut self, key: AttemptKey, mut held: Held<W>, until: Instant, now: Instant) {
        let (endpoint_id, sequence, bytes) = (held.endpoint_id, held.sequence, held.bytes);
        let Some(lane) = self.lanes.get(&endpoint_id) else {
            // Not acknowledged: the next owner goes on with it.
            return;
        };
        let is_live = matches!(lane.feed, Feed::Live { .. } | Feed::Rejoining { .. });
        let work = (held.pulled && is_live).then(|| held.work.clone());
        held.pulled &= !is_live;
        held.verify = false;
        held.waited = Duration::ZERO;
        let number = key.number + 1;
        self.queue_again(AttemptKey { number, ..key }, held, until, now);
        if let Some(work) = work {
            self.detach(endpoint_id, None);
            self.detach_at(endpoint_id, sequence - 1, vec![(sequence, bytes, work)]);
        }
        if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
            if let Some(backlog) = lane.backlog() {
                backlog.read(sequence);
            }
            lane.want_save(Urgency::Now);
        }
    }

    /// A lane has read what follows in the log.
    pub(super) fn read(
        &mut self,
        endpoint_id: EndpointId,
        items: Vec<Item<W>>,
        end: u64,
        at_tail: bool,
        now: Instant,
    ) {
        let is_empty = items.is_empty();
        for item in items {
            self.take_read(endpoint_id, item, now);
        }
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        lane.is_reading = false;
        let keeps_up = lane.keeps_up();
        if let Feed::Detached { backlog } = &mut lane.feed {
            if backlog.read_up_to(end, at_tail) && keeps_up {
                let backlog = std::mem::replace(backlog, Backlog::new(0));
                lane.feed = Feed::Rejoining { backlog };
            } else if is_empty {
                lane.read_at = Some(now + READ_PAUSE);
            }
        } else if let Some(backlog) = lane.backlog() {
            backlog.read_up_to(end, false);
        }
        lane.want_save(Urgency::Later);
        self.look_at(endpoint_id, now);
    }

    fn take_read(&mut self, endpoint_id: EndpointId, mut item: Item<W>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let ordered = lane.settings.ordered;
        let Some(backlog) = lane.backlog() else { return };
        let sequence = item.sequence;
        if !backlog.read(sequence) {
            return;
        }
        let mut not_before = None;
        match backlog.known(item.key.delivery_id) {
            Some(Known {
                attempts,
                next: Some(next),
            }) if ordered && attempts >= item.key.number => {
                item.key.number = attempts + 1;
                not_before = Some(next);
            }
            Some(Known { attempts, next }) if next.is_none() || attempts >= item.key.number => {
                return backlog.finished(sequence);
            }
            _ => {}
        }
        if let Some(held) = self.held.get(&item.key) {
            // It is done when that is. Another item for the same attempt, which a timer that was set twice leaves, is not needed.
            if held.sequence != sequence {
                self.duplicates += 1;
                backlog.finished(sequence);
            }
            return;
        }
        if self.recent.contains(&item.key) {
            self.duplicates += 1;
            return backlog.finished(sequence);
        }
        let queued = Queued {
            key: item.key,
            sequence,
            bytes: item.bytes,
            deadline: item.deadline,
            not_before,
            fresh: false,
            verify: false,
        };
        self.hold(endpoint_id, item, false, queued, now);
    }

    pub(super) fn read_failed(&mut self, endpoint_id: EndpointId, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
            // A recovery is repeated by whoever carries it out.
            lane.is_reading = false;
            lane.read_at = Some(now + READ_PAUSE);
            self.look_at(endpoint_id, now);
        }
    }

    /// Lets a detached lane read on when it runs low.
    pub(super) fn refill(&mut self, endpoint_id: EndpointId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        // Also when it cannot read yet: it is woken for what lies before it only.
        if lane.read_at.is_some_and(|at| at <= now) {
            lane.read_at = None;
        }
        let spare = self.limits.total.minus(self.queued.minus(self.pulled));
        let partition = self.partitions.get(&lane.partition);
        if self.draining || !partition.is_some_and(Partition::is_leased) {
            return;
        }
        if let Some((from, room)) = lane.wants_read(&self.limits, spare, now) {
            lane.is_reading = true;
            let life = lane.life;
            self.commands.push_back(Command::Read {
                lane: LaneId { endpoint_id, life },
                from,
                room,
            });
        }
    }
}

/// When to deliver work again that cannot be taken now because of its partition; `None` when it can be taken.
fn refusal(partition: Option<&Partition>, draining: bool) -> Option<Duration> {
    match partition {
        _ if draining => Some(HAND_OVER_DELAY),
        Some(partition) if partition.is_leased() => None,
        Some(partition) if partition.release_by.is_some() => Some(HAND_OVER_DELAY),
        // It may be ours again in a moment: at once, it would come round and round.
        _ => Some(UNLEASED_DELAY),
    }
}
