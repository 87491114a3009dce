//! W3C trace context: the trace that a request belongs to, and the span in it that caused the request.

use std::fmt;

/// Length of a `traceparent` of version 00.
const LEN: usize = 55;
/// The flag that says that the caller records its part of the trace.
const SAMPLED: u8 = 1;

/// A place in a trace. Displays as a `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Not zero.
    pub trace_id: u128,
    /// Not zero.
    pub span_id: u64,
    /// `trace-flags`, passed on as they came.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` when it is not well formed (Trace Context Level 1, section 4.3: then it is ignored).
    /// Later versions may go on after the flags.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)? as u64;
        let flags = hex(parts.next()?, 2)? as u8;
        let is_valid =
            trace_id != 0 && span_id != 0 && version != 0xff && (version != 0 || text.len() == LEN);
        is_valid.then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// A span of its own in the trace of `parent`; without one, in the new trace `trace_id`, which nobody has asked to record. An
    /// id of zero is not valid, so it becomes one.
    pub fn child_of(parent: Option<Self>, trace_id: u128, span_id: u64) -> Self {
        Self {
            trace_id: parent.map_or(trace_id.max(1), |parent| parent.trace_id),
            span_id: span_id.max(1),
            flags: parent.map_or(0, |parent| parent.flags),
        }
    }

    /// Whether the caller records its part of the trace, and wants us to.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

fn hex(digits: &str, len: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == len && digits.bytes().all(is_digit)).then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_well_formed_context_is_read_and_displayed_alike() {
        let context = TraceContext::parse(SAMPLE).unwrap();
        assert_eq!(
            (context.trace_id, context.span_id, context.flags),
            (
                0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                0x00f0_67aa_0ba9_02b7,
                1
            )
        );
        assert_eq!(context.to_string(), SAMPLE);
        // A later version may append fields; the known ones are kept in our version's form.
        let later = format!("cc{}-what-the-future-brings", &SAMPLE[2..]);
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn others_are_ignored() {
        for value in [
            "",
            "00",
            &SAMPLE[..54],
            &SAMPLE[..52],
            &format!("{SAMPLE}-x"),
            &format!("{SAMPLE}-"),
            &format!("ff{}", &SAMPLE[2..]),
            &SAMPLE.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7\r\nx: y",
        ] {
            assert_eq!(TraceContext::parse(value), None, "{value}");
        }
    }

    #[test]
    fn a_child_keeps_the_trace_and_its_flags() {
        let parent = TraceContext::parse(SAMPLE);
        let child = TraceContext::child_of(parent, 7, 9);
        assert_eq!(
            child.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000009-01"
        );
        assert!(child.is_sampled());
    }

    #[test]
    fn without_a_parent_a_trace_begins_that_nobody_records() {
        let root = TraceContext::child_of(None, 0xabc, 0);
        assert_eq!(
            root.to_string(),
            "00-00000000000000000000000000000abc-0000000000000001-00"
        );
        assert!(!root.is_sampled());
    }
}
