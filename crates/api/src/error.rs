//! Everything that a call can be refused with, and the one table that says how each door puts it.

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cuitty_webhooks_domain::names::EventType;
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection, Resource};
use cuitty_webhooks_history::HistoryError;
use cuitty_webhooks_log::LogError;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};
use utoipa::ToSchema;

use crate::auth::Scope;

/// `domain` of every `google.rpc.ErrorInfo`.
const ERROR_DOMAIN: &str = "webhooks.cuitty.com";

/// Why a call was not answered as asked, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// The command is refused as it stands.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The event type is not in use any more.
    #[error("event_type is archived: no messages of {0} are accepted")]
    EventTypeArchived(EventType),
    /// The project wants to know its event types beforehand, and does not know this one.
    #[error("event_type {}", unknown_text(.nearest))]
    EventTypeUnknown {
        /// Those it may have been meant to be, the most similar one first.
        nearest: Vec<EventType>,
    },
    /// The key stands for another request.
    #[error("the idempotency key was used for a different request in the last 24 hours")]
    IdempotencyKeyReused,
    /// The thing is not at a revision that the caller asked for.
    #[error("{resource} {id} is at revision {revision}, which is not what if-match names")]
    PreconditionFailed {
        /// What kind of thing.
        resource: Resource,
        /// Its id.
        id: String,
        /// Its revision now.
        revision: u64,
    },
    /// The key has called too often.
    #[error("the API key may make {per_second} calls a second; try again")]
    RateLimited {
        /// Calls a second that the key may make.
        per_second: u32,
        /// Calls that it may make at once, when it has made none for a while.
        burst: u32,
        /// When the next one is allowed.
        retry_after: Duration,
    },
    /// Nothing tells who calls.
    #[error("send an API key as `Authorization: Bearer <key>`")]
    MissingKey,
    /// The key is not one of ours.
    #[error("the API key is not valid")]
    WrongKey,
    /// The key is not good for this.
    #[error("the API key lacks the scope `{}`", .0.as_str())]
    MissingScope(Scope),
    /// The body cannot be read.
    #[error("the body is not JSON: {0}")]
    MalformedBody(String),
    /// The body is said to be something else.
    #[error("the content type must be {0}")]
    UnsupportedMediaType(&'static str),
    /// The body is larger than any request may be.
    #[error("the request is larger than {limit} bytes")]
    RequestTooLarge {
        /// In bytes.
        limit: usize,
    },
    /// The batch is larger than any batch may be.
    #[error("the batch is larger than {limit} bytes")]
    BatchTooLarge {
        /// In bytes.
        limit: usize,
    },
    /// Nothing is served there.
    #[error("there is no such route or method")]
    RouteNotFound,
    /// Something is served there, but not with this method.
    #[error("the method is not allowed here")]
    MethodNotAllowed,
    /// Others keep changing the same thing.
    #[error("endpoint {0} is being changed by others; try again")]
    Contended(String),
    /// Too much is being accepted at the same time.
    #[error("too many messages are being accepted; try again")]
    Overloaded,
    /// The log did not answer. Nothing is promised.
    #[error("the event log is not available; nothing is promised, try again")]
    LogUnavailable(#[source] LogError),
    /// The history did not answer, or was not asked: it is not open yet, or could not be reached a moment ago.
    #[error(
        "the delivery history is not available; events are accepted and delivered all the same, try again"
    )]
    HistoryUnavailable(#[source] Option<HistoryError>),
    /// The history did not reach the sequence in time.
    #[error("the delivery history has not reached log sequence {0} yet")]
    HistoryBehind(u64),
    /// No more streams.
    #[error("too many deliveries are being watched; at most {0} streams are open at the same time")]
    TooManyWatchers(usize),
    /// No more streams of messages.
    #[error("at most {0} streams of messages are open at the same time")]
    TooManyStreams(usize),
    /// A stream was read too slowly.
    #[error("the watcher fell behind and missed {0} events; watch again")]
    WatcherBehind(u64),
    /// The answer took too long.
    #[error("the request was not answered in time; what it asked for may have happened")]
    TimedOut,
    /// The process is about to end.
    #[error("the service is shutting down; try again")]
    ShuttingDown,
    /// A defect, or a stored state that this version cannot read.
    #[error("internal error")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

/// How an error is put.
struct Row {
    /// Category in REST errors.
    kind: &'static str,
    /// What programs tell errors apart by; in upper case the `reason` of `google.rpc.ErrorInfo`.
    code: &'static str,
    http: StatusCode,
    grpc: Code,
}

const INVALID: &str = "invalid_request";
const AUTHENTICATION: &str = "authentication";
const PERMISSION: &str = "permission";
const NOT_FOUND: &str = "not_found";
const CONFLICT: &str = "conflict";
const RATE_LIMIT: &str = "rate_limit";
const UNAVAILABLE: &str = "unavailable";
const INTERNAL: &str = "internal";

/// When a call that met an unavailable part is worth another try.
const RETRY_HINT: Duration = Duration::from_secs(1);

/// Most fields that an error names.
const FIELDS: usize = 16;
/// Longest name of a field, and longest text about it, in characters.
const FIELD_CHARS: usize = 250;
/// Longest message, in characters.
const MESSAGE_CHARS: usize = 1000;

impl AppError {
    /// The table.
    fn row(&self) -> Row {
        let (kind, code, http, grpc) = match self {
            Self::Rejected(Rejection::Invalid(_)) => (INVALID, "invalid_fields", 422, Code::InvalidArgument),
            Self::Rejected(Rejection::NotFound { resource, .. }) => {
                (NOT_FOUND, not_found_code(*resource), 404, Code::NotFound)
            }
            Self::Rejected(Rejection::Conflict { resource, .. }) => {
                (CONFLICT, conflict_code(*resource), 409, Code::Aborted)
            }
            Self::Rejected(Rejection::PayloadTooLarge { .. }) => {
                (INVALID, "payload_too_large", 413, Code::InvalidArgument)
            }
            Self::EventTypeArchived(_) => (INVALID, "event_type_archived", 422, Code::FailedPrecondition),
            Self::EventTypeUnknown { .. } => (INVALID, "event_type_unknown", 422, Code::InvalidArgument),
            Self::IdempotencyKeyReused => (CONFLICT, "idempotency_key_reused", 409, Code::AlreadyExists),
            Self::PreconditionFailed { .. } => (CONFLICT, "revision_mismatch", 412, Code::Aborted),
            Self::RateLimited { .. } => (RATE_LIMIT, "rate_limited", 429, Code::ResourceExhausted),
            Self::MissingKey => (AUTHENTICATION, "missing_api_key", 401, Code::Unauthenticated),
            Self::WrongKey => (AUTHENTICATION, "invalid_api_key", 401, Code::Unauthenticated),
            Self::MissingScope(_) => (PERMISSION, "missing_scope", 403, Code::PermissionDenied),
            Self::MalformedBody(_) => (INVALID, "malformed_body", 400, Code::InvalidArgument),
            Self::UnsupportedMediaType(_) => (INVALID, "unsupported_media_type", 415, Code::InvalidArgument),
            Self::BatchTooLarge { .. } => (INVALID, "batch_too_large", 413, Code::InvalidArgument),
            Self::RequestTooLarge { .. } => (INVALID, "payload_too_large", 413, Code::InvalidArgument),
            Self::RouteNotFound => (NOT_FOUND, "route_not_found", 404, Code::Unimplemented),
            Self::MethodNotAllowed => (INVALID, "method_not_allowed", 405, Code::Unimplemented),
            Self::Contended(_) => (CONFLICT, "endpoint_contended", 409, Code::Aborted),
            Self::Overloaded => (UNAVAILABLE, "overloaded", 503, Code::Unavailable),
            Self::LogUnavailable(_) => (UNAVAILABLE, "log_unavailable", 503, Code::Unavailable),
            Self::HistoryUnavailable(_) => (UNAVAILABLE, "history_unavailable", 503, Code::Unavailable),
            Self::HistoryBehind(_) => (UNAVAILABLE, "history_behind", 503, Code::Unavailable),
            Self::TooManyWatchers(_) => (RATE_LIMIT, "too_many_watchers", 429, Code::ResourceExhausted),
            Self::TooManyStreams(_) => (RATE_LIMIT, "too_many_streams", 429, Code::ResourceExhausted),
            Self::WatcherBehind(_) => (RATE_LIMIT, "watcher_behind", 429, Code::ResourceExhausted),
            Self::TimedOut => (UNAVAILABLE, "timed_out", 503, Code::DeadlineExceeded),
            Self::ShuttingDown => (UNAVAILABLE, "shutting_down", 503, Code::Unavailable),
            Self::Internal(_) => (INTERNAL, "internal", 500, Code::Internal),
        };
        let http = StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Row {
            kind,
            code,
            http,
            grpc,
        }
    }

    /// What programs tell errors apart by.
    pub(crate) fn code(&self) -> &'static str {
        self.row().code
    }

    /// `reason` of `google.rpc.ErrorInfo`.
    pub(crate) fn reason(&self) -> String {
        self.code().to_ascii_uppercase()
    }

    /// Whether the same may succeed later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        self.row().kind == UNAVAILABLE
    }

    /// An error that no caller can do anything about.
    pub(crate) fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// For people, bounded as [`Self::fields`] are.
    pub(crate) fn message(&self) -> String {
        shorten(&self.to_string(), MESSAGE_CHARS)
    }

    /// The fields at fault. They may name what the caller sent, and travel in a gRPC trailer, which clients bound to 8 KiB:
    /// so their number and length are bounded.
    pub(crate) fn fields(&self) -> Vec<FieldViolation> {
        match self {
            Self::Rejected(Rejection::Invalid(fields)) => fields
                .iter()
                .take(FIELDS)
                .map(|violation| {
                    let field = shorten(&violation.field, FIELD_CHARS);
                    FieldViolation::new(field, shorten(&violation.message, FIELD_CHARS))
                })
                .collect(),
            Self::Rejected(Rejection::PayloadTooLarge { limit, .. }) => {
                vec![FieldViolation::new(
                    "payload",
                    format!("must be at most {limit} bytes"),
                )]
            }
            Self::EventTypeArchived(_) => vec![FieldViolation::new("event_type", "is archived")],
            Self::EventTypeUnknown { nearest } => {
                vec![FieldViolation::new("event_type", unknown_text(nearest))]
            }
            // The payload is the only part of a request that can be this large.
            Self::RequestTooLarge { limit } => {
                let text = format!("must fit into a request of at most {limit} bytes");
                vec![FieldViolation::new("payload", text)]
            }
            Self::BatchTooLarge { limit } => {
                let text = format!("must fit into a request of at most {limit} bytes");
                vec![FieldViolation::new("items", text)]
            }
            _ => Vec::new(),
        }
    }

    /// The thing at fault: its kind and id.
    fn resource(&self) -> Option<(Resource, &str)> {
        match self {
            Self::Rejected(
                Rejection::NotFound { resource, id } | Rejection::Conflict { resource, id, .. },
            )
            | Self::PreconditionFailed { resource, id, .. } => Some((*resource, id)),
            Self::Contended(id) => Some((Resource::Endpoint, id)),
            _ => None,
        }
    }

    /// How long to wait before trying again, of what trying again may help against.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            _ => matches!(self.row().kind, UNAVAILABLE | RATE_LIMIT).then_some(RETRY_HINT),
        }
    }

    /// The error as gRPC puts it, with its details.
    pub(crate) fn to_status(&self) -> tonic::Status {
        let row = self.row();
        let mut metadata = std::collections::HashMap::new();
        if let Some((resource, id)) = self.resource() {
            metadata.insert("resource".to_owned(), resource.as_str().to_owned());
            metadata.insert("id".to_owned(), id.to_owned());
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason(), ERROR_DOMAIN, metadata);
        for violation in self.fields() {
            details.add_bad_request_violation(violation.field, violation.message);
        }
        if let Some(delay) = self.retry_after() {
            details.set_retry_info(Some(delay));
        }
        tonic::Status::with_error_details(row.grpc, self.message(), details)
    }

    /// The error as REST and MCP put it.
    pub(crate) fn to_body(&self) -> ErrorBody {
        let row = self.row();
        let (resource, id) = self
            .resource()
            .map(|(resource, id)| (resource.as_str(), id.to_owned()))
            .unzip();
        let field = |violation: FieldViolation| ErrorField {
            field: violation.field,
            message: violation.message,
        };
        ErrorBody {
            error: ErrorObject {
                kind: row.kind,
                code: row.code,
                message: self.message(),
                resource,
                id,
                fields: self.fields().into_iter().map(field).collect(),
            },
        }
    }

    /// The error as the door of the call puts it.
    pub(crate) fn into_door_response(self, grpc: bool) -> Response {
        if grpc {
            self.to_status().into_http::<Body>()
        } else {
            self.into_response()
        }
    }
}

fn unknown_text(nearest: &[EventType]) -> String {
    let names: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "is not known in this project, which refuses unknown types".into(),
        _ => format!(
            "is not known in this project; known ones like it are {}",
            names.join(", ")
        ),
    }
}

/// Rounded up: who waits that long does not come too early.
pub(crate) fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

fn shorten(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn not_found_code(resource: Resource) -> &'static str {
    match resource {
        Resource::Project => "project_not_found",
        Resource::Endpoint => "endpoint_not_found",
        Resource::Delivery => "delivery_not_found",
        Resource::EventType => "event_type_not_found",
        Resource::Secret => "secret_not_found",
        Resource::Replay => "replay_not_found",
        Resource::ApiKey => "api_key_not_found",
    }
}

fn conflict_code(resource: Resource) -> &'static str {
    match resource {
        Resource::Project => "project_conflict",
        Resource::Endpoint => "endpoint_conflict",
        Resource::Delivery => "delivery_conflict",
        Resource::EventType => "event_type_conflict",
        Resource::Secret => "secret_conflict",
        Resource::Replay => "replay_conflict",
        Resource::ApiKey => "api_key_conflict",
    }
}

/// An error as REST puts it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorObject {
    /// Category: `invalid_request`, `authentication`, `permission`, `not_found`, `conflict`, `rate_limit`, `unavailable` or
    /// `internal`.
    #[schema(rename = "type")]
    #[serde(rename = "type")]
    kind: &'static str,
    /// What programs tell errors apart by.
    code: &'static str,
    /// For people.
    message: String,
    /// Kind of the thing at fault.
    resource: Option<&'static str>,
    /// Its id, as the caller named it.
    id: Option<String>,
    /// The fields at fault, all of them at once.
    fields: Vec<ErrorField>,
}

/// A field and what is wrong with it.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorField {
    field: String,
    message: String,
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let row = self.row();
        let body = self.to_body();
        let mut response = (row.http, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(delay) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        if let Self::RateLimited {
            burst, retry_after, ..
        } = self
        {
            headers.insert("ratelimit-limit", HeaderValue::from(burst));
            headers.insert("ratelimit-remaining", HeaderValue::from(0));
            headers.insert("ratelimit-reset", HeaderValue::from(whole_seconds(retry_after)));
        }
        if row.http == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<AppError> for tonic::Status {
    fn from(error: AppError) -> Self {
        error.to_status()
    }
}

impl From<LogError> for AppError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_)
            | LogError::Full(_)
            | LogError::Unauthorized(_)
            | LogError::NoTopology { .. } => Self::LogUnavailable(error),
            _ => Self::internal(error),
        }
    }
}

impl From<HistoryError> for AppError {
    fn from(error: HistoryError) -> Self {
        if error.is_transient() {
            Self::HistoryUnavailable(Some(error))
        } else {
            Self::internal(error)
        }
    }
}

/// Whether a request came through the gRPC door.
pub(crate) fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests;
