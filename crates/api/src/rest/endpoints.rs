//! Endpoints: listed on both surfaces; created, shown, changed and deleted under `/manage/v1/webhooks/endpoints`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::EndpointId;
use http::{HeaderMap, StatusCode};

use super::Key;
use super::body::JsonBytes;
use super::model::{CreatedBody, EndpointBody, EndpointList};
use super::query::QueryParameters;
use super::settings::{EndpointPatchBody, NewEndpointBody, read_new, read_patch};
use super::terms::{IdempotencyKey, IfMatch, PathId, Reply, is_known};
use crate::app::{App, Terms};
use crate::auth::Caller;
use crate::error::AppError;

/// A project's endpoints, newest first.
#[utoipa::path(
    get,
    path = "/api/webhooks/endpoints",
    operation_id = "list_project_endpoints",
    tag = "endpoints",
    params(
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, default 50", minimum = 1, maximum = 200)
    ),
    responses((status = 200, description = "A page of endpoints", body = EndpointList))
)]
pub(super) async fn list_project_endpoints(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<EndpointList>, AppError> {
    list(&app, &caller, query.as_deref()).await
}

/// A project's endpoints, newest first.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/endpoints",
    tag = "endpoints",
    params(
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, default 50", minimum = 1, maximum = 200)
    ),
    responses((status = 200, description = "A page of endpoints", body = EndpointList))
)]
pub(super) async fn list_endpoints(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<EndpointList>, AppError> {
    list(&app, &caller, query.as_deref()).await
}

async fn list(app: &App, caller: &Caller, query: Option<&str>) -> Result<Json<EndpointList>, AppError> {
    let mut query = QueryParameters::parse(query);
    let project_id = query.name("project_id");
    let (entries, next_cursor) = app.list_endpoints(caller, &project_id, &query.page()).await?;
    let data = entries.iter().map(|entry| shown(app, &entry.endpoint)).collect();
    Ok(Json(EndpointList { data, next_cursor }))
}

/// The endpoint as it is shown now.
pub(crate) fn shown(app: &App, endpoint: &Endpoint) -> EndpointBody {
    EndpointBody::new(endpoint, app.health(endpoint), app.now())
}

/// Creates an endpoint. Its signing secret is shown here and never again.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/endpoints",
    tag = "endpoints",
    request_body(content = NewEndpointBody, example = json!({
        "project_id": "acme",
        "url": "https://your-app.example.com/hooks",
        "event_types": ["budget.threshold_reached", "routing_config.updated"],
        "description": "Production webhook"
    })),
    responses((
        status = 201,
        description = "The endpoint with its signing secret",
        body = CreatedBody,
        headers(
            ("etag" = String, description = "The endpoint's revision"),
            ("location" = String, description = "Where the endpoint is shown")
        )
    ))
)]
pub(super) async fn create_endpoint(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    IdempotencyKey(key): IdempotencyKey,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let created = app.create_endpoint(&caller, read_new(&body)?, key).await?;
    let endpoint = &created.value.endpoint;
    let body = CreatedBody::new(shown(&app, endpoint), &created.value.signing_secret);
    Ok(Reply::new(StatusCode::CREATED, body)
        .revision(endpoint.revision)
        .location(&format!("/manage/v1/webhooks/endpoints/{}", endpoint.id))
        .replayed(created.is_replayed))
}

/// An endpoint.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/endpoints/{endpoint_id}",
    tag = "endpoints",
    params(
        ("endpoint_id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("If-None-Match" = Option<String>, Header, description = "What the caller has: the ETag of an earlier answer")
    ),
    responses(
        (
            status = 200,
            description = "The endpoint",
            body = EndpointBody,
            headers(("etag" = String, description = "The endpoint's revision; its health changes without one"))
        ),
        (status = 304, description = "It is at the revision that the caller has")
    )
)]
pub(super) async fn get_endpoint(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let entry = app.get_endpoint(&caller, id).await?;
    let endpoint = &entry.endpoint;
    let reply = if is_known(&headers, endpoint.revision) {
        Reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        Reply::new(StatusCode::OK, shown(&app, endpoint))
    };
    Ok(reply.revision(endpoint.revision).into_response())
}

/// Changes what the body names, all of it in one change.
#[utoipa::path(
    patch,
    path = "/manage/v1/webhooks/endpoints/{endpoint_id}",
    tag = "endpoints",
    params(
        ("endpoint_id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("If-Match" = Option<String>, Header, description = "Change it only if this is its ETag")
    ),
    request_body(content = EndpointPatchBody, example = json!({
        "event_types": ["budget.*"],
        "description": "Production webhook",
        "active": true
    })),
    responses((
        status = 200,
        description = "The endpoint as it is now",
        body = EndpointBody,
        headers(("etag" = String, description = "The endpoint's revision"))
    ))
)]
pub(super) async fn update_endpoint(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    IfMatch(revisions): IfMatch,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let terms = Terms {
        idempotency_key,
        revisions,
    };
    let updated = app
        .update_endpoint(&caller, id, read_patch(&body)?, terms)
        .await?;
    let endpoint = &updated.value;
    Ok(Reply::new(StatusCode::OK, shown(&app, endpoint))
        .revision(endpoint.revision)
        .replayed(updated.is_replayed))
}

/// Deletes an endpoint: it takes nothing new, what was accepted before is still delivered.
#[utoipa::path(
    delete,
    path = "/manage/v1/webhooks/endpoints/{endpoint_id}",
    tag = "endpoints",
    params(
        ("endpoint_id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("If-Match" = Option<String>, Header, description = "Delete it only if this is its ETag")
    ),
    responses((status = 204, description = "It is deleted"))
)]
pub(super) async fn delete_endpoint(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    IfMatch(revisions): IfMatch,
) -> Result<Reply, AppError> {
    let terms = Terms {
        idempotency_key,
        revisions,
    };
    let deleted = app.delete_endpoint(&caller, id, terms).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT).replayed(deleted.is_replayed))
}
