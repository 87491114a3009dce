//! Isolation: what healthy endpoints feel of many that hang, and what one dead endpoint costs with everything waiting for
//! it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::roles::ADMIN_KEY;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::generator::{Generator, event_type};
use crate::options::Options;
use crate::phase::{Load, run};
use crate::sink::Sink;
use crate::stack::{Stack, Usage};
use crate::{SETTLE, report};

/// Endpoints that answer.
const HEALTHY: u32 = 100;
/// The others get their events in so many groups, one after the other.
const GROUPS: u32 = 50;
/// What the endpoint takes that is dead.
const DEAD_TYPE: &str = "bench.dead";
/// How long the endpoints hang before it is measured what that does: their lanes fill up.
const FILL_UP: Duration = Duration::from_secs(5);
/// Seconds between the retries, and the probes, of the dead endpoint.
const RETRY_SECONDS: u32 = 1;
const RETRIES: usize = 24;
/// How long a backlog may take to settle, or to drain.
const PATIENCE: Duration = Duration::from_mins(15);
/// How often it is asked how far that is.
const POLL: Duration = Duration::from_millis(20);

/// What a dead endpoint costs.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// Deliveries that wait for it.
    pub(crate) waiting: u32,
    /// What every process used before.
    pub(crate) idle: Vec<Usage>,
    /// What it uses with all of them waiting.
    pub(crate) full: Vec<Usage>,
    /// How many deliveries are timed once the endpoint has mended.
    pub(crate) drained: u32,
    /// From then until the first of them arrived.
    pub(crate) first: Duration,
    /// From then until the last of them did.
    pub(crate) last: Duration,
}

/// Measures both and prints the tables.
pub(crate) async fn measure(options: &Options, sink: &Sink, epoch: Instant) -> Result<()> {
    println!(
        "## Isolation: payloads of {} bytes, {} s each, {} processors\n",
        options.payload,
        options.duration,
        std::thread::available_parallelism()?,
    );
    println!("{}", hanging(options, sink, epoch).await?);
    println!("{}", report::dead(&dead(options, sink, epoch).await?));
    Ok(())
}

async fn start(options: &Options, epoch: Instant) -> Result<(Stack, Arc<Generator>)> {
    let stack = Stack::start(options.backend).await?;
    let generator = Generator::connect(
        &stack.url(),
        ADMIN_KEY,
        options.connections,
        epoch,
        HEALTHY,
        options.payload,
    )
    .await?;
    Ok((stack, generator))
}

async fn hanging(options: &Options, sink: &Sink, epoch: Instant) -> Result<String> {
    let (stack, generator) = start(options, epoch).await?;
    let healthy = (0..HEALTHY).map(|endpoint| CreateEndpointRequest {
        url: sink.url(endpoint),
        event_types: vec![event_type(endpoint)],
        ..CreateEndpointRequest::default()
    });
    stack.create(healthy).await?;
    for others in [Others::Answering, Others::Hanging] {
        let endpoints = (0..options.hanging).map(|endpoint| CreateEndpointRequest {
            url: others.url(sink, endpoint),
            event_types: vec![others.event_type(endpoint % GROUPS)],
            ..CreateEndpointRequest::default()
        });
        stack.create(endpoints).await?;
    }
    sleep(SETTLE).await;

    let rate = options.healthy_rate;
    let load = |name: String, duration| run(name, Load::Rate(rate), duration, &generator, sink, &stack, 1);
    load("warm-up".into(), Duration::from_secs(2)).await?;
    let alone = load(format!("{rate}/s alone"), options.duration()).await?;
    let answering = async {
        sleep(FILL_UP).await;
        load(format!("{rate}/s beside as many that answer"), options.duration()).await
    };
    let answering = tokio::select! {
        measured = answering => measured?,
        refused = every_second(&generator, Others::Answering) => match refused? {},
    };
    let hanging = async {
        sleep(FILL_UP).await;
        let tried = load(format!("{rate}/s beside those that hang"), options.duration()).await?;
        let deadline = Instant::now() + PATIENCE;
        while stack.open_breakers().await < options.hanging {
            if Instant::now() > deadline {
                bail!("the breakers of endpoints that hang do not open");
            }
            sleep(POLL).await;
        }
        let open = load(
            format!("{rate}/s once their breakers are open"),
            options.duration(),
        )
        .await?;
        anyhow::Ok([tried, open])
    };
    let [tried, open] = tokio::select! {
        measured = hanging => measured?,
        refused = every_second(&generator, Others::Hanging) => match refused? {},
    };
    Ok(report::hanging(options.hanging, &[alone, answering, tried, open]))
}

/// Endpoints beside the healthy ones, with an event a second each.
#[derive(Debug, Clone, Copy)]
enum Others {
    /// What they cost that is load and nothing else.
    Answering,
    Hanging,
}

impl Others {
    fn url(self, sink: &Sink, endpoint: u32) -> String {
        match self {
            Self::Answering => sink.busy_url(endpoint),
            Self::Hanging => sink.hanging_url(endpoint),
        }
    }

    fn event_type(self, group: u32) -> String {
        match self {
            Self::Answering => format!("bench.answering.g{group}"),
            Self::Hanging => format!("bench.hanging.g{group}"),
        }
    }
}

/// One event per second to each of the others, evenly over the second.
async fn every_second(generator: &Generator, others: Others) -> Result<std::convert::Infallible> {
    let mut turns = interval(Duration::from_secs(1) / GROUPS);
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for group in (0..GROUPS).cycle() {
        turns.tick().await;
        generator.publish(&others.event_type(group)).await?;
    }
    unreachable!("a cycle does not end")
}

async fn dead(options: &Options, sink: &Sink, epoch: Instant) -> Result<Backlog> {
    let (stack, generator) = start(options, epoch).await?;
    let dead = CreateEndpointRequest {
        url: sink.dead_url(),
        event_types: vec![DEAD_TYPE.into()],
        retry_schedule_seconds: vec![RETRY_SECONDS; RETRIES],
        ..CreateEndpointRequest::default()
    };
    stack.create(std::iter::once(dead)).await?;
    sleep(SETTLE).await;
    let idle = stack.usage();

    generator
        .fill(DEAD_TYPE, options.waiting, options.in_flight)
        .await?;
    let deadline = Instant::now() + PATIENCE;
    while stack.undone().await? > 0 {
        if Instant::now() > deadline {
            bail!("work for a dead endpoint stays unacknowledged");
        }
        sleep(POLL).await;
    }
    let full = stack.usage();

    sink.reset();
    sink.mend();
    let mended = Instant::now();
    let mut first = None;
    while sink.distinct() < u64::from(options.drained) {
        if mended.elapsed() > PATIENCE {
            bail!("the backlog does not drain");
        }
        if sink.distinct() > 0 {
            first.get_or_insert_with(|| mended.elapsed());
        }
        sleep(POLL).await;
    }
    let last = mended.elapsed();
    Ok(Backlog {
        waiting: options.waiting,
        idle,
        full,
        drained: options.drained,
        first: first.unwrap_or(last),
        last,
    })
}
