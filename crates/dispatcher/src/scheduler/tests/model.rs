//! A model of the scheduler that knows only what was told and what was commanded, and checks the rules.

use proptest::prelude::*;

use super::super::*;

pub(super) const PARTITIONS: u16 = 3;
pub(super) const ENDPOINTS: u8 = 7;
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

pub(super) fn endpoint(number: u8) -> EndpointId {
    format!("ep_{number:026}").parse().unwrap()
}

pub(super) fn key(delivery: u16) -> AttemptKey {
    AttemptKey {
        delivery_id: format!("dlv_{delivery:026}").parse().unwrap(),
        number: 1,
    }
}

pub(super) fn limits(max_in_flight: usize) -> Limits {
    Limits {
        max_in_flight,
        lane: Room {
            items: 4,
            bytes: 4000,
        },
        total: Room {
            items: 10,
            bytes: 10_000,
        },
        overflow_delay: Duration::from_secs(5),
        progress_interval: INTERVAL,
        remembered: 8,
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Arrive {
        endpoint: u8,
        delivery: u16,
        bytes: usize,
    },
    Finish {
        index: usize,
        settled: bool,
    },
    Lease {
        partition: u16,
        millis: u64,
    },
    Release {
        partition: u16,
    },
    Lose {
        partition: u16,
    },
    Cap {
        endpoint: u8,
        cap: u32,
    },
    Wait {
        millis: u64,
    },
    /// The loop is late: time passes without the scheduler being woken.
    Stall {
        millis: u64,
    },
    Drain,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..ENDPOINTS, 0..200u16, 1..1500usize)
            .prop_map(|(endpoint, delivery, bytes)| Step::Arrive { endpoint, delivery: delivery * 8 + u16::from(endpoint), bytes }),
        8 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(index, settled)| Step::Finish { index, settled }),
        3 => (0..PARTITIONS, 1..6000u64).prop_map(|(partition, millis)| Step::Lease { partition, millis }),
        1 => (0..PARTITIONS).prop_map(|partition| Step::Release { partition }),
        1 => (0..PARTITIONS).prop_map(|partition| Step::Lose { partition }),
        1 => (0..ENDPOINTS, 1..4u32).prop_map(|(endpoint, cap)| Step::Cap { endpoint, cap }),
        3 => (1..3000u64).prop_map(|millis| Step::Wait { millis }),
        1 => (1..3000u64).prop_map(|millis| Step::Stall { millis }),
    ];
    (
        prop::collection::vec(step, 0..150),
        prop::option::weighted(0.1, 0..150usize),
    )
        .prop_map(|(mut steps, drain)| {
            if let Some(at) = drain {
                steps.insert(at.min(steps.len()), Step::Drain);
            }
            steps
        })
}

/// An item that was taken in.
#[derive(Debug)]
struct Taken {
    endpoint: u8,
    work: u64,
    is_started: bool,
    heard_of: Instant,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) scheduler: Scheduler<u64>,
    limits: Limits,
    pub(super) now: Instant,
    pub(super) works: u64,
    /// Which attempt a work item is for.
    pub(super) keys: HashMap<u64, AttemptKey>,
    taken: HashMap<AttemptKey, Taken>,
    /// By endpoint, in the order of arrival.
    queues: BTreeMap<u8, VecDeque<AttemptKey>>,
    pub(super) caps: [u32; ENDPOINTS as usize],
    served: BTreeMap<u8, u64>,
    starts: u64,
    settled: Vec<AttemptKey>,
    leased_until: HashMap<u16, Instant>,
    /// Since when.
    pub(super) releasing: BTreeMap<u16, Instant>,
    pub(super) paused: BTreeSet<u16>,
    is_draining: bool,
    /// Whether time has passed that the scheduler has not been told of.
    is_late: bool,
}

impl Model {
    pub(super) fn new(max_in_flight: usize) -> Self {
        let limits = limits(max_in_flight);
        Self {
            scheduler: Scheduler::new(limits),
            limits,
            now: Instant::now(),
            works: 0,
            keys: HashMap::new(),
            taken: HashMap::new(),
            queues: BTreeMap::new(),
            caps: [2; ENDPOINTS as usize],
            served: BTreeMap::new(),
            starts: 0,
            settled: Vec::new(),
            leased_until: HashMap::new(),
            releasing: BTreeMap::new(),
            paused: BTreeSet::new(),
            is_draining: false,
            is_late: false,
        }
    }

    fn partition(endpoint: u8) -> u16 {
        u16::from(endpoint) % PARTITIONS
    }

    pub(super) fn in_flight(&self, endpoint: Option<u8>) -> usize {
        let counts =
            |taken: &&Taken| taken.is_started && endpoint.is_none_or(|endpoint| taken.endpoint == endpoint);
        self.taken.values().filter(counts).count()
    }

    fn partition_in_flight(&self, partition: u16) -> usize {
        self.taken
            .values()
            .filter(|taken| taken.is_started && Self::partition(taken.endpoint) == partition)
            .count()
    }

    fn is_leased(&self, partition: u16) -> bool {
        self.leased_until
            .get(&partition)
            .is_some_and(|&until| self.now < until)
    }

    /// When the lane would be served, were a slot free; `None` when it has nothing to start.
    fn turn(&self, endpoint: u8) -> Option<(usize, u64)> {
        let in_flight = self.in_flight(Some(endpoint));
        let waits = self.queues.get(&endpoint).is_some_and(|queue| !queue.is_empty());
        (waits
            && in_flight < self.caps[endpoint as usize] as usize
            && self.is_leased(Self::partition(endpoint)))
        .then(|| (in_flight, self.served.get(&endpoint).copied().unwrap_or(0)))
    }

    pub(super) fn step(&mut self, step: &Step) {
        if let Step::Lease { .. } | Step::Release { .. } | Step::Lose { .. } = step {
            // What the time asked for comes first, so that what follows is this step's doing.
            self.wait(Duration::ZERO);
        }
        match *step {
            Step::Arrive {
                endpoint,
                delivery,
                bytes,
            } => self.arrive(endpoint, key(delivery), bytes),
            Step::Finish { index, settled } => {
                let mut started: Vec<_> = self
                    .taken
                    .iter()
                    .filter(|(_, taken)| taken.is_started)
                    .map(|(&key, _)| key)
                    .collect();
                started.sort();
                if !started.is_empty() {
                    self.finish(started[index % started.len()], settled);
                }
            }
            Step::Lease { partition, millis } => {
                let until = self.now + Duration::from_millis(millis);
                self.leased_until.insert(partition, until);
                self.releasing.remove(&partition);
                self.event(Event::Leased { partition, until });
            }
            Step::Release { partition } => {
                self.leased_until.remove(&partition);
                self.releasing.insert(partition, self.now);
                self.event(Event::Releasing { partition });
                assert!(!self.waits_in(partition), "what waited was given back");
            }
            Step::Lose { partition } => {
                self.leased_until.remove(&partition);
                self.releasing.remove(&partition);
                for (_, queue) in self
                    .queues
                    .iter_mut()
                    .filter(|(endpoint, _)| Self::partition(**endpoint) == partition)
                {
                    for key in queue.drain(..) {
                        self.taken.remove(&key);
                    }
                }
                self.event(Event::Lost { partition });
            }
            Step::Cap {
                endpoint: number,
                cap,
            } => {
                if self.scheduler.has_lane(endpoint(number)) {
                    self.caps[number as usize] = cap;
                    self.event(Event::Capped {
                        endpoint_id: endpoint(number),
                        max_in_flight: cap,
                    });
                }
            }
            Step::Wait { millis } => self.wait(Duration::from_millis(millis)),
            Step::Stall { millis } => {
                self.now += Duration::from_millis(millis);
                self.taken
                    .values_mut()
                    .for_each(|taken| taken.heard_of = self.now);
                self.is_late = true;
            }
            Step::Drain => {
                self.is_draining = true;
                self.event(Event::Drain);
                assert_eq!(self.scheduler.stats().queued, Room::default());
            }
        }
        self.check();
    }

    fn arrive(&mut self, number: u8, key: AttemptKey, bytes: usize) {
        self.works += 1;
        let work = self.works;
        self.keys.insert(work, key);
        let is_known = self.taken.contains_key(&key);
        let lane_is_new = !self.scheduler.has_lane(endpoint(number));
        let item = Item {
            key,
            endpoint_id: endpoint(number),
            partition: Self::partition(number),
            bytes,
            max_in_flight: self.caps[number as usize],
            work: Arc::new(work),
        };
        self.is_late = false;
        self.scheduler.handle_event(Event::Arrived(item), self.now);
        let commands: Vec<_> = std::iter::from_fn(|| self.scheduler.next_command()).collect();
        let is_returned = commands.iter().any(|command| match command {
            Command::Park { work: parked, .. } | Command::Settle { work: parked } => **parked == work,
            _ => false,
        });
        if !is_known && !is_returned {
            assert!(
                self.is_leased(Self::partition(number)) && !self.is_draining,
                "taken without a lease"
            );
            if lane_is_new {
                self.served.insert(number, self.starts);
            }
            self.queues.entry(number).or_default().push_back(key);
            self.taken.insert(
                key,
                Taken {
                    endpoint: number,
                    work,
                    is_started: false,
                    heard_of: self.now,
                },
            );
        }
        for command in commands {
            self.obey(command);
        }
    }

    pub(super) fn finish(&mut self, key: AttemptKey, settled: bool) {
        self.taken.remove(&key).unwrap();
        if settled {
            self.settled.push(key);
        }
        self.event(Event::Finished { key, settled });
    }

    fn event(&mut self, event: Event<u64>) {
        self.is_late = false;
        self.scheduler.handle_event(event, self.now);
        self.obey_all();
    }

    /// Lets time pass, waking the scheduler whenever it asks for it.
    pub(super) fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(wake) = self.scheduler.poll_timeout().filter(|&wake| wake <= end) {
            self.now = self.now.max(wake);
            self.scheduler.handle_timeout(self.now);
            self.obey_all();
            assert!(
                self.scheduler.poll_timeout().is_none_or(|next| next > self.now),
                "woken for nothing"
            );
        }
        self.now = end;
        self.is_late = false;
    }

    fn obey_all(&mut self) {
        while let Some(command) = self.scheduler.next_command() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command<u64>) {
        match command {
            Command::Start { key, work, .. } => {
                let (number, started) = (self.taken[&key].endpoint, self.taken[&key].is_started);
                assert!(!started && self.taken[&key].work == *work, "started twice");
                let turn = self.turn(number).expect("lane may start");
                for other in 0..ENDPOINTS {
                    assert!(
                        self.turn(other).is_none_or(|other| turn <= other),
                        "{number} went before {other}"
                    );
                }
                assert_eq!(
                    self.queues.get_mut(&number).unwrap().pop_front(),
                    Some(key),
                    "out of order"
                );
                self.starts += 1;
                self.served.insert(number, self.starts);
                self.taken.get_mut(&key).unwrap().is_started = true;
                assert!(self.in_flight(None) <= self.limits.max_in_flight);
            }
            Command::Park { work, delay } => {
                let key = self.keys[&*work];
                if self.taken.get(&key).is_some_and(|taken| taken.work == *work) {
                    let taken = self.taken.remove(&key).unwrap();
                    assert!(!taken.is_started);
                    self.queues
                        .get_mut(&taken.endpoint)
                        .unwrap()
                        .retain(|&waiting| waiting != key);
                    assert_eq!(delay, HAND_OVER_DELAY);
                }
            }
            Command::Settle { work } => assert!(self.settled.contains(&self.keys[&*work])),
            Command::Progress { work } => {
                let taken = self.taken.get_mut(&self.keys[&*work]).expect("held");
                assert_eq!(taken.work, *work);
                taken.heard_of = self.now;
            }
            Command::Pause { partition } => assert!(self.paused.insert(partition)),
            Command::Resume { partition } => assert!(self.paused.remove(&partition)),
            Command::HandOver { partition } => {
                let since = self.releasing.remove(&partition).expect("asked for");
                if self.now < since + HAND_OVER_PATIENCE {
                    assert_eq!(self.partition_in_flight(partition), 0);
                }
            }
        }
    }

    fn waits_in(&self, partition: u16) -> bool {
        self.queues
            .iter()
            .any(|(&endpoint, queue)| Self::partition(endpoint) == partition && !queue.is_empty())
    }

    /// What holds after every step.
    fn check(&self) {
        if self.is_late {
            return;
        }
        let stats = self.scheduler.stats();
        let waiting = self.taken.values().filter(|taken| !taken.is_started).count();
        assert_eq!(
            (stats.in_flight, stats.queued.items),
            (self.in_flight(None), waiting)
        );
        assert!(
            self.limits.total.times(2).takes(stats.queued),
            "{:?}",
            stats.queued
        );
        for (endpoint, queue) in &self.queues {
            assert!(queue.len() <= 2 * self.limits.lane.items, "lane {endpoint}");
        }
        if stats.in_flight < self.limits.max_in_flight {
            let idle: Vec<_> = (0..ENDPOINTS)
                .filter(|&endpoint| self.turn(endpoint).is_some())
                .collect();
            assert_eq!(idle, [] as [u8; 0], "a slot is free, these lanes wait");
        }
        for taken in self.taken.values() {
            assert!(self.now - taken.heard_of <= INTERVAL, "held in silence");
        }
        for (&partition, &since) in &self.releasing {
            assert_ne!(self.partition_in_flight(partition), 0, "could be handed over");
            assert!(self.now < since + HAND_OVER_PATIENCE, "waited for too long");
        }
        for &partition in &self.paused {
            assert!(self.waits_in(partition), "paused for nothing");
        }
    }

    /// Renews every lease and ends every attempt until nothing is left.
    pub(super) fn run_dry(&mut self) {
        for partition in 0..PARTITIONS {
            self.step(&Step::Lease {
                partition,
                millis: 3_600_000,
            });
        }
        let bound = self.taken.len();
        for _ in 0..bound {
            let Some(key) = self
                .taken
                .iter()
                .find(|(_, taken)| taken.is_started)
                .map(|(&key, _)| key)
            else {
                break;
            };
            self.finish(key, true);
            self.check();
        }
        assert!(self.taken.is_empty(), "left over: {:?}", self.taken);
        let stats = self.scheduler.stats();
        let expected = Stats {
            duplicates: stats.duplicates,
            ..Stats::default()
        };
        assert_eq!(stats, expected);
        assert!(self.paused.is_empty());
    }
}
