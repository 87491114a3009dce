//! What the scheduler knows of one endpoint.

use std::collections::VecDeque;
use std::time::Duration;

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

use super::{AttemptKey, Room};

/// A lane that needs longer than this for what waits in it is slow.
const PATIENCE: Duration = Duration::from_secs(4);
/// A lane younger than this is not called slow: its rate is not known yet.
const GRACE: Duration = Duration::from_millis(500);

/// When a ready lane is served, relative to the others: fewest in flight first, then longest unserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) in_flight: u32,
    pub(super) served: u64,
    pub(super) endpoint_id: EndpointId,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) partition: u16,
    /// Attempts at the same time, 1 or more.
    pub(super) max_in_flight: u32,
    pub(super) in_flight: u32,
    pub(super) queued: Room,
    /// Number of the scheduler's start that was this lane's last, or the last one before it came to be.
    pub(super) served: u64,
    /// Its place among the ready lanes; `None` while it is not ready.
    pub(super) turn: Option<Turn>,
    /// Whether its partition is paused for it.
    pub(super) crowded: bool,
    queue: VecDeque<(AttemptKey, usize)>,
    born: Instant,
    rate: Rate,
}

impl Lane {
    pub(super) fn new(partition: u16, turns: u64, now: Instant) -> Self {
        Self {
            partition,
            max_in_flight: 1,
            in_flight: 0,
            queued: Room::default(),
            served: turns,
            turn: None,
            crowded: false,
            queue: VecDeque::new(),
            born: now,
            rate: Rate::new(now),
        }
    }

    /// Whether its cap leaves room for one more attempt.
    pub(super) fn has_slot(&self) -> bool {
        self.in_flight < self.max_in_flight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, key: AttemptKey, bytes: usize) {
        self.queue.push_back((key, bytes));
        self.queued = self.queued.plus(bytes);
    }

    /// What has waited longest, and its bytes.
    pub(super) fn pop(&mut self) -> Option<(AttemptKey, usize)> {
        let (key, bytes) = self.queue.pop_front()?;
        self.queued = self.queued.minus(Room { items: 1, bytes });
        Some((key, bytes))
    }

    /// Counts an attempt that has ended.
    pub(super) fn finished(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.rate.count(now);
    }

    /// Whether what waits would take too long for a partition to wait with it.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) >= GRACE
            && (self.rate.per_second(now) * PATIENCE.as_secs_f64()) < self.queued.items as f64
    }
}

/// Attempts that ended per second, by windows of one second.
#[derive(Debug)]
struct Rate {
    window: Instant,
    count: u32,
    last: u32,
}

impl Rate {
    const WINDOW: Duration = Duration::from_secs(1);

    fn new(now: Instant) -> Self {
        Self {
            window: now,
            count: 0,
            last: 0,
        }
    }

    fn count(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.window);
        if age >= Self::WINDOW {
            self.last = if age < 2 * Self::WINDOW { self.count } else { 0 };
            self.count = 0;
            self.window = now;
        }
        self.count += 1;
    }

    /// The better one of this window, as far as it goes, and the one before.
    fn per_second(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.window);
        let so_far = f64::from(self.count) / age.as_secs_f64().max(0.1);
        if age < Self::WINDOW {
            so_far.max(f64::from(self.last))
        } else {
            so_far
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> AttemptKey {
        AttemptKey {
            delivery_id: "dlv_00000000000000000000000000".parse().unwrap(),
            number,
        }
    }

    /// A lane that holds `queued` items and ends `per_second` attempts a second for three seconds.
    fn lane(queued: u32, per_second: u32) -> (Lane, Instant) {
        let start = Instant::now();
        let mut lane = Lane::new(0, 0, start);
        (0..queued).for_each(|number| lane.push(key(number), 10));
        let pace = Duration::from_secs(1) / per_second;
        (1..=3 * per_second).for_each(|step| lane.finished(start + pace * step));
        (lane, start + Duration::from_secs(3))
    }

    #[test]
    fn a_lane_is_slow_by_how_long_its_queue_takes() {
        let (lane, now) = lane(1000, 500);
        assert!(!lane.is_slow(now));
        assert!(
            lane.is_slow(now + Duration::from_secs(5)),
            "a lane that has stopped is slow soon"
        );
        let (lane, now) = self::lane(1000, 100);
        assert!(lane.is_slow(now));
        let (lane, now) = self::lane(100, 100);
        assert!(!lane.is_slow(now));
    }

    #[test]
    fn a_young_lane_is_not_called_slow() {
        let start = Instant::now();
        let mut lane = Lane::new(0, 0, start);
        lane.push(key(1), 10);
        assert!(!lane.is_slow(start + Duration::from_millis(499)));
        assert!(lane.is_slow(start + Duration::from_millis(500)));
    }
}
