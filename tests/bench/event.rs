//! The payload of a generated event: it carries its number and when it was to be handed over.

use std::time::Duration;

use bytes::Bytes;

/// Size of a payload without padding, rounded up.
pub(crate) const MIN_BYTES: usize = 64;
const AT: usize = r#"{"at":"#.len();
const AT_DIGITS: usize = 19;
const NUMBER: usize = AT + AT_DIGITS + r#","n":"#.len();
const NUMBER_DIGITS: usize = 10;

/// A JSON payload of `size` bytes for event `number`, to be handed over at `at` of the run's clock.
pub(crate) fn payload(number: u32, at: Duration, size: usize) -> Bytes {
    // Leading zeros are not JSON, so a fixed width starts at a digit other than 0.
    let at = 10u64.pow(AT_DIGITS as u32 - 1) + at.as_nanos() as u64;
    let number = 10u64.pow(NUMBER_DIGITS as u32 - 1) + u64::from(number);
    let mut text = format!(r#"{{"at":{at},"n":{number},"pad":""#);
    text.extend(std::iter::repeat_n('x', size.saturating_sub(text.len() + 2)));
    text.push_str("\"}");
    text.into()
}

/// The number and the time of a [`payload`].
pub(crate) fn parse(payload: &[u8]) -> Option<(u32, Duration)> {
    let digits = |start: usize, count: usize| {
        let text = std::str::from_utf8(payload.get(start..start + count)?).ok()?;
        Some(text.parse::<u64>().ok()? - 10u64.pow(count as u32 - 1))
    };
    Some((
        digits(NUMBER, NUMBER_DIGITS)? as u32,
        Duration::from_nanos(digits(AT, AT_DIGITS)?),
    ))
}
