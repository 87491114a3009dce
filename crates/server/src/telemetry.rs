//! Log lines, traces, metrics: installed once per process.
//!
//! Without `telemetry.otlp_endpoint` there is no layer for traces, so that our spans, which are at debug level, are disabled; no
//! connection, no task, and one recorder of metrics, as with it.

mod collector;
mod lines;
mod measured;
mod spans;

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_log::trace;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::collector::Collector;
use self::lines::WithTrace;
use crate::config::{LogFormat, Telemetry};
use crate::roles::Role;

const SERVICE: &str = "cuitty-webhooks";
/// What the targets of our crates start with.
const OURS: &str = "cuitty_webhooks";
/// What is not shown of these, whatever the filter says, for there they show whole messages. Of `async_nats` that is the trace
/// level, with payloads, and headers of endpoints, which hold their owners' tokens; of `rmcp` everything that a caller can bring
/// about, with the signing secrets in arguments and answers.
const TALKATIVE: [(&str, LevelFilter); 2] =
    [("async_nats", LevelFilter::DEBUG), ("rmcp", LevelFilter::ERROR)];
/// Upper bounds of the histograms of durations, in seconds: a fifth of a millisecond to a minute.
const SECONDS: [f64; 16] = [
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];
/// Upper bounds of the histograms of counts.
const COUNTS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];
/// How long what is left may take to be sent when the process ends.
const CLOSING: Duration = Duration::from_secs(2);

/// The process, as whoever gets its telemetry knows it.
#[derive(Debug)]
pub struct Instance {
    /// What it does.
    pub roles: Vec<Role>,
    /// Tells it from all others, also from the one before it.
    pub id: u128,
    /// Tells the time.
    pub clock: Clock,
}

/// Sends what is exported, until it is closed.
#[must_use = "what is exported is cut off when it is dropped"]
pub struct TelemetryGuard {
    exporting: Option<Exporting>,
}

struct Exporting {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl TelemetryGuard {
    /// Sends what is left, for at most 2 s.
    pub async fn close(self) {
        let Some(Exporting { tasks, stop }) = self.exporting else {
            return;
        };
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(CLOSING, tasks.wait()).await.is_err() {
            tracing::warn!("the last telemetry was not sent in time");
        }
    }
}

/// Installs the log and trace subscriber. Log lines go to standard error: standard output is for answers. Exports traces and
/// metrics of `instance` if that is configured; needs a runtime then.
pub fn init(config: &Telemetry, instance: Option<&Instance>) -> anyhow::Result<TelemetryGuard> {
    let filter = EnvFilter::builder()
        .parse(&config.log_filter)
        .context("telemetry.log_filter")?;
    let discreet = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(TALKATIVE);
    let is_terminal = std::io::stderr().is_terminal();
    let json = match config.log_format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal);
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .map_event_format(WithTrace)
            .boxed()
    } else {
        lines.boxed()
    };

    let exported = match (&config.otlp_endpoint, instance) {
        (Some(endpoint), Some(instance)) => Some(export(endpoint, config, instance)?),
        _ => None,
    };
    let (provider, exporting) = exported.unzip();
    let spans = provider.map(|provider| {
        trace::export();
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(SERVICE))
            // Nobody but our own spans asks for the current one, and how they split is for their children to say.
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(spans::exported())
    });
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(filter.and(discreet)))
        .try_init()?;
    Ok(TelemetryGuard { exporting })
}

/// Begins to send traces and metrics.
fn export(
    endpoint: &str,
    config: &Telemetry,
    instance: &Instance,
) -> anyhow::Result<(SdkTracerProvider, Exporting)> {
    let collector = Arc::new(Collector::new(endpoint, config)?);
    let resource = resource(instance);
    let metrics = metrics()?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    if !config.otlp_metrics_interval.is_zero() {
        let (collector, stop, clock) = (Arc::clone(&collector), stop.clone(), instance.clock);
        let (every, resource) = (config.otlp_metrics_interval, (&resource).into());
        tasks.spawn(async move {
            measured::run(metrics, resource, every, clock, &collector, &stop).await;
        });
    }
    let (provider, outbox) = spans::provider(config.trace_sample_ratio, resource);
    let until = stop.clone();
    tasks.spawn(async move { outbox.run(&collector, &until).await });
    Ok((provider, Exporting { tasks, stop }))
}

/// What every span and metric of this process is of; `OTEL_RESOURCE_ATTRIBUTES` may add to it.
fn resource(instance: &Instance) -> Resource {
    let roles: Vec<_> = instance.roles.iter().map(Role::to_string).collect();
    Resource::builder()
        .with_service_name(SERVICE)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{:032x}", instance.id)),
            KeyValue::new("cuitty.webhooks.roles", roles.join(",")),
        ])
        .build()
}

/// The process's metrics. The first call installs the recorder; every later one gives the same.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = INSTALLED.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets(&COUNTS)?
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        cuitty_webhooks_log::metrics::describe();
        cuitty_webhooks_api::metrics::describe();
        cuitty_webhooks_dispatcher::metrics::describe();
        cuitty_webhooks_projector::metrics::describe();
        crate::gauges::describe();
        spans::describe();
        measured::describe();
    }
    // Whoever lost the race for the recorder takes the winner's handle.
    Ok(INSTALLED.get_or_init(|| handle).clone())
}
