//! What became of every delivery, by two books: the outcomes in the log, and the requests at the receiver.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_domain::delivery::{Conclusion, DeliveryEvent};
use cuitty_webhooks_log::{EventBody, StoredEvent};
use tokio::time::Instant;

use crate::local::CLOCK;
use crate::log::stored;
use crate::receiver::Receiver;

/// How long a request of a process that was killed may take to arrive. Nobody else makes the attempt so soon: the lease of
/// the killed one must expire first.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// What an acknowledgement of work may lie before the end of the nats-server that took it and still be lost with it: it is
/// written to the file, and told to the other servers, a moment later.
const UNWRITTEN: TimeDelta = TimeDelta::milliseconds(500);

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// As the receiver notes arrivals.
    pub at: Instant,
    /// As nats-server notes what it stores.
    pub wall: DateTime<Utc>,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: CLOCK(),
        }
    }

    /// When `at` was, or is to be, on the clock of the log.
    fn wall_of(&self, at: Instant) -> DateTime<Utc> {
        self.wall + at.saturating_duration_since(self.at) - self.at.saturating_duration_since(at)
    }
}

/// One delivery.
#[derive(Debug, Default)]
pub struct Account {
    /// Its outcomes, in the order of the log.
    pub outcomes: Vec<Outcome>,
    /// When the timer of each retry fired, by its number.
    pub fired: BTreeMap<u32, Vec<DateTime<Utc>>>,
    /// When the requests of each attempt arrived, by its number.
    pub arrivals: BTreeMap<u32, Vec<Instant>>,
}

/// An outcome in the log.
#[derive(Debug)]
pub struct Outcome {
    /// Of the attempt; 0 when there was none.
    pub number: u32,
    /// What it came to.
    pub conclusion: Conclusion,
    /// When nats-server stored it.
    pub stored_at: DateTime<Utc>,
}

/// Both books, by delivery id.
#[derive(Debug)]
pub struct Books(HashMap<String, Account>);

/// An attempt that was under way at some moment, or that was made more than once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptRef {
    /// Of which delivery.
    pub delivery_id: String,
    /// 1 for the first.
    pub number: u32,
}

/// A retry, and when it came, compared with when it was to come.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// When nats-server stored that it would be made.
    pub promised_at: DateTime<Utc>,
    /// When it was due.
    pub due_at: DateTime<Utc>,
    /// From then until its timer fired.
    pub fired_after: Duration,
    /// From `due_at` until it first arrived.
    pub arrived_after: Duration,
}

impl Books {
    /// Reads the log at `log_url`, and what has arrived.
    ///
    /// # Panics
    /// When something arrived that was never requested.
    pub async fn read(log_url: &str, receiver: &Receiver) -> Self {
        Self::of(stored(log_url).await, receiver)
    }

    /// Of everything that a log holds, and what has arrived.
    ///
    /// # Panics
    /// When something arrived that was never requested.
    pub fn of(events: Vec<StoredEvent>, receiver: &Receiver) -> Self {
        let mut accounts: HashMap<String, Account> = HashMap::new();
        for event in events {
            match event.body {
                EventBody::Event(DeliveryEvent::Requested(requested)) => {
                    accounts.insert(requested.delivery.delivery_id.to_string(), Account::default());
                }
                EventBody::Event(DeliveryEvent::Concluded(concluded)) => {
                    let account = accounts.get_mut(&concluded.delivery.delivery_id.to_string());
                    account.expect("it was requested before").outcomes.push(Outcome {
                        number: concluded.attempt.map_or(0, |attempt| attempt.number),
                        conclusion: concluded.conclusion,
                        stored_at: event.stored_at,
                    });
                }
                EventBody::Event(DeliveryEvent::Due(due)) => {
                    let account = accounts.get_mut(&due.delivery.delivery_id.to_string());
                    let fired = &mut account.expect("it was requested before").fired;
                    fired.entry(due.attempt_number).or_default().push(event.stored_at);
                }
                _ => {}
            }
        }
        for request in receiver.all_requests() {
            let account = accounts.get_mut(request.header("x-cuitty-delivery-id"));
            let number = request.header("x-cuitty-attempt").parse().expect("a number");
            let arrivals = &mut account.expect("it is in the log").arrivals;
            arrivals.entry(number).or_default().push(request.at);
        }
        Self(accounts)
    }

    /// How many deliveries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One delivery.
    pub fn account(&self, delivery_id: &str) -> Option<&Account> {
        self.0.get(delivery_id)
    }

    /// Every delivery was made: each of its attempts, 1 to n, arrived and has one outcome, of which that of the last one, and
    /// no other, is the success. An outcome whose append an outage held up may be stored behind that of the retry, whose timer
    /// was stored before it.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check_delivered(&self) {
        for (id, account) in &self.0 {
            let attempts = 1..=account.outcomes.len() as u32;
            let mut outcomes: Vec<_> = account.outcomes.iter().collect();
            outcomes.sort_by_key(|outcome| outcome.number);
            let recorded = outcomes.iter().map(|outcome| outcome.number);
            assert!(recorded.eq(attempts.clone()), "{id}: {account:?}");
            let arrived = account.arrivals.keys().copied();
            assert!(arrived.eq(attempts), "{id}: {account:?}");
            let (last, before) = outcomes.split_last().expect("it has ended");
            let failed = |outcome: &&Outcome| matches!(outcome.conclusion, Conclusion::Retry { .. });
            assert!(
                last.conclusion == Conclusion::Succeeded && before.iter().all(failed),
                "{id}: {account:?}"
            );
        }
    }

    /// The attempts that arrived more than once.
    pub fn repeated(&self) -> Vec<AttemptRef> {
        self.attempts(|_, arrivals| arrivals.len() > 1)
    }

    /// The attempts that arrived once more at `moment` or later.
    pub fn repeated_since(&self, moment: Moment) -> Vec<AttemptRef> {
        self.attempts(|_, arrivals| arrivals[1..].iter().any(|arrival| *arrival >= moment.at))
    }

    /// The attempts whose outcome may have been lost on its way while a nats-server was away, from `killed` until `back`, or
    /// the acknowledgement of their work: begun before it was back, and recorded no earlier than just before it was killed.
    pub fn unconfirmed(&self, killed: Moment, back: Moment) -> Vec<AttemptRef> {
        self.attempts(|outcome, arrivals| {
            arrivals[0] <= back.at && outcome.stored_at > killed.wall - UNWRITTEN
        })
    }

    /// The attempts that had been begun at `moment`, when their dispatcher was killed, and whose outcome the log did not
    /// have.
    pub fn in_flight(&self, moment: Moment) -> Vec<AttemptRef> {
        self.attempts(|outcome, arrivals| {
            arrivals[0] <= moment.at + ON_ITS_WAY && outcome.stored_at > moment.wall
        })
    }

    /// Nothing was repeated but what was in flight at `killed`. Returns how many attempts were in flight, and how many repeated.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check_repeated(&self, killed: Moment) -> (usize, usize) {
        let (in_flight, repeated) = (self.in_flight(killed), self.repeated());
        let unexplained: Vec<_> = repeated
            .iter()
            .filter(|attempt| !in_flight.contains(attempt))
            .collect();
        assert!(
            unexplained.is_empty(),
            "repeated without having been in flight: {unexplained:?}"
        );
        (in_flight.len(), repeated.len())
    }

    /// Every retry that was promised. `moment` ties the receiver's clock to that of the log.
    ///
    /// # Panics
    /// When the timer of one has not fired exactly once, or it came too early or never.
    pub fn retries(&self, moment: Moment) -> Vec<Retry> {
        let mut retries = Vec::new();
        for (id, account) in &self.0 {
            for outcome in &account.outcomes {
                let Conclusion::Retry { next_attempt_at } = outcome.conclusion else {
                    continue;
                };
                let number = outcome.number + 1;
                let after = |at: DateTime<Utc>| {
                    let after = (at - next_attempt_at).to_std();
                    after.unwrap_or_else(|_| panic!("{id} comes too early: {account:?}"))
                };
                let fired = account.fired.get(&number).map_or(&[][..], Vec::as_slice);
                let (&[fired_at], Some(arrivals)) = (fired, account.arrivals.get(&number)) else {
                    panic!("{id} has no retry, or more than one: {account:?}");
                };
                retries.push(Retry {
                    promised_at: outcome.stored_at,
                    due_at: next_attempt_at,
                    fired_after: after(fired_at),
                    arrived_after: after(moment.wall_of(arrivals[0])),
                });
            }
        }
        retries
    }

    /// The attempts that have arrived and have an outcome, and of which `is_meant` holds, sorted.
    fn attempts(&self, is_meant: impl Fn(&Outcome, &[Instant]) -> bool) -> Vec<AttemptRef> {
        let mut meant = Vec::new();
        for (id, account) in &self.0 {
            for outcome in &account.outcomes {
                let arrivals = account.arrivals.get(&outcome.number);
                if arrivals.is_some_and(|arrivals| is_meant(outcome, arrivals)) {
                    meant.push(AttemptRef {
                        delivery_id: id.clone(),
                        number: outcome.number,
                    });
                }
            }
        }
        meant.sort();
        meant
    }
}
