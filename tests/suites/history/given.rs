//! Events and histories for the contract.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::attempt::{
    Attempt, AttemptError, AttemptRequest, AttemptResponse, ErrorClass, Header, Timing,
};
use cuitty_webhooks_domain::delivery::{
    Concluded, Conclusion, DEFAULT_DEADLINE, DeliveryEvent, DeliveryRef, Due, FailureReason, Origin,
    Requested, Unmatched,
};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId, SecretId};
use cuitty_webhooks_history::{Batch, DeliveryDetail, EndpointFailures, Store, UnmatchedMessage};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Makes events, each with the next sequence and a later time.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) rng: StdRng,
    pub(crate) now: DateTime<Utc>,
    sequence: u64,
}

impl Given {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: "2026-11-21T10:00:00.000123Z".parse().unwrap(),
            sequence: 0,
        }
    }

    pub(crate) fn endpoint(&mut self) -> EndpointId {
        EndpointId::new(self.now, &mut self.rng)
    }

    pub(crate) fn delivery(
        &mut self,
        project: &str,
        endpoint_id: EndpointId,
        event_type: &str,
    ) -> DeliveryRef {
        let message_id = MessageId::new(self.now, &mut self.rng);
        DeliveryRef {
            delivery_id: DeliveryId::derive(message_id, endpoint_id),
            message_id,
            project_id: project.parse().unwrap(),
            endpoint_id,
            event_type: event_type.parse().unwrap(),
        }
    }

    pub(crate) fn any_delivery(&mut self) -> DeliveryRef {
        let endpoint = self.endpoint();
        self.delivery("acme", endpoint, "budget.exceeded")
    }

    pub(crate) fn tick(&mut self) -> DateTime<Utc> {
        self.now += Duration::from_micros(1500);
        self.now
    }

    pub(crate) fn event(&mut self, event: DeliveryEvent) -> (u64, DeliveryEvent) {
        // The log's sequences have gaps: not every message in it is an event of the history's.
        self.sequence += self.rng.random_range(1..3);
        (self.sequence, event)
    }

    pub(crate) fn requested(&mut self, delivery: &DeliveryRef) -> (u64, DeliveryEvent) {
        let requested_at = self.tick();
        let event = Requested {
            delivery: delivery.clone(),
            content_type: "application/json".into(),
            payload: Bytes::from(format!("{{\"message\":\"{}\"}}", delivery.message_id)),
            requested_at,
            origin: Origin::Event,
            replay_of: None,
            traceparent: String::new(),
            deadline: requested_at + DEFAULT_DEADLINE,
        };
        self.event(DeliveryEvent::Requested(event))
    }

    pub(crate) fn due(&mut self, delivery: &DeliveryRef, attempt_number: u32) -> (u64, DeliveryEvent) {
        let due_at = self.tick();
        self.event(DeliveryEvent::Due(Due {
            delivery: delivery.clone(),
            requested_sequence: 1,
            attempt_number,
            due_at,
        }))
    }

    pub(crate) fn concluded(
        &mut self,
        delivery: &DeliveryRef,
        attempt: Option<Attempt>,
        conclusion: Conclusion,
    ) -> (u64, DeliveryEvent) {
        let at = self.tick();
        self.event(DeliveryEvent::Concluded(Box::new(Concluded {
            delivery: delivery.clone(),
            requested_sequence: 1,
            attempt,
            conclusion,
            at,
        })))
    }

    pub(crate) fn unmatched(&mut self, message_id: MessageId) -> (u64, DeliveryEvent) {
        let requested_at = self.tick();
        self.event(DeliveryEvent::Unmatched(Unmatched {
            message_id,
            project_id: "acme".parse().unwrap(),
            event_type: "budget.unheard".parse().unwrap(),
            content_type: "application/json".into(),
            payload: Bytes::from_static(b"{\"unheard\":true}"),
            requested_at,
            traceparent: String::new(),
        }))
    }

    /// An attempt that was answered with `status`, every field of it set.
    pub(crate) fn answered(&mut self, number: u32, status: u16) -> Attempt {
        let started_at = self.tick();
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        Attempt {
            number,
            started_at,
            duration: Duration::from_micros(self.rng.random_range(1..30_000_000)),
            request: AttemptRequest {
                url: "https://example.com/hooks".into(),
                headers: vec![
                    header("content-type", "application/json"),
                    header("webhook-id", "msg_1"),
                ],
                signed_with: vec![SecretId::new(started_at, &mut self.rng)],
            },
            response: Some(AttemptResponse {
                status,
                headers: vec![header("set-cookie", "a=1"), header("set-cookie", "b=2")],
                body: Bytes::from_static(b"thank you"),
                body_truncated: true,
            }),
            error: (!(200..300).contains(&status)).then(|| AttemptError {
                class: ErrorClass::Status,
                message: format!("status {status}"),
            }),
            timing: Timing {
                queue: Duration::from_micros(12),
                dns: None,
                connect: Some(Duration::from_micros(250)),
                tls: Some(Duration::ZERO),
                first_byte: Some(Duration::from_millis(9)),
            },
            remote_address: Some("[2001:db8::1]:443".parse().unwrap()),
            endpoint_revision: 3,
            dispatcher_id: "dispatcher-1".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        }
    }

    /// An attempt that got no answer.
    pub(crate) fn unanswered(&mut self, number: u32) -> Attempt {
        Attempt {
            response: None,
            error: Some(AttemptError {
                class: ErrorClass::Connect,
                message: "connection refused".into(),
            }),
            timing: Timing::default(),
            remote_address: None,
            trace_id: String::new(),
            ..self.answered(number, 500)
        }
    }

    /// A log as it may come: few deliveries with many facts each, some twice, some in no sensible order, some about
    /// deliveries that are never requested.
    pub(crate) fn log(&mut self, length: usize) -> Vec<(u64, DeliveryEvent)> {
        let endpoints: Vec<_> = (0..2).map(|_| self.endpoint()).collect();
        let mut deliveries = Vec::new();
        for _ in 0..4 {
            let message = self.delivery("acme", endpoints[0], "budget.exceeded");
            for &endpoint_id in &endpoints {
                let delivery_id = DeliveryId::derive(message.message_id, endpoint_id);
                deliveries.push(DeliveryRef {
                    delivery_id,
                    endpoint_id,
                    ..message.clone()
                });
            }
        }
        (0..length).map(|_| self.log_event(&deliveries)).collect()
    }

    fn log_event(&mut self, deliveries: &[DeliveryRef]) -> (u64, DeliveryEvent) {
        let delivery = deliveries.choose(&mut self.rng).unwrap().clone();
        let number = self.rng.random_range(1..4);
        match self.rng.random_range(0..10) {
            0..3 => self.requested(&delivery),
            3 => self.due(&delivery, number),
            4 => {
                let reason = *FailureReason::ALL.choose(&mut self.rng).unwrap();
                let attempt = self.rng.random_bool(0.5).then(|| self.unanswered(number));
                self.concluded(&delivery, attempt, Conclusion::Failed { reason })
            }
            5 => {
                let attempt = self.answered(number, 204);
                self.concluded(&delivery, Some(attempt), Conclusion::Succeeded)
            }
            6 => self.unmatched(delivery.message_id),
            _ => {
                let attempt = self.answered(number, 500);
                let next_attempt_at = self.now + Duration::from_secs(5);
                self.concluded(&delivery, Some(attempt), Conclusion::Retry { next_attempt_at })
            }
        }
    }
}

/// What is left of a log when every fact comes after what it follows from: a retry after its request, a timer after
/// the attempt that set it.
pub(crate) fn causal(events: Vec<(u64, DeliveryEvent)>) -> Vec<(u64, DeliveryEvent)> {
    let mut seen = HashSet::new();
    let mut follows = |event: &DeliveryEvent| match event {
        DeliveryEvent::Requested(requested) => {
            seen.insert((requested.delivery.delivery_id, 0));
            true
        }
        DeliveryEvent::Due(due) => seen.contains(&(due.delivery.delivery_id, due.attempt_number - 1)),
        DeliveryEvent::Concluded(concluded) => {
            let id = concluded.delivery.delivery_id;
            let is_requested = seen.contains(&(id, 0));
            seen.extend(
                concluded
                    .attempt
                    .iter()
                    .filter(|_| is_requested)
                    .map(|attempt| (id, attempt.number)),
            );
            is_requested
        }
        DeliveryEvent::Unmatched(_) => true,
    };
    events.into_iter().filter(|(_, event)| follows(event)).collect()
}

/// Everything that a store holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Whole {
    pub(crate) checkpoint: u64,
    pub(crate) deliveries: Vec<DeliveryDetail>,
    pub(crate) unmatched: Vec<UnmatchedMessage>,
    pub(crate) failures: Vec<EndpointFailures>,
}

impl Whole {
    pub(crate) async fn of(store: &Store) -> Self {
        let mut snapshot = store.snapshot().await.unwrap();
        let mut whole = Self {
            checkpoint: snapshot.checkpoint(),
            deliveries: Vec::new(),
            unmatched: Vec::new(),
            failures: Vec::new(),
        };
        loop {
            let chunk = snapshot.next_chunk(3).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            whole.deliveries.extend(chunk);
        }
        loop {
            let chunk = snapshot.next_unmatched_chunk(3).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            whole.unmatched.extend(chunk);
        }
        loop {
            let chunk = snapshot.next_failures_chunk(1).await.unwrap();
            if chunk.is_empty() {
                return whole;
            }
            whole.failures.extend(chunk);
        }
    }
}

/// A batch that follows `expected_checkpoint`.
pub(crate) fn batch(expected_checkpoint: u64, events: &[(u64, DeliveryEvent)]) -> Batch {
    let checkpoint = events
        .last()
        .map_or(expected_checkpoint, |(sequence, _)| *sequence);
    Batch {
        expected_checkpoint,
        checkpoint,
        events: events.to_vec(),
    }
}

/// Applies `events` in batches that end at each of `ends`.
pub(crate) async fn apply_split(store: &Store, events: &[(u64, DeliveryEvent)], ends: &[usize]) {
    let (mut checkpoint, mut start) = (0, 0);
    for &end in ends.iter().chain([&events.len()]) {
        let batch = batch(checkpoint, &events[start..end]);
        store.apply(&batch).await.unwrap();
        (checkpoint, start) = (batch.checkpoint, end);
    }
}
