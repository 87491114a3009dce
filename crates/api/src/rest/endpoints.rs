//! `GET /api/webhooks/endpoints`

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};

use super::Key;
use super::body::QueryParameters;
use super::model::{EndpointBody, EndpointList};
use crate::app::{App, PageInput};
use crate::error::{AppError, ErrorBody};

/// A project's endpoints, newest first.
#[utoipa::path(
    get,
    path = "/api/webhooks/endpoints",
    params(
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, default 50", minimum = 1, maximum = 200)
    ),
    responses(
        (status = 200, description = "A page of endpoints", body = EndpointList),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 404, description = "Unknown project", body = ErrorBody),
        (status = 422, description = "A parameter is wrong", body = ErrorBody)
    )
)]
pub(super) async fn list_endpoints(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<EndpointList>, AppError> {
    let query = QueryParameters::parse(query.as_deref());
    let page = PageInput {
        limit: query.number("limit")?,
        cursor: query.text("cursor").to_owned(),
    };
    let (entries, next_cursor) = app
        .list_endpoints(&caller, query.text("project_id"), &page)
        .await?;
    let now = app.now();
    let data = entries
        .iter()
        .map(|entry| EndpointBody::new(&entry.endpoint, app.health(&entry.endpoint), now))
        .collect();
    Ok(Json(EndpointList { data, next_cursor }))
}
