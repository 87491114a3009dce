//! What to measure.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use cuitty_webhooks_domain::limits;

/// The load harness: real processes on this machine, events over gRPC, a fast sink. Prints markdown tables.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// Measures this alone
    #[arg(long, value_enum)]
    pub(crate) only: Option<Part>,
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
    /// Isolation: endpoints that accept and hang, each with one event per second
    #[arg(long, default_value_t = 1000)]
    pub(crate) hanging: u32,
    /// Isolation: events per second to 100 healthy endpoints beside them
    #[arg(long, default_value_t = 500)]
    pub(crate) healthy_rate: u32,
    /// Isolation: deliveries that wait behind one dead endpoint
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) waiting: u32,
    /// Isolation: how many of them are timed once it has recovered
    #[arg(long, default_value_t = 100_000)]
    pub(crate) drained: u32,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Throughput, latency, CPU and memory under three loads
    Load,
    /// What endpoints that hang or are dead cost the others; its history is SQLite unless --backend says otherwise
    Isolation,
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

    /// Whether `part` is measured.
    pub(crate) fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
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
        // A message goes to no more endpoints than that.
        if self.hanging == 0 || self.hanging as usize > limits::FAN_OUT || self.healthy_rate == 0 {
            return Some("--hanging must be 1 to 1000, --healthy-rate at least 1");
        }
        if self.drained == 0 || self.drained > self.waiting {
            return Some("--drained must be 1 to --waiting");
        }
        None
    }
}
