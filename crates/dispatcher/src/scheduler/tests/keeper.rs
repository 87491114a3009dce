//! Who has which partition.

use std::time::Duration;

use super::super::*;
use super::log::PARTITIONS;
use super::world::{Happening, Holding, Lease, Run, Told, World};

pub(super) const LEASE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(1);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

impl World {
    /// What a dispatcher does about its leases once a second, also while its loop is stalled.
    pub(super) fn keep(&mut self, me: Run) {
        for index in 0..self.dispatchers.len() {
            self.expire(index);
        }
        let index = me.dispatcher;
        if self.now >= self.dispatchers[index].cut_until {
            (0..PARTITIONS).for_each(|partition| self.keep_partition(me, partition));
        }
        if let Some(since) = self.dispatchers[index].draining {
            let is_done = self.dispatchers[index]
                .holdings
                .iter()
                .all(|&holding| holding == Holding::Not)
                && self.dispatchers[index]
                    .scheduler
                    .as_ref()
                    .is_some_and(Scheduler::is_settled);
            if is_done || self.now >= since + DRAIN_TIMEOUT {
                self.stop(index);
                self.leases
                    .iter_mut()
                    .for_each(|lease| *lease = lease.filter(|lease| lease.holder != me));
                let at = self.now + self.chance.millis(500, 5000);
                return self.at(at, Happening::Restart(index));
            }
        }
        self.at(self.now + INTERVAL, Happening::Keep(me));
    }

    fn keep_partition(&mut self, me: Run, partition: u16) {
        let (number, index, until) = (usize::from(partition), me.dispatcher, self.now + LEASE);
        let lease = self.leases[number].filter(|lease| lease.until > self.now);
        let is_draining = self.dispatchers[index].draining.is_some();
        let wanted = self.wanted[number];
        match (self.dispatchers[index].holdings[number], lease) {
            (Holding::Not, None) if !is_draining && (wanted == index || !self.takes_part(wanted)) => {
                self.acquire(me, partition);
            }
            (holding, Some(lease)) if lease.holder == me && holding != Holding::Not => {
                self.leases[number] = Some(Lease { holder: me, until });
                let is_released = wanted != index && self.takes_part(wanted);
                match holding {
                    Holding::Held(_) if is_released => self.release(index, partition),
                    Holding::Held(_) => {
                        self.dispatchers[index].holdings[number] = Holding::Held(until);
                        self.tell(index, Told::Event(Event::Leased { partition, until }));
                    }
                    _ => self.dispatchers[index].holdings[number] = Holding::Releasing(until),
                }
            }
            _ => {}
        }
    }

    fn takes_part(&self, dispatcher: usize) -> bool {
        let this = &self.dispatchers[dispatcher];
        this.scheduler.is_some() && this.draining.is_none() && self.now >= this.cut_until
    }

    fn acquire(&mut self, me: Run, partition: u16) {
        let until = self.now + LEASE;
        self.leases[usize::from(partition)] = Some(Lease { holder: me, until });
        for other in 0..self.dispatchers.len() {
            assert!(
                other == me.dispatcher
                    || self.dispatchers[other].holdings[usize::from(partition)] == Holding::Not
            );
            self.orphan(other, partition, None);
        }
        let this = &mut self.dispatchers[me.dispatcher];
        this.holdings[usize::from(partition)] = Holding::Held(until);
        this.epochs[usize::from(partition)] += 1;
        self.tell(me.dispatcher, Told::Acquired(partition, until));
    }

    /// A dispatcher is to give a partition up: it stops pulling, then its scheduler is told.
    fn release(&mut self, index: usize, partition: u16) {
        let this = &mut self.dispatchers[index];
        if let Holding::Held(until) = this.holdings[usize::from(partition)] {
            this.holdings[usize::from(partition)] = Holding::Releasing(until);
            let at = this.last_arrival.max(self.now) + Duration::from_millis(1);
            let told = Told::Releasing(partition, this.epochs[usize::from(partition)]);
            self.at(at, Happening::Told(self.run_of(index), told));
        }
    }

    /// What a dispatcher could not renew it has lost.
    fn expire(&mut self, index: usize) {
        for partition in 0..PARTITIONS {
            let number = usize::from(partition);
            let until = self.dispatchers[index].holdings[number].until();
            if until.is_some_and(|until| until <= self.now) {
                self.dispatchers[index].holdings[number] = Holding::Not;
                self.dispatchers[index].releasing[number] = None;
                self.orphan(index, partition, None);
                self.tell(index, Told::Event(Event::Lost { partition }));
            }
        }
    }

    /// The scheduler gives a partition up that it was asked to give up.
    pub(super) fn handed_over(&mut self, me: Run, partition: u16) {
        let number = usize::from(partition);
        self.orphan(me.dispatcher, partition, None);
        let this = &mut self.dispatchers[me.dispatcher];
        // Not when the partition was lost, and perhaps acquired again, after the scheduler was asked.
        if this.releasing[number].take().is_some() {
            this.holdings[number] = Holding::Not;
            self.leases[number] = self.leases[number].filter(|lease| lease.holder != me);
        }
    }

    /// Shuts a dispatcher down in good order; it comes back later.
    pub(super) fn drain(&mut self, index: usize) {
        if self.dispatchers[index].scheduler.is_none() || self.dispatchers[index].draining.is_some() {
            return;
        }
        self.dispatchers[index].draining = Some(self.now);
        self.tell(index, Told::Event(Event::Drain));
        (0..PARTITIONS).for_each(|partition| self.release(index, partition));
    }

    pub(super) fn crash(&mut self, index: usize, back_after: Duration) {
        if self.dispatchers[index].scheduler.is_some() {
            self.stop(index);
            self.at(self.now + back_after, Happening::Restart(index));
        }
    }
}
