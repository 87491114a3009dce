//! W3C trace context (`traceparent`, version 00): each attempt is a child of what requested the delivery.

use std::fmt;

/// Length of a `traceparent` of version 00.
const LEN: usize = 55;
/// Flags of a trace that nobody has asked to record.
const NOT_SAMPLED: u8 = 0;

/// The trace context that an attempt sends. Displays as the value of `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// A span of its own in the trace of `parent`; in the new trace `trace_id` when that is none. An id of zero is not
    /// valid, so it becomes one.
    pub(crate) fn child_of(parent: &str, trace_id: u128, span_id: u64) -> Self {
        let (trace_id, flags) = parse(parent).unwrap_or((trace_id.max(1), NOT_SAMPLED));
        Self {
            trace_id,
            span_id: span_id.max(1),
            flags,
        }
    }

    /// 32 lower-case hex digits.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

/// Trace id and flags of a valid `traceparent`. Later versions may go on after the flags.
fn parse(text: &str) -> Option<(u128, u8)> {
    let mut parts = text.splitn(5, '-');
    let version = hex(parts.next()?, 2)?;
    let trace_id = hex(parts.next()?, 32)?;
    let parent_id = hex(parts.next()?, 16)?;
    let flags = hex(parts.next()?, 2)?;
    let is_valid = trace_id != 0 && parent_id != 0 && version != 0xff && (version != 0 || text.len() == LEN);
    is_valid.then_some((trace_id, flags as u8))
}

fn hex(digits: &str, len: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == len && digits.bytes().all(is_digit)).then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_keeps_the_trace_and_its_flags() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let child = TraceContext::child_of(parent, 7, 9);
        assert_eq!(
            child.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000009-01"
        );
        assert_eq!(child.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let later = TraceContext::child_of("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", 7, 9);
        assert_eq!(later.trace_id(), child.trace_id());
    }

    #[test]
    fn an_invalid_parent_starts_a_new_trace() {
        for parent in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let child = TraceContext::child_of(parent, 0xabc, 0);
            assert_eq!(
                child.to_string(),
                "00-00000000000000000000000000000abc-0000000000000001-00",
                "{parent}"
            );
        }
    }
}
