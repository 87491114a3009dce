//! The log's metrics, with their descriptions.

use metrics::Unit;

/// Names of the metrics.
pub mod names {
    /// Events appended, by `kind`; a repeated append that the log recognised counts once.
    pub const APPENDED: &str = "webhooks_log_appended_total";
    /// Time from the hand-over of an append until all its acknowledgements were in.
    pub const APPEND_SECONDS: &str = "webhooks_log_append_seconds";
    /// Appends sent again because no answer came.
    pub const APPEND_RETRIES: &str = "webhooks_log_append_retries_total";
    /// Appends that had to wait until others were acknowledged.
    pub const APPEND_WAITS: &str = "webhooks_log_append_waits_total";
    /// Connections made to nats-server, the first one included.
    pub const CONNECTS: &str = "webhooks_log_connects_total";
    /// Consumers attached again after they were lost or fell silent, by `use` (`read`, `work`, `ingest`, `directory`,
    /// `membership`, `lanes`, `cancellations`, `replays`, `api_keys`, `api_key_uses`).
    pub const REATTACHED: &str = "webhooks_log_reattached_total";
    /// Stored messages that could not be read.
    pub const UNREADABLE: &str = "webhooks_log_unreadable_total";
    /// What nats-server did not let this process do, by `operation`: `publish` or `subscribe`.
    pub const DENIED: &str = "webhooks_log_denied_total";
    /// Endpoints in the directory, deleted ones too.
    pub const DIRECTORY_ENDPOINTS: &str = "webhooks_directory_endpoints";
    /// Partitions that this process holds.
    pub const PARTITIONS_HELD: &str = "webhooks_membership_partitions";
    /// Partitions that this process lost before it had released them.
    pub const PARTITIONS_LOST: &str = "webhooks_membership_partitions_lost_total";
    /// Dispatchers that share the partitions, as this one sees it.
    pub const MEMBERS: &str = "webhooks_membership_dispatchers";
}

/// Describes every metric of this crate to the installed recorder.
pub fn describe() {
    metrics::describe_counter!(
        names::APPENDED,
        Unit::Count,
        "Events appended to the log, by kind"
    );
    metrics::describe_histogram!(
        names::APPEND_SECONDS,
        Unit::Seconds,
        "Time until all acknowledgements of an append were in"
    );
    metrics::describe_counter!(
        names::APPEND_RETRIES,
        Unit::Count,
        "Appends sent again because no answer came"
    );
    metrics::describe_counter!(
        names::APPEND_WAITS,
        Unit::Count,
        "Appends that had to wait until others were acknowledged"
    );
    metrics::describe_counter!(names::CONNECTS, Unit::Count, "Connections made to nats-server");
    metrics::describe_counter!(
        names::REATTACHED,
        Unit::Count,
        "Consumers attached again after they were lost or fell silent, by use"
    );
    metrics::describe_counter!(
        names::UNREADABLE,
        Unit::Count,
        "Stored messages that could not be read"
    );
    metrics::describe_counter!(
        names::DENIED,
        Unit::Count,
        "What nats-server did not let this process do, by operation"
    );
    metrics::describe_gauge!(
        names::DIRECTORY_ENDPOINTS,
        Unit::Count,
        "Endpoints in the directory, deleted ones too"
    );
    metrics::describe_gauge!(
        names::PARTITIONS_HELD,
        Unit::Count,
        "Partitions that this process holds"
    );
    metrics::describe_counter!(
        names::PARTITIONS_LOST,
        Unit::Count,
        "Partitions that this process lost before it had released them"
    );
    metrics::describe_gauge!(
        names::MEMBERS,
        Unit::Count,
        "Dispatchers that share the partitions"
    );
}
