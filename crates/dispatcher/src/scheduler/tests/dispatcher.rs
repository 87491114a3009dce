//! What a dispatcher does around its scheduler: tells it what happens, and carries its commands out.

use std::time::Duration;

use super::super::*;
use super::checks::Shadow;
use super::log::{Work, endpoint, number, partition};
use super::receiver::{Answer, RETRIES};
use super::world::{Happening, Holding, Request, Run, Told, World};

impl World {
    /// The loop of a dispatcher takes something in.
    pub(super) fn handle(&mut self, index: usize, told: Told) {
        match told {
            Told::Event(Event::Lost { partition }) => {
                self.feed(index, Event::Lost { partition });
                self.orphan(index, partition, None);
            }
            Told::Event(Event::Fenced { lane }) => {
                let numeral = number(lane.endpoint_id);
                let is_current = self.life(index, numeral) == Some(lane.life);
                self.feed(index, Event::Fenced { lane });
                if is_current {
                    self.orphan(index, partition(numeral), Some(numeral));
                    self.open_saved(index, numeral);
                }
            }
            Told::Event(event) => self.feed(index, event),
            Told::Acquired(partition, until) => {
                self.feed(index, Event::Leased { partition, until });
                for numeral in 0..self.receivers.len() as u8 {
                    self.open_saved(index, numeral);
                }
            }
            Told::Releasing(partition, epoch) => {
                let (number, now) = (usize::from(partition), self.now);
                let this = &mut self.dispatchers[index];
                if matches!(this.holdings[number], Holding::Releasing(_)) && this.epochs[number] == epoch {
                    this.releasing[number] = Some(now);
                    self.feed(index, Event::Releasing { partition });
                }
            }
            Told::Pulled(delivered) => {
                self.dispatchers[index].in_transit -= 1;
                let (numeral, _) = self.log.work(delivered.sequence).unwrap();
                self.open(index, numeral);
                let event = Event::Pulled {
                    endpoint_id: endpoint(numeral),
                    item: self.log.item(delivered.sequence, true),
                    first: delivered.first,
                };
                self.feed(index, event);
            }
        }
    }

    /// Opens the lane of an endpoint that is saved as detached, if its partition is held.
    fn open_saved(&mut self, index: usize, numeral: u8) {
        let is_detached = self
            .log
            .lanes
            .get(&numeral)
            .is_some_and(|(_, state)| state.detached);
        let holding = self.dispatchers[index].holdings[usize::from(partition(numeral))];
        if is_detached && matches!(holding, Holding::Held(_)) {
            self.open(index, numeral);
        }
    }

    fn open(&mut self, index: usize, numeral: u8) {
        if self.life(index, numeral).is_some() {
            return;
        }
        let saved = self.log.lanes.get(&numeral).cloned();
        let settings = self.receivers[usize::from(numeral)].settings.clone();
        let (revision, state) = saved.map_or((0, None), |(revision, state)| (revision, Some(state)));
        let shadow = Shadow::new(settings.clone(), state.as_ref(), self.now);
        self.dispatchers[index].shadows.insert(numeral, shadow);
        let event = Event::Lane {
            endpoint_id: endpoint(numeral),
            partition: partition(numeral),
            settings,
            state,
        };
        let Some(scheduler) = &mut self.dispatchers[index].scheduler else {
            return;
        };
        scheduler.handle_event(event, self.now);
        if let Some(life) = self.life(index, numeral) {
            let endpoint_id = endpoint(numeral);
            self.dispatchers[index]
                .revisions
                .insert(LaneId { endpoint_id, life }, revision);
        }
        self.obey(index);
    }

    /// Which lane of the endpoint a dispatcher has.
    pub(super) fn life(&self, index: usize, numeral: u8) -> Option<u64> {
        let scheduler = self.dispatchers[index].scheduler.as_ref()?;
        scheduler.lanes.get(&endpoint(numeral)).map(|lane| lane.life)
    }

    fn feed(&mut self, index: usize, event: Event<Work>) {
        self.foresee(index, &event);
        let Some(scheduler) = &mut self.dispatchers[index].scheduler else {
            return;
        };
        scheduler.handle_event(event, self.now);
        self.obey(index);
    }

    /// Carries out what a scheduler commands.
    pub(super) fn obey(&mut self, index: usize) {
        let me = self.run_of(index);
        while let Some(command) = self.dispatchers[index]
            .scheduler
            .as_mut()
            .and_then(Scheduler::next_command)
        {
            match command {
                Command::Start {
                    key,
                    work,
                    verify,
                    may_send,
                    ..
                } => self.begin(me, key, work, verify, may_send),
                Command::Park { work, delay } => {
                    let again = self.now + delay;
                    self.consumer(&work).nak(work.sequence, again);
                }
                Command::Settle { work } => {
                    self.check_settled(work.sequence);
                    self.acknowledge(&work);
                }
                Command::Progress { work } => {
                    let now = self.now;
                    self.consumer(&work).progress(work.sequence, now);
                }
                Command::Save { lane, state } => {
                    let at = self.now + self.latency();
                    let revision = self.dispatchers[index].revisions[&lane];
                    self.at(at, Happening::Land(me, lane, revision, state));
                }
                command @ (Command::Read { .. } | Command::Recover { .. }) => {
                    let at = self.now + self.latency();
                    self.at(at, Happening::Serve(me, command));
                }
                Command::Pause => assert!(!std::mem::replace(&mut self.dispatchers[index].is_paused, true)),
                Command::Resume => assert!(std::mem::replace(&mut self.dispatchers[index].is_paused, false)),
                Command::HandOver { partition } => {
                    self.check_hand_over(index, partition);
                    self.handed_over(me, partition);
                }
            }
        }
        self.observe(index);
    }

    fn consumer(&mut self, work: &Work) -> &mut super::consumer::Consumer {
        assert!(work.pulled, "item {} was not pulled", work.sequence);
        let (numeral, _) = self.log.work(work.sequence).unwrap();
        &mut self.consumers[usize::from(partition(numeral))]
    }

    /// Acknowledges a pulled item. A word may be lost.
    fn acknowledge(&mut self, work: &Work) {
        if !self.chance.percent(2) {
            self.consumer(work).ack(work.sequence);
        }
    }

    /// A save reaches the log.
    pub(super) fn land(&mut self, to: Run, lane: LaneId, revision: u64, state: LaneState) {
        let saved = self.log.save(number(lane.endpoint_id), revision, state);
        if let Some(revision) = saved
            && self.is_alive(to)
        {
            self.dispatchers[to.dispatcher].revisions.insert(lane, revision);
        }
        let event = match saved {
            Some(_) => Event::Saved { lane },
            None => Event::Fenced { lane },
        };
        let at = self.now + self.latency();
        self.at(at, Happening::Told(to, Told::Event(event)));
    }

    /// A read or a recovery reaches the log.
    pub(super) fn serve(&mut self, to: Run, command: Command<Work>) {
        let event = match command {
            Command::Recover { lane, state } => Event::Recovered {
                lane,
                recovered: self.log.recover(number(lane.endpoint_id), state),
            },
            Command::Read { lane, .. } if self.chance.percent(5) => Event::ReadFailed { lane },
            Command::Read { lane, from, room } => self.read(lane, from, room),
            _ => return,
        };
        let at = self.now + self.latency();
        self.at(at, Happening::Told(to, Told::Event(event)));
    }

    fn read(&mut self, lane: LaneId, from: u64, room: Room) -> Event<Work> {
        let numeral = number(lane.endpoint_id);
        let lag = if self.chance.percent(20) {
            self.chance.below(6)
        } else {
            0
        };
        let visible = self.log.end().saturating_sub(lag);
        let (items, has_more) = self.log.read(numeral, from, visible, room);
        let mut end = items.last().map_or(from - 1, |item| item.sequence);
        if !has_more && visible > end {
            end += self.chance.below(visible - end + 1);
        }
        Event::Read {
            lane,
            items,
            end,
            at_tail: self.log.is_tail(numeral, end) && self.chance.percent(90),
        }
    }

    fn begin(&mut self, me: Run, key: AttemptKey, work: Arc<Work>, verify: bool, may_send: bool) {
        let delivery = &self.log.deliveries[&key.delivery_id];
        let (numeral, is_over) = (
            delivery.endpoint,
            delivery.is_cancelled || delivery.deadline <= self.now,
        );
        let receiver = &self.receivers[usize::from(numeral)];
        let (answer, time) = if self.chance.percent(2) {
            (
                Answer::NotNow(self.chance.millis(0, 3000)),
                Duration::from_millis(1),
            )
        } else if verify && self.log.is_made(key) {
            (Answer::Made, self.chance.millis(1, 20))
        } else if is_over || !receiver.settings.active {
            (Answer::End, self.chance.millis(1, 20))
        } else if !may_send {
            (
                Answer::NotNow(Duration::from_millis(100)),
                Duration::from_millis(1),
            )
        } else {
            receiver.mood.answer(&mut self.chance)
        };
        let is_sent = !matches!(answer, Answer::NotNow(_) | Answer::Made | Answer::End);
        let is_proven = self.dispatchers[me.dispatcher].shadows[&numeral].is_proven;
        self.check_start(me, key);
        if is_sent {
            self.check_send(me, key);
        }
        let request = Request {
            endpoint: numeral,
            work,
            is_sent,
            is_orphan: false,
            is_proven,
        };
        self.dispatchers[me.dispatcher].requests.insert(key, request);
        self.at(self.now + time, Happening::Answered(me, key, answer));
    }

    pub(super) fn answered(&mut self, to: Run, key: AttemptKey, answer: Answer) {
        let is_orphan = self.dispatchers[to.dispatcher].requests[&key].is_orphan;
        let ended = self.conclude(key, answer, is_orphan);
        let acks = matches!(ended, Ended::Recorded { .. });
        let at = self.now + self.chance.millis(1, 30);
        self.at(at, Happening::Ended { to, key, ended, acks });
    }

    /// Stores what an attempt came to; nothing when that of an orphan comes after the end of its delivery.
    pub(super) fn conclude(&mut self, key: AttemptKey, answer: Answer, is_orphan: bool) -> Ended {
        let delivery = &self.log.deliveries[&key.delivery_id];
        let is_ordered = self.receivers[usize::from(delivery.endpoint)].settings.ordered;
        let sign = match answer {
            Answer::NotNow(delay) => return Ended::NotNow(delay),
            Answer::Made => {
                let (outcome, sign) = (None, Sign::Silent);
                return Ended::Recorded { outcome, sign };
            }
            Answer::End if is_orphan && delivery.is_ended => {
                let (outcome, sign) = (None, Sign::Silent);
                return Ended::Recorded { outcome, sign };
            }
            Answer::End => {
                let outcome = self.log.record(AttemptKey { number: 0, ..key }, None);
                let sign = Sign::Silent;
                return Ended::Recorded { outcome, sign };
            }
            Answer::Success => Sign::Success,
            Answer::Refusal => Sign::Refusal,
            Answer::Failure => Sign::Failure,
            Answer::Throttle(least) => Sign::Throttle(least),
        };
        if is_orphan && delivery.is_ended {
            return Ended::Recorded { outcome: None, sign };
        }
        let delay = RETRIES
            .get(key.number as usize - 1)
            .filter(|_| sign != Sign::Success && !delivery.is_ended);
        let Some(until) = delay.map(|&delay| self.now + delay) else {
            let outcome = self.log.record(key, None);
            return Ended::Recorded { outcome, sign };
        };
        if !is_ordered {
            let next = AttemptKey {
                number: key.number + 1,
                ..key
            };
            self.log.timers.insert(next, until);
            self.at(until, Happening::Timer(next));
        }
        let outcome = self.log.record(key, Some(until));
        if is_ordered {
            Ended::Blocked { outcome, sign, until }
        } else {
            Ended::Recorded { outcome, sign }
        }
    }

    pub(super) fn end(&mut self, to: Run, key: AttemptKey, ended: Ended, acks: bool) {
        let work = self.dispatchers[to.dispatcher].requests[&key].work.clone();
        if acks && work.pulled {
            self.acknowledge(&work);
        }
        self.tell(to.dispatcher, Told::Event(Event::Ended { key, ended }));
    }
}
