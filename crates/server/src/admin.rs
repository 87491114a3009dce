//! The second listener, for orchestrators and monitoring: `/livez`, `/readyz`, `/metrics`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use cuitty_webhooks_history::Store;
use cuitty_webhooks_log::Log;
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_projector::ProjectorStatus;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest wait for one component to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often samples of histograms are folded, so that they do not pile up between scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What the process's roles need, filled in as they start.
#[derive(Default)]
pub struct Health {
    /// Whether a role reads the endpoint directory.
    pub needs_directory: bool,
    /// Whether a role reads or writes the history.
    pub needs_history: bool,
    pub(crate) log: OnceLock<Log>,
    pub(crate) directory: OnceLock<Directory>,
    pub(crate) history: OnceLock<Store>,
    pub(crate) projector: OnceLock<watch::Receiver<ProjectorStatus>>,
    /// Cancelled when a shutdown begins.
    pub(crate) draining: CancellationToken,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether the process does what it is for.
    pub ready: bool,
    /// `ok`, or what is missing; absent when no role needs it.
    pub log: &'static str,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<&'static str>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<&'static str>,
    /// `active`, `standby` or `stalled`; absent without that role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector: Option<&'static str>,
    /// Whether a shutdown has begun.
    pub draining: bool,
}

const OK: &str = "ok";
const STARTING: &str = "starting";
const DOWN: &str = "down";
const STALLED: &str = "stalled";

impl Health {
    /// How things stand now. An idle projector that stands by is ready; one that is held up by the database is not.
    pub async fn readiness(&self) -> Readiness {
        let log = match self.log.get() {
            None => STARTING,
            Some(log) if log.is_connected() => OK,
            Some(_) => DOWN,
        };
        let directory = self.needs_directory.then(|| match self.directory.get() {
            None => STARTING,
            Some(directory) if directory.is_live() => OK,
            Some(_) => DOWN,
        });
        let history = if self.needs_history {
            Some(self.history_state().await)
        } else {
            None
        };
        let projector = self.projector.get().map(|status| match *status.borrow() {
            ProjectorStatus { stalled: true, .. } => STALLED,
            ProjectorStatus { active: true, .. } => "active",
            ProjectorStatus { .. } => "standby",
        });
        let draining = self.draining.is_cancelled();
        let parts = [Some(log), directory, history];
        let ready =
            !draining && parts.into_iter().flatten().all(|part| part == OK) && projector != Some(STALLED);
        Readiness {
            ready,
            log,
            directory,
            history,
            projector,
            draining,
        }
    }

    async fn history_state(&self) -> &'static str {
        let Some(store) = self.history.get() else {
            return STARTING;
        };
        match tokio::time::timeout(PROBE_TIMEOUT, store.ping()).await {
            Ok(Ok(())) => OK,
            _ => DOWN,
        }
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
        .with_state(health)
        .route("/metrics", get(render).with_state(metrics.clone()));
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
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

async fn render(State(metrics): State<PrometheusHandle>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.render(),
    )
}
