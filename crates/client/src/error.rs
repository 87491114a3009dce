//! What a call can fail with.

use tonic::Code;
use tonic_types::StatusExt;

/// Why a call failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address or the API key cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// The service cannot be reached or asks to try again later. A delivery with an idempotency key can be repeated safely.
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

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable(message),
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
    use tonic::Status;
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
}
