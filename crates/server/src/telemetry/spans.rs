//! Traces: which spans are recorded, and how they get to the collector.
//!
//! A span that has ended goes into a bounded queue, which one task empties. Whoever ends a span never waits: what finds the queue
//! full is dropped, and counted. (The batching of the SDK does as much on a thread of its own, but tells nobody how much it drops.)

use std::time::Duration;

use metrics::{Counter, counter};
use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample, Span, SpanData, SpanProcessor,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterFn, filter_fn};

use super::OURS;
use super::collector::{Collector, may_pass};

/// Spans that wait to be sent: a few megabytes.
const QUEUE: usize = 8192;
/// Spans of one request.
const BATCH: usize = 512;
/// How long a batch that is not full waits for more.
const LINGER: Duration = Duration::from_secs(1);
/// Pauses before a batch is sent again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// Spans by what became of them.
const SPANS: &str = "webhooks_otlp_spans_total";

/// Spans on their way to the collector.
pub(super) struct Outbox {
    ended: mpsc::Receiver<SpanData>,
    sent: Counter,
    failed: Counter,
    resource: ResourceAttributesWithSchema,
}

/// Spans by their outcome.
fn outcome(outcome: &'static str) -> Counter {
    counter!(SPANS, "outcome" => outcome)
}

/// Describes what is counted here to the installed recorder, and shows it at 0.
pub(super) fn describe() {
    metrics::describe_counter!(
        SPANS,
        "Spans for the collector by outcome (sent, failed, dropped)"
    );
    for shown in ["sent", "failed", "dropped"] {
        let _ = outcome(shown);
    }
}

/// The source of spans, and where those come out that are to be sent.
pub(super) fn provider(ratio: f64, resource: Resource) -> (SdkTracerProvider, Outbox) {
    let (sender, ended) = mpsc::channel(QUEUE);
    let queue = Queue {
        sender,
        dropped: outcome("dropped"),
    };
    let outbox = Outbox {
        ended,
        sent: outcome("sent"),
        failed: outcome("failed"),
        resource: (&resource).into(),
    };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(queue)
        .with_sampler(Sampling(Sampler::ParentBased(Box::new(
            Sampler::TraceIdRatioBased(ratio),
        ))))
        .with_resource(resource)
        .build();
    (provider, outbox)
}

/// Which spans are exported: ours at debug level. No events: what they say stands in the log lines.
pub(super) fn exported() -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(|metadata| {
        metadata.is_span()
            && *metadata.level() == tracing::Level::DEBUG
            && metadata.target().starts_with(OURS)
    })
    .with_max_level_hint(LevelFilter::DEBUG)
}

/// As the trace's root decided; work of no trace that is linked to recorded ones is recorded with them.
#[derive(Debug, Clone)]
struct Sampling(Sampler);

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let has_parent = parent.is_some_and(|parent| parent.span().span_context().is_valid());
        if !has_parent && links.iter().any(|link| link.span_context.is_sampled()) {
            return SamplingResult {
                decision: SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: TraceState::NONE,
            };
        }
        self.0
            .should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<SpanData>,
    dropped: Counter,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.sender.try_send(span).is_err() {
            self.dropped.increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Outbox {
    /// Sends what has ended until `stop` is cancelled, and then what is left.
    pub(super) async fn run(mut self, collector: &Collector, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while !stop.is_cancelled() {
            let filling = async {
                // The queue is open for as long as the process lives.
                self.ended.recv_many(&mut batch, BATCH).await;
                let until = Instant::now() + LINGER;
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    match timeout_at(until, self.ended.recv_many(&mut batch, room)).await {
                        Ok(1..) => {}
                        _ => break,
                    }
                }
            };
            stop.run_until_cancelled(filling).await;
            self.send(&mut batch, collector, stop).await;
        }
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.ended.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(&mut batch, collector, stop).await;
        }
    }

    /// Sends the batch, again after a while if that may help. What the collector does not take then is lost.
    async fn send(&self, batch: &mut Vec<SpanData>, collector: &Collector, stop: &CancellationToken) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(std::mem::take(batch), &self.resource),
        };
        let mut pauses = PAUSES.into_iter();
        let refused = loop {
            match (collector.send_spans(request.clone()).await, pauses.next()) {
                (Ok(refused), _) => break refused.min(count),
                (Err(status), Some(pause)) if may_pass(&status) && !stop.is_cancelled() => {
                    stop.run_until_cancelled(sleep(pause)).await;
                }
                (Err(_), _) => break count,
            }
        };
        self.sent.increment(count - refused);
        self.failed.increment(refused);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    use super::*;

    fn context(flags: u8) -> SpanContext {
        let (trace_id, span_id) = (TraceId::from_bytes([1; 16]), SpanId::from_bytes([2; 8]));
        SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, TraceState::NONE)
    }

    /// What becomes of a span with this parent and this link when nobody asks for more than others decide.
    fn decide(parent: Option<u8>, link: Option<u8>) -> SamplingDecision {
        let sampling = Sampling(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
        let parent = parent.map(|flags| Context::new().with_remote_span_context(context(flags)));
        let links: Vec<_> = link
            .map(|flags| Link::new(context(flags), Vec::new(), 0))
            .into_iter()
            .collect();
        let trace_id = TraceId::from_bytes([3; 16]);
        sampling
            .should_sample(parent.as_ref(), trace_id, "x", &SpanKind::Consumer, &[], &links)
            .decision
    }

    #[test]
    fn a_parent_decides_and_without_one_what_a_span_is_linked_to() {
        assert_eq!(decide(Some(1), None), SamplingDecision::RecordAndSample);
        assert_eq!(decide(Some(0), Some(1)), SamplingDecision::Drop);
        assert_eq!(decide(None, Some(1)), SamplingDecision::RecordAndSample);
        assert_eq!(decide(None, Some(0)), SamplingDecision::Drop);
        assert_eq!(decide(None, None), SamplingDecision::Drop);
    }
}
