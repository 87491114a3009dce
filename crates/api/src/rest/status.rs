//! `GET /api/webhooks/status`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub(super) struct StatusBody {
    /// `ok`; `degraded` when messages are accepted but not delivered or not shown; `down` when none are accepted.
    status: &'static str,
    version: &'static str,
    components: Components,
}

/// How its parts are.
#[derive(Debug, Serialize, ToSchema)]
struct Components {
    /// `ok` or `down`.
    log: &'static str,
    /// `ok` or `down`.
    history: &'static str,
    /// Live dispatchers.
    dispatchers: u32,
    /// Events in the log that the history has not folded yet; null when log or history is down.
    #[schema(required = true)]
    projection_lag: Option<u64>,
}

/// How the service is. Needs no key; always answers 200.
#[utoipa::path(
    get,
    path = "/api/webhooks/status",
    tag = "status",
    security(()),
    responses((status = 200, description = "How the service is", body = StatusBody))
)]
pub(super) async fn get_status(State(app): State<Arc<App>>) -> Json<StatusBody> {
    let status = app.status().await;
    let part = |is_up: bool| if is_up { "ok" } else { "down" };
    Json(StatusBody {
        status: status.summary(),
        version: env!("CARGO_PKG_VERSION"),
        components: Components {
            log: part(status.log),
            history: part(status.history),
            dispatchers: status.dispatchers,
            projection_lag: status.projection_lag,
        },
    })
}
