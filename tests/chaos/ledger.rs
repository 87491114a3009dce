//! What became of every delivery, as told by the log and by the receiver together.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{Conclusion, DeliveryEvent};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_log::EventBody;
use harness::local::CLOCK;
use harness::log::stored;
use harness::receiver::Receiver;
use tokio::time::Instant;

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) wall: DateTime<Utc>,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: CLOCK(),
        }
    }
}

/// One delivery.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) endpoint_id: EndpointId,
    /// Log sequence of its request.
    pub(crate) sequence: u64,
    pub(crate) requested_at: DateTime<Utc>,
    /// Its outcomes, in the order of the log.
    pub(crate) outcomes: Vec<Outcome>,
    /// The requests that the receiver got for it, in the order of their arrival.
    pub(crate) arrivals: Vec<Arrival>,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stored_at: DateTime<Utc>,
    pub(crate) dispatcher_id: String,
    pub(crate) conclusion: Conclusion,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    /// Unix time at which the dispatcher made the request, in seconds.
    pub(crate) sent: i64,
}

impl Story {
    pub(crate) fn is_repeated(&self) -> bool {
        self.arrivals.len() > 1
    }

    /// Whether its first request was made by `moment`, to the second.
    pub(crate) fn was_begun(&self, moment: Moment) -> bool {
        self.arrivals
            .first()
            .is_some_and(|first| first.sent <= moment.wall.timestamp())
    }
}

/// Every delivery in the log, by its id.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) stories: HashMap<String, Story>,
}

impl Ledger {
    pub(crate) async fn read(log_url: &str, receiver: &Receiver) -> Self {
        let mut stories = HashMap::new();
        for event in stored(log_url).await {
            match event.body {
                EventBody::Event(DeliveryEvent::Requested(requested)) => {
                    let story = Story {
                        endpoint_id: requested.delivery.endpoint_id,
                        sequence: event.sequence,
                        requested_at: event.stored_at,
                        outcomes: Vec::new(),
                        arrivals: Vec::new(),
                    };
                    stories.insert(requested.delivery.delivery_id.to_string(), story);
                }
                EventBody::Event(DeliveryEvent::Concluded(concluded)) => {
                    let story = stories.get_mut(&concluded.delivery.delivery_id.to_string());
                    let attempt = concluded.attempt.expect("every delivery here is attempted");
                    story.expect("it was requested before").outcomes.push(Outcome {
                        stored_at: event.stored_at,
                        dispatcher_id: attempt.dispatcher_id,
                        conclusion: concluded.conclusion,
                    });
                }
                other => panic!("{other:?} has no place in this log"),
            }
        }
        for request in receiver.all_requests() {
            let story = stories.get_mut(request.header("x-cuitty-delivery-id"));
            story.expect("it is in the log").arrivals.push(Arrival {
                at: request.at,
                sent: request.header("webhook-timestamp").parse().unwrap(),
            });
        }
        Self { stories }
    }

    /// Every delivery has exactly one outcome in the log, a success, and has arrived.
    pub(crate) fn check_outcomes(&self) {
        for (id, story) in &self.stories {
            let conclusions: Vec<_> = story.outcomes.iter().map(|outcome| outcome.conclusion).collect();
            assert_eq!(conclusions, [Conclusion::Succeeded], "{id}: {story:?}");
            assert!(!story.arrivals.is_empty(), "{id}: {story:?}");
        }
    }

    /// The deliveries that arrived more than once, none of them more than twice.
    pub(crate) fn repeated(&self) -> BTreeSet<&str> {
        let repeated: Vec<_> = self
            .stories
            .iter()
            .filter(|(_, story)| story.is_repeated())
            .collect();
        for (id, story) in &repeated {
            assert_eq!(story.arrivals.len(), 2, "{id}: {story:?}");
        }
        repeated.into_iter().map(|(id, _)| id.as_str()).collect()
    }
}

/// What a dispatcher left undone when it was killed.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    /// Deliveries that it had begun to attempt and had not acknowledged: what was in flight.
    pub(crate) in_flight: BTreeSet<&'a str>,
    /// All of its deliveries that were requested and not acknowledged, those in flight among them.
    pub(crate) undone: BTreeSet<&'a str>,
    /// From the kill until the last of these arrived for the last time.
    pub(crate) last_arrival: Duration,
}

impl Ledger {
    /// What the dispatcher left that was killed at `moment`, when `acknowledged` was done.
    pub(crate) fn left_by_the_killed(&self, moment: Moment, acknowledged: &HashSet<u64>) -> Left<'_> {
        let endpoints = self.endpoints_of_the_killed(moment);
        let undone = || {
            self.stories.iter().filter(|(_, story)| {
                endpoints.contains(&story.endpoint_id)
                    && story.requested_at <= moment.wall
                    && !acknowledged.contains(&story.sequence)
            })
        };
        let last = undone()
            .filter_map(|(_, story)| story.arrivals.last())
            .map(|arrival| arrival.at)
            .max();
        Left {
            in_flight: undone()
                .filter(|(_, story)| story.was_begun(moment))
                .map(|(id, _)| id.as_str())
                .collect(),
            undone: undone().map(|(id, _)| id.as_str()).collect(),
            last_arrival: last
                .map(|last| last.saturating_duration_since(moment.at))
                .unwrap_or_default(),
        }
    }

    /// The endpoints of the one dispatcher that recorded outcomes until `moment` and none since: each endpoint is whose
    /// who recorded the last outcome for it.
    fn endpoints_of_the_killed(&self, moment: Moment) -> HashSet<EndpointId> {
        let mut owners: HashMap<EndpointId, (DateTime<Utc>, &str)> = HashMap::new();
        let mut still_there = HashSet::new();
        for story in self.stories.values() {
            for outcome in &story.outcomes {
                let owner = (outcome.stored_at, outcome.dispatcher_id.as_str());
                if outcome.stored_at <= moment.wall {
                    let last = owners.entry(story.endpoint_id).or_insert(owner);
                    *last = owner.max(*last);
                } else if outcome.stored_at > moment.wall + Self::UNDER_WAY {
                    still_there.insert(owner.1);
                }
            }
        }
        let before: BTreeSet<_> = owners.values().map(|(_, dispatcher)| *dispatcher).collect();
        let gone: Vec<_> = before
            .iter()
            .filter(|dispatcher| !still_there.contains(*dispatcher))
            .collect();
        assert_eq!(
            (before.len(), gone.len()),
            (2, 1),
            "one of two dispatchers falls silent: {before:?}, {gone:?}"
        );
        owners
            .iter()
            .filter(|(_, (_, dispatcher))| dispatcher == gone[0])
            .map(|(endpoint, _)| *endpoint)
            .collect()
    }

    /// How long after a kill nats-server may still store what the killed process had sent.
    const UNDER_WAY: chrono::TimeDelta = chrono::TimeDelta::seconds(1);
}
