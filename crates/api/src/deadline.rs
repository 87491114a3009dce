//! Deadlines that gRPC callers set, in the header `grpc-timeout`. tonic leaves them to whoever serves its routes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::AppError;

/// How long the caller wants to wait; `None` when it does not say, or not in the form of the gRPC protocol: at most eight
/// digits and a unit.
pub(crate) fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The body of an answer that ends with `DEADLINE_EXCEEDED` when it has not ended by `deadline`.
pub(crate) fn until(deadline: Instant, body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(Until {
        body: Some(body),
        deadline: Box::pin(sleep_until(deadline)),
    })
}

struct Until {
    /// Dropped at the deadline, and with it what it is made of.
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self {
            body: Some(body),
            deadline,
        } = &mut *self
        else {
            return Poll::Ready(None);
        };
        if deadline.as_mut().poll(context).is_pending() {
            return Pin::new(body).poll_frame(context);
        }
        self.body = None;
        let mut trailers = HeaderMap::new();
        let status = AppError::TimedOut.to_status();
        if let Err(status) = status.add_header(&mut trailers) {
            tracing::error!(%status, "an error cannot be put into trailers");
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tonic::{Code, Status};

    use super::*;

    fn read(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        timeout_of(&headers)
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        assert_eq!(read("2H"), Some(Duration::from_hours(2)));
        assert_eq!(read("3M"), Some(Duration::from_mins(3)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for value in ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "100000000S", "1 S", "é"] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_goes_on_ends_at_the_deadline() {
        let first = stream::iter([Ok::<_, axum::Error>(Bytes::from_static(b"a"))]);
        let body = Body::from_stream(first.chain(stream::pending()));
        let started = Instant::now();
        let read = until(started + Duration::from_secs(5), body)
            .collect()
            .await
            .unwrap();
        assert_eq!(started.elapsed().as_secs(), 5);
        let status = Status::from_header_map(read.trailers().unwrap()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(&read.to_bytes()[..], b"a");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_quicker_stays_as_it_is() {
        let body = until(Instant::now() + Duration::from_secs(5), Body::from("abc"));
        let read = body.collect().await.unwrap();
        assert!(read.trailers().is_none());
        assert_eq!(&read.to_bytes()[..], b"abc");
    }
}
