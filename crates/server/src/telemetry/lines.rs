//! JSON log lines with the trace that they belong to: that of the exported span that they are written in, or else the caller's.

use std::fmt;

use cuitty_webhooks_log::trace;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Puts `trace_id` and `span_id` in front of what the JSON format `F` writes.
pub(super) struct WithTrace<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace::of_log_lines() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').ok_or(fmt::Error)?;
        let (trace_id, span_id) = (trace.trace_id, trace.span_id);
        write!(
            writer,
            r#"{{"trace_id":"{trace_id:032x}","span_id":"{span_id:016x}",{rest}"#
        )
    }
}
