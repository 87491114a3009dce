//! Deliveries: listed, shown, replayed and cancelled under `/manage/v1/webhooks/deliveries`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use cuitty_webhooks_domain::delivery::DeliveryStatus;
use cuitty_webhooks_domain::ids::DeliveryId;
use http::{HeaderMap, StatusCode};

use super::Key;
use super::model::{DeliveryBody, DeliveryDetailBody, DeliveryList, Status};
use super::query::QueryParameters;
use super::terms::{IdempotencyKey, PathId, Reply};
use crate::app::{App, DeliveryQuery};
use crate::error::AppError;
use crate::trace_context::traceparent;

/// What a delivery's status may be called.
pub(crate) const STATUSES: &str = "`pending`, `delivered` or `failed`";

/// The status of this name.
pub(crate) fn status_of(name: &str) -> Option<DeliveryStatus> {
    match name {
        "pending" => Some(DeliveryStatus::Pending),
        "delivered" => Some(DeliveryStatus::Delivered),
        "failed" => Some(DeliveryStatus::Failed),
        _ => None,
    }
}

/// Deliveries, newest first.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/deliveries",
    tag = "deliveries",
    params(
        ("project_id" = Option<String>, Query, description = "Of this project; of every one that the key may see unless given", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("endpoint_id" = Option<String>, Query, description = "To this endpoint, deleted or not", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("status" = Option<Status>, Query, description = "That stand like this"),
        ("event_type" = Option<String>, Query, description = "Of this event type", pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length = 128),
        ("since" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Created at or after"),
        ("until" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Created before"),
        ("min_log_sequence" = Option<u64>, Query, description = "Wait until the history has passed this sequence of the log, such as that of an acceptance"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, default 50", minimum = 1, maximum = 200)
    ),
    responses((status = 200, description = "A page of deliveries", body = DeliveryList))
)]
pub(super) async fn list_deliveries(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<DeliveryList>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let query = DeliveryQuery {
        project_id: query.name("project_id"),
        endpoint_id: query.name("endpoint_id"),
        status: query.value("status", STATUSES, status_of),
        event_type: query.name("event_type"),
        since: query.time("since"),
        until: query.time("until"),
        min_log_sequence: query.number("min_log_sequence").unwrap_or_default(),
        page: query.page(),
    };
    let page = app.list_deliveries(&caller, query).await?;
    Ok(Json(DeliveryList {
        data: page.deliveries.iter().map(DeliveryBody::new).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    }))
}

/// A delivery with its payload and every attempt.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/deliveries/{delivery_id}",
    tag = "deliveries",
    params(
        ("delivery_id" = String, Path, description = "The delivery", pattern = "^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("verify" = Option<bool>, Query, description = "Check the stored signatures of every attempt"),
        ("min_log_sequence" = Option<u64>, Query, description = "Wait until the history has passed this sequence of the log, such as that of an acceptance")
    ),
    responses((status = 200, description = "The delivery", body = DeliveryDetailBody))
)]
pub(super) async fn get_delivery(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<DeliveryId>,
    RawQuery(query): RawQuery,
) -> Result<Json<DeliveryDetailBody>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let verify = query.flag("verify");
    let min_log_sequence = query.number("min_log_sequence").unwrap_or_default();
    query.finish()?;
    let detail = app.get_delivery(&caller, id, min_log_sequence).await?;
    let checks = verify.then(|| app.check_signatures(&detail));
    Ok(Json(DeliveryDetailBody::new(&detail, checks.as_deref())))
}

/// Sends a delivery that has ended again: a new delivery of the same message, with the same `webhook-id` and payload.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/deliveries/{delivery_id}/replay",
    tag = "deliveries",
    params(("delivery_id" = String, Path, description = "The delivery", pattern = "^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$")),
    responses((status = 202, description = "The new delivery, in the log", body = DeliveryBody))
)]
pub(super) async fn replay_delivery(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<DeliveryId>,
    IdempotencyKey(key): IdempotencyKey,
    headers: HeaderMap,
) -> Result<Reply, AppError> {
    let replayed = app
        .replay_delivery(&caller, id, key, traceparent(&headers))
        .await?;
    let body = DeliveryBody::new(&replayed.value);
    Ok(Reply::new(StatusCode::ACCEPTED, body).replayed(replayed.is_replayed))
}

/// Ends a pending delivery as cancelled. The next one of an ordered endpoint goes on.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/deliveries/{delivery_id}/cancel",
    tag = "deliveries",
    params(("delivery_id" = String, Path, description = "The delivery", pattern = "^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$")),
    responses((status = 200, description = "The delivery, cancelled", body = DeliveryBody))
)]
pub(super) async fn cancel_delivery(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<DeliveryId>,
    IdempotencyKey(key): IdempotencyKey,
) -> Result<Reply, AppError> {
    let cancelled = app.cancel_delivery(&caller, id, key).await?;
    let body = DeliveryBody::new(&cancelled.value);
    Ok(Reply::new(StatusCode::OK, body).replayed(cancelled.is_replayed))
}
