//! The dispatcher's metrics.

use crate::scheduler::Stats;
use cuitty_webhooks_domain::attempt::{Attempt, ErrorClass};
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

/// Names of the metrics.
pub mod names {
    /// Attempts that ended, by `outcome`: `succeeded` or an error class.
    pub const ATTEMPTS: &str = "webhooks_attempts_total";
    /// Duration of attempts.
    pub const ATTEMPT_SECONDS: &str = "webhooks_attempt_duration_seconds";
    /// Time from an item's arrival in its lane to the start of its attempt.
    pub const QUEUE_SECONDS: &str = "webhooks_queue_duration_seconds";
    /// Attempts in flight.
    pub const IN_FLIGHT: &str = "webhooks_attempts_in_flight";
    /// Lanes with something in flight or waiting.
    pub const LANES: &str = "webhooks_lanes";
    /// Deliveries that wait in lanes.
    pub const QUEUED: &str = "webhooks_queued_deliveries";
    /// Their payloads.
    pub const QUEUED_BYTES: &str = "webhooks_queued_bytes";
    /// Lanes that read the log themselves.
    pub const DETACHED_LANES: &str = "webhooks_detached_lanes";
    /// Lanes of active endpoints whose breaker is open or half-open.
    pub const OPEN_BREAKERS: &str = "webhooks_open_breakers";
    /// Breakers that opened or closed, by the state that they changed `to`: `open` or `closed`.
    pub const BREAKER_CHANGES: &str = "webhooks_breaker_changes_total";
    /// Whether pulling is paused because too much is held: 0 or 1.
    pub const PAUSED: &str = "webhooks_pull_paused";
    /// Work items left to detached lanes.
    pub const SKIPPED: &str = "webhooks_skipped_deliveries_total";
    /// Work items given back to the log for later, by `reason`.
    pub const PARKED: &str = "webhooks_parked_deliveries_total";
    /// Work items that came again while or after they were worked on.
    pub const DUPLICATES: &str = "webhooks_duplicate_deliveries_total";
    /// Work items that could not be read; each counts again whenever it comes again.
    pub const UNREADABLE: &str = "webhooks_unreadable_deliveries_total";
    /// Attempts whose outcome the log refused for good; their deliveries are attempted again.
    pub const UNRECORDED: &str = "webhooks_unrecorded_attempts_total";
}

/// Describes every metric of this crate to the installed recorder.
pub fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(names::ATTEMPTS, Unit::Count, "Attempts that ended, by outcome");
    describe_histogram!(names::ATTEMPT_SECONDS, Unit::Seconds, "Duration of attempts");
    describe_histogram!(
        names::QUEUE_SECONDS,
        Unit::Seconds,
        "Wait in a lane before an attempt"
    );
    describe_gauge!(names::IN_FLIGHT, Unit::Count, "Attempts in flight");
    describe_gauge!(
        names::LANES,
        Unit::Count,
        "Lanes with something in flight or waiting"
    );
    describe_gauge!(names::QUEUED, Unit::Count, "Deliveries that wait in lanes");
    describe_gauge!(
        names::QUEUED_BYTES,
        Unit::Bytes,
        "Payloads of the deliveries that wait in lanes"
    );
    describe_gauge!(
        names::DETACHED_LANES,
        Unit::Count,
        "Lanes that read the log themselves"
    );
    describe_gauge!(
        names::OPEN_BREAKERS,
        Unit::Count,
        "Lanes of active endpoints whose breaker is open or half-open"
    );
    describe_counter!(
        names::BREAKER_CHANGES,
        Unit::Count,
        "Breakers that opened or closed, by the state they changed to"
    );
    describe_gauge!(
        names::PAUSED,
        Unit::Count,
        "Whether pulling is paused because too much is held"
    );
    describe_counter!(names::SKIPPED, Unit::Count, "Work items left to detached lanes");
    describe_counter!(
        names::PARKED,
        Unit::Count,
        "Work items given back to the log for later, by reason"
    );
    describe_counter!(
        names::DUPLICATES,
        Unit::Count,
        "Work items that came more than once"
    );
    describe_counter!(
        names::UNREADABLE,
        Unit::Count,
        "Work items that could not be read"
    );
    describe_counter!(
        names::UNRECORDED,
        Unit::Count,
        "Attempts whose outcome the log refused for good"
    );
}

/// Why a work item is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkReason {
    /// Its lane is full, or its partition is on the way to another dispatcher.
    Scheduler,
    /// The directory does not know its endpoint (yet).
    UnknownEndpoint,
    /// This process could not make the attempt.
    NotAttempted,
    /// This version cannot read it.
    Unreadable,
}

/// The handles, looked up once.
#[derive(Clone)]
pub(crate) struct Metrics {
    succeeded: Counter,
    failed: [Counter; ErrorClass::ALL.len()],
    attempt_seconds: Histogram,
    queue_seconds: Histogram,
    parked: [Counter; 4],
    in_flight: Gauge,
    lanes: Gauge,
    detached: Gauge,
    open: Gauge,
    queued: Gauge,
    queued_bytes: Gauge,
    paused: Gauge,
    pub(crate) breakers_opened: Counter,
    pub(crate) breakers_closed: Counter,
    pub(crate) skipped: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) unrecorded: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            succeeded: counter!(names::ATTEMPTS, "outcome" => "succeeded"),
            failed: ErrorClass::ALL.map(|class| counter!(names::ATTEMPTS, "outcome" => class.as_str())),
            attempt_seconds: histogram!(names::ATTEMPT_SECONDS),
            queue_seconds: histogram!(names::QUEUE_SECONDS),
            parked: ["scheduler", "unknown_endpoint", "not_attempted", "unreadable"]
                .map(|reason| counter!(names::PARKED, "reason" => reason)),
            in_flight: gauge!(names::IN_FLIGHT),
            lanes: gauge!(names::LANES),
            queued: gauge!(names::QUEUED),
            queued_bytes: gauge!(names::QUEUED_BYTES),
            detached: gauge!(names::DETACHED_LANES),
            open: gauge!(names::OPEN_BREAKERS),
            paused: gauge!(names::PAUSED),
            breakers_opened: counter!(names::BREAKER_CHANGES, "to" => "open"),
            breakers_closed: counter!(names::BREAKER_CHANGES, "to" => "closed"),
            skipped: counter!(names::SKIPPED),
            duplicates: counter!(names::DUPLICATES),
            unreadable: counter!(names::UNREADABLE),
            unrecorded: counter!(names::UNRECORDED),
        }
    }

    pub(crate) fn attempt(&self, attempt: &Attempt) {
        match &attempt.error {
            None => self.succeeded.increment(1),
            Some(error) => self.failed[error.class as usize].increment(1),
        }
        self.attempt_seconds.record(attempt.duration);
        self.queue_seconds.record(attempt.timing.queue);
    }

    pub(crate) fn stats(&self, stats: &Stats) {
        self.in_flight.set(stats.in_flight as f64);
        self.lanes.set(stats.lanes as f64);
        self.detached.set(stats.detached as f64);
        self.open.set(stats.open as f64);
        self.queued.set(stats.queued.items as f64);
        self.queued_bytes.set(stats.queued.bytes as f64);
        self.paused.set(f64::from(u8::from(stats.is_paused)));
    }

    pub(crate) fn parked(&self, reason: ParkReason) {
        self.parked[reason as usize].increment(1);
    }
}
