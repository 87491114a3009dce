//! A refused command. Not a failure of the service: a value that tells the caller what to change.

use std::fmt;

/// One field of a request and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name in the API, such as `url` or `headers[2].name`.
    pub field: String,
    /// What must be different, as a sentence without its subject: `must be at most 64 bytes`.
    pub message: String,
}

impl FieldViolation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// What kind of thing was not found or is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A project.
    Project,
    /// An endpoint.
    Endpoint,
    /// A delivery.
    Delivery,
    /// An event type.
    EventType,
    /// A signing secret.
    Secret,
    /// A bulk replay.
    Replay,
    /// An API key.
    ApiKey,
}

impl Resource {
    /// The name used in errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Endpoint => "endpoint",
            Self::Delivery => "delivery",
            Self::EventType => "event_type",
            Self::Secret => "secret",
            Self::Replay => "replay",
            Self::ApiKey => "api_key",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a command was refused, by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Some fields are wrong; all of them are listed at once.
    #[error("{}", describe(.0))]
    Invalid(Vec<FieldViolation>),
    /// The thing does not exist, or the caller may not know that it does.
    #[error("{resource} {id} was not found")]
    NotFound {
        /// What was looked for.
        resource: Resource,
        /// As the caller named it.
        id: String,
    },
    /// The thing is no longer as the caller thought.
    #[error("{resource} {id}: {message}")]
    Conflict {
        /// What is in the way.
        resource: Resource,
        /// Its id.
        id: String,
        /// What was expected and what is.
        message: String,
    },
    /// The payload is larger than a message may be.
    #[error("payload is {actual} bytes, at most {limit} are accepted")]
    PayloadTooLarge {
        /// Size of what was given, in bytes.
        actual: usize,
        /// What is accepted, in bytes.
        limit: usize,
    },
}

impl Rejection {
    /// A rejection of one field.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, message)])
    }
}

fn describe(violations: &[FieldViolation]) -> String {
    violations
        .iter()
        .map(|violation| format!("{} {}", violation.field, violation.message))
        .collect::<Vec<_>>()
        .join("; ")
}
