//! Names of the metrics that the API records.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Calls by `operation` and by `code` (`ok` or an error's code).
pub const CALLS: &str = "webhooks_api_calls_total";
/// Seconds that a call took, by `operation`.
pub const CALL_SECONDS: &str = "webhooks_api_call_seconds";
/// Calls without a good key, by `code`.
pub const UNAUTHENTICATED: &str = "webhooks_api_unauthenticated_total";
/// Messages that the log has stored, by `outcome`: `accepted`, `unmatched` or `duplicate`.
pub const MESSAGES: &str = "webhooks_messages_accepted_total";
/// Deliveries that the log has stored.
pub const DELIVERIES: &str = "webhooks_deliveries_accepted_total";
/// Messages that are being accepted at this moment.
pub const ACCEPTS: &str = "webhooks_accepts_in_flight";
/// How many may be: beyond it, single calls are refused as `overloaded`, and others wait.
pub const ACCEPTS_LIMIT: &str = "webhooks_accepts_limit";
/// Messages that were published on NATS, by `outcome`: `accepted`, `rejected`, or `later` for each time that one could not be
/// taken yet.
pub const INGESTED: &str = "webhooks_ingest_messages_total";
/// Those that were rejected, by `reason` (an error's code).
pub const INGEST_REJECTED: &str = "webhooks_ingest_rejected_total";
/// Deliveries of published messages beyond the first one of each.
pub const INGEST_REDELIVERED: &str = "webhooks_ingest_redelivered_total";
/// Published messages that no process has pulled yet.
pub const INGEST_WAITING: &str = "webhooks_ingest_waiting_count";
/// Connections open.
pub const CONNECTIONS: &str = "webhooks_api_connections_count";
/// Streams of messages open.
pub const DELIVER_STREAMS: &str = "webhooks_deliver_streams_count";
/// Streams of delivery events open.
pub const WATCHERS: &str = "webhooks_watchers_count";

/// Registers the descriptions with the installed recorder.
pub fn describe() {
    describe_counter!(
        CALLS,
        Unit::Count,
        "Calls by operation and by code (ok or the error's code)"
    );
    describe_histogram!(CALL_SECONDS, Unit::Seconds, "Duration of calls by operation");
    describe_counter!(
        UNAUTHENTICATED,
        Unit::Count,
        "Calls refused for want of a good API key, by code"
    );
    describe_counter!(
        MESSAGES,
        Unit::Count,
        "Messages stored in the log by outcome (accepted, unmatched, duplicate)"
    );
    describe_counter!(DELIVERIES, Unit::Count, "Deliveries stored in the log");
    describe_gauge!(
        ACCEPTS,
        Unit::Count,
        "Messages that are being accepted at this moment"
    );
    describe_gauge!(
        ACCEPTS_LIMIT,
        Unit::Count,
        "Messages that may be accepted at the same time"
    );
    describe_counter!(
        INGESTED,
        Unit::Count,
        "Messages published on NATS by outcome (accepted, rejected, or later when one could not be taken yet)"
    );
    describe_counter!(
        INGEST_REJECTED,
        Unit::Count,
        "Published messages that were rejected, by reason"
    );
    describe_counter!(
        INGEST_REDELIVERED,
        Unit::Count,
        "Published messages that came again"
    );
    describe_gauge!(
        INGEST_WAITING,
        Unit::Count,
        "Published messages that no process has pulled yet"
    );
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections open to the API");
    describe_gauge!(DELIVER_STREAMS, Unit::Count, "Streams of messages open");
    describe_gauge!(WATCHERS, Unit::Count, "Streams of delivery events open");
}

/// Shows what a process that accepts counts, at 0: a series that comes with its first increment would hide it from alerts.
pub(crate) fn register() {
    for operation in ["deliver_message", "deliver_item", "ingest_message"] {
        for code in ["ok", "internal", "log_unavailable", "overloaded", "timed_out"] {
            let _ = counter!(CALLS, "operation" => operation, "code" => code);
        }
        let _ = histogram!(CALL_SECONDS, "operation" => operation);
    }
    for code in ["missing_api_key", "invalid_api_key"] {
        let _ = counter!(UNAUTHENTICATED, "code" => code);
    }
    for outcome in ["accepted", "unmatched", "duplicate"] {
        let _ = counter!(MESSAGES, "outcome" => outcome);
    }
    for outcome in ["accepted", "rejected", "later"] {
        let _ = counter!(INGESTED, "outcome" => outcome);
    }
    for reason in [
        "endpoint_not_found",
        "event_type_archived",
        "event_type_unknown",
        "idempotency_key_reused",
        "internal",
        "invalid_fields",
        "payload_too_large",
        "project_not_found",
    ] {
        let _ = counter!(INGEST_REJECTED, "reason" => reason);
    }
    for name in [DELIVERIES, INGEST_REDELIVERED] {
        let _ = counter!(name);
    }
    for name in [
        INGEST_WAITING,
        ACCEPTS,
        ACCEPTS_LIMIT,
        CONNECTIONS,
        DELIVER_STREAMS,
        WATCHERS,
    ] {
        let _ = gauge!(name);
    }
}
