//! What every door stands before: commands and questions, with their checks, in one place.

mod api_keys;
mod cancel;
mod deliver;
mod deliveries;
mod endpoints;
mod event_types;
mod health;
mod history;
mod host;
mod input;
mod keyed;
mod listen;
mod page;
mod places;
mod replay;
mod secrets;
mod signatures;
mod status;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use cuitty_webhooks_domain::seal::KeyRing;
use cuitty_webhooks_log::directory::{Directory, Entry};
use cuitty_webhooks_log::{
    ApiKeys, Cancellations, EventTypes, Idempotency, Lanes, Log, LogError, Replays, trace,
};
use rand::rngs::StdRng;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;

pub(crate) use self::api_keys::{ListedApiKey, NewApiKey};
pub(crate) use self::deliver::{Accepted, Item, NewMessage, Place};
pub(crate) use self::deliveries::DeliveryQuery;
pub(crate) use self::endpoints::{EndpointUpdate, NewEndpoint};
pub(crate) use self::event_types::{EventTypeName, EventTypeUpdate, NewEventType, NewEventTypePolicy};
pub(crate) use self::health::EndpointHealth;
pub(crate) use self::history::History;
use self::host::HostCheck;
pub(crate) use self::input::PageInput;
pub(crate) use self::keyed::Terms;
pub(crate) use self::listen::{Brought, ListenAnswer, Listening, NewListener};
use self::places::Places;
pub(crate) use self::replay::{NewReplay, Started};
pub(crate) use self::secrets::{Rotated, Rotation};
pub use self::status::ServiceStatus;
use self::status::StatusCache;
use self::watch::WatchHub;
pub(crate) use self::watch::Watched;
use crate::auth::{Caller, Keys};
use crate::config::ApiConfig;
use crate::error::AppError;
use crate::limit::Limiter;
use crate::{ApiError, metrics as names};

/// Every command and question of the API.
pub struct App {
    pub(crate) keys: Arc<Keys>,
    pub(crate) limiter: Limiter,
    log: Log,
    directory: Directory,
    api_keys: ApiKeys,
    lanes: Lanes,
    cancellations: Cancellations,
    event_types: EventTypes,
    history: History,
    key_ring: KeyRing,
    policy: EgressPolicy,
    clock: Clock,
    rng: Mutex<StdRng>,
    host_check: HostCheck,
    accepts: Arc<Semaphore>,
    max_accepts: usize,
    /// Of these, what messages that wait for their turn may take together: while any of them waits for a place, none is free for
    /// those that do not.
    queued: Arc<Semaphore>,
    /// What is seen through, whether or not its caller still waits: messages being accepted, changes being made under a key, and
    /// endpoints of listeners.
    accepting: TaskTracker,
    /// Opened when the first key comes in.
    idempotency: OnceCell<Idempotency>,
    /// Followed from the first call on that is about one.
    replays: OnceCell<Replays>,
    read_wait: std::time::Duration,
    watches: WatchHub,
    /// Streams of messages that may be open.
    deliver_streams: Places,
    /// Cancelled when a shutdown begins.
    closing: CancellationToken,
    status: StatusCache,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl App {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the role, each made by the binary"
    )]
    pub(crate) fn new(
        config: &ApiConfig,
        log: Log,
        directory: Directory,
        api_keys: ApiKeys,
        lanes: Lanes,
        cancellations: Cancellations,
        event_types: EventTypes,
        history: History,
        key_ring: KeyRing,
        policy: EgressPolicy,
        clock: Clock,
        rng: StdRng,
    ) -> Result<Self, ApiError> {
        names::register();
        // The last quarter is for those that do not wait.
        let accepts = config.max_concurrent_accepts;
        let queued = (accepts - accepts.div_ceil(4)).max(1);
        let keys = Keys::configured(config.admin_key.clone()).and_issued(api_keys.clone(), clock);
        Ok(Self {
            keys: Arc::new(keys),
            limiter: Limiter::new(config.rate_limit_per_second, config.rate_limit_burst),
            host_check: HostCheck::new(policy.clone(), &config.nameservers, config.resolve_timeout)?,
            watches: WatchHub::new(log.clone(), config.max_watchers, config.watch_buffer),
            log,
            directory,
            api_keys,
            lanes,
            cancellations,
            event_types,
            history,
            key_ring,
            policy,
            clock,
            rng: Mutex::new(rng),
            accepts: Arc::new(Semaphore::new(accepts)),
            max_accepts: accepts,
            queued: Arc::new(Semaphore::new(queued)),
            accepting: TaskTracker::new(),
            idempotency: OnceCell::new(),
            replays: OnceCell::new(),
            read_wait: config.read_wait,
            deliver_streams: Places::new(config.max_deliver_streams),
            closing: CancellationToken::new(),
            status: StatusCache::default(),
        })
    }

    /// The time to the microsecond, which is what is stored: an answer and a later read tell the same.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        (self.clock)().trunc_subsecs(6)
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn idempotency(&self) -> Result<&Idempotency, LogError> {
        self.idempotency.get_or_try_init(|| self.log.idempotency()).await
    }

    /// The endpoint, unless it is deleted or none of the caller's business.
    fn endpoint(&self, caller: &Caller, id: EndpointId) -> Result<Arc<Entry>, AppError> {
        self.directory
            .get(id)
            .filter(|entry| entry.endpoint.deleted_at.is_none() && caller.sees(&entry.endpoint.project_id))
            .ok_or_else(|| unknown_endpoint(id))
    }

    /// The endpoints of a project, newest first. One that nothing was ever stored of is unknown.
    fn endpoints_of(&self, project: &ProjectId) -> Result<Vec<Arc<Entry>>, AppError> {
        self.or_none(project, self.directory.project(project))
    }

    /// What was `found` of a project, which is nothing when the project is known for something else.
    fn or_none<T>(&self, project: &ProjectId, found: Option<Vec<T>>) -> Result<Vec<T>, AppError> {
        let is_known = || self.event_types.knows(project) || self.api_keys.knows(project);
        found
            .or_else(|| is_known().then(Vec::new))
            .ok_or_else(|| unknown_project(project))
    }

    /// Sets the gauges of how much it has to do at this moment.
    pub fn show_load(&self) {
        let free = self.accepts.available_permits();
        metrics::gauge!(names::ACCEPTS).set((self.max_accepts - free.min(self.max_accepts)) as f64);
        metrics::gauge!(names::ACCEPTS_LIMIT).set(self.max_accepts as f64);
    }

    /// Ends every stream of delivery events, and lets those of messages end, so that their connections can.
    pub(crate) fn end_streams(&self) {
        self.closing.cancel();
        self.watches.stop();
    }
}

fn unknown_project(project: &ProjectId) -> AppError {
    Rejection::NotFound {
        resource: Resource::Project,
        id: project.to_string(),
    }
    .into()
}

fn unknown_endpoint(id: EndpointId) -> AppError {
    Rejection::NotFound {
        resource: Resource::Endpoint,
        id: id.to_string(),
    }
    .into()
}

/// Counts and times a call, names the span that it is traced by, and logs what nobody can do anything about.
fn observed<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, AppError>>,
) -> impl Future<Output = Result<T, AppError>> {
    observed_in(trace::task_span(), operation, call)
}

/// [`observed`], of what is traced by `span`.
async fn observed_in<T>(
    span: Span,
    operation: &'static str,
    call: impl Future<Output = Result<T, AppError>>,
) -> Result<T, AppError> {
    trace::rename(&span, || format!("api.{operation}"));
    let started = Instant::now();
    let result = call.await;
    let code = result.as_ref().map_or_else(AppError::code, |_| "ok");
    if result.is_err() {
        span.record("error.type", code);
    }
    metrics::counter!(names::CALLS, "operation" => operation, "code" => code).increment(1);
    metrics::histogram!(names::CALL_SECONDS, "operation" => operation).record(started.elapsed());
    match &result {
        Ok(_) => {}
        Err(AppError::Internal(source)) => tracing::error!(operation, error = %source, "call failed"),
        Err(AppError::LogUnavailable(source)) => {
            tracing::warn!(operation, error = %source, "log unavailable");
        }
        Err(AppError::HistoryUnavailable(Some(source))) => {
            tracing::warn!(operation, error = %source, "history unavailable");
        }
        Err(error) => tracing::debug!(operation, code, %error, "call refused"),
    }
    result
}
