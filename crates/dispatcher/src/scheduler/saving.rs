//! What of a lane is saved, and when it may be relied on.

use cuitty_webhooks_domain::ids::EndpointId;
use tokio::time::Instant;

use super::Scheduler;
use super::interface::{Command, LaneId};
use super::lane::{Feed, Urgency};

impl<W> Scheduler<W> {
    /// Saves a lane that is to be saved now.
    pub(super) fn save(&mut self, endpoint_id: EndpointId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        if let Feed::Rejoining { backlog } = &lane.feed
            && backlog.is_done()
        {
            lane.want_save(Urgency::Now);
        }
        if lane.save_at(self.limits.save_interval).is_none_or(|at| at > now) {
            return;
        }
        let state = lane.state();
        lane.saves.wanted = None;
        lane.saves.running = Some(state.detached);
        lane.saves.last = now;
        let life = lane.life;
        let lane = LaneId { endpoint_id, life };
        self.commands.push_back(Command::Save { lane, state });
    }

    /// What was saved may be relied on.
    pub(super) fn saved(&mut self, endpoint_id: EndpointId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&endpoint_id) else {
            return;
        };
        let Some(was_detached) = lane.saves.running.take() else {
            return;
        };
        // What was saved when the lease had run out may come after what the next owner has read.
        let is_certain = self
            .partitions
            .get(&lane.partition)
            .is_some_and(|partition| partition.leased_until.is_some());
        let feed = std::mem::replace(&mut lane.feed, Feed::Live { handled: (0, 0) });
        lane.feed = match feed {
            // Nothing else was asked for since, so this is the save that says it.
            Feed::Detaching { backlog, unread }
                if was_detached && is_certain && lane.saves.wanted != Some(Urgency::Now) =>
            {
                self.apart = self.apart.minus(std::mem::take(&mut lane.apart));
                self.skipped += unread.len() as u64;
                self.commands
                    .extend(unread.into_values().map(|work| Command::Settle { work }));
                Feed::Detached { backlog }
            }
            Feed::Rejoining { backlog } if !was_detached && backlog.is_done() => Feed::Live {
                handled: (backlog.floor(), backlog.cursor()),
            },
            other => other,
        };
        let number = lane.partition;
        self.look_at(endpoint_id, now);
        self.settle_partition(number, now);
    }
}
