//! What the scheduler knows of one partition, and how it takes one over and gives one up.

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

use super::interface::Command;
use super::lane::{Feed, Lane, Urgency};
use super::{HAND_OVER_PATIENCE, Scheduler};

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Whether it was acquired, and neither lost nor handed over since. Its lease may not be known to be held all the same.
    pub(super) is_ours: bool,
    /// Until when its lease is known to be held.
    pub(super) leased_until: Option<Instant>,
    /// When it is given up at the latest; `None` unless it is to be handed over.
    pub(super) release_by: Option<Instant>,
    pub(super) in_flight: usize,
}

impl Partition {
    /// Whether something may be started for it.
    pub(super) fn is_leased(&self) -> bool {
        self.leased_until.is_some() && self.release_by.is_none()
    }

    /// When it needs to be looked at.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.leased_until.into_iter().chain(self.release_by).min()
    }

    /// It is somebody else's, or nobody's.
    fn give_up(&mut self) {
        self.is_ours = false;
        self.leased_until = None;
        self.release_by = None;
    }

    /// Whether there is nothing left to know of it.
    fn is_forgotten(&self) -> bool {
        !self.is_ours && self.in_flight == 0
    }
}

impl<W> Scheduler<W> {
    pub(super) fn leased(&mut self, number: u16, until: Instant, now: Instant) {
        let partition = self.partitions.entry(number).or_default();
        partition.is_ours = true;
        if until <= now {
            return;
        }
        let is_news = partition.leased_until.replace(until).is_none();
        if is_news && partition.is_leased() {
            for endpoint_id in self.lanes_of(number) {
                if let Some(lane) = self.lanes.get_mut(&endpoint_id)
                    && matches!(lane.feed, Feed::Detaching { .. })
                {
                    // What was saved meanwhile was not relied on.
                    lane.want_save(Urgency::Now);
                }
                self.look_at(endpoint_id, now);
            }
        }
    }

    /// Stops starting anything for a partition, and gives back what waits.
    pub(super) fn release(&mut self, number: u16, now: Instant) {
        let partition = self.partitions.entry(number).or_default();
        partition.is_ours = true;
        partition.release_by = Some(now + HAND_OVER_PATIENCE);
        for endpoint_id in self.lanes_of(number) {
            self.stop(endpoint_id, now);
        }
        self.settle_partition(number, now);
    }

    /// Forgets a partition that is somebody else's: what waits comes to whoever has it now.
    pub(super) fn lose(&mut self, number: u16, now: Instant) {
        let partition = self.partitions.entry(number).or_default();
        partition.give_up();
        for endpoint_id in self.lanes_of(number) {
            self.close_lane(endpoint_id, false);
        }
        self.settle_partition(number, now);
    }

    pub(super) fn drain(&mut self, now: Instant) {
        self.draining = true;
        let endpoints: Vec<_> = self.lanes.keys().copied().collect();
        for endpoint_id in endpoints {
            self.stop(endpoint_id, now);
        }
    }

    /// Gives back what waits in a lane, and saves how far it came.
    fn stop(&mut self, endpoint_id: EndpointId, now: Instant) {
        self.empty(endpoint_id, true);
        if let Some(lane) = self.lanes.get_mut(&endpoint_id) {
            if lane.saves.wanted.is_some() {
                lane.want_save(Urgency::Now);
            }
            if matches!(lane.feed, Feed::Recovering { .. }) {
                lane.saves.wanted = None;
            }
        }
        self.look_at(endpoint_id, now);
    }

    /// Hands a partition over when its time has come, and forgets one that there is nothing to know of.
    pub(super) fn settle_partition(&mut self, number: u16, now: Instant) {
        let is_busy = |lane: &Lane<W>| {
            lane.partition == number && (lane.saves.running.is_some() || lane.saves.wanted.is_some())
        };
        let Some(partition) = self.partitions.get(&number) else {
            return;
        };
        if let Some(by) = partition.release_by
            && (by <= now || partition.in_flight == 0 && !self.lanes.values().any(is_busy))
        {
            for endpoint_id in self.lanes_of(number) {
                self.close_lane(endpoint_id, true);
            }
            if let Some(partition) = self.partitions.get_mut(&number) {
                partition.give_up();
            }
            self.commands.push_back(Command::HandOver { partition: number });
        }
        if self.partitions.get(&number).is_some_and(Partition::is_forgotten) {
            self.partitions.remove(&number);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let is_over = |partition: &Partition| partition.next_change().is_some_and(|at| at <= now);
        let over: Vec<u16> = self
            .partitions
            .iter()
            .filter(|(_, partition)| is_over(partition))
            .map(|(&number, _)| number)
            .collect();
        for number in over {
            if let Some(partition) = self.partitions.get_mut(&number) {
                partition.leased_until = partition.leased_until.filter(|&until| until > now);
            }
            // What waits is kept: the lease may be renewed yet.
            self.look_at_all(number, now);
            self.settle_partition(number, now);
        }
    }

    fn look_at_all(&mut self, number: u16, now: Instant) {
        for endpoint_id in self.lanes_of(number) {
            self.look_at(endpoint_id, now);
        }
    }

    fn lanes_of(&self, partition: u16) -> Vec<EndpointId> {
        let is_of = |lane: &Lane<W>| lane.partition == partition;
        self.lanes
            .iter()
            .filter(|(_, lane)| is_of(lane))
            .map(|(&endpoint_id, _)| endpoint_id)
            .collect()
    }
}
