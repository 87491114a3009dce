//! Log lines, traces, metrics: installed once per process.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, Telemetry};

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

/// Sends the spans that are still waiting when it is dropped.
#[must_use = "traces are cut off when it is dropped"]
pub struct TelemetryGuard {
    traces: Option<SdkTracerProvider>,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take()
            && let Err(error) = traces.shutdown()
        {
            tracing::debug!(%error, "the last traces could not be sent");
        }
    }
}

/// Installs the log and trace subscriber. Log lines go to standard error: standard output is for answers. Needs a
/// runtime when traces are exported.
pub fn init(config: &Telemetry) -> anyhow::Result<TelemetryGuard> {
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
        lines.json().flatten_event(true).boxed()
    } else {
        lines.boxed()
    };

    let traces = config
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| tracer_provider(endpoint, config.trace_sample_ratio))
        .transpose()
        .context("telemetry.otlp_endpoint")?;
    let spans = traces.as_ref().map(|traces| {
        // Our spans of the hot paths are at debug level, so that they cost nothing unless they are exported.
        let spans = Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target(OURS, LevelFilter::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer(SERVICE))
            .with_filter(spans)
    });
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(filter.and(discreet)))
        .try_init()?;
    Ok(TelemetryGuard { traces })
}

fn tracer_provider(endpoint: &str, ratio: f64) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    let resource = Resource::builder().with_service_name(SERVICE).build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build())
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
    }
    // Whoever lost the race for the recorder takes the winner's handle.
    Ok(INSTALLED.get_or_init(|| handle).clone())
}
