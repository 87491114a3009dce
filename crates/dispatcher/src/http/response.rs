//! What is read and kept of a response.

use std::fmt::Write;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::{Buf, Bytes};
use cuitty_webhooks_domain::attempt::{AttemptError, ErrorClass, Header};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::classify;

/// Most response headers that are recorded.
const MAX_HEADERS: usize = 64;
/// Their names and values together, in bytes.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// How much of a body is read beyond what is kept, so that its connection can be used again.
const DRAIN_BYTES: usize = 64 << 10;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// A body, as far as it was read.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    /// Whether it went on beyond `bytes`.
    pub(super) truncated: bool,
    /// Why it did not end; a body that goes on beyond what is kept is no error.
    pub(super) error: Option<ErrorClass>,
}

/// Reads up to `max` bytes, until `deadline`. A body that goes on for long beyond them is left unread, which closes its
/// connection.
pub(super) async fn read_body<B>(mut body: B, max: usize, deadline: Instant) -> ReadBody
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    // Copied out: a slice would keep the connection's whole read buffer alive for as long as the record.
    let mut kept = Vec::new();
    let mut beyond = 0;
    let mut until = deadline;
    let error = loop {
        if beyond > 0 && body.size_hint().lower() > DRAIN_BYTES as u64 {
            break None;
        }
        match timeout_at(until, body.frame()).await {
            Ok(None) => break None,
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else { continue };
                let room = max - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
                if beyond == 0 && data.len() > room {
                    until = deadline.min(Instant::now() + DRAIN_TIME);
                }
                beyond += data.remaining().saturating_sub(room);
                if beyond > DRAIN_BYTES {
                    break None;
                }
            }
            // What is kept is known whole.
            Ok(Some(Err(_))) | Err(_) if beyond > 0 => break None,
            Ok(Some(Err(error))) => break Some(classify::request_error(&error).0),
            Err(_) => break Some(ErrorClass::TooSlow),
        }
    };
    ReadBody {
        bytes: kept.into(),
        truncated: beyond > 0 || error.is_some(),
        error,
    }
}

/// The error of a response whose body did not end.
pub(super) fn body_error(class: ErrorClass, limit: Duration) -> AttemptError {
    let message = match class {
        ErrorClass::TooSlow => format!("the response's body did not end within {limit:?}"),
        ErrorClass::Protocol => "the response's body is not valid HTTP".into(),
        _ => "the connection ended before the response's body did".into(),
    };
    AttemptError { class, message }
}

/// The error that a complete response with this status is; `None` for a success.
pub(super) fn status_error(status: StatusCode) -> Option<AttemptError> {
    let code = status.as_u16();
    match code {
        200..300 => None,
        300..400 => Some(AttemptError {
            class: ErrorClass::Redirect,
            message: format!("status {code}: redirects are not followed"),
        }),
        _ => Some(AttemptError {
            class: ErrorClass::Status,
            message: format!("status {code}"),
        }),
    }
}

/// The headers as they are recorded, the first ones of too many.
pub(super) fn record_headers(headers: &HeaderMap) -> Vec<Header> {
    let mut budget = MAX_HEADER_BYTES;
    let mut recorded = Vec::with_capacity(headers.len().min(MAX_HEADERS));
    for (name, value) in headers.iter().take(MAX_HEADERS) {
        let header = Header {
            name: name.as_str().to_owned(),
            value: readable(value),
        };
        let Some(left) = budget.checked_sub(header.name.len() + header.value.len()) else {
            break;
        };
        budget = left;
        recorded.push(header);
    }
    recorded
}

/// A header's value with every byte outside of visible ASCII percent-encoded.
pub(crate) fn readable(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' '..=b'~' => text.push(byte.into()),
            _ => write!(text, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_capped_and_readable() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-name",
            HeaderValue::from_bytes(b"caf\xc3\xa9\tau lait").unwrap(),
        );
        assert_eq!(record_headers(&headers)[0].value, "caf%C3%A9%09au lait");
        for _ in 0..100 {
            headers.append("x-many", HeaderValue::from_static("1"));
        }
        assert_eq!(record_headers(&headers).len(), MAX_HEADERS);
        headers.insert(
            "x-large",
            HeaderValue::from_str(&"x".repeat(MAX_HEADER_BYTES)).unwrap(),
        );
        assert!(
            record_headers(&headers)
                .iter()
                .all(|header| header.name != "x-large")
        );
    }

    #[test]
    fn only_2xx_is_a_success() {
        for code in [200, 204, 299] {
            assert_eq!(status_error(StatusCode::from_u16(code).unwrap()), None);
        }
        let class = |code| status_error(StatusCode::from_u16(code).unwrap()).unwrap().class;
        assert_eq!([class(301), class(304)], [ErrorClass::Redirect; 2]);
        assert_eq!(
            [class(101), class(404), class(500), class(999)],
            [ErrorClass::Status; 4]
        );
    }
}
