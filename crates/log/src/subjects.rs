//! The log's subjects, built and parsed here only.

use std::fmt;
use std::str::FromStr;

use cuitty_webhooks_domain::ids::{ApiKeyId, DeliveryId, EndpointId, ReplayId};
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use sha2::{Digest, Sha256};

/// What a stored message holds: its header `Cuitty-Kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message was accepted for one endpoint.
    Requested,
    /// A retry is due.
    Due,
    /// An attempt failed and will be retried.
    Attempted,
    /// An attempt succeeded.
    Succeeded,
    /// A delivery failed for good.
    Failed,
    /// A message matched no endpoint.
    Unmatched,
    /// An endpoint changed.
    Endpoint,
    /// A bulk replay changed.
    Replay,
    /// An API key changed.
    ApiKey,
    /// An event type changed.
    EventType,
    /// The settings of a project changed.
    Project,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Requested,
        Self::Due,
        Self::Attempted,
        Self::Succeeded,
        Self::Failed,
        Self::Unmatched,
        Self::Endpoint,
        Self::Replay,
        Self::ApiKey,
        Self::EventType,
        Self::Project,
    ];

    /// The name in headers and metrics; for delivery facts also the last token of the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Due => "due",
            Self::Attempted => "attempted",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Unmatched => "unmatched",
            Self::Endpoint => "endpoint",
            Self::Replay => "replay",
            Self::ApiKey => "api_key",
            Self::EventType => "event_type",
            Self::Project => "project",
        }
    }
}

/// A subject that messages are stored under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A delivery is requested, or an attempt is due. The partition stands in front, so that its consumer needs a single
    /// prefix filter.
    Work {
        /// Partition of the endpoint.
        partition: u16,
        /// Project of the endpoint.
        project_id: ProjectId,
        /// Where the delivery goes.
        endpoint_id: EndpointId,
        /// Whether this is an attempt that a timer brought back.
        due: bool,
    },
    /// An attempt ended, or the delivery ended without one.
    Outcome {
        /// Project of the endpoint.
        project_id: ProjectId,
        /// Where the delivery goes.
        endpoint_id: EndpointId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A message matched no endpoint.
    Unmatched {
        /// Project of the message.
        project_id: ProjectId,
    },
    /// A timer that waits for its time. Each attempt has one of its own, so that arming a stale one replaces nothing.
    Timer {
        /// The delivery that it brings back.
        delivery_id: DeliveryId,
        /// The attempt that is due then; `None` in timers that were armed when a delivery had a single one.
        attempt: Option<u32>,
    },
    /// An endpoint changed.
    Endpoint {
        /// Project of the endpoint.
        project_id: ProjectId,
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// A bulk replay changed.
    Replay {
        /// Its project.
        project_id: ProjectId,
        /// The replay.
        replay_id: ReplayId,
    },
    /// An API key changed.
    ApiKey {
        /// The key.
        key_id: ApiKeyId,
    },
    /// An event type changed. Its name's dots are subject dots: a project has none, so that where the name begins is clear.
    EventType {
        /// Its project.
        project_id: ProjectId,
        /// Its name.
        name: EventType,
    },
    /// The settings of a project changed.
    Project {
        /// The project.
        project_id: ProjectId,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It failed and will be retried.
    Attempted,
    /// It succeeded.
    Succeeded,
    /// The delivery failed for good.
    Failed,
}

impl Outcome {
    /// What a message about it holds.
    pub fn kind(self) -> Kind {
        match self {
            Self::Attempted => Kind::Attempted,
            Self::Succeeded => Kind::Succeeded,
            Self::Failed => Kind::Failed,
        }
    }
}

/// A subject is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a subject of this log")]
pub struct UnknownSubject(pub String);

impl Subject {
    /// What a message under this subject holds; a timer holds what it will deliver.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Work { due: false, .. } => Kind::Requested,
            Self::Work { due: true, .. } | Self::Timer { .. } => Kind::Due,
            Self::Outcome { outcome, .. } => outcome.kind(),
            Self::Unmatched { .. } => Kind::Unmatched,
            Self::Endpoint { .. } => Kind::Endpoint,
            Self::Replay { .. } => Kind::Replay,
            Self::ApiKey { .. } => Kind::ApiKey,
            Self::EventType { .. } => Kind::EventType,
            Self::Project { .. } => Kind::Project,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().as_str();
        match self {
            Self::Work {
                partition,
                project_id,
                endpoint_id,
                ..
            } => {
                write!(f, "webhooks.work.{partition}.{project_id}.{endpoint_id}.{kind}")
            }
            Self::Outcome {
                project_id,
                endpoint_id,
                ..
            } => {
                write!(f, "webhooks.outcome.{project_id}.{endpoint_id}.{kind}")
            }
            Self::Unmatched { project_id } => write!(f, "webhooks.message.{project_id}.{kind}"),
            Self::Timer {
                delivery_id,
                attempt: None,
            } => write!(f, "webhooks.timer.{delivery_id}"),
            Self::Timer {
                delivery_id,
                attempt: Some(attempt),
            } => write!(f, "webhooks.timer.{delivery_id}.{attempt}"),
            Self::Endpoint {
                project_id,
                endpoint_id,
            } => {
                write!(f, "webhooks.endpoint.{project_id}.{endpoint_id}")
            }
            Self::Replay {
                project_id,
                replay_id,
            } => write!(f, "webhooks.replay.{project_id}.{replay_id}"),
            Self::ApiKey { key_id } => write!(f, "webhooks.api_key.{key_id}"),
            Self::EventType { project_id, name } => write!(f, "webhooks.event_type.{project_id}.{name}"),
            Self::Project { project_id } => write!(f, "webhooks.project.{project_id}"),
        }
    }
}

impl FromStr for Subject {
    type Err = UnknownSubject;

    fn from_str(text: &str) -> Result<Self, UnknownSubject> {
        parse(text).ok_or_else(|| UnknownSubject(text.into()))
    }
}

fn parse(text: &str) -> Option<Subject> {
    let (family, tokens) = text.strip_prefix("webhooks.")?.split_once('.')?;
    let tokens: Vec<&str> = tokens.split('.').collect();
    Some(match (family, &tokens[..]) {
        ("work", [partition, project_id, endpoint_id, kind]) => Subject::Work {
            partition: parse_number(partition)?,
            project_id: project_id.parse().ok()?,
            endpoint_id: endpoint_id.parse().ok()?,
            due: match *kind {
                "requested" => false,
                "due" => true,
                _ => return None,
            },
        },
        ("outcome", [project_id, endpoint_id, kind]) => Subject::Outcome {
            project_id: project_id.parse().ok()?,
            endpoint_id: endpoint_id.parse().ok()?,
            outcome: match *kind {
                "attempted" => Outcome::Attempted,
                "succeeded" => Outcome::Succeeded,
                "failed" => Outcome::Failed,
                _ => return None,
            },
        },
        ("message", [project_id, "unmatched"]) => Subject::Unmatched {
            project_id: project_id.parse().ok()?,
        },
        ("timer", [delivery_id]) => Subject::Timer {
            delivery_id: delivery_id.parse().ok()?,
            attempt: None,
        },
        ("timer", [delivery_id, attempt]) => Subject::Timer {
            delivery_id: delivery_id.parse().ok()?,
            attempt: Some(parse_number(attempt)?),
        },
        ("endpoint", [project_id, endpoint_id]) => Subject::Endpoint {
            project_id: project_id.parse().ok()?,
            endpoint_id: endpoint_id.parse().ok()?,
        },
        ("replay", [project_id, replay_id]) => Subject::Replay {
            project_id: project_id.parse().ok()?,
            replay_id: replay_id.parse().ok()?,
        },
        ("api_key", [key_id]) => Subject::ApiKey {
            key_id: key_id.parse().ok()?,
        },
        ("event_type", [project_id, name @ ..]) => Subject::EventType {
            project_id: project_id.parse().ok()?,
            name: name.join(".").parse().ok()?,
        },
        ("project", [project_id]) => Subject::Project {
            project_id: project_id.parse().ok()?,
        },
        _ => return None,
    })
}

/// One spelling per number: no sign, no leading zero.
fn parse_number<T: FromStr + ToString>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The partition that `endpoint_id` belongs to, of `partitions` (1 or more).
pub fn partition_of(endpoint_id: EndpointId, partitions: u16) -> u16 {
    let digest = Sha256::digest(endpoint_id.uuid().as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    (u64::from_be_bytes(head) % u64::from(partitions.max(1))) as u16
}

/// Selects the work of one partition.
pub fn work_filter(partition: u16) -> String {
    format!("webhooks.work.{partition}.>")
}

/// Selects the work of one endpoint, which is in `partition`.
pub fn work_of(partition: u16, project_id: &ProjectId, endpoint_id: EndpointId) -> String {
    format!("webhooks.work.{partition}.{project_id}.{endpoint_id}.*")
}

/// Selects what became of one endpoint's deliveries.
pub fn outcomes_of(project_id: &ProjectId, endpoint_id: EndpointId) -> String {
    format!("webhooks.outcome.{project_id}.{endpoint_id}.*")
}

/// Selects the timers of one delivery that name an attempt.
pub fn timers_of(delivery_id: DeliveryId) -> String {
    format!("webhooks.timer.{delivery_id}.*")
}

/// What the subjects begin with that other modules publish on: project and event type follow.
pub const INGEST_PREFIX: &str = "cuitty.events.";

/// Where a message is published again that was published for `project` and not taken. What cannot be the name of a project
/// stands under a name that none can have.
pub fn ingest_rejected(project: &str) -> String {
    let project = project.parse::<ProjectId>();
    let project = project.as_ref().map_or("!invalid", ProjectId::as_str);
    format!("webhooks.ingest.rejected.{project}")
}

/// Selects all work.
pub const WORK: &str = "webhooks.work.>";
/// Selects every outcome.
pub const OUTCOMES: &str = "webhooks.outcome.>";
/// Selects every endpoint's changes.
pub const ENDPOINTS: &str = "webhooks.endpoint.>";
/// Selects every bulk replay's changes.
pub const REPLAYS: &str = "webhooks.replay.>";
/// Selects every API key's changes.
pub const API_KEYS: &str = "webhooks.api_key.>";
/// Selects every event type's changes.
pub const EVENT_TYPES: &str = "webhooks.event_type.>";
/// Selects every project's changes.
pub const PROJECTS: &str = "webhooks.project.>";

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn endpoint_id(seed: u64) -> EndpointId {
        EndpointId::new(DateTime::<Utc>::UNIX_EPOCH, &mut StdRng::seed_from_u64(seed))
    }

    fn delivery_id(seed: u64) -> DeliveryId {
        DeliveryId::new(DateTime::<Utc>::UNIX_EPOCH, &mut StdRng::seed_from_u64(seed))
    }

    fn subjects() -> impl Strategy<Value = Subject> {
        let name = "[A-Za-z0-9_-]{1,20}(\\.[A-Za-z0-9_-]{1,20}){0,4}";
        (0u8..12, any::<u16>(), "[A-Za-z0-9_-]{1,64}", any::<u64>(), name).prop_map(
            |(form, partition, project, seed, name)| {
                let project_id: ProjectId = project.parse().unwrap();
                let endpoint_id = endpoint_id(seed);
                match form {
                    0 | 1 => Subject::Work {
                        partition,
                        project_id,
                        endpoint_id,
                        due: form == 1,
                    },
                    2 => Subject::Outcome {
                        project_id,
                        endpoint_id,
                        outcome: Outcome::Attempted,
                    },
                    3 => Subject::Outcome {
                        project_id,
                        endpoint_id,
                        outcome: Outcome::Succeeded,
                    },
                    4 => Subject::Outcome {
                        project_id,
                        endpoint_id,
                        outcome: Outcome::Failed,
                    },
                    5 => Subject::Unmatched { project_id },
                    6 => Subject::Timer {
                        delivery_id: delivery_id(seed),
                        attempt: (partition > 0).then_some(partition.into()),
                    },
                    7 => Subject::Replay {
                        project_id,
                        replay_id: ReplayId::from_uuid(endpoint_id.uuid()),
                    },
                    8 => Subject::ApiKey {
                        key_id: ApiKeyId::from_uuid(endpoint_id.uuid()),
                    },
                    9 => Subject::EventType {
                        project_id,
                        name: name.parse().unwrap(),
                    },
                    10 => Subject::Project { project_id },
                    _ => Subject::Endpoint {
                        project_id,
                        endpoint_id,
                    },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn text_round_trips(subject in subjects()) {
            prop_assert_eq!(subject.to_string().parse(), Ok(subject));
        }

        #[test]
        fn every_spelling_that_parses_is_the_one_that_is_written(
            text in "webhooks\\.(work|outcome|message|timer|endpoint|replay|api_key|event_type|project|x)(\\.[a-z0-9_+]{0,30}){1,5}",
        ) {
            if let Ok(subject) = text.parse::<Subject>() {
                prop_assert_eq!(subject.to_string(), text);
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,120}") {
            let _ = text.parse::<Subject>();
        }

        #[test]
        fn partitions_are_stable_and_in_range(seed: u64, partitions in 1u16..=64) {
            let endpoint_id = endpoint_id(seed);
            prop_assert!(partition_of(endpoint_id, partitions) < partitions);
            prop_assert_eq!(partition_of(endpoint_id, partitions), partition_of(endpoint_id, partitions));
        }
    }
}
