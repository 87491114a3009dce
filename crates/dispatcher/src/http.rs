//! Sends one request and tells everything that is to be recorded of it.
//!
//! One pooled hyper client over our own connector, which connects to vetted addresses only. Redirects are not followed,
//! bodies are not inflated, and one deadline covers everything from resolving the host to the end of the body.

mod classify;
mod connector;
mod dial;
mod resolver;
mod response;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Request, Uri};
use bytes::Bytes;
use cuitty_webhooks_domain::attempt::{AttemptError, AttemptResponse, ErrorClass};
use cuitty_webhooks_domain::egress::EgressPolicy;
use http_body_util::Full;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use self::connector::{ConnectError, Connector};
pub(crate) use self::response::readable;
use crate::config::HttpConfig;
use crate::error::DispatcherError;

/// Largest head of a response, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The shared HTTP client.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    max_body: usize,
}

/// How a connection came to be. Shared by the requests that it carries.
#[derive(Debug)]
pub(crate) struct Established {
    remote: SocketAddr,
    /// Resolving the host; `None` for a literal address.
    dns: Option<Duration>,
    connect: Duration,
    tls: Option<Duration>,
    /// When it was begun.
    began: Instant,
}

/// What came of a request.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) response: Option<AttemptResponse>,
    /// `None` when the response is a success.
    pub(crate) error: Option<AttemptError>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) dns: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    pub(crate) tls: Option<Duration>,
    /// From the start to the response's head.
    pub(crate) first_byte: Option<Duration>,
}

/// This process lacks what a request needs, such as a file descriptor. Says nothing about the receiver.
#[derive(Debug, thiserror::Error)]
#[error("no file descriptor left for a connection")]
pub(crate) struct Exhausted;

impl HttpClient {
    pub(crate) fn build(config: &HttpConfig, policy: EgressPolicy) -> Result<Self, DispatcherError> {
        let connector = Connector::build(config, policy)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(config.pool_idle_timeout)
            .pool_max_idle_per_host(config.pool_max_idle_per_host)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .http2_max_header_list_size(MAX_HEAD_BYTES as u32)
            .http2_adaptive_window(false)
            // Only a request of which nothing was written is sent again: on a kept connection that the peer has closed.
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self {
            client,
            max_body: config.response_body_bytes,
        })
    }

    /// Posts `body` and reads the response, all within `limit`.
    pub(crate) async fn post(
        &self,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
        limit: Duration,
    ) -> Result<Exchange, Exhausted> {
        let started = Instant::now();
        let deadline = started + limit;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let connection = capture_connection(&mut request);

        let mut exchange = Exchange::default();
        let request = connector::within(deadline, self.client.request(request));
        let answer = timeout_at(deadline, request).await;
        exchange.connected(established(&connection), started);
        match answer {
            Err(_) => {
                // HTTP/2 would go on with it, and it may be dead.
                if let Some(connected) = &*connection.connection_metadata() {
                    connected.poison();
                }
                let what = if exchange.remote.is_some() {
                    "response head"
                } else {
                    "connection"
                };
                exchange.fail(ErrorClass::Timeout, format!("no {what} within {limit:?}"));
            }
            Ok(Err(error)) => exchange.failed(&error)?,
            Ok(Ok(response)) => {
                exchange.first_byte = Some(started.elapsed());
                let (head, body) = response.into_parts();
                let read = response::read_body(body, self.max_body, deadline).await;
                exchange.error = match read.error {
                    Some(class) => Some(response::body_error(class, limit)),
                    None => response::status_error(head.status),
                };
                exchange.response = Some(AttemptResponse {
                    status: head.status.as_u16(),
                    headers: response::record_headers(&head.headers),
                    body: read.bytes,
                    body_truncated: read.truncated,
                });
            }
        }
        Ok(exchange)
    }
}

impl Exchange {
    /// Records the connection, and its times if the request, which `started` then, waited for it.
    fn connected(&mut self, connection: Option<Arc<Established>>, started: Instant) {
        let Some(connection) = connection else { return };
        self.remote = Some(connection.remote);
        if connection.began >= started {
            self.dns = connection.dns;
            self.connect = Some(connection.connect);
            self.tls = connection.tls;
        }
    }

    fn failed(&mut self, error: &Error) -> Result<(), Exhausted> {
        let Some(ConnectError { cause, progress }) = classify::connect_error(error) else {
            let (class, message) = classify::request_error(error);
            self.fail(class, message.into());
            return Ok(());
        };
        if cause.is_exhaustion() {
            return Err(Exhausted);
        }
        self.remote = progress.remote;
        self.dns = progress.dns;
        self.connect = progress.connect;
        self.fail(cause.class(), cause.to_string());
        Ok(())
    }

    fn fail(&mut self, class: ErrorClass, message: String) {
        self.error = Some(AttemptError { class, message });
    }
}

fn established(connection: &CaptureConnection) -> Option<Arc<Established>> {
    let mut extensions = ::http::Extensions::new();
    connection
        .connection_metadata()
        .as_ref()?
        .get_extras(&mut extensions);
    extensions.remove()
}
