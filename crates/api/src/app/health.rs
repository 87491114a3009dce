//! How an endpoint's deliveries fare, as the lane that its dispatcher saved tells.

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_log::{BlockedBy, HealthState, LaneRecord};

use super::App;

/// What is shown of an endpoint beside its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointHealth {
    pub(crate) state: Standing,
    pub(crate) breaker: HealthState,
    /// Since when it has been failing, or has not; `None` when nothing was ever recorded.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Since the last success; 0 unless failing.
    pub(crate) consecutive_failures: u32,
    /// When an open breaker lets the next attempt through.
    pub(crate) next_probe_at: Option<DateTime<Utc>>,
    /// Whether deliveries wait in the log until those before them are done.
    pub(crate) waiting: bool,
    /// The delivery that an ordered endpoint's others wait for.
    pub(crate) blocked_by: Option<BlockedBy>,
}

/// The short form of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Deliveries are made as they come.
    Healthy,
    /// They are made, but wait behind others.
    Degraded,
    /// The breaker is not closed.
    Failing,
}

impl Standing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

impl App {
    /// How an endpoint's deliveries fare, as far as is known here.
    pub(crate) fn health(&self, endpoint: &Endpoint) -> EndpointHealth {
        let saved = self.lanes.get(endpoint.id);
        EndpointHealth::new(endpoint, saved.as_deref().map(|saved| &saved.record))
    }
}

impl EndpointHealth {
    /// `lane` is as it was saved last; `None` when there never was anything to save.
    pub(crate) fn new(endpoint: &Endpoint, lane: Option<&LaneRecord>) -> Self {
        let Some(LaneRecord {
            detached,
            health,
            blocked_by,
            ..
        }) = lane
        else {
            return Self {
                state: Standing::Healthy,
                breaker: HealthState::Closed,
                since: None,
                consecutive_failures: 0,
                next_probe_at: None,
                waiting: false,
                blocked_by: None,
            };
        };
        let is_failing = health.state != HealthState::Closed;
        Self {
            state: match (is_failing, detached) {
                (true, _) => Standing::Failing,
                (false, true) => Standing::Degraded,
                (false, false) => Standing::Healthy,
            },
            breaker: health.state,
            since: Some(health.since),
            // Not every failure is saved while the breaker is closed.
            consecutive_failures: if is_failing {
                health.consecutive_failures
            } else {
                0
            },
            next_probe_at: health.next_probe_at.filter(|_| endpoint.is_active()),
            waiting: *detached,
            // The record may be from before the endpoint was changed.
            blocked_by: blocked_by.clone().filter(|_| endpoint.settings.ordered),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cuitty_webhooks_domain::endpoint::DisabledReason;
    use cuitty_webhooks_domain::ids::DeliveryId;
    use cuitty_webhooks_log::LaneHealth;

    use super::*;
    use crate::testing::{endpoint, now, requested};

    fn lane(detached: bool, state: HealthState) -> LaneRecord {
        let endpoint = endpoint(1);
        let delivery_id: DeliveryId = requested().delivery.delivery_id;
        LaneRecord {
            endpoint_id: endpoint.id,
            project_id: endpoint.project_id,
            partition: 0,
            detached,
            floor: 0,
            cursor: 0,
            done: Vec::new(),
            outcomes_from: 0,
            health: LaneHealth {
                state,
                since: now(),
                consecutive_failures: 7,
                probe: 2,
                next_probe_at: (state == HealthState::Open).then(|| now() + Duration::from_secs(30)),
            },
            blocked_by: Some(BlockedBy {
                delivery_id,
                attempts: 3,
                next_attempt_at: now(),
            }),
            dispatcher_id: "d1".into(),
            saved_at: now(),
        }
    }

    #[test]
    fn an_endpoint_without_a_saved_lane_is_healthy() {
        let health = EndpointHealth::new(&endpoint(1), None);
        assert_eq!(
            (health.state, health.breaker, health.since, health.waiting),
            (Standing::Healthy, HealthState::Closed, None, false)
        );
    }

    #[test]
    fn the_breaker_and_the_lane_say_how_it_stands() {
        let probe_at = Some(now() + Duration::from_secs(30));
        for (detached, breaker, state, failures, next_probe_at) in [
            (false, HealthState::Closed, Standing::Healthy, 0, None),
            (true, HealthState::Closed, Standing::Degraded, 0, None),
            (true, HealthState::Open, Standing::Failing, 7, probe_at),
            (false, HealthState::Open, Standing::Failing, 7, probe_at),
            (true, HealthState::HalfOpen, Standing::Failing, 7, None),
        ] {
            let health = EndpointHealth::new(&endpoint(1), Some(&lane(detached, breaker)));
            let expected = EndpointHealth {
                state,
                breaker,
                since: Some(now()),
                consecutive_failures: failures,
                next_probe_at,
                waiting: detached,
                blocked_by: None,
            };
            assert_eq!(health, expected, "{detached} {breaker:?}");
        }
    }

    #[test]
    fn only_an_ordered_endpoint_is_blocked_and_only_an_active_one_probed() {
        let lane = lane(true, HealthState::Open);
        let mut ordered = endpoint(1);
        ordered.settings.ordered = true;
        ordered.disabled_reason = Some(DisabledReason::Manual);
        let health = EndpointHealth::new(&ordered, Some(&lane));
        assert_eq!((health.blocked_by, health.next_probe_at), (lane.blocked_by, None));
    }
}
