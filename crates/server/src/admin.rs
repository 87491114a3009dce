//! The second listener, for orchestrators and monitoring: `/livez`, `/readyz`, `/metrics`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use cuitty_webhooks_api::App;
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::Log;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_projector::ProjectorStatus;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gauges;
use crate::roles::Role;
use crate::shutdown::Shutdown;

/// Longest wait for one component to answer a probe. Whoever probes us may wait for a second only.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often samples of histograms are folded, so that they do not pile up between scrapes, and gauges are set for those who do not
/// scrape.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What the process's roles need, filled in as they start.
#[derive(Default)]
pub struct Health {
    /// What the process does.
    pub roles: Vec<Role>,
    pub(crate) log: OnceLock<Log>,
    pub(crate) directory: OnceLock<Directory>,
    pub(crate) history: OnceLock<Store>,
    /// Whether a try to open the history has failed.
    pub(crate) history_failed: AtomicBool,
    /// Whether this process pulls what is published.
    pub(crate) ingest: OnceLock<watch::Receiver<bool>>,
    /// Whether this dispatcher is one of the dispatchers.
    pub(crate) dispatcher: OnceLock<watch::Receiver<bool>>,
    /// What accepts; gone when the roles have ended.
    pub(crate) app: OnceLock<Weak<App>>,
    pub(crate) projector: OnceLock<watch::Receiver<ProjectorStatus>>,
    pub(crate) shutdown: Shutdown,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether each role of the process can do its work.
    pub ready: bool,
    /// `ok`, `starting` or `down`.
    pub log: &'static str,
    /// As above.
    pub directory: &'static str,
    /// As above: whether messages can be accepted, for which API keys and event types must be followed, too; absent without the
    /// roles that accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<&'static str>,
    /// As above; absent when no role uses it. An API is ready without it: it accepts, and refuses reads of the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<&'static str>,
    /// `starting`, or `attached` once messages can come to it; absent without that role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<&'static str>,
    /// `starting`, or `joined` once work can come to it; absent without that role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatcher: Option<&'static str>,
    /// `starting`, `active`, `standby` or `stalled`; absent without that role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector: Option<&'static str>,
    /// Whether a shutdown has begun.
    pub draining: bool,
}

const OK: &str = "ok";
const STARTING: &str = "starting";
const DOWN: &str = "down";
const ATTACHED: &str = "attached";
const JOINED: &str = "joined";
const ACTIVE: &str = "active";
const STANDBY: &str = "standby";
const STALLED: &str = "stalled";

impl Health {
    /// Whether a role reads or writes the history.
    pub(crate) fn uses_history(&self) -> bool {
        self.has(Role::Api) || self.has(Role::Projector)
    }

    /// How things stand now. An idle projector that stands by is ready; one that is held up by the database is not.
    pub async fn readiness(&self) -> Readiness {
        let log = match self.log.get() {
            None => STARTING,
            Some(log) if log.is_connected() => OK,
            Some(_) => DOWN,
        };
        let directory = match self.directory.get() {
            None => STARTING,
            Some(directory) if directory.is_live() => OK,
            Some(_) => DOWN,
        };
        let accepts = self.has(Role::Api) || self.has(Role::Ingest);
        let acceptance = accepts.then(|| match self.app.get() {
            None => STARTING,
            Some(app) if app.upgrade().is_some_and(|app| app.is_accepting()) => OK,
            Some(_) => DOWN,
        });
        let history = if self.uses_history() {
            Some(self.history_state().await)
        } else {
            None
        };
        let ingest = self.has(Role::Ingest).then(|| match self.ingest.get() {
            Some(attached) if *attached.borrow() => ATTACHED,
            _ => STARTING,
        });
        let dispatcher = self.has(Role::Dispatcher).then(|| match self.dispatcher.get() {
            Some(joined) if *joined.borrow() => JOINED,
            _ => STARTING,
        });
        let projector = self.has(Role::Projector).then(|| {
            let status = self.projector.get().map(|status| *status.borrow());
            match status {
                None => STARTING,
                Some(ProjectorStatus { stalled: true, .. }) => STALLED,
                Some(ProjectorStatus { active: true, .. }) => ACTIVE,
                Some(ProjectorStatus { .. }) => STANDBY,
            }
        });
        let mut readiness = Readiness {
            ready: false,
            log,
            directory,
            acceptance,
            history,
            ingest,
            dispatcher,
            projector,
            draining: self.shutdown.has_begun(),
        };
        readiness.ready = readiness.is_ready();
        readiness
    }

    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    async fn history_state(&self) -> &'static str {
        let Some(store) = self.history.get() else {
            let failed = self.history_failed.load(Ordering::Relaxed);
            return if failed { DOWN } else { STARTING };
        };
        match tokio::time::timeout(PROBE_TIMEOUT, store.ping()).await {
            Ok(Ok(())) => OK,
            _ => DOWN,
        }
    }
}

impl Readiness {
    fn is_ready(&self) -> bool {
        let projects = match self.projector {
            None => true,
            Some(state) => matches!(state, ACTIVE | STANDBY) && self.history == Some(OK),
        };
        !self.draining
            && self.log == OK
            && self.directory == OK
            && self.acceptance.is_none_or(|state| state == OK)
            && self.ingest.is_none_or(|state| state == ATTACHED)
            && self.dispatcher.is_none_or(|state| state == JOINED)
            && projects
    }
}

/// Serves `listener` until `stop` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(health.clone())
        .route(
            "/metrics",
            get(render).with_state((health.clone(), metrics.clone())),
        );
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            gauges::refresh(&health);
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        served = async { serving.await } => served,
        () = upkeep => Ok(()),
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    let readiness = health.readiness().await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness))
}

async fn render(State((health, metrics)): State<(Arc<Health>, PrometheusHandle)>) -> impl IntoResponse {
    gauges::refresh(&health);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.render(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything is well with a process of all roles.
    const WELL: Readiness = Readiness {
        ready: true,
        log: OK,
        directory: OK,
        acceptance: Some(OK),
        history: Some(OK),
        ingest: Some(ATTACHED),
        dispatcher: Some(JOINED),
        projector: Some(STANDBY),
        draining: false,
    };

    fn ready(change: impl FnOnce(&mut Readiness)) -> bool {
        let mut readiness = WELL;
        change(&mut readiness);
        readiness.is_ready()
    }

    #[test]
    fn a_process_is_ready_when_each_of_its_roles_can_work() {
        assert!(ready(|_| {}));
        assert!(!ready(|it| it.log = DOWN));
        assert!(!ready(|it| it.directory = STARTING));
        assert!(!ready(|it| it.acceptance = Some(STARTING)));
        assert!(!ready(|it| it.acceptance = Some(DOWN)));
        assert!(ready(|it| it.acceptance = None));
        assert!(!ready(|it| it.ingest = Some(STARTING)));
        assert!(!ready(|it| it.dispatcher = Some(STARTING)));
        assert!(!ready(|it| it.projector = Some(STALLED)));
        assert!(!ready(|it| it.projector = Some(STARTING)));
        assert!(!ready(|it| it.draining = true));
    }

    #[test]
    fn a_projector_needs_the_history_and_an_api_does_not() {
        for state in [STARTING, DOWN] {
            assert!(!ready(|it| it.history = Some(state)));
            assert!(ready(|it| (it.history, it.projector) = (Some(state), None)));
        }
    }
}
