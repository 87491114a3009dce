//! Names of the metrics that the API records.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

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
/// Connections open.
pub const CONNECTIONS: &str = "webhooks_api_connections_count";
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
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections open to the API");
    describe_gauge!(WATCHERS, Unit::Count, "Streams of delivery events open");
}
