//! The load harness: real processes on this machine, events over gRPC, a fast sink, and next to what they come to the raw
//! ceilings of the same machine in the same run. Everything listens on loopback. `make bench` runs it.
//!
//! Three loads per backend. A gentle one and a sustained one are open loops: every event has its time, and its latency
//! counts from then, so that a stall is measured rather than waited out. Saturation offers as much as the API takes;
//! its rates are taken until the last delivery has arrived, and its latency is that of a growing backlog.
//!
//! Then isolation: what healthy endpoints feel of many that hang, and what a dead one costs.

#![expect(clippy::print_stdout, reason = "the tables are the product")]

mod ceilings;
mod event;
mod generator;
mod isolation;
mod options;
mod phase;
mod report;
mod sink;
mod stack;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use harness::roles::ADMIN_KEY;
use tokio::time::{Instant, sleep};

use crate::generator::Generator;
use crate::options::{Backend, Options, Part};
use crate::phase::{Load, run};
use crate::sink::Sink;
use crate::stack::{Stack, Usage};

/// Share of what saturation delivered that the sustained load offers.
const SUSTAINED: f64 = 0.8;
/// How long processes settle before they are watched.
const SETTLE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(problem) = options.problem() {
        bail!("{problem}");
    }
    let epoch = Instant::now();
    let sink = Sink::start(epoch).await?;
    if options.measures(Part::Load) {
        load(&options, &sink, epoch).await?;
    }
    if options.measures(Part::Isolation) {
        isolation::measure(&options, &sink, epoch).await?;
    }
    Ok(())
}

async fn load(options: &Options, sink: &Sink, epoch: Instant) -> Result<()> {
    println!(
        "## Load: {} endpoints, fan-out {}, payloads of {} bytes, {} gRPC connections, {} s each, {} processors\n",
        options.endpoints,
        options.fan_out,
        options.payload,
        options.connections,
        options.duration,
        std::thread::available_parallelism()?,
    );
    if !options.skip_ceilings {
        let http = ceilings::http(sink, epoch, options.payload).await;
        let log = ceilings::log(options.payload).await?;
        println!("{}", report::ceilings(&[http, log]));
    }
    let backends = match options.backend {
        Backend::Both => vec![Backend::Sqlite, Backend::Postgres],
        one => vec![one],
    };
    for backend in backends {
        measure(backend, options, sink, epoch).await?;
    }
    Ok(())
}

async fn measure(backend: Backend, options: &Options, sink: &Sink, epoch: Instant) -> Result<()> {
    let stack = Stack::start(backend).await?;
    stack.create_endpoints(options, sink).await?;
    let generator = Generator::connect(
        &stack.url(),
        ADMIN_KEY,
        options.connections,
        epoch,
        options.groups(),
        options.payload,
    )
    .await?;

    sleep(SETTLE).await;
    let idle_for = Duration::from_secs(options.idle);
    let idle = idle(&stack, idle_for).await;
    let load =
        |name: String, load, duration| run(name, load, duration, &generator, sink, &stack, options.fan_out);
    // Connections, caches and the allocator's pools are there before anything is measured.
    load(
        "warm-up".into(),
        Load::Rate(options.gentle_rate),
        Duration::from_secs(2),
    )
    .await?;
    let gentle = load(
        format!("gentle, {}/s", options.gentle_rate),
        Load::Rate(options.gentle_rate),
        options.duration(),
    )
    .await?;
    let saturated = load(
        format!("saturation, {} in flight", options.in_flight),
        Load::Saturation(options.in_flight),
        options.duration(),
    )
    .await?;
    let fan_out = f64::from(options.fan_out);
    let rate = options
        .rate
        .unwrap_or((saturated.delivered_per_second() / fan_out * SUSTAINED) as u32)
        .max(1);
    let sustained = load(
        format!("sustained, {rate}/s"),
        Load::Rate(rate),
        options.duration(),
    )
    .await?;

    let name = match backend {
        Backend::Postgres => "PostgreSQL",
        Backend::Sqlite | Backend::Both => "SQLite",
    };
    let loads = [gentle, sustained, saturated];
    println!("{}", report::loads(name, &loads));
    println!("{}", report::processes(name, &loads[2], &idle, idle_for));
    Ok(())
}

/// What every process uses while nothing happens, over `duration`.
async fn idle(stack: &Stack, duration: Duration) -> Vec<Usage> {
    let before = stack.usage();
    sleep(duration).await;
    let mut after = stack.usage();
    for (after, before) in after.iter_mut().zip(before) {
        after.cpu = after.cpu.saturating_sub(before.cpu);
    }
    after
}
