//! The log's metrics, with their descriptions.

use cuitty_webhooks_domain::delivery::{Conclusion, FailureReason};
use metrics::{Counter, Histogram, Unit, counter, gauge, histogram};

use crate::subjects::Kind;

/// Names of the metrics.
pub mod names {
    /// Events appended, by `kind`; a repeated append that the log recognised counts once.
    pub const APPENDED: &str = "webhooks_log_appended_total";
    /// Deliveries that ended, by `outcome`: `succeeded` or the reason of the failure. Told by whoever appended the end.
    pub const ENDED: &str = "webhooks_deliveries_ended_total";
    /// Time from the hand-over of an append until all its acknowledgements were in.
    pub const APPEND_SECONDS: &str = "webhooks_log_append_seconds";
    /// Appends sent again because no answer came.
    pub const APPEND_RETRIES: &str = "webhooks_log_append_retries_total";
    /// Appends that had to wait until others were acknowledged.
    pub const APPEND_WAITS: &str = "webhooks_log_append_waits_total";
    /// 1 while the process has its connection to nats-server, else 0.
    pub const CONNECTED: &str = "webhooks_log_connected";
    /// Partitions that the log has, as its stream says.
    pub const PARTITIONS: &str = "webhooks_log_partitions";
    /// Time since this process has last known every endpoint as the log has it; 0 while it does.
    pub const DIRECTORY_AGE: &str = "webhooks_directory_age_seconds";
    /// Connections made to nats-server, the first one included.
    pub const CONNECTS: &str = "webhooks_log_connects_total";
    /// Consumers attached again after they were lost or fell silent, by `use` (`read`, `work`, `ingest`, `directory`,
    /// `event_types`, `membership`, `lanes`, `cancellations`, `replays`, `api_keys`, `api_key_uses`).
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
    metrics::describe_counter!(
        names::ENDED,
        Unit::Count,
        "Deliveries that ended, by outcome (succeeded or why they failed)"
    );
    metrics::describe_gauge!(
        names::CONNECTED,
        Unit::Count,
        "1 while this process is connected to nats-server, else 0"
    );
    metrics::describe_gauge!(names::PARTITIONS, Unit::Count, "Partitions that the log has");
    metrics::describe_gauge!(
        names::DIRECTORY_AGE,
        Unit::Seconds,
        "Time since this process has last known every endpoint as the log has it"
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

/// What a consumer or a folded state that is attached again can be used for.
const USES: [&str; 11] = [
    "read",
    "work",
    "ingest",
    "membership",
    "directory",
    "event_types",
    "api_keys",
    "api_key_uses",
    "lanes",
    "cancellations",
    "replays",
];

/// The handles that appending needs, looked up once.
#[derive(Debug)]
pub(crate) struct Metrics {
    appended: [Counter; Kind::ALL.len()],
    succeeded: Counter,
    failed: [Counter; FailureReason::ALL.len()],
    pub(crate) append_seconds: Histogram,
}

impl Metrics {
    /// Shows everything that a process with a log counts, at 0: a series that comes with its first increment would hide it
    /// from alerts on rates.
    pub(crate) fn new() -> Self {
        for name in [
            names::APPEND_RETRIES,
            names::APPEND_WAITS,
            names::CONNECTS,
            names::UNREADABLE,
            names::PARTITIONS_LOST,
        ] {
            let _ = counter!(name);
        }
        for operation in ["publish", "subscribe"] {
            let _ = counter!(names::DENIED, "operation" => operation);
        }
        for used_to in USES {
            let _ = counter!(names::REATTACHED, "use" => used_to);
        }
        for name in [
            names::CONNECTED,
            names::PARTITIONS,
            names::DIRECTORY_AGE,
            names::DIRECTORY_ENDPOINTS,
            names::PARTITIONS_HELD,
            names::MEMBERS,
        ] {
            let _ = gauge!(name);
        }
        Self {
            appended: Kind::ALL.map(|kind| counter!(names::APPENDED, "kind" => kind.as_str())),
            succeeded: counter!(names::ENDED, "outcome" => "succeeded"),
            failed: FailureReason::ALL.map(|reason| counter!(names::ENDED, "outcome" => reason.as_str())),
            append_seconds: histogram!(names::APPEND_SECONDS),
        }
    }

    pub(crate) fn appended(&self, kind: Kind) {
        self.appended[kind as usize].increment(1);
    }

    /// A conclusion was stored that is the first one of its attempt.
    pub(crate) fn concluded(&self, conclusion: &Conclusion) {
        match conclusion {
            Conclusion::Retry { .. } => {}
            Conclusion::Succeeded => self.succeeded.increment(1),
            Conclusion::Failed { reason } => self.failed[*reason as usize].increment(1),
        }
    }
}
