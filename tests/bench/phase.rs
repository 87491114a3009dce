//! One load: offered, delivered, projected, and what that took.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::generator::{Generator, Offered};
use crate::sink::{Arrivals, Sink};
use crate::stack::{Stack, Usage};

/// How long what was accepted may take to be delivered and projected once no more is offered.
const DRAIN: Duration = Duration::from_mins(5);
/// How often it is asked how far that is.
const POLL: Duration = Duration::from_millis(20);

/// How a load is offered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// Open loop at this many events per second.
    Rate(u32),
    /// As much as the API takes with this many events in flight.
    Saturation(usize),
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) offered: Offered,
    pub(crate) arrivals: Arrivals,
    /// Deliveries that the accepted events stand for.
    pub(crate) expected: u64,
    /// From the first event until the history had everything; `None` when it did not in time.
    pub(crate) projected_after: Option<Duration>,
    /// What each process used meanwhile; memory as it was at the end.
    pub(crate) usage: Vec<Usage>,
}

impl Measured {
    /// Events acknowledged per second, while they were offered.
    pub(crate) fn accepted_per_second(&self) -> f64 {
        rate(
            self.offered.accepted,
            self.offered.last.saturating_sub(self.offered.first),
        )
    }

    /// Deliveries per second, from the first event until the last arrival.
    pub(crate) fn delivered_per_second(&self) -> f64 {
        rate(
            self.delivered(),
            self.arrivals.last.saturating_sub(self.offered.first),
        )
    }

    /// Deliveries per second, from the first event until the history had them all.
    pub(crate) fn projected_per_second(&self) -> Option<f64> {
        self.projected_after
            .map(|elapsed| rate(self.delivered(), elapsed))
    }

    /// Different deliveries that arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.arrivals.distinct.len() as u64
    }

    /// Requests beyond the first of a delivery.
    pub(crate) fn duplicates(&self) -> u64 {
        self.arrivals.requests - self.delivered()
    }
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Offers `load` for `duration` and waits until all of it is delivered and projected.
pub(crate) async fn run(
    name: impl Into<String>,
    load: Load,
    duration: Duration,
    generator: &Arc<Generator>,
    sink: &Sink,
    stack: &Stack,
    fan_out: u32,
) -> Result<Measured> {
    sink.reset();
    let log_before = stack.log_end().await?;
    let before = stack.usage();
    let started = Instant::now();
    let offered = match load {
        Load::Rate(rate) => generator.offer(rate, duration).await,
        Load::Saturation(in_flight) => generator.saturate(in_flight, duration).await,
    };
    let expected = offered.accepted * u64::from(fan_out);
    let deadline = Instant::now() + DRAIN;
    while sink.distinct() < expected && Instant::now() < deadline {
        sleep(POLL).await;
    }
    let mut projected_after = None;
    while projected_after.is_none() && Instant::now() < deadline {
        let log_end = stack.log_end().await?;
        // Each delivery makes at least two events: requested, and how its attempt ended.
        if log_end >= log_before + 2 * expected && stack.checkpoint().await? >= log_end {
            projected_after = Some(started.elapsed());
        } else {
            sleep(POLL).await;
        }
    }
    let mut usage = stack.usage();
    for (after, before) in usage.iter_mut().zip(before) {
        after.cpu = after.cpu.saturating_sub(before.cpu);
    }
    Ok(Measured {
        name: name.into(),
        offered,
        arrivals: sink.reset(),
        expected,
        projected_after,
        usage,
    })
}
