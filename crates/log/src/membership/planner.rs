//! Decides what a member does about the partitions, without IO: time, answers and what others wrote go in, actions come
//! out. One loop carries them out.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::MembershipEvent;
use super::rendezvous;
use super::roster::Roster;

/// What is to be done. At most one request per partition is under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Write the heartbeat.
    Beat,
    /// Send a request about a lease and report its answer to [`Planner::answered`].
    Request(u16, Request),
    /// Tell the dispatcher.
    Tell(MembershipEvent),
}

/// What is asked of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Acquire,
    Renew,
    Release,
}

/// What became of a request: held until then under that epoch, not held, or unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Held { until: Instant, epoch: u64 },
    NotHeld,
    Unknown,
}

/// A member's part in sharing the partitions.
pub(super) struct Planner {
    id: String,
    /// What this member writes into a lease.
    value: Bytes,
    ttl: Duration,
    pub(super) roster: Roster,
    slots: Vec<Slot>,
    /// The members of the last look, and which partitions are this member's by them.
    shares: (Vec<String>, Vec<bool>),
    next_beat: Instant,
    /// When the roster may be believed; `None` while it is not kept live.
    settled_at: Option<Instant>,
    is_retiring: bool,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    until: Option<Instant>,
    is_busy: bool,
    next_request: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Somebody else's, or nobody's.
    Idle,
    Held,
    /// Held until the dispatcher has finished what is in flight.
    HandingOver,
    /// The dispatcher is done: the lease is to be given up.
    Done,
}

impl Planner {
    pub(super) fn new(id: &str, value: Bytes, ttl: Duration, partitions: u16, now: Instant) -> Self {
        let slot = Slot {
            phase: Phase::Idle,
            until: None,
            is_busy: false,
            next_request: now,
        };
        Self {
            id: id.to_owned(),
            value,
            ttl,
            roster: Roster::new(ttl),
            slots: vec![slot; partitions.into()],
            shares: (Vec::new(), Vec::new()),
            next_beat: now,
            settled_at: None,
            is_retiring: false,
        }
    }

    /// How often heartbeats and leases are written: four in a row may be lost.
    pub(super) fn renewal_interval(ttl: Duration) -> Duration {
        ttl / 5
    }

    /// How often [`Planner::poll`] wants to be called at least, and how soon what failed is tried again.
    pub(super) fn tick(ttl: Duration) -> Duration {
        ttl / 25
    }

    /// The roster is kept live: everything old has come.
    pub(super) fn following(&mut self, now: Instant) {
        self.roster.caught_up(now);
        // After a loss the heartbeats of the others are old, like ours; they need a moment to come.
        let is_first = self.shares.0.is_empty();
        self.settled_at = Some(if is_first {
            now
        } else {
            now + 2 * Self::renewal_interval(self.ttl)
        });
    }

    /// Whether the roster is kept live.
    pub(super) fn is_following(&self) -> bool {
        self.settled_at.is_some()
    }

    /// The roster is not kept live any more: nothing is taken or handed over until it is again.
    pub(super) fn detached(&mut self) {
        self.settled_at = None;
        self.roster.detached();
    }

    /// From now on this member is none: everything it holds is handed over.
    pub(super) fn retire(&mut self) {
        self.is_retiring = true;
    }

    /// Whether this member is on its way out.
    pub(super) fn is_retiring(&self) -> bool {
        self.is_retiring
    }

    /// The dispatcher has finished with `partition`, as it was asked to. Otherwise it speaks of a time before it lost the
    /// partition and got it again, which means nothing.
    pub(super) fn released(&mut self, partition: u16, now: Instant) {
        if let Some(slot) = self.slots.get_mut(usize::from(partition))
            && slot.phase == Phase::HandingOver
        {
            slot.finish(now);
        }
    }

    /// The dispatcher has finished with everything.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.retire();
        self.slots.iter_mut().for_each(|slot| slot.finish(now));
    }

    /// Until when attempts may be started for `partition`.
    pub(super) fn held_until(&self, partition: u16) -> Option<Instant> {
        self.slots.get(usize::from(partition)).and_then(|slot| slot.until)
    }

    pub(super) fn partitions(&self) -> u16 {
        self.slots.len() as u16
    }

    /// How many members share the partitions.
    pub(super) fn members(&self) -> usize {
        self.shares.0.len()
    }

    /// What is to be done at `now`.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !self.is_retiring && now >= self.next_beat {
            self.next_beat = now + Self::renewal_interval(self.ttl);
            actions.push(Action::Beat);
        }
        self.roster.expire(now);
        let is_settled = self.settled_at.is_some_and(|settled_at| now >= settled_at);
        if is_settled {
            self.share();
        }
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let is_mine = !self.is_retiring
                && self
                    .shares
                    .1
                    .get(usize::from(partition))
                    .copied()
                    .unwrap_or(false);
            if slot.until.is_some_and(|until| until <= now) {
                slot.lose();
                actions.push(Action::Tell(MembershipEvent::Lost { partition }));
            }
            if slot.phase == Phase::Held && !is_mine && (is_settled || self.is_retiring) {
                slot.phase = Phase::HandingOver;
                actions.push(Action::Tell(MembershipEvent::Release { partition }));
            }
            if slot.is_busy || now < slot.next_request {
                continue;
            }
            let (request, pause) = match slot.phase {
                Phase::Idle if is_settled && is_mine && self.roster.is_free(partition, &self.value) => {
                    (Request::Acquire, Self::tick(self.ttl))
                }
                Phase::Idle => continue,
                Phase::Held | Phase::HandingOver => (Request::Renew, Self::renewal_interval(self.ttl)),
                Phase::Done => (Request::Release, Self::tick(self.ttl)),
            };
            slot.is_busy = true;
            slot.next_request = now + pause;
            actions.push(Action::Request(partition, request));
        }
        actions
    }

    /// The answer to a request about `partition` has come at `now`.
    pub(super) fn answered(
        &mut self,
        partition: u16,
        request: Request,
        answer: Answer,
        now: Instant,
    ) -> Option<MembershipEvent> {
        let slot = self.slots.get_mut(usize::from(partition))?;
        slot.is_busy = false;
        match (request, answer, slot.phase) {
            (Request::Acquire, Answer::Held { until, epoch }, Phase::Idle) if until > now => {
                slot.next_request = now + Self::renewal_interval(self.ttl);
                if self.is_retiring {
                    slot.phase = Phase::Done;
                    slot.next_request = now;
                    return None;
                }
                slot.phase = Phase::Held;
                slot.until = Some(until);
                Some(MembershipEvent::Acquired { partition, epoch })
            }
            (Request::Renew, Answer::Held { until, .. }, Phase::Held | Phase::HandingOver) => {
                slot.until = Some(until);
                None
            }
            (Request::Renew, Answer::NotHeld, Phase::Held | Phase::HandingOver) => {
                slot.lose();
                Some(MembershipEvent::Lost { partition })
            }
            (Request::Renew, Answer::Unknown, _) => {
                slot.next_request = now + Self::tick(self.ttl);
                None
            }
            // Given up, or running out by itself.
            (Request::Release, _, _) => {
                slot.phase = Phase::Idle;
                None
            }
            // Too late, taken by another, or told lost in the meantime: what is not ours by then runs out by itself.
            _ => None,
        }
    }

    /// Works out again which partitions are this member's, when the members are others than before.
    fn share(&mut self) {
        let others = self.roster.members().filter(|member| *member != self.id);
        let mut members: Vec<&str> = others.collect();
        if !self.is_retiring {
            members.push(&self.id);
        }
        members.sort_unstable();
        if members.iter().eq(&self.shares.0) {
            return;
        }
        let owners = rendezvous::owners(members.iter().copied(), self.partitions());
        let mut mine: Vec<_> = owners.into_iter().map(|owner| owner == self.id).collect();
        // Nobody's while the last member retires.
        mine.resize(self.slots.len(), false);
        self.shares = (members.into_iter().map(str::to_owned).collect(), mine);
    }
}

impl Slot {
    fn finish(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Held | Phase::HandingOver) {
            self.phase = Phase::Done;
            self.until = None;
            self.next_request = now;
        }
    }

    fn lose(&mut self) {
        self.phase = Phase::Idle;
        self.until = None;
    }
}

#[cfg(test)]
mod tests;
