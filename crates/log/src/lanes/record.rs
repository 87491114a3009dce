//! What is saved of a lane, and its stored text: JSON that fields are only ever added to.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_domain::names::ProjectId;
use serde::{Deserialize, Serialize};

use crate::codec::CodecError;
use crate::error::LogError;

/// Where an endpoint's lane is, and how its endpoint fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Whose lane it is.
    #[serde(with = "text")]
    pub endpoint_id: EndpointId,
    /// Project of the endpoint.
    #[serde(with = "text")]
    pub project_id: ProjectId,
    /// Partition of the endpoint.
    pub partition: u16,
    /// Whether the lane reads the endpoint's work itself, instead of taking it from the partition's consumer.
    #[serde(default)]
    pub detached: bool,
    /// Sequence up to which the partition's consumer delivered to the lane before it was detached.
    #[serde(default)]
    pub floor: u64,
    /// All of the endpoint's items behind `floor` are done up to this sequence.
    #[serde(default)]
    pub cursor: u64,
    /// Items behind `cursor` that are done, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<u64>,
    /// `cursor` and `done` tell of every outcome of the endpoint that is stored up to this sequence.
    #[serde(default)]
    pub outcomes_from: u64,
    /// The endpoint's breaker.
    pub health: LaneHealth,
    /// The delivery that an ordered endpoint's others wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<BlockedBy>,
    /// Who saved it.
    #[serde(default)]
    pub dispatcher_id: String,
    /// When, by that dispatcher's clock.
    pub saved_at: DateTime<Utc>,
}

/// The breaker of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneHealth {
    /// What it does.
    pub state: HealthState,
    /// Since when it is closed, or is not.
    pub since: DateTime<Utc>,
    /// Failures since the last success.
    #[serde(default)]
    pub consecutive_failures: u32,
    /// Number of the probe that is next or under way, counted since the breaker opened; 0 for none.
    #[serde(default)]
    pub probe: u32,
    /// When an open breaker lets the next probe through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_probe_at: Option<DateTime<Utc>>,
}

/// What a breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Lets attempts through.
    Closed,
    /// Holds them back.
    Open,
    /// Probes with one attempt at a time.
    HalfOpen,
}

impl HealthState {
    /// The name in texts and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A delivery of an ordered endpoint that failed and will be retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedBy {
    /// The delivery.
    #[serde(with = "text")]
    pub delivery_id: DeliveryId,
    /// Attempts that were made of it.
    pub attempts: u32,
    /// When the next one is due.
    pub next_attempt_at: DateTime<Utc>,
}

impl LaneRecord {
    pub(super) fn encode(&self) -> Result<Bytes, LogError> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(LogError::protocol)
    }

    pub(super) fn decode(text: &[u8]) -> Result<Self, CodecError> {
        serde_json::from_slice(text).map_err(|error| CodecError::Invalid {
            field: "lane",
            message: error.to_string(),
        })
    }
}

/// Values by their text, as everywhere else.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is stored. Later versions read it, and earlier ones read what later versions write: it may only grow.
    const FULL: &str = concat!(
        r#"{"endpoint_id":"ep_01jd75c1g094s8avcpkyatawp7","project_id":"acme","partition":3,"detached":true,"#,
        r#""floor":10,"cursor":12,"done":[14,15],"outcomes_from":20,"health":{"state":"half_open","#,
        r#""since":"2026-11-21T10:00:00Z","consecutive_failures":11,"probe":2,"#,
        r#""next_probe_at":"2026-11-21T10:00:00.000250Z"},"blocked_by":{"#,
        r#""delivery_id":"dlv_01jd75c1g094s8avcpkyatawp7","attempts":4,"next_attempt_at":"2026-11-21T10:00:00Z"},"#,
        r#""dispatcher_id":"d1","saved_at":"2026-11-21T10:00:00Z"}"#
    );
    /// As an earlier version, or a later one, may have stored it.
    const SPARSE: &str = concat!(
        r#"{"endpoint_id":"ep_01jd75c1g094s8avcpkyatawp7","project_id":"acme","partition":3,"later":{},"#,
        r#""health":{"state":"closed","since":"2026-11-21T10:00:00Z"},"saved_at":"2026-11-21T10:00:00Z"}"#
    );

    fn now() -> DateTime<Utc> {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn full() -> LaneRecord {
        LaneRecord {
            endpoint_id: "ep_01jd75c1g094s8avcpkyatawp7".parse().unwrap(),
            project_id: "acme".parse().unwrap(),
            partition: 3,
            detached: true,
            floor: 10,
            cursor: 12,
            done: vec![14, 15],
            outcomes_from: 20,
            health: LaneHealth {
                state: HealthState::HalfOpen,
                since: now(),
                consecutive_failures: 11,
                probe: 2,
                next_probe_at: Some(now() + chrono::TimeDelta::microseconds(250)),
            },
            blocked_by: Some(BlockedBy {
                delivery_id: "dlv_01jd75c1g094s8avcpkyatawp7".parse().unwrap(),
                attempts: 4,
                next_attempt_at: now(),
            }),
            dispatcher_id: "d1".into(),
            saved_at: now(),
        }
    }

    #[test]
    fn the_stored_text_stays_as_it_is() {
        assert_eq!(str::from_utf8(&full().encode().unwrap()), Ok(FULL));
        assert_eq!(LaneRecord::decode(FULL.as_bytes()), Ok(full()));
    }

    #[test]
    fn fields_may_be_missing_and_unknown_ones_are_passed_over() {
        let sparse = LaneRecord {
            detached: false,
            floor: 0,
            cursor: 0,
            done: Vec::new(),
            outcomes_from: 0,
            health: LaneHealth {
                state: HealthState::Closed,
                since: now(),
                consecutive_failures: 0,
                probe: 0,
                next_probe_at: None,
            },
            blocked_by: None,
            dispatcher_id: String::new(),
            ..full()
        };
        assert_eq!(LaneRecord::decode(SPARSE.as_bytes()), Ok(sparse));
    }

    #[test]
    fn states_have_one_name() {
        for state in [HealthState::Closed, HealthState::Open, HealthState::HalfOpen] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
