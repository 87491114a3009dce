//! A webhook receiver that does what a script tells it to, and remembers what arrived.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::background::Background;
use crate::eventually::{eventually, is};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the receiver does with one request.
#[derive(Debug, Clone)]
pub struct Reply {
    delay: Duration,
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Answer,
}

#[derive(Debug, Clone)]
enum Answer {
    Full(Bytes),
    /// One byte per interval, without end.
    Drip(Duration),
    /// This many bytes as fast as they are taken.
    Huge(u64),
    /// The connection is closed instead.
    Reset,
    /// Nothing, ever.
    Hang,
}

impl Reply {
    /// An answer with this status and an empty body.
    pub fn status(status: u16) -> Self {
        Self {
            delay: Duration::ZERO,
            status,
            headers: Vec::new(),
            body: Answer::Full(Bytes::new()),
        }
    }

    /// Closes the connection without an answer.
    pub fn reset() -> Self {
        Self {
            body: Answer::Reset,
            ..Self::status(200)
        }
    }

    /// Never answers.
    pub fn hang() -> Self {
        Self {
            body: Answer::Hang,
            ..Self::status(200)
        }
    }

    /// 200, then a body of one byte per `interval` without end.
    pub fn drip(interval: Duration) -> Self {
        Self {
            body: Answer::Drip(interval),
            ..Self::status(200)
        }
    }

    /// 200, then a body of `length` bytes, all of them `x`.
    pub fn huge(length: u64) -> Self {
        Self {
            body: Answer::Huge(length),
            ..Self::status(200)
        }
    }

    /// With this header too.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Answer::Full(body.into());
        self
    }

    /// Only after this long.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Its method.
    pub method: Method,
    /// Its request target.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
    /// When the body was complete.
    pub at: Instant,
}

impl Captured {
    /// The value of a header.
    ///
    /// # Panics
    /// When it is missing or not visible ASCII.
    pub fn header(&self, name: &str) -> &str {
        let value = self
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("header {name} is missing: {self:?}"));
        value.to_str().expect("visible ASCII")
    }
}

#[derive(Debug, Default)]
struct Route {
    script: VecDeque<Reply>,
    requests: Vec<Captured>,
    /// How often each `webhook-id` arrived.
    ids: HashMap<String, u32>,
    /// Answers instead of the script.
    judge: Option<fn(&Captured) -> Reply>,
    /// Requests that wait for their answer's head, now and at most.
    in_flight: usize,
    peak_in_flight: usize,
}

#[derive(Debug, Default)]
struct State {
    routes: Mutex<HashMap<String, Route>>,
}

impl State {
    fn routes(&self) -> MutexGuard<'_, HashMap<String, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP server on a free port of 127.0.0.1, on a thread of its own. Answers 200 on every path that has no script.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    _thread: Background,
}

impl Receiver {
    /// Starts a receiver. It captures every request.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("is bound");
        let state = Arc::<State>::default();
        let served = Arc::clone(&state);
        let thread = Background::spawn("receiver", move |stop| serve(listener, served, stop));
        Self {
            address,
            state,
            _thread: thread,
        }
    }

    /// The URL of `path`, which starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What happens on `path` from now on: the replies in turn, the last one for ever.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.state.routes().entry(path.to_owned()).or_default().script = replies.into_iter().collect();
    }

    /// Every request on `path` is answered as `judge` says from now on, whatever the script.
    pub fn judge(&self, path: &str, judge: fn(&Captured) -> Reply) {
        self.state.routes().entry(path.to_owned()).or_default().judge = Some(judge);
    }

    /// What arrived on `path`, in order.
    pub fn requests(&self, path: &str) -> Vec<Captured> {
        self.state
            .routes()
            .get(path)
            .map(|route| route.requests.clone())
            .unwrap_or_default()
    }

    /// How many requests arrived on `path`.
    pub fn count(&self, path: &str) -> usize {
        self.state
            .routes()
            .get(path)
            .map_or(0, |route| route.requests.len())
    }

    /// How many requests arrived, over all paths.
    pub fn arrived(&self) -> usize {
        self.state
            .routes()
            .values()
            .map(|route| route.requests.len())
            .sum()
    }

    /// What arrived on every path; those of one path in order.
    pub fn all_requests(&self) -> Vec<Captured> {
        let routes = self.state.routes();
        routes.values().flat_map(|route| route.requests.clone()).collect()
    }

    /// How often each `webhook-id` arrived on `path`.
    pub fn ids(&self, path: &str) -> HashMap<String, u32> {
        self.state
            .routes()
            .get(path)
            .map(|route| route.ids.clone())
            .unwrap_or_default()
    }

    /// Different `webhook-id`s that arrived, counted per path.
    pub fn distinct_ids(&self) -> usize {
        self.state.routes().values().map(|route| route.ids.len()).sum()
    }

    /// Requests that wait for their answer now, over all paths.
    pub fn in_flight(&self) -> usize {
        self.state.routes().values().map(|route| route.in_flight).sum()
    }

    /// Most requests that waited for their answer on `path` at the same time.
    pub fn peak_in_flight(&self, path: &str) -> usize {
        self.state
            .routes()
            .get(path)
            .map_or(0, |route| route.peak_in_flight)
    }

    /// Waits until `count` requests have arrived on `path` and returns them.
    ///
    /// # Panics
    /// When they do not arrive in time, or more arrive.
    pub async fn received(&self, path: &str, count: usize) -> Vec<Captured> {
        eventually(&format!("{count} requests on {path}"), || async {
            is(self.requests(path).len(), count)
        })
        .await;
        self.requests(path)
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>, stop: CancellationToken) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let state = Arc::clone(&state);
        // Connections end with the runtime of this thread.
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(|request| answer(request, Arc::clone(&state)));
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the script says so")
    }
}

impl std::error::Error for Closed {}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, Closed> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let reply = remember(&state, head, body);
    let waiting = Waiting::new(&state, path);
    sleep(reply.delay).await;
    let body = match reply.body {
        Answer::Full(body) => Full::new(body).boxed_unsync(),
        Answer::Reset => return Err(Closed),
        Answer::Hang => std::future::pending().await,
        Answer::Drip(interval) => StreamBody::new(stream::unfold((), move |()| async move {
            sleep(interval).await;
            Some((Ok(Frame::data(Bytes::from_static(b"."))), ()))
        }))
        .boxed_unsync(),
        Answer::Huge(length) => StreamBody::new(stream::unfold(length, |left| async move {
            let chunk = Bytes::from_static(&[b'x'; 8192]).slice(..left.min(8192) as usize);
            (left > 0).then(|| (Ok(Frame::data(chunk.clone())), left - chunk.len() as u64))
        }))
        .boxed_unsync(),
    };
    drop(waiting);
    let mut response = Response::new(body);
    *response.status_mut() = reply.status.try_into().expect("a status");
    for (name, value) in reply.headers {
        let value = HeaderValue::try_from(value).expect("a header value");
        response
            .headers_mut()
            .append(HeaderName::from_static(name), value);
    }
    Ok(response)
}

/// Counts a request as waiting until it is answered, or until its connection ends.
struct Waiting<'a> {
    state: &'a State,
    path: String,
}

impl<'a> Waiting<'a> {
    fn new(state: &'a State, path: String) -> Self {
        let mut routes = state.routes();
        let route = routes.entry(path.clone()).or_default();
        route.in_flight += 1;
        route.peak_in_flight = route.peak_in_flight.max(route.in_flight);
        Self { state, path }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(route) = self.state.routes().get_mut(&self.path) {
            route.in_flight -= 1;
        }
    }
}

fn remember(state: &State, head: hyper::http::request::Parts, body: Bytes) -> Reply {
    let now = Instant::now();
    let mut routes = state.routes();
    let route = routes.entry(head.uri.path().to_owned()).or_default();
    if let Some(id) = head.headers.get("webhook-id").and_then(|id| id.to_str().ok()) {
        *route.ids.entry(id.to_owned()).or_default() += 1;
    }
    let (method, uri, headers) = (head.method, head.uri, head.headers);
    let request = Captured {
        method,
        uri,
        headers,
        body,
        at: now,
    };
    let judged = route.judge.map(|judge| judge(&request));
    route.requests.push(request);
    if let Some(reply) = judged {
        return reply;
    }
    let last = route.script.len() <= 1;
    let next = if last {
        route.script.front().cloned()
    } else {
        route.script.pop_front()
    };
    next.unwrap_or_else(|| Reply::status(200))
}
