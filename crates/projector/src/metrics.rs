//! The projector's metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(crate) const EVENTS: &str = "webhooks_projected_events_total";
pub(crate) const SET_ASIDE: &str = "webhooks_projection_set_aside_events_total";
pub(crate) const ORPHANED: &str = "webhooks_projection_orphaned_events_total";
pub(crate) const LAG: &str = "webhooks_projection_lag_events";
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
