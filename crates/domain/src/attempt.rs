//! The record of one attempt: what was sent, what came back, how long each part took.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::ids::SecretId;

/// One attempt to deliver, whole. Exactly one event in the log carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When the dispatcher began it.
    pub started_at: DateTime<Utc>,
    /// From the start until the response was read or the attempt was given up. Stored to the microsecond.
    pub duration: Duration,
    /// What was sent.
    pub request: AttemptRequest,
    /// What came back, if anything did; never over NATS.
    pub response: Option<AttemptResponse>,
    /// What went wrong; `None` exactly when the attempt succeeded.
    pub error: Option<AttemptError>,
    /// How the duration splits.
    pub timing: Timing,
    /// The peer, once a connection was made.
    pub remote_address: Option<SocketAddr>,
    /// Revision of the endpoint whose configuration was used.
    pub endpoint_revision: u64,
    /// The process that made the attempt.
    pub dispatcher_id: String,
    /// 32 lower-case hex digits; empty when not traced.
    pub trace_id: String,
}

impl Attempt {
    /// Whether the endpoint took the delivery.
    pub fn succeeded(&self) -> bool {
        self.error.is_none()
    }
}

/// A header as it was sent or received. Bytes outside visible ASCII are percent-encoded in `value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Lower-case.
    pub name: String,
    /// Without surrounding white space.
    pub value: String,
}

/// What was sent, but for the body, which is made from the message's payload ([`crate::destination::body`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptRequest {
    /// Where it was sent.
    pub url: String,
    /// As sent, in order.
    pub headers: Vec<Header>,
    /// The secrets whose signatures it carried.
    pub signed_with: Vec<SecretId>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResponse {
    /// HTTP status, 100 to 999.
    pub status: u16,
    /// Capped in number and size.
    pub headers: Vec<Header>,
    /// Capped in size, as received: a compressed body is not inflated.
    pub body: Bytes,
    /// Whether the body went on beyond what was kept.
    pub body_truncated: bool,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptError {
    /// What a program tells errors apart by.
    pub class: ErrorClass,
    /// For a person; carries no secret, payload or query string.
    pub message: String,
}

/// The kinds of error that an attempt ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// The name could not be resolved.
    Dns,
    /// No address of the host may be reached under the egress policy.
    BlockedAddress,
    /// No TCP connection, or nobody who listens on a subject.
    Connect,
    /// No TLS session: certificate, protocol or cipher.
    Tls,
    /// No complete response head, or no reply, before the deadline.
    Timeout,
    /// The peer closed the connection before the response was complete.
    Reset,
    /// What came back is not HTTP.
    Protocol,
    /// The body did not end before the deadline.
    TooSlow,
    /// The status is not a success, or the reply is an error.
    Status,
    /// A redirect, which is never followed.
    Redirect,
    /// The endpoint's configuration cannot be used.
    Configuration,
}

impl ErrorClass {
    /// Every class, in the order of the stored contract.
    pub const ALL: [Self; 11] = [
        Self::Dns,
        Self::BlockedAddress,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::TooSlow,
        Self::Status,
        Self::Redirect,
        Self::Configuration,
    ];

    /// The name in the API, in metrics and in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::BlockedAddress => "blocked_address",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::TooSlow => "too_slow",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Configuration => "configuration",
        }
    }
}

/// The split of an attempt's duration. Parts that are `None` did not happen, as on a connection that was kept alive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the work item's arrival in its lane to the start.
    pub queue: Duration,
    /// Resolving the host.
    pub dns: Option<Duration>,
    /// TCP handshake.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// From the start to the response's head.
    pub first_byte: Option<Duration>,
}
