//! What a call can fail with.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a call failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address or the API key cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// The service cannot be reached, or asks to try again later, and the client's patience has ended. What was asked for may
    /// have happened: whoever repeats it later should do so under the same idempotency key.
    #[error("the service is not available: {0}")]
    Unavailable(String),
    /// The request must be changed.
    #[error("{message}")]
    Refused {
        /// What kind of refusal: invalid, not found, conflict, not permitted.
        code: Code,
        /// `reason` of `google.rpc.ErrorInfo`, such as `IDEMPOTENCY_KEY_REUSED`; empty when the server gave none.
        reason: String,
        /// For a person.
        message: String,
        /// Fields at fault and what is wrong with each.
        fields: Vec<(String, String)>,
    },
    /// The service failed.
    #[error("the service failed: {0}")]
    Internal(String),
}

/// Whether, and when, it is worth asking again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It will be answered the same.
    Never,
    /// Nothing was done; later it will be, at the earliest after this long.
    NotYet(Duration),
    /// What was asked for may have been done.
    Perhaps(Option<Duration>),
}

impl Again {
    pub(crate) fn after(status: &Status) -> Self {
        let asked = || status.get_details_retry_info().and_then(|info| info.retry_delay);
        match status.code() {
            Code::Unavailable => Self::Perhaps(asked()),
            Code::ResourceExhausted => asked().map_or(Self::Never, Self::NotYet),
            _ if is_broken(status) => Self::Perhaps(None),
            _ => Self::Never,
        }
    }
}

/// Whether a status is no answer: the connection broke before there was one.
fn is_broken(status: &Status) -> bool {
    status.source().is_some() && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable(message),
            _ if is_broken(&status) => Self::Unavailable(message),
            Code::Internal | Code::Unknown | Code::DataLoss => Self::Internal(message),
            code => {
                let details = status.get_error_details();
                let fields = details
                    .bad_request()
                    .map(|bad| bad.field_violations.as_slice())
                    .unwrap_or_default();
                Self::Refused {
                    code,
                    reason: details
                        .error_info()
                        .map(|info| info.reason.clone())
                        .unwrap_or_default(),
                    fields: fields
                        .iter()
                        .map(|field| (field.field.clone(), field.description.clone()))
                        .collect(),
                    message,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_names_its_reason_and_fields() {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_FIELDS", "webhooks.cuitty.com", []);
        details.add_bad_request_violation("url", "must be http or https");
        let status = Status::with_error_details(Code::InvalidArgument, "url must be http or https", details);
        let ClientError::Refused {
            code, reason, fields, ..
        } = status.into()
        else {
            panic!("is a refusal")
        };
        assert_eq!(code, Code::InvalidArgument);
        assert_eq!(reason, "INVALID_FIELDS");
        assert_eq!(fields, [("url".to_owned(), "must be http or https".to_owned())]);
    }

    #[test]
    fn what_may_be_repeated_is_told_from_what_must_be_changed() {
        assert!(matches!(
            Status::unavailable("x").into(),
            ClientError::Unavailable(_)
        ));
        assert!(matches!(Status::internal("x").into(), ClientError::Internal(_)));
        assert!(matches!(
            Status::not_found("x").into(),
            ClientError::Refused {
                code: Code::NotFound,
                ..
            }
        ));
    }
    #[test]
    fn it_is_told_apart_what_is_worth_asking_again() {
        let limited = |delay| {
            let mut details = ErrorDetails::new();
            details.set_retry_info(delay);
            Status::with_error_details(Code::ResourceExhausted, "", details)
        };
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        let second = Duration::from_secs(1);
        for (status, expected) in [
            (Status::unavailable(""), Again::Perhaps(None)),
            (broken, Again::Perhaps(None)),
            (limited(Some(second)), Again::NotYet(second)),
            (limited(None), Again::Never),
            (Status::unknown(""), Again::Never),
            (Status::internal(""), Again::Never),
            (Status::deadline_exceeded(""), Again::Never),
            (Status::aborted(""), Again::Never),
        ] {
            assert_eq!(Again::after(&status), expected, "{status:?}");
        }
    }
}
