//! The dispatcher's metrics.

use std::time::Duration;

use crate::scheduler::{HeldBy, Stats};
use cuitty_webhooks_domain::attempt::{Attempt, ErrorClass, Timing};
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

/// Names of the metrics.
pub mod names {
    /// Attempts that ended, by `outcome`: `succeeded` or an error class.
    pub const ATTEMPTS: &str = "webhooks_attempts_total";
    /// Duration of attempts.
    pub const ATTEMPT_SECONDS: &str = "webhooks_attempt_duration_seconds";
    /// Time from an item's arrival in its lane to the start of its attempt.
    pub const QUEUE_SECONDS: &str = "webhooks_queue_duration_seconds";
    /// Parts of attempts, by `part`: `dns`, `connect`, `tls`, and `first_byte` from the start to the head of the response.
    /// Parts that did not happen, as on a connection that was kept alive, are not counted.
    pub const PART_SECONDS: &str = "webhooks_attempt_part_seconds";
    /// From the time of a retry to the arrival of its timer.
    pub const TIMER_LATENESS: &str = "webhooks_timer_lateness_seconds";
    /// How long the oldest delivery that waits has been due, by what it is `held_by`: `log` (not pulled yet), `dispatcher` (no
    /// free slot), `endpoint` (its limits or its order), `breaker`.
    pub const OLDEST_DUE: &str = "webhooks_oldest_due_delivery_age_seconds";
    /// Work items of a `partition` that its holder has not pulled yet; 0 from everybody else.
    pub const PARTITION_WAITING: &str = "webhooks_partition_waiting_deliveries";
    /// Work items of a `partition` that its holder has pulled and not acknowledged; 0 from everybody else.
    pub const PARTITION_UNACKED: &str = "webhooks_partition_unacknowledged_deliveries";
    /// Attempts that may be in flight at most.
    pub const SLOTS: &str = "webhooks_attempt_slots";
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
    describe_histogram!(
        names::PART_SECONDS,
        Unit::Seconds,
        "Parts of attempts (dns, connect, tls, first_byte), where they happened"
    );
    describe_histogram!(
        names::TIMER_LATENESS,
        Unit::Seconds,
        "From the time of a retry to the arrival of its timer"
    );
    describe_gauge!(
        names::OLDEST_DUE,
        Unit::Seconds,
        "How long the oldest waiting delivery has been due, by what holds it (log, dispatcher, endpoint, breaker)"
    );
    describe_gauge!(
        names::PARTITION_WAITING,
        Unit::Count,
        "Work items of a partition held here that were not pulled yet"
    );
    describe_gauge!(
        names::PARTITION_UNACKED,
        Unit::Count,
        "Work items of a partition held here that were pulled and not acknowledged"
    );
    describe_gauge!(
        names::SLOTS,
        Unit::Count,
        "Attempts that may be in flight at most"
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
    /// DNS, connect, TLS, first byte.
    parts: [Histogram; 4],
    timer_lateness: Histogram,
    oldest_due: [Gauge; HeldBy::ALL.len()],
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
    /// Of a dispatcher with so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        gauge!(names::SLOTS).set(slots as f64);
        Self {
            succeeded: counter!(names::ATTEMPTS, "outcome" => "succeeded"),
            failed: ErrorClass::ALL.map(|class| counter!(names::ATTEMPTS, "outcome" => class.as_str())),
            attempt_seconds: histogram!(names::ATTEMPT_SECONDS),
            queue_seconds: histogram!(names::QUEUE_SECONDS),
            parts: ["dns", "connect", "tls", "first_byte"]
                .map(|part| histogram!(names::PART_SECONDS, "part" => part)),
            timer_lateness: histogram!(names::TIMER_LATENESS),
            oldest_due: HeldBy::ALL.map(|held_by| gauge!(names::OLDEST_DUE, "held_by" => held_by.as_str())),
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
        let Timing {
            queue,
            dns,
            connect,
            tls,
            first_byte,
        } = attempt.timing;
        self.queue_seconds.record(queue);
        for (histogram, part) in self.parts.iter().zip([dns, connect, tls, first_byte]) {
            if let Some(part) = part {
                histogram.record(part);
            }
        }
    }

    /// A timer has come that was for so long ago.
    pub(crate) fn timer(&self, late: Duration) {
        self.timer_lateness.record(late);
    }

    pub(crate) fn stats(&self, stats: &Stats) {
        self.in_flight.set(stats.in_flight as f64);
        self.lanes.set(stats.lanes as f64);
        self.detached.set(stats.detached as f64);
        self.open.set(stats.open as f64);
        for (gauge, age) in self.oldest_due.iter().zip(stats.oldest) {
            gauge.set(age.as_secs_f64());
        }
        self.queued.set(stats.queued.items as f64);
        self.queued_bytes.set(stats.queued.bytes as f64);
        self.paused.set(f64::from(u8::from(stats.is_paused)));
    }

    pub(crate) fn parked(&self, reason: ParkReason) {
        self.parked[reason as usize].increment(1);
    }
}

/// What a dispatcher shows of the partitions that it holds.
pub(crate) struct PartitionGauges {
    waiting: Vec<Gauge>,
    unacked: Vec<Gauge>,
    oldest: Gauge,
}

impl PartitionGauges {
    /// Of this many partitions.
    pub(crate) fn new(partitions: u16) -> Self {
        let each = |name: &'static str| -> Vec<Gauge> {
            let of = |partition: u16| gauge!(name, "partition" => partition.to_string());
            (0..partitions).map(of).collect()
        };
        Self {
            waiting: each(names::PARTITION_WAITING),
            unacked: each(names::PARTITION_UNACKED),
            oldest: gauge!(names::OLDEST_DUE, "held_by" => "log"),
        }
    }

    /// The lag of a partition; zero, too, of one that another dispatcher shows.
    pub(crate) fn lag(&self, partition: u16, waiting: u64, unacked: u64) {
        let index = usize::from(partition);
        if let (Some(of_waiting), Some(of_unacked)) = (self.waiting.get(index), self.unacked.get(index)) {
            of_waiting.set(waiting as f64);
            of_unacked.set(unacked as f64);
        }
    }

    /// How long the oldest item that nobody has pulled has been in the log.
    pub(crate) fn oldest(&self, age: Duration) {
        self.oldest.set(age.as_secs_f64());
    }
}
