//! What to measure.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// The load harness: real processes on this machine, events over gRPC, a fast sink. Prints markdown tables.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// Where the history is kept
    #[arg(long, value_enum, default_value_t = Backend::Both)]
    pub(crate) backend: Backend,
    /// Seconds that each load is offered
    #[arg(long, default_value_t = 15)]
    pub(crate) duration: u64,
    /// Events per second of the gentle load
    #[arg(long, default_value_t = 50)]
    pub(crate) gentle_rate: u32,
    /// Events per second of the sustained load; without it, 80 % of what saturation delivered
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Endpoints of the project, a multiple of the fan-out
    #[arg(long, default_value_t = 50)]
    pub(crate) endpoints: u32,
    /// Endpoints that each event goes to
    #[arg(long, default_value_t = 1)]
    pub(crate) fan_out: u32,
    /// Size of each event's payload, in bytes
    #[arg(long, default_value_t = 1024)]
    pub(crate) payload: usize,
    /// gRPC connections of the generator
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: u32,
    /// Events that wait for their acknowledgement at saturation
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: usize,
    /// Seconds over which idle processes are watched
    #[arg(long, default_value_t = 10)]
    pub(crate) idle: u64,
    /// Leaves the raw ceilings out
    #[arg(long)]
    pub(crate) skip_ceilings: bool,
}

/// Where the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// A SQLite file
    Sqlite,
    /// A PostgreSQL server of its own, with its default settings
    Postgres,
    /// One after the other
    Both,
}

impl Options {
    /// How long each load is offered.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.duration)
    }

    /// Groups of `fan_out` endpoints that take the same event type.
    pub(crate) fn groups(&self) -> u32 {
        self.endpoints / self.fan_out
    }

    /// What cannot be measured so, if anything.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.fan_out == 0 || self.endpoints == 0 || !self.endpoints.is_multiple_of(self.fan_out) {
            return Some("--endpoints must be a multiple of --fan-out, and neither may be 0");
        }
        if self.payload < crate::event::MIN_BYTES || self.payload > 256 * 1024 {
            return Some("--payload must be 64 to 262144");
        }
        if self.duration == 0 || self.connections == 0 || self.in_flight == 0 || self.gentle_rate == 0 {
            return Some("--duration, --gentle-rate, --connections and --in-flight must be at least 1");
        }
        None
    }
}
