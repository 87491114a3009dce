//! A scheduler that is told by hand what happens.

use std::time::Duration;

use cuitty_webhooks_domain::ids::DeliveryId;

use super::super::*;
use super::log::endpoint;

/// A command, as far as it matters here. Items are named by their sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// An attempt of this number.
    Start(u64, u32),
    /// An attempt, unless the log has its outcome.
    Verify(u64),
    /// Something is ended without a request.
    End(u64),
    Settle(u64),
    Park(u64),
    Recover,
    /// From a sequence on, so many items.
    Read(u64, usize),
    /// Whether as detached, with the cursor.
    Save(bool, u64),
    Pause,
    Resume,
    HandOver,
}

/// See the module. It holds partition 0 for an hour, and its items are 100 bytes each.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) scheduler: Scheduler<u64>,
    pub(super) now: Instant,
}

pub(super) fn settings() -> LaneSettings {
    LaneSettings {
        max_in_flight: 8,
        rate: None,
        ordered: false,
        active: true,
        probe_delays: Arc::new([Duration::from_secs(2), Duration::from_secs(8)]),
    }
}

pub(super) fn ordered() -> LaneSettings {
    LaneSettings {
        ordered: true,
        ..settings()
    }
}

impl Rig {
    pub(super) fn new(limits: Limits) -> Self {
        let mut rig = Self {
            scheduler: Scheduler::new(limits),
            now: Instant::now(),
        };
        rig.lease(Duration::from_hours(1));
        rig
    }

    pub(super) fn lease(&mut self, length: Duration) {
        let until = self.now + length;
        self.tell(Event::Leased { partition: 0, until });
    }

    pub(super) fn tell(&mut self, event: Event<u64>) {
        self.scheduler.handle_event(event, self.now);
    }

    pub(super) fn open(&mut self, number: u8, settings: LaneSettings, state: Option<LaneState>) {
        self.tell(Event::Lane {
            endpoint_id: endpoint(number),
            partition: 0,
            settings,
            state,
        });
    }

    /// What it has to say since it was last asked.
    pub(super) fn said(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while let Some(command) = self.scheduler.next_command() {
            said.push(match command {
                Command::Start {
                    work,
                    may_send: false,
                    ..
                } => Said::End(*work),
                Command::Start {
                    work, verify: true, ..
                } => Said::Verify(*work),
                Command::Start { key, work, .. } => Said::Start(*work, key.number),
                Command::Settle { work } => Said::Settle(*work),
                Command::Park { work, .. } => Said::Park(*work),
                Command::Progress { .. } => continue,
                Command::Recover { .. } => Said::Recover,
                Command::Read { from, room, .. } => Said::Read(from, room.items),
                Command::Save { state, .. } => Said::Save(state.detached, state.cursor),
                Command::Pause => Said::Pause,
                Command::Resume => Said::Resume,
                Command::HandOver { .. } => Said::HandOver,
            });
        }
        said
    }

    /// Lets time pass, and hears what it has to say.
    pub(super) fn wait(&mut self, span: Duration) -> Vec<Said> {
        let (end, mut said) = (self.now + span, self.said());
        while let Some(at) = self.scheduler.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.scheduler.handle_timeout(self.now);
            said.extend(self.said());
        }
        self.now = end;
        said
    }

    pub(super) fn item(&self, sequence: u64) -> Item<u64> {
        Item {
            key: AttemptKey {
                delivery_id: delivery(sequence),
                number: 1,
            },
            sequence,
            bytes: 100,
            deadline: self.now + Duration::from_hours(24),
            waited: Duration::ZERO,
            work: Arc::new(sequence),
        }
    }

    /// The consumer delivers items for the first time.
    pub(super) fn pull(&mut self, number: u8, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            let item = self.item(sequence);
            self.pull_item(number, item);
        }
    }

    pub(super) fn pull_item(&mut self, number: u8, item: Item<u64>) {
        let (endpoint_id, first) = (endpoint(number), true);
        self.tell(Event::Pulled {
            endpoint_id,
            item,
            first,
        });
    }

    /// A read has found these items, and nothing else up to `end`.
    pub(super) fn read(
        &mut self,
        number: u8,
        sequences: impl IntoIterator<Item = u64>,
        end: u64,
        at_tail: bool,
    ) {
        let items = sequences
            .into_iter()
            .map(|sequence| self.item(sequence))
            .collect();
        let lane = self.lane(number);
        self.tell(Event::Read {
            lane,
            items,
            end,
            at_tail,
        });
    }

    pub(super) fn saved(&mut self, number: u8) {
        let lane = self.lane(number);
        self.tell(Event::Saved { lane });
    }

    /// A recovery has found that everything up to `cursor` is done, and nothing else.
    pub(super) fn recovered(&mut self, number: u8, cursor: u64) {
        let recovered = Recovered {
            state: detached(cursor),
            known: HashMap::new(),
            outcomes_to: cursor,
        };
        let lane = self.lane(number);
        self.tell(Event::Recovered { lane, recovered });
    }

    fn lane(&self, number: u8) -> LaneId {
        let endpoint_id = endpoint(number);
        let life = self.scheduler.lanes[&endpoint_id].life;
        LaneId { endpoint_id, life }
    }

    /// An attempt ends, and its outcome is recorded.
    pub(super) fn end(&mut self, sequence: u64, sign: Sign) {
        let outcome = Some(sequence + 1000);
        self.ended(sequence, Ended::Recorded { outcome, sign });
    }

    /// An attempt of an ordered endpoint fails, and the next one is due after `delay`.
    pub(super) fn block(&mut self, sequence: u64, delay: Duration) {
        let until = self.now + delay;
        let (outcome, sign) = (Some(sequence + 1000), Sign::Refusal);
        self.ended(sequence, Ended::Blocked { outcome, sign, until });
    }

    fn ended(&mut self, sequence: u64, ended: Ended) {
        let is_it = |held: &Held<u64>| held.sequence == sequence && held.in_flight.is_some();
        let (&key, _) = self.scheduler.held.iter().find(|(_, held)| is_it(held)).unwrap();
        self.tell(Event::Ended { key, ended });
    }
}

/// The delivery that the item at `sequence` is for.
pub(super) fn delivery(sequence: u64) -> DeliveryId {
    format!("dlv_{sequence:026}").parse().unwrap()
}

/// What is saved of a detached lane.
pub(super) fn detached(cursor: u64) -> LaneState {
    LaneState {
        detached: true,
        floor: cursor,
        cursor,
        done: Vec::new(),
        outcomes_from: cursor,
        health: Health {
            breaker: BreakerState::Closed,
            consecutive_failures: 0,
        },
        blocked: None,
    }
}
