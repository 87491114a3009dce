//! The caller's W3C trace context, taken along with what it causes.

use http::HeaderMap;

/// The `traceparent` of a call in the form of version 00; empty when there is none or it is not well formed (Trace Context
/// Level 1, section 4.3: then it is ignored).
pub(crate) fn traceparent(headers: &HeaderMap) -> String {
    headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .and_then(parse)
        .unwrap_or_default()
}

pub(crate) fn parse(value: &str) -> Option<String> {
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let well_formed = is_hex(version, 2)
        && is_hex(trace, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        && is_set(trace)
        && is_set(parent)
        && version != "ff"
        && (version != "00" || parts.next().is_none());
    well_formed.then(|| format!("00-{trace}-{parent}-{flags}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn well_formed_contexts_are_kept() {
        assert_eq!(parse(SAMPLE).as_deref(), Some(SAMPLE));
        // A later version may append fields; the known ones are kept in our version's form.
        let later = format!("cc{}-what-the-future-brings", &SAMPLE[2..]);
        assert_eq!(parse(&later).as_deref(), Some(SAMPLE));
    }

    #[test]
    fn others_are_ignored() {
        for value in [
            "",
            "00",
            &SAMPLE[..54],
            &format!("{SAMPLE}-x"),
            &format!("ff{}", &SAMPLE[2..]),
            &SAMPLE.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7\r\nx: y",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }
}
