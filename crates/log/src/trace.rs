//! Traces on their way through the service: from a caller into the log, and from the log on to whoever acts on it.
//!
//! Our spans at debug level are what is exported; those at info level only name what log lines are about. A process that
//! exports says so once, with [`export`]. Until then every function here returns at once, and the macros of debug spans, which no
//! layer is interested in, evaluate none of their fields: what is left of one is the comparison of its level with the highest
//! that anybody has asked for.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use cuitty_webhooks_domain::trace::TraceContext;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::error::LogError;

/// What a span says of itself that has failed; has to be among its fields.
const STATUS: &str = "otel.status_code";
/// Why, in a word of a bounded set; as above.
const ERROR_TYPE: &str = "error.type";

static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Says that spans of this process are exported from now on.
pub fn export() {
    EXPORTING.store(true, Ordering::Relaxed);
}

/// Whether spans of this process are exported.
pub fn is_exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

tokio::task_local! {
    static TASK: Traced;
}

/// What a task works on: a call, a published message, an attempt.
#[derive(Debug, Clone)]
pub struct Traced {
    span: Span,
    context: Option<TraceContext>,
}

impl Traced {
    /// Work that `span` stands for, which is none while nothing is exported. `context` is then what log lines name.
    pub fn new(span: Span, context: Option<TraceContext>) -> Self {
        Self { span, context }
    }

    /// What the current task works on.
    pub fn current() -> Option<Self> {
        TASK.try_with(Clone::clone).ok()
    }

    /// Its span.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Works on it.
    pub fn run<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        let work = work.instrument(self.span.clone());
        TASK.scope(self, work)
    }
}

/// The span of what the current task works on; none without one.
pub fn task_span() -> Span {
    TASK.try_with(|traced| traced.span.clone())
        .unwrap_or_else(|_| Span::none())
}

/// Takes what the current task works on along to wherever `work` runs.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let traced = Traced::current().unwrap_or_else(|| Traced::new(Span::none(), None));
    traced.run(work)
}

/// Makes `parent`, which is somebody else's, the parent of `span`. To be called before anything happens in it.
pub fn set_parent(span: &Span, parent: Option<TraceContext>) {
    if let Some(parent) = parent
        && !span.is_disabled()
    {
        let remote = Context::new().with_remote_span_context(to_otel(parent));
        // Without a layer that exports there is nobody to tell.
        let _ = span.set_parent(remote);
    }
}

/// Says that `cause` is among what `span` is about.
pub fn link(span: &Span, cause: TraceContext) {
    span.add_link(to_otel(cause));
}

/// Gives `span` another name, which is known only now.
pub fn rename(span: &Span, name: impl FnOnce() -> String) {
    if is_exporting() && !span.is_disabled() {
        span.context().span().update_name(name());
    }
}

/// Says that what `span` stands for has failed.
pub fn failed(span: &Span, error_type: &str) {
    span.record(STATUS, "ERROR");
    span.record(ERROR_TYPE, error_type);
}

/// Where `span` stands in its trace; `None` when it is not exported.
pub fn context_of(span: &Span) -> Option<TraceContext> {
    if !is_exporting() || span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let own = span.span_context();
    own.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(own.span_id().to_bytes()),
        flags: own.trace_flags().to_u8(),
    })
}

/// What the lines that are logged now belong to.
pub fn of_log_lines() -> Option<TraceContext> {
    context_of(&Span::current()).or_else(|| {
        TASK.try_with(|traced| context_of(&traced.span).or(traced.context))
            .ok()?
    })
}

/// What is stored as the cause of a message that came with `given`: the current span when it is recorded, so that whoever acts on
/// the message finds it; otherwise what its caller said. The decision not to record one that nobody has decided on is stored too.
pub(crate) fn stored(given: &str) -> Cow<'_, str> {
    match context_of(&Span::current()) {
        Some(own) if own.is_sampled() || given.is_empty() => own.to_string().into(),
        _ => given.into(),
    }
}

/// The current span, as a header of what it stores; empty when it is not recorded.
pub(crate) fn header() -> String {
    context_of(&Span::current())
        .filter(|own| own.is_sampled())
        .map(|own| own.to_string())
        .unwrap_or_default()
}

/// Notes in the current span why it failed.
pub(crate) fn refused<T>(result: Result<T, LogError>) -> Result<T, LogError> {
    result.inspect_err(|error| {
        let class = match error {
            LogError::Unavailable(_) => "log_unavailable",
            LogError::Full(_) => "log_full",
            LogError::Conflict { .. } => "conflict",
            _ => "log_refused",
        };
        failed(&Span::current(), class);
    })
}

fn to_otel(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        TraceFlags::new(context.flags),
        true,
        TraceState::NONE,
    )
}
