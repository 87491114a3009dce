//! Several planners over a simulated bucket: messages take time, answers are lost, members die, the server goes away.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::roster::{Written, member_key, partition_key};
use super::*;

const TTL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(50);
const PARTITIONS: u16 = 8;

/// What happens to the members.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Join(usize),
    Kill(usize),
    Retire(usize),
    Outage { millis: u64 },
}

/// A message on its way.
enum Message {
    Beat,
    Ask {
        partition: u16,
        request: Request,
        sent: Instant,
    },
    Answer {
        partition: u16,
        request: Request,
        answer: Answer,
    },
    Wrote(Written),
    CaughtUp,
    /// The dispatcher has finished with the partition.
    Finished(u16),
}

struct Node {
    id: String,
    incarnation: u32,
    value: Bytes,
    planner: Planner,
}

struct Stored {
    value: Bytes,
    at: Instant,
    revision: u64,
}

struct Simulation {
    start: Instant,
    now: Instant,
    rng: StdRng,
    nodes: Vec<Option<Node>>,
    incarnations: u32,
    bucket: BTreeMap<String, Stored>,
    revision: u64,
    /// Whether one answer in twenty is lost on the way.
    is_lossy: bool,
    /// When the server is back, while it is away.
    away_until: Option<Instant>,
    /// By time of arrival and order of sending: to which node of which incarnation.
    wire: BTreeMap<(Instant, u64), (usize, u32, Message)>,
    sent: u64,
    /// By partition, the epoch of the last one who acquired it.
    epochs: BTreeMap<u16, u64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            rng: StdRng::seed_from_u64(seed),
            nodes: (0..4).map(|_| None).collect(),
            incarnations: 0,
            bucket: BTreeMap::new(),
            revision: 0,
            is_lossy: false,
            away_until: None,
            wire: BTreeMap::new(),
            sent: 0,
            epochs: BTreeMap::new(),
        }
    }

    fn send(&mut self, delay: Duration, node: usize, incarnation: u32, message: Message) {
        self.sent += 1;
        self.wire
            .insert((self.now + delay, self.sent), (node, incarnation, message));
    }

    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(0..150))
    }

    /// Writes the key and shows it to everybody, in order.
    fn write(&mut self, key: String, value: Option<Bytes>) -> u64 {
        self.revision += 1;
        match &value {
            Some(value) => {
                let stored = Stored {
                    value: value.clone(),
                    at: self.now,
                    revision: self.revision,
                };
                self.bucket.insert(key.clone(), stored);
            }
            None => drop(self.bucket.remove(&key)),
        }
        let stored_at = (self.now - self.start).as_nanos() as i128;
        let written = Written {
            key,
            value: value.map(|value| value.to_vec()),
            stored_at,
        };
        for node in 0..self.nodes.len() {
            if let Some(incarnation) = self.nodes[node].as_ref().map(|node| node.incarnation) {
                self.send(
                    Duration::from_millis(100),
                    node,
                    incarnation,
                    Message::Wrote(written.clone()),
                );
            }
        }
        self.revision
    }

    /// Shows a node all that the bucket holds.
    fn attach(&mut self, node: usize) {
        let Some(incarnation) = self.nodes[node].as_ref().map(|node| node.incarnation) else {
            return;
        };
        let held: Vec<_> = self
            .bucket
            .iter()
            .map(|(key, stored)| Written {
                key: key.clone(),
                value: Some(stored.value.to_vec()),
                stored_at: (stored.at - self.start).as_nanos() as i128,
            })
            .collect();
        for written in held {
            self.send(Duration::ZERO, node, incarnation, Message::Wrote(written));
        }
        self.send(Duration::ZERO, node, incarnation, Message::CaughtUp);
    }

    fn cause(&mut self, fault: Fault) {
        match fault {
            Fault::Join(node) if self.nodes[node].is_none() && self.away_until.is_none() => {
                self.incarnations += 1;
                let id = format!("dispatcher-{node}");
                let value = Bytes::from(format!("{id} {}", self.incarnations));
                let planner = Planner::new(&id, value.clone(), TTL, PARTITIONS, self.now);
                self.write(member_key(&id), Some(value.clone()));
                self.nodes[node] = Some(Node {
                    id,
                    incarnation: self.incarnations,
                    value,
                    planner,
                });
                self.attach(node);
            }
            Fault::Join(_) => {}
            Fault::Kill(node) => self.nodes[node] = None,
            Fault::Retire(node) => {
                let Some(retired) = &mut self.nodes[node] else {
                    return;
                };
                retired.planner.retire();
                let key = member_key(&retired.id);
                self.write(key, None);
            }
            Fault::Outage { millis } => {
                self.away_until = Some(self.now + Duration::from_millis(millis));
                for node in self.nodes.iter_mut().flatten() {
                    node.planner.detached();
                }
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        self.bucket.retain(|_, stored| stored.at + TTL > now);
        if self.away_until.is_some_and(|until| until <= now) {
            self.away_until = None;
            for node in 0..self.nodes.len() {
                self.attach(node);
            }
        }
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= now) {
            let (node, incarnation, message) = entry.remove();
            self.deliver(node, incarnation, message);
        }
        for node in 0..self.nodes.len() {
            let Some(member) = &mut self.nodes[node] else {
                continue;
            };
            let incarnation = member.incarnation;
            for action in member.planner.poll(now) {
                match action {
                    Action::Beat => {
                        let latency = self.latency();
                        self.send(latency, node, incarnation, Message::Beat);
                    }
                    Action::Request(partition, request) => {
                        let latency = self.latency();
                        self.send(
                            latency,
                            node,
                            incarnation,
                            Message::Ask {
                                partition,
                                request,
                                sent: now,
                            },
                        );
                    }
                    Action::Tell(event) => self.told(node, incarnation, event),
                }
            }
        }
        self.check();
    }

    fn told(&mut self, node: usize, incarnation: u32, event: MembershipEvent) {
        match event {
            MembershipEvent::Acquired { partition, epoch } => {
                let last = self.epochs.insert(partition, epoch);
                assert!(
                    last.is_none_or(|last| last < epoch),
                    "epochs of {partition}: {last:?}, then {epoch}"
                );
            }
            MembershipEvent::Release { partition } => {
                let delay = Duration::from_millis(self.rng.random_range(0..3_000));
                self.send(delay, node, incarnation, Message::Finished(partition));
            }
            MembershipEvent::Lost { .. } => {}
        }
    }

    fn deliver(&mut self, index: usize, incarnation: u32, message: Message) {
        let now = self.now;
        let is_away = self.away_until.is_some();
        let node = self.nodes[index]
            .as_mut()
            .filter(|node| node.incarnation == incarnation);
        match (message, node) {
            (Message::Beat, Some(node)) if !is_away => {
                let (key, value) = (member_key(&node.id), node.value.clone());
                if !node.planner.is_retiring {
                    self.write(key, Some(value));
                }
            }
            (
                Message::Ask {
                    partition,
                    request,
                    sent,
                },
                Some(node),
            ) => {
                let value = node.value.clone();
                let mut answer = if is_away {
                    Answer::Unknown
                } else {
                    self.ask(partition, request, &value, sent)
                };
                let mut latency = self.latency();
                if is_away || (self.is_lossy && self.rng.random_bool(0.05)) {
                    answer = Answer::Unknown;
                    latency = TTL / 3;
                }
                self.send(
                    latency,
                    index,
                    incarnation,
                    Message::Answer {
                        partition,
                        request,
                        answer,
                    },
                );
            }
            (
                Message::Answer {
                    partition,
                    request,
                    answer,
                },
                Some(node),
            ) => {
                if let Some(event) = node.planner.answered(partition, request, answer, now) {
                    self.told(index, incarnation, event);
                }
            }
            (Message::Wrote(written), Some(node)) if !is_away => node.planner.roster.written(written, now),
            (Message::CaughtUp, Some(node)) => node.planner.following(now),
            (Message::Finished(partition), Some(node)) => node.planner.released(partition, now),
            _ => {}
        }
    }

    /// What the server, and the lease over it, make of a request.
    fn ask(&mut self, partition: u16, request: Request, value: &Bytes, sent: Instant) -> Answer {
        let key = partition_key(partition);
        let is_ours = self.bucket.get(&key).is_some_and(|stored| stored.value == value);
        match request {
            Request::Acquire if is_ours || !self.bucket.contains_key(&key) => {
                let epoch = self.write(key, Some(value.clone()));
                Answer::Held {
                    until: sent + TTL,
                    epoch,
                }
            }
            Request::Renew if is_ours => {
                let epoch = self.write(key, Some(value.clone()));
                Answer::Held {
                    until: sent + TTL,
                    epoch,
                }
            }
            Request::Release if is_ours => {
                self.write(key, None);
                Answer::NotHeld
            }
            Request::Acquire | Request::Renew | Request::Release => Answer::NotHeld,
        }
    }

    fn holders(&self, partition: u16) -> Vec<&str> {
        let holds = |node: &&Node| {
            node.planner
                .held_until(partition)
                .is_some_and(|until| self.now < until)
        };
        self.nodes
            .iter()
            .flatten()
            .filter(holds)
            .map(|node| node.id.as_str())
            .collect()
    }

    fn check(&self) {
        for partition in 0..PARTITIONS {
            let holders = self.holders(partition);
            assert!(holders.len() <= 1, "partition {partition} is held by {holders:?}");
        }
        for stored in self.bucket.values() {
            assert!(stored.revision <= self.revision);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn assert_settled(&self) {
        let members: Vec<&str> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| !node.planner.is_retiring)
            .map(|node| node.id.as_str())
            .collect();
        let owners = rendezvous::owners(members.iter().copied(), PARTITIONS);
        for partition in 0..PARTITIONS {
            let owner = owners.get(usize::from(partition)).copied();
            assert_eq!(
                self.holders(partition),
                Vec::from_iter(owner),
                "partition {partition} of {members:?}"
            );
        }
    }
}

fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let fault = prop_oneof![
        3 => (0usize..4).prop_map(Fault::Join),
        2 => (0usize..4).prop_map(Fault::Kill),
        1 => (0usize..4).prop_map(Fault::Retire),
        1 => (100u64..12_000).prop_map(|millis| Fault::Outage { millis }),
    ];
    proptest::collection::vec((0u64..6_000, fault), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_partition_never_has_two_owners_and_ends_with_the_right_one(faults in faults(), seed: u64) {
        let mut simulation = Simulation::new(seed);
        simulation.is_lossy = true;
        simulation.cause(Fault::Join(0));
        for (millis, fault) in faults {
            simulation.run(Duration::from_millis(millis));
            simulation.cause(fault);
        }
        simulation.is_lossy = false;
        // An outage of 12 s, leases that run out, heartbeats that come, and hand-overs.
        simulation.run(Duration::from_secs(45));
        simulation.assert_settled();
    }
}

#[test]
fn the_dead_ones_partitions_are_taken_right_after_their_leases_ran_out() {
    let mut simulation = Simulation::new(7);
    simulation.cause(Fault::Join(0));
    simulation.run(Duration::from_secs(1));
    simulation.cause(Fault::Join(1));
    simulation.run(Duration::from_secs(20));
    simulation.assert_settled();
    simulation.cause(Fault::Kill(1));
    simulation.run(TTL + Duration::from_millis(1_500));
    simulation.assert_settled();
}

#[test]
fn a_short_outage_moves_nothing() {
    let mut simulation = Simulation::new(7);
    simulation.cause(Fault::Join(0));
    simulation.cause(Fault::Join(1));
    simulation.run(Duration::from_secs(20));
    simulation.assert_settled();
    let epochs = simulation.epochs.clone();
    simulation.cause(Fault::Outage { millis: 2_000 });
    simulation.run(Duration::from_secs(20));
    simulation.assert_settled();
    assert_eq!(simulation.epochs, epochs);
}
