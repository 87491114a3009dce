//! Bulk replays, under `/manage/v1/webhooks/replays`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::ReplayId;
use http::StatusCode;

use super::Key;
use super::body::{JsonBytes, Members};
use super::deliveries::status_of;
use super::model::{CountBody, NewReplayBody, ReplayBody};
use super::terms::{IdempotencyKey, PathId, Reply};
use crate::app::{App, NewReplay, Started};
use crate::error::AppError;

/// Sends many deliveries that have ended again, in the background; or counts them.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/replays",
    tag = "replays",
    request_body(content = NewReplayBody, example = json!({
        "project_id": "acme",
        "status": "failed",
        "since": "2026-11-01T00:00:00Z",
        "dry_run": true
    })),
    responses(
        (
            status = 202,
            description = "The replay, started",
            body = ReplayBody,
            headers(("location" = String, description = "Where its progress is shown"))
        ),
        (status = 200, description = "What it would be: a dry run", body = CountBody)
    )
)]
pub(super) async fn start_replay(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    IdempotencyKey(key): IdempotencyKey,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let started = app.start_replay(&caller, read(&body, key)?).await?;
    Ok(match started.value {
        Started::DryRun { project_id, total } => {
            Reply::new(StatusCode::OK, CountBody::new(&project_id, total))
        }
        Started::Replay(replay) => Reply::new(StatusCode::ACCEPTED, ReplayBody::new(&replay))
            .location(&format!("/manage/v1/webhooks/replays/{}", replay.id))
            .replayed(started.is_replayed),
    })
}

/// How far a bulk replay is.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/replays/{replay_id}",
    tag = "replays",
    params(("replay_id" = String, Path, description = "The replay", pattern = "^rpl_[0-7][0-9a-hjkmnp-tv-z]{25}$")),
    responses((status = 200, description = "The replay", body = ReplayBody))
)]
pub(super) async fn get_replay(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<ReplayId>,
) -> Result<Json<ReplayBody>, AppError> {
    let replay = app.get_replay(&caller, id).await?;
    Ok(Json(ReplayBody::new(&replay)))
}

/// Stops a bulk replay. What it has requested already is still delivered.
#[utoipa::path(
    delete,
    path = "/manage/v1/webhooks/replays/{replay_id}",
    tag = "replays",
    params(("replay_id" = String, Path, description = "The replay", pattern = "^rpl_[0-7][0-9a-hjkmnp-tv-z]{25}$")),
    responses((status = 200, description = "The replay, cancelled", body = ReplayBody))
)]
pub(super) async fn cancel_replay(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<ReplayId>,
    IdempotencyKey(key): IdempotencyKey,
) -> Result<Reply, AppError> {
    let cancelled = app.cancel_replay(&caller, id, key).await?;
    let body = ReplayBody::new(&cancelled.value);
    Ok(Reply::new(StatusCode::OK, body).replayed(cancelled.is_replayed))
}

fn read(body: &[u8], idempotency_key: String) -> Result<NewReplay, AppError> {
    const FLAG: &str = "true or false";
    const TIME: &str = "a time as RFC 3339 writes it";
    let mut members = Members::parse(body)?;
    let status = members.value::<String>("status", "a string");
    let named = status.as_deref().and_then(status_of);
    if status.is_some() && named.is_none() {
        members.violate("status", "must be `delivered` or `failed`");
    }
    Ok(NewReplay {
        project_id: members.name("project_id"),
        endpoint_id: members.name("endpoint_id"),
        status: named,
        failure_reasons: members
            .value("failure_reasons", "a list of strings")
            .unwrap_or_default(),
        event_type: members.name("event_type"),
        since: members.value::<DateTime<Utc>>("since", TIME),
        until: members.value::<DateTime<Utc>>("until", TIME),
        since_disabled: members.value("since_disabled", FLAG).unwrap_or_default(),
        include_unmatched: members.value("include_unmatched", FLAG).unwrap_or_default(),
        rate_per_second: members
            .value("rate_per_second", "a whole number")
            .unwrap_or_default(),
        dry_run: members.value("dry_run", FLAG).unwrap_or_default(),
        idempotency_key,
        faults: members.faults(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuitty_webhooks_domain::delivery::DeliveryStatus;

    #[test]
    fn what_is_left_out_is_open_and_what_is_wrong_is_named() {
        let open = read(br#"{"projectId":"acme"}"#, "key".into()).unwrap();
        assert_eq!((&*open.project_id, &*open.idempotency_key), ("acme", "key"));
        assert_eq!((open.status, open.since, open.faults), (None, None, Vec::new()));
        let full = br#"{"status":"delivered","since":"2026-11-22T10:00:00+01:00","rate_per_second":5,"dry_run":true}"#;
        let full = read(full, String::new()).unwrap();
        assert_eq!(full.status, Some(DeliveryStatus::Delivered));
        assert_eq!(full.since.unwrap().to_rfc3339(), "2026-11-22T09:00:00+00:00");
        assert_eq!((full.rate_per_second, full.dry_run), (5, true));
        let wrong = br#"{"status":"done","since":"now","failure_reasons":"gone","dryrun":true}"#;
        let faults = read(wrong, String::new()).unwrap().faults;
        let fields: Vec<_> = faults.iter().map(|fault| &*fault.field).collect();
        assert_eq!(fields, ["status", "failure_reasons", "since", "dryrun"]);
    }
}
