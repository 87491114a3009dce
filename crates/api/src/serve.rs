//! The listener: gRPC, REST and MCP on one port, HTTP/1.1 and HTTP/2, with TLS or without, with bounds on everything.

mod begun;

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::HeaderValue;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use self::begun::Begun;
use crate::config::ApiConfig;
use crate::error::{AppError, is_grpc};
use crate::{call, deadline, grpc, metrics as names};

/// Pause after the listener failed, as without free descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// What a peer may send on one HTTP/2 stream, and on all of a connection, before it must wait for us, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 32 * 1024;

/// All routes, with what holds for each of them.
pub(crate) fn router(config: &ApiConfig, routes: Router) -> Router {
    routes
        .fallback(|request: Request| async move {
            AppError::RouteNotFound.into_door_response(is_grpc(request.headers()))
        })
        .method_not_allowed_fallback(|| async { AppError::MethodNotAllowed })
        .layer(from_fn_with_state(config.request_timeout, guard))
}

/// Serves a call as part of its caller's trace.
async fn guard(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let Some(traced) = call::traced(&request) else {
        return bounded(limit, request, next).await;
    };
    let (span, is_grpc) = (traced.span().clone(), is_grpc(request.headers()));
    // For whoever works on it in a task of its own.
    request.extensions_mut().insert(traced.clone());
    let response = traced.run(bounded(limit, request, next)).await;
    call::answered(&span, &response, is_grpc);
    response
}

/// Bounds the time of a call, by our limit and by its caller's, turns a panic into an error of that call alone, and puts what
/// the layers below refuse as every error is put.
async fn bounded(limit: Duration, request: Request, next: Next) -> Response {
    let is_grpc = is_grpc(request.headers());
    let too_large = grpc::too_large(request.uri().path());
    let timeout = deadline::timeout_of(request.headers()).filter(|_| is_grpc);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let limit = timeout.map_or(limit, |timeout| timeout.min(limit));
    if !is_grpc && grpc::is_service_path(request.uri().path()) {
        return AppError::UnsupportedMediaType("application/grpc").into_response();
    }
    match tokio::time::timeout(limit, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) if is_grpc && is_too_large(&response) => too_large.into_door_response(true),
        Ok(Ok(response)) => match deadline {
            Some(deadline) => response.map(|body| deadline::until(deadline, body)),
            None => response,
        },
        Ok(Err(_)) => {
            // The panic hook has told where and why.
            tracing::error!("a call panicked");
            AppError::internal("panic").into_door_response(is_grpc)
        }
        Err(_) => AppError::TimedOut.into_door_response(is_grpc),
    }
}

/// Whether the decoder refused a message for its length: it says so with a code that nothing else here answers with.
fn is_too_large(response: &Response) -> bool {
    let out_of_range = HeaderValue::from_static("11");
    response.headers().get(Status::GRPC_STATUS) == Some(&out_of_range)
}

/// Serves connections until `soft` is cancelled, then lets calls in progress end until `hard` is.
pub(crate) async fn run(
    config: &ApiConfig,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    soft: CancellationToken,
    hard: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let graceful = GracefulShutdown::new();
    let tasks = TaskTracker::new();
    let builder = builder(config);
    loop {
        let accepted = tokio::select! {
            () = soft.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            stream,
            tls: tls.clone(),
            builder: builder.clone(),
            router: router.clone(),
            watcher: graceful.watcher(),
            first_bytes_within: config.header_read_timeout,
            _permit: permit,
        };
        tasks.spawn(connection.serve(soft.clone(), hard.clone()));
    }
    drop(listener);
    tasks.close();
    tokio::select! {
        () = graceful.shutdown() => {}
        () = hard.cancelled() => tracing::warn!(connections = tasks.len(), "cutting off calls in progress"),
    }
    tasks.wait().await;
}

fn builder(config: &ApiConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams_per_connection)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    builder
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

struct Connection {
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    watcher: Watcher,
    first_bytes_within: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, soft: CancellationToken, hard: CancellationToken) {
        let Self {
            stream,
            tls,
            builder,
            router,
            watcher,
            first_bytes_within,
            _permit,
        } = self;
        let opening = async {
            Ok(match tls {
                Some(tls) => Began::Tls(Box::new(Begun::new(tls.accept(stream).await?).await?)),
                None => Began::Plain(Begun::new(stream).await?),
            })
        };
        let opened: io::Result<Began> = tokio::select! {
            in_time = tokio::time::timeout(first_bytes_within, opening) => {
                in_time.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            () = soft.cancelled() => return,
        };
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "connection did not begin"),
        };
        let _counted = Counted::new();
        match connection {
            Began::Tls(stream) => talk(*stream, &builder, router, watcher, &hard).await,
            Began::Plain(stream) => talk(stream, &builder, router, watcher, &hard).await,
        }
    }
}

/// Counts as an open connection until it is dropped.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!(names::CONNECTIONS).increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(names::CONNECTIONS).decrement(1.0);
    }
}

/// A connection whose first bytes are there: below, nothing bounds the time until then, so a silent client would hold its
/// place for ever.
enum Began {
    Plain(Begun<TcpStream>),
    Tls(Box<Begun<TlsStream<TcpStream>>>),
}

/// Serves the calls of a connection.
async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    builder: &auto::Builder<TokioExecutor>,
    router: Router,
    watcher: Watcher,
    hard: &CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = watcher.watch(connection) => {
            if let Err(error) = served {
                tracing::debug!(error, "connection ended");
            }
        }
        () = hard.cancelled() => {}
    }
}

#[cfg(test)]
mod tests;
