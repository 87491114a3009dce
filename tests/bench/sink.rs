//! The fastest receiver: answers 200 at once and notes when which event arrived. It has paths that do worse, too.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::event;

/// Longest latency that is told apart, in microseconds (10 min).
const MAX_MICROS: u64 = 600_000_000;

/// A histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("valid bounds")
}

/// What arrived since the last [`Sink::reset`].
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// From the time an event was to be handed over until it arrived, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Requests.
    pub(crate) requests: u64,
    /// Different pairs of event and endpoint.
    pub(crate) distinct: HashSet<(u32, u32)>,
    /// When the last new pair arrived, on the run's clock.
    pub(crate) last: Duration,
}

impl Arrivals {
    fn new() -> Self {
        Self {
            latency: histogram(),
            requests: 0,
            distinct: HashSet::new(),
            last: Duration::ZERO,
        }
    }
}

#[derive(Debug)]
struct State {
    epoch: Instant,
    arrivals: Mutex<Arrivals>,
    is_mended: AtomicBool,
}

/// Answers 200 and notes nothing.
const BUSY: &str = "/busy";
/// Takes requests and never answers.
const HANGING: &str = "/hanging";
/// Answers 500 until it is mended.
const DEAD: &str = "/dead";

/// The running sink.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    address: SocketAddr,
    state: Arc<State>,
}

impl Sink {
    /// Starts it on a free port. It runs as long as the runtime; `epoch` is when the run's clock began.
    pub(crate) async fn start(epoch: Instant) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            epoch,
            arrivals: Mutex::new(Arrivals::new()),
            is_mended: AtomicBool::new(false),
        });
        let sink = Self {
            address,
            state: Arc::clone(&state),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let service = service_fn(move |request| take(request, Arc::clone(&state)));
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(sink)
    }

    /// The URL of the endpoint with this number.
    pub(crate) fn url(&self, endpoint: u32) -> String {
        format!("http://{}/{endpoint}", self.address)
    }

    /// The URL of an endpoint that answers, and of which nothing is noted.
    pub(crate) fn busy_url(&self, endpoint: u32) -> String {
        format!("http://{}{BUSY}/{endpoint}", self.address)
    }

    /// The URL of an endpoint that takes requests and never answers.
    pub(crate) fn hanging_url(&self, endpoint: u32) -> String {
        format!("http://{}{HANGING}/{endpoint}", self.address)
    }

    /// The URL of the endpoint that fails until it is [mended](Self::mend).
    pub(crate) fn dead_url(&self) -> String {
        format!("http://{}{DEAD}", self.address)
    }

    /// From now on, the dead endpoint takes everything.
    pub(crate) fn mend(&self) {
        self.state.is_mended.store(true, Ordering::Relaxed);
    }

    /// Forgets what arrived and returns it.
    pub(crate) fn reset(&self) -> Arrivals {
        std::mem::replace(&mut *self.state.arrivals(), Arrivals::new())
    }

    /// How many different deliveries have arrived.
    pub(crate) fn distinct(&self) -> u64 {
        self.state.arrivals().distinct.len() as u64
    }
}

impl State {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let path = request.uri().path();
    let (hangs, is_dead, is_busy) = (path.starts_with(HANGING), path == DEAD, path.starts_with(BUSY));
    let endpoint = path[1..].parse().unwrap_or(0);
    let body = request.into_body().collect().await?.to_bytes();
    if hangs {
        std::future::pending::<()>().await;
    }
    if is_busy {
        return Ok(Response::new(Empty::new()));
    }
    if is_dead && !state.is_mended.load(Ordering::Relaxed) {
        let mut failure = Response::new(Empty::new());
        *failure.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(failure);
    }
    let now = state.epoch.elapsed();
    if let Some((number, at)) = event::parse(&body) {
        let mut arrivals = state.arrivals();
        arrivals.requests += 1;
        if arrivals.distinct.insert((number, endpoint)) {
            arrivals
                .latency
                .saturating_record(now.saturating_sub(at).as_micros() as u64);
            arrivals.last = now;
        }
    }
    Ok(Response::new(Empty::new()))
}
