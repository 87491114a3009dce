//! What is started, and what becomes of it.

use std::time::Duration;

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

use super::interface::{AttemptKey, Command, Ended, Item, Sign};
use super::lane::{Queued, Urgency};
use super::{Held, Scheduler};

impl<W> Scheduler<W> {
    /// Starts what can be started.
    pub(super) fn start(&mut self, now: Instant) {
        while self.in_flight < self.limits.max_in_flight {
            let share = self.limits.max_in_flight.div_ceil(2);
            let [proven, unproven] = &mut self.ready;
            let others_may = self.unproven.len() < share;
            let (is_proven, turn) = match (proven.first(), unproven.first().filter(|_| others_may)) {
                (Some(one), Some(other)) if other < one => (false, *other),
                (Some(one), _) => (true, *one),
                (None, Some(other)) => (false, *other),
                (None, None) => break,
            };
            self.start_next(turn.endpoint_id, is_proven, now);
        }
    }

    fn start_next(&mut self, endpoint_id: EndpointId, is_proven: bool, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let Some(queued) = lane.pop() else { return };
        self.turns += 1;
        let may_send = lane.started(&queued, self.turns, now);
        let partition = lane.partition;
        let Queued {
            key, bytes, verify, ..
        } = queued;
        self.in_flight += 1;
        if !is_proven {
            self.unproven.insert(key);
        }
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.in_flight += 1;
        }
        if let Some(held) = self.held.get_mut(&key) {
            held.in_flight = Some(partition);
            let (work, arrived, pulled) = (held.work.clone(), held.arrived, held.pulled);
            self.unqueued(bytes, pulled);
            self.commands.push_back(Command::Start {
                key,
                work,
                arrived,
                verify,
                may_send,
            });
        }
        self.look_at(endpoint_id, now);
    }

    /// An attempt that was started has ended.
    pub(super) fn ended(&mut self, key: AttemptKey, ended: Ended, now: Instant) {
        let Some(held) = self.held.remove(&key) else {
            return;
        };
        let lane = self.lanes.get(&held.endpoint_id);
        // What an earlier lane started of an endpoint whose order matters is looked up in the log.
        let is_looked_up = lane.is_some_and(|lane| lane.settings.ordered && lane.life != held.life);
        self.in_flight -= 1;
        self.unproven.remove(&key);
        let endpoint_id = held.endpoint_id;
        if let Some(left) = self.left.get_mut(&endpoint_id) {
            left.remove(&key);
            if left.is_empty() {
                self.left.remove(&endpoint_id);
            }
        }
        let held_for = held.in_flight;
        if let Some(number) = held_for
            && let Some(partition) = self.partitions.get_mut(&number)
        {
            partition.in_flight -= 1;
        }
        match ended {
            Ended::Recorded { outcome, sign } => {
                self.recent.insert(key);
                self.heed(&held, key, sign, outcome, now);
                if let Some(lane) = self.lanes.get_mut(&endpoint_id)
                    && let Some(backlog) = lane.backlog()
                {
                    backlog.finished(held.sequence);
                    lane.want_save(Urgency::Later);
                }
            }
            Ended::Blocked { outcome, sign, until } => {
                self.heed(&held, key, sign, outcome, now);
                if !is_looked_up {
                    self.block(key, held, until, now);
                }
            }
            Ended::NotNow(delay) => self.put_back(key, held, delay, now),
        }
        if is_looked_up {
            self.recover(endpoint_id);
        }
        // Not before what was blocked waits again, which is to be detached with the rest.
        if self
            .lanes
            .get(&endpoint_id)
            .is_some_and(|lane| !lane.breaker.is_closed())
        {
            self.detach(endpoint_id, None);
        }
        self.look_at(endpoint_id, now);
        if let Some(number) = held_for {
            self.settle_partition(number, now);
        }
    }

    /// Tells the lane what an attempt said of its endpoint.
    fn heed(&mut self, held: &Held<W>, key: AttemptKey, sign: Sign, outcome: Option<u64>, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(&held.endpoint_id)
            && lane.in_flight.remove(&key).is_some()
            && lane.heed(sign, outcome, now)
        {
            lane.want_save(Urgency::Now);
        }
    }

    /// An attempt that was not made, or not recorded, is to be made again after `delay`.
    fn put_back(&mut self, key: AttemptKey, mut held: Held<W>, delay: Duration, now: Instant) {
        held.waited += now - held.arrived;
        let Some(lane) = self.lanes.get_mut(&held.endpoint_id) else {
            // The lane that started it is gone. One that was read is read again.
            if held.pulled {
                let work = held.work;
                self.commands.push_back(Command::Park { work, delay });
            }
            return;
        };
        lane.in_flight.remove(&key);
        let is_left_over = held.life != lane.life;
        if lane
            .backlog()
            .is_some_and(|backlog| backlog.is_open(held.sequence))
        {
            // Read by the lane too, while it was in flight as pulled.
            return self.queue_again(
                key,
                Held {
                    pulled: false,
                    ..held
                },
                now + delay,
                now,
            );
        }
        if held.pulled && (is_left_over || !lane.settings.ordered) {
            let work = held.work;
            return self.commands.push_back(Command::Park { work, delay });
        }
        if is_left_over {
            // Read again, or done by now.
            return;
        }
        self.queue_again(key, held, now + delay, now);
    }

    /// Puts an item back into its lane, not to be started before `not_before`.
    pub(super) fn queue_again(&mut self, key: AttemptKey, held: Held<W>, not_before: Instant, now: Instant) {
        let queued = Queued {
            key,
            sequence: held.sequence,
            bytes: held.bytes,
            deadline: held.deadline,
            // One that was ended as over, and is not, was started early.
            not_before: held.not_before.max(Some(not_before)),
            fresh: false,
            // Somebody else may have had the lane in between.
            verify: held.verify
                || self
                    .lanes
                    .get(&held.endpoint_id)
                    .is_some_and(|lane| lane.life != held.life),
        };
        let item = Item {
            key,
            sequence: held.sequence,
            bytes: held.bytes,
            deadline: held.deadline,
            waited: held.waited,
            work: held.work,
        };
        self.hold(held.endpoint_id, item, held.pulled, queued, now);
    }
}
