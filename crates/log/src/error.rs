//! What goes wrong with the log, by what the caller can do about it.

use std::error::Error;
use std::fmt::Display;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    GetStreamError, GetStreamErrorKind, KeyValueError, KeyValueErrorKind, PublishError, PublishErrorKind,
};

use crate::codec::CodecError;

/// The storage layer of nats-server refused a message.
const STORE_FAILED: u64 = 10077;

/// An operation on the log failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log cannot be reached, or did not answer in time. What was to be appended may or may not be in it: repeat it
    /// with the same ids.
    #[error("log is not available: {0}")]
    Unavailable(String),
    /// The log has no room for new messages. Nothing was appended.
    #[error("log is full: {0}")]
    Full(String),
    /// A setting of the connection cannot be used, such as `log.url` or `log.ca_file`.
    #[error("{setting} {message}")]
    Config {
        /// The setting at fault.
        setting: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// nats-server does not let us in with the credentials it was given.
    #[error("nats-server refused the credentials: {0}")]
    Unauthorized(String),
    /// nats-server lacks what this service needs.
    #[error(
        "nats-server is {found}, at least {required} is needed: earlier ones lose retry timers when they are killed"
    )]
    ServerTooOld {
        /// The version that answered.
        found: String,
        /// The lowest version that will do.
        required: &'static str,
    },
    /// A stream exists but is not as this service needs it, and it cannot be changed.
    #[error("stream {stream} cannot be used as it is: {difference}")]
    Drift {
        /// The stream.
        stream: String,
        /// What is different.
        difference: String,
    },
    /// A stream is missing: `topology apply` makes it.
    #[error("stream {stream} does not exist; run `cuitty-webhooks topology apply`")]
    NoTopology {
        /// The stream.
        stream: String,
    },
    /// Somebody else wrote to the subject first. Read it again and decide anew.
    #[error("{subject} is no longer at sequence {expected}")]
    Conflict {
        /// The subject.
        subject: String,
        /// The sequence that its last message was expected to have; 0 for none.
        expected: u64,
    },
    /// nats-server does not take messages of this size.
    #[error("message is too large for the log: {0}")]
    TooLarge(String),
    /// What is stored cannot be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// nats-server answered what it should not have.
    #[error("unexpected answer from nats-server: {0}")]
    Protocol(String),
}

impl LogError {
    /// Whether the same operation may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// An operation that got no answer, or an answer that says "not now".
    pub(crate) fn unavailable(cause: impl Error) -> Self {
        Self::Unavailable(chain(&cause))
    }

    pub(crate) fn protocol(cause: impl Error) -> Self {
        Self::Protocol(chain(&cause))
    }

    /// The error of opening a bucket.
    pub(crate) fn bucket(name: &str) -> impl FnOnce(KeyValueError) -> Self {
        let stream = format!("KV_{name}");
        move |error| match jetstream_error(&error) {
            Some(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => Self::NoTopology { stream },
            _ if error.kind() == KeyValueErrorKind::InvalidStoreName => Self::Drift {
                stream,
                difference: "it is not a key-value bucket".into(),
            },
            _ => Self::unavailable(error),
        }
    }

    /// The error of a publish to `subject`, which `expected` this last sequence when that mattered.
    pub(crate) fn publish(error: &PublishError, subject: impl Display, expected: Option<u64>) -> Self {
        match error.kind() {
            PublishErrorKind::WrongLastSequence => {
                return Self::Conflict {
                    subject: subject.to_string(),
                    expected: expected.unwrap_or_default(),
                };
            }
            PublishErrorKind::MaxPayloadExceeded => return Self::TooLarge(chain(error)),
            _ => {}
        }
        jetstream_error(error).map_or_else(
            || Self::Unavailable(chain(error)),
            |cause| Self::from_jetstream(&cause),
        )
    }

    /// The error that JetStream itself answered with.
    pub(crate) fn from_jetstream(cause: &jetstream::Error) -> Self {
        let text = cause.to_string();
        match cause.error_code() {
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Self::TooLarge(text),
            ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES => Self::Full(text),
            code if code.0 == STORE_FAILED => Self::Full(text),
            ErrorCode::STREAM_INVALID_CONFIG => Self::Protocol(text),
            // The same message, sent before, is on its way into the stream: soon it is a duplicate, or not there.
            ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => Self::Unavailable(text),
            // 5xx says that a cluster has no leader yet, that a server is starting, and the like.
            _ if cause.code() >= 500 => Self::Unavailable(text),
            _ => Self::Protocol(text),
        }
    }
}

/// What JetStream itself answered, if the error comes from an answer.
fn jetstream_error(error: &(dyn Error + 'static)) -> Option<jetstream::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(GetStreamErrorKind::JetStream(cause)) =
            error.downcast_ref::<GetStreamError>().map(GetStreamError::kind)
        {
            return Some(cause);
        }
        if let Some(cause) = error.downcast_ref::<jetstream::Error>() {
            return Some(cause.clone());
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line. A cause that its effect already tells is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(code: u16, err_code: u64) -> LogError {
        let answer = json!({ "code": code, "err_code": err_code, "description": "text" });
        let cause: jetstream::Error = serde_json::from_value(answer).unwrap();
        LogError::from_jetstream(&cause)
    }

    #[test]
    fn what_passes_by_itself_is_transient() {
        assert!(answered(409, 10158).is_transient(), "the same id is in process");
        assert!(answered(503, 10008).is_transient(), "no leader");
        assert!(!answered(400, 10054).is_transient(), "too large");
        assert!(matches!(answered(400, 10060), LogError::Protocol(_)));
    }
}
