//! Random histories of a world.

use std::time::Duration;

use cuitty_webhooks_domain::ids::DeliveryId;
use proptest::prelude::*;

use super::super::*;
use super::log::endpoint;
use super::receiver::{Mood, Setup};
use super::world::{Told, World};

/// Something that happens to a world.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Request {
        endpoint: u8,
        count: u8,
        bytes: usize,
        patience: Option<u64>,
    },
    Behave {
        endpoint: u8,
        mood: Mood,
    },
    Configure {
        endpoint: u8,
        max_in_flight: u32,
        rate: Option<u32>,
        active: bool,
        probe: bool,
    },
    Cancel {
        delivery: usize,
    },
    Wait {
        millis: u64,
    },
    /// A dispatcher's loop does nothing for a while.
    Stall {
        dispatcher: usize,
        millis: u64,
    },
    Crash {
        dispatcher: usize,
        millis: u64,
    },
    /// A dispatcher cannot renew its leases for a while.
    Cut {
        dispatcher: usize,
        millis: u64,
    },
    /// The log is slow for a while.
    Slow {
        millis: u64,
    },
    /// A partition is to have another owner.
    Move {
        partition: u16,
    },
    Drain {
        dispatcher: usize,
    },
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        3 => Just(Mood::Good),
        2 => Just(Mood::Flaky),
        1 => Just(Mood::Refusing),
        2 => Just(Mood::Failing),
        1 => Just(Mood::Throttling),
        1 => Just(Mood::Hanging),
    ]
}

fn rate() -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(0.3, 1..20u32)
}

/// Up to `most` endpoints, of which this share is ordered.
fn setups(most: usize, ordered: f64) -> impl Strategy<Value = Vec<Setup>> {
    let setup = (prop::bool::weighted(ordered), 1..4u32, rate(), mood());
    let setup = setup.prop_map(|(ordered, max_in_flight, rate, mood)| Setup {
        ordered,
        max_in_flight,
        rate,
        mood,
    });
    prop::collection::vec(setup, 1..=most)
}

/// Up to 100 steps, with so many faults among 40 of them.
fn steps(faults: u32) -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        (0..2usize, 1..9000u64).prop_map(|(dispatcher, millis)| Step::Stall { dispatcher, millis }),
        (0..2usize, 1..9000u64).prop_map(|(dispatcher, millis)| Step::Crash { dispatcher, millis }),
        (0..2usize, 1..9000u64).prop_map(|(dispatcher, millis)| Step::Cut { dispatcher, millis }),
        (1..9000u64).prop_map(|millis| Step::Slow { millis }),
        (0..2u16).prop_map(|partition| Step::Move { partition }),
        (0..2usize).prop_map(|dispatcher| Step::Drain { dispatcher }),
    ];
    let step = prop_oneof![
        14 => (any::<u8>(), 1..7u8, 1..1000usize, prop::option::weighted(0.1, 1000..60_000u64))
            .prop_map(|(endpoint, count, bytes, patience)| Step::Request { endpoint, count, bytes, patience }),
        4 => (any::<u8>(), mood()).prop_map(|(endpoint, mood)| Step::Behave { endpoint, mood }),
        2 => (any::<u8>(), 1..4u32, rate(), prop::bool::weighted(0.8), any::<bool>()).prop_map(
            |(endpoint, max_in_flight, rate, active, probe)| {
                Step::Configure { endpoint, max_in_flight, rate, active, probe }
            }
        ),
        2 => any::<usize>().prop_map(|delivery| Step::Cancel { delivery }),
        10 => (1..2000u64).prop_map(|millis| Step::Wait { millis }),
        3 => (2000..12_000u64).prop_map(|millis| Step::Wait { millis }),
        faults => fault,
    ];
    prop::collection::vec(step, 0..100)
}

/// What all lanes may hold together: little, so that pulls are paused, or enough for each.
fn total() -> impl Strategy<Value = usize> {
    prop_oneof![4..12usize, 12..64usize]
}

pub(super) fn limits() -> Limits {
    Limits {
        max_in_flight: 4,
        lane: Room {
            items: 4,
            bytes: 4000,
        },
        total: Room {
            items: 64,
            bytes: 64_000,
        },
        window: Room {
            items: 6,
            bytes: 3000,
        },
        progress_interval: Duration::from_secs(2),
        save_interval: Duration::from_secs(1),
        remembered: 1000,
        breaker: BreakerRules {
            consecutive_failures: 3,
            failure_ratio: 0.5,
            min_attempts: 6,
            window: Duration::from_secs(30),
            max_probe_delay: Duration::from_secs(6),
        },
    }
}

impl World {
    fn pick(&self, endpoint: u8) -> u8 {
        endpoint % self.receivers.len() as u8
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Request {
                endpoint,
                count,
                bytes,
                patience,
            } => {
                let endpoint = self.pick(endpoint);
                let deadline = self.now + Duration::from_millis(patience.unwrap_or(24 * 3_600_000));
                (0..count).for_each(|_| self.log.request(endpoint, bytes, deadline));
            }
            Step::Behave { endpoint, mood } => {
                let endpoint = self.pick(endpoint);
                self.receivers[usize::from(endpoint)].mood = mood;
            }
            Step::Configure {
                endpoint,
                max_in_flight,
                rate,
                active,
                probe,
            } => {
                let numeral = self.pick(endpoint);
                let settings = &mut self.receivers[usize::from(numeral)].settings;
                (settings.max_in_flight, settings.rate, settings.active) = (max_in_flight, rate, active);
                self.configured(numeral, probe);
            }
            Step::Cancel { delivery } if !self.log.order.is_empty() => {
                let delivery_id = self.log.order[delivery % self.log.order.len()];
                self.cancel(delivery_id);
            }
            Step::Cancel { .. } => {}
            Step::Wait { millis } => self.run(Duration::from_millis(millis)),
            Step::Stall { dispatcher, millis } => {
                self.dispatchers[dispatcher].stalled_until = self.now + Duration::from_millis(millis);
            }
            Step::Crash { dispatcher, millis } => self.crash(dispatcher, Duration::from_millis(millis)),
            Step::Cut { dispatcher, millis } => {
                self.dispatchers[dispatcher].cut_until = self.now + Duration::from_millis(millis);
            }
            Step::Slow { millis } => self.slow_until = self.now + Duration::from_millis(millis),
            Step::Move { partition } => self.wanted[usize::from(partition)] ^= 1,
            Step::Drain { dispatcher } => self.drain(dispatcher),
        }
        self.run(Duration::ZERO);
    }

    pub(super) fn cancel(&mut self, delivery_id: DeliveryId) {
        let delivery = self.log.deliveries.get_mut(&delivery_id).unwrap();
        delivery.is_cancelled = true;
        let endpoint_id = endpoint(delivery.endpoint);
        for index in 0..self.dispatchers.len() {
            self.tell(
                index,
                Told::Event(Event::Cancelled {
                    endpoint_id,
                    delivery_id,
                }),
            );
        }
    }

    /// Tells everybody how an endpoint is configured.
    pub(super) fn configured(&mut self, numeral: u8, probe: bool) {
        for index in 0..self.dispatchers.len() {
            let settings = self.receivers[usize::from(numeral)].settings.clone();
            let endpoint_id = endpoint(numeral);
            self.tell(
                index,
                Told::Event(Event::Changed {
                    endpoint_id,
                    settings,
                    probe,
                }),
            );
        }
    }

    /// Mends everything, and waits until everything is done.
    pub(super) fn come_to_rest(&mut self) {
        for numeral in 0..self.receivers.len() as u8 {
            self.receivers[usize::from(numeral)].mood = Mood::Good;
            self.receivers[usize::from(numeral)].settings.active = true;
            self.configured(numeral, false);
        }
        self.slow_until = self.now;
        for this in &mut self.dispatchers {
            (this.stalled_until, this.cut_until) =
                (this.stalled_until.min(self.now), this.cut_until.min(self.now));
        }
        for _ in 0..120 {
            self.run(Duration::from_secs(5));
            if self.unfinished().is_none() {
                return;
            }
        }
        panic!("{}", self.unfinished().unwrap_or_default());
    }
}

fn keeps_the_rules(seed: u64, items: usize, setups: &[Setup], steps: &[Step]) {
    let total = Room {
        items,
        bytes: items * 1000,
    };
    let mut world = World::new(seed, Limits { total, ..limits() }, setups);
    for step in steps {
        world.step(step);
    }
    world.come_to_rest();
}

// Whatever happens, no rule of `checks` is broken, and everything comes to its end once the faults stop.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn any_history_keeps_the_rules(
        seed: u64,
        items in total(),
        setups in setups(5, 0.4),
        steps in steps(10),
    ) {
        keeps_the_rules(seed, items, &setups, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_history_of_ordered_endpoints_with_many_faults_keeps_the_rules(
        seed: u64,
        items in total(),
        setups in setups(2, 1.0),
        steps in steps(20),
    ) {
        keeps_the_rules(seed, items, &setups, &steps);
    }
}
