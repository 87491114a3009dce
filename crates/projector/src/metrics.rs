//! The projector's metrics.

use cuitty_webhooks_log::topology;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

pub(crate) const EVENTS: &str = "webhooks_projected_events_total";
pub(crate) const SET_ASIDE: &str = "webhooks_projection_set_aside_events_total";
pub(crate) const ORPHANED: &str = "webhooks_projection_orphaned_events_total";
pub(crate) const LAG: &str = "webhooks_projection_lag_events";
pub(crate) const LAG_SECONDS: &str = "webhooks_projection_lag_seconds";
/// Up to 100,000.
pub(crate) const PENDING: &str = "webhooks_pending_deliveries";
/// Up to 100,000.
pub(crate) const PENDING_RETRIES: &str = "webhooks_pending_retries";
pub(crate) const OLDEST_PENDING: &str = "webhooks_oldest_pending_delivery_age_seconds";
pub(crate) const STORAGE: &str = "webhooks_log_storage_bytes";
/// 0 without a limit.
pub(crate) const STORAGE_LIMIT: &str = "webhooks_log_storage_limit_bytes";
/// By `stream`, as the next ones.
pub(crate) const STREAM_MESSAGES: &str = "webhooks_stream_messages";
pub(crate) const STREAM_BYTES: &str = "webhooks_stream_bytes";
pub(crate) const STREAM_AGE: &str = "webhooks_stream_age_seconds";
/// 0 when messages are kept for ever.
pub(crate) const STREAM_MAX_AGE: &str = "webhooks_stream_max_age_seconds";
/// By `state` too: `current`, or `behind` when it is offline or has not everything.
pub(crate) const STREAM_REPLICAS: &str = "webhooks_stream_replicas";
pub(crate) const DELAY: &str = "webhooks_projection_delay_seconds";
pub(crate) const COMMIT: &str = "webhooks_projection_commit_seconds";
pub(crate) const BATCH: &str = "webhooks_projection_batch_events";
pub(crate) const RETRIES: &str = "webhooks_projection_retries_total";
pub(crate) const ACTIVE: &str = "webhooks_projector_active_count";
pub(crate) const SWEPT: &str = "webhooks_swept_deliveries_total";
pub(crate) const GONE_DISABLED: &str = "webhooks_disabled_endpoints_total";
pub(crate) const FAILING_DISABLED: &str = "webhooks_failing_endpoints_disabled_total";
pub(crate) const REPLAYS: &str = "webhooks_replays_running_count";
pub(crate) const REPLAYS_ENDED: &str = "webhooks_replays_ended_total";
pub(crate) const REPLAYED: &str = "webhooks_replayed_deliveries_total";
pub(crate) const REPLAY_SKIPPED: &str = "webhooks_replay_skipped_deliveries_total";

/// Describes every metric of this crate to the installed recorder.
pub fn describe() {
    describe_counter!(EVENTS, "Events of the log that were folded into the history");
    describe_counter!(
        SET_ASIDE,
        "Events that could not be read or folded, and were left out"
    );
    describe_counter!(
        ORPHANED,
        "Events left out because their delivery was requested before the log's start"
    );
    describe_gauge!(LAG, "Events in the log that the history has not folded yet");
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "Time since the first event was stored that the history has not folded yet"
    );
    describe_gauge!(PENDING, "Deliveries that have not ended, counted up to 100000");
    describe_gauge!(
        PENDING_RETRIES,
        "Deliveries that wait for the time of their next attempt, counted up to 100000"
    );
    describe_gauge!(
        OLDEST_PENDING,
        Unit::Seconds,
        "Time since the oldest delivery was requested that has not ended, whatever it waits for"
    );
    describe_gauge!(
        STORAGE,
        Unit::Bytes,
        "File storage that the account of the log uses, every replica counted"
    );
    describe_gauge!(
        STORAGE_LIMIT,
        Unit::Bytes,
        "File storage that the account of the log may use; 0 when it has no limit of its own"
    );
    describe_gauge!(STREAM_MESSAGES, "Messages that a stream keeps");
    describe_gauge!(
        STREAM_BYTES,
        Unit::Bytes,
        "Bytes that a stream keeps, one replica counted"
    );
    describe_gauge!(STREAM_AGE, Unit::Seconds, "Age of the oldest message of a stream");
    describe_gauge!(
        STREAM_MAX_AGE,
        Unit::Seconds,
        "How long a stream keeps messages; 0 for ever"
    );
    describe_gauge!(
        STREAM_REPLICAS,
        "Replicas of a stream by state (current, or behind: offline or without the last messages)"
    );
    describe_histogram!(
        DELAY,
        Unit::Seconds,
        "From an event's storing in the log to its commit in the history"
    );
    describe_histogram!(COMMIT, Unit::Seconds, "Time of one transaction of the history");
    describe_histogram!(BATCH, "Events in one transaction of the history");
    describe_counter!(RETRIES, "Times that the log or the history had to be tried again");
    describe_gauge!(ACTIVE, "1 while this process is the active projector, else 0");
    describe_counter!(
        SWEPT,
        "Deliveries that nothing happened to any more and whose attempt was made due, by what was overdue"
    );
    describe_counter!(
        GONE_DISABLED,
        "Endpoints disabled because their answers asked for it"
    );
    describe_counter!(
        FAILING_DISABLED,
        "Endpoints disabled because all their attempts failed for too long"
    );
    describe_gauge!(REPLAYS, "Bulk replays that this process carries out");
    describe_counter!(REPLAYS_ENDED, "Bulk replays that ended, by state");
    describe_counter!(REPLAYED, "Deliveries that bulk replays requested");
    describe_counter!(
        REPLAY_SKIPPED,
        "Deliveries and messages that bulk replays left out because nobody takes them now"
    );
}

/// Shows everything that a projector counts, at 0: a series that comes with its first increment would hide it from alerts.
pub(crate) fn register() {
    for name in [
        EVENTS,
        SET_ASIDE,
        ORPHANED,
        RETRIES,
        GONE_DISABLED,
        FAILING_DISABLED,
        REPLAYED,
        REPLAY_SKIPPED,
    ] {
        let _ = counter!(name);
    }
    for overdue in ["timer", "start", "deadline"] {
        let _ = counter!(SWEPT, "overdue" => overdue);
    }
    for state in ["done", "cancelled", "failed"] {
        let _ = counter!(REPLAYS_ENDED, "state" => state);
    }
    for name in [DELAY, COMMIT, BATCH] {
        let _ = histogram!(name);
    }
    for name in [ACTIVE, REPLAYS] {
        let _ = gauge!(name);
    }
    clear_survey();
}

/// Sets what only the active projector shows to 0.
pub(crate) fn clear_survey() {
    for name in [
        LAG,
        LAG_SECONDS,
        PENDING,
        PENDING_RETRIES,
        OLDEST_PENDING,
        STORAGE,
        STORAGE_LIMIT,
    ] {
        gauge!(name).set(0.0);
    }
    for stream in topology::STREAMS {
        for name in [STREAM_MESSAGES, STREAM_BYTES, STREAM_AGE, STREAM_MAX_AGE] {
            gauge!(name, "stream" => stream).set(0.0);
        }
        replicas(stream, 0, 0);
    }
}

pub(crate) fn replicas(stream: &'static str, current: usize, behind: usize) {
    for (state, replicas) in [("current", current), ("behind", behind)] {
        gauge!(STREAM_REPLICAS, "stream" => stream, "state" => state).set(replicas as f64);
    }
}
