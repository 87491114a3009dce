//! The REST door: one file per route, each a translation to and from [`App`].

mod body;
mod deliver;
mod endpoints;
mod event_types;
mod model;
mod rotate;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::Caller;
use crate::error::AppError;
use crate::metrics as names;

/// Name of the security scheme in the OpenAPI document.
const API_KEY: &str = "api_key";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Cuitty Webhooks",
        description = "Signed webhook deliveries with retries and a full history. Errors: `{\"error\":{…}}` with the \
                       status that its code stands for; 503 and 429 carry `Retry-After`."
    ),
    security(("api_key" = [])),
    modifiers(&ApiKeyScheme)
)]
struct Document;

struct ApiKeyScheme;

impl Modify for ApiKeyScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("API key"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(API_KEY, SecurityScheme::Http(scheme));
    }
}

fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::get_status))
        .routes(routes!(endpoints::list_endpoints))
        .routes(routes!(deliver::deliver_message))
        .routes(routes!(rotate::rotate_secret))
        .merge(event_types::routes())
}

/// The OpenAPI 3.1 document of everything REST, as indented JSON.
pub fn openapi() -> String {
    documented().to_openapi().to_pretty_json().unwrap_or_default()
}

/// Every REST route.
pub(crate) fn routes(app: Arc<App>) -> Router {
    let document = bytes::Bytes::from(openapi());
    documented()
        .split_for_parts()
        .0
        .route(
            "/api/openapi.json",
            get(move || async move { ([(CONTENT_TYPE, "application/json")], document) }),
        )
        .with_state(app)
}

/// Who calls. A route that takes one is not reached without a key.
pub(super) struct Key(pub(super) Arc<Caller>);

impl FromRequestParts<Arc<App>> for Key {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, AppError> {
        let caller = app.keys.authenticate(&parts.headers).inspect_err(|error| {
            metrics::counter!(names::UNAUTHENTICATED, "code" => error.code()).increment(1);
        })?;
        Ok(Self(caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients are generated from changes only on purpose. To accept: `INSTA_UPDATE=always`.
    #[test]
    fn openapi_document_is_as_recorded() {
        insta::assert_snapshot!("openapi", openapi());
    }
}
