//! The REST door: one file per resource, each a translation to and from [`App`]. Cuitty's own surface is `/api/webhooks`, the
//! one for managing `/manage/v1/webhooks`; what is on both does the same.

pub(crate) mod body;
mod contract;
mod deliver;
pub(crate) mod deliveries;
pub(crate) mod endpoints;
pub(crate) mod event_types;
pub(crate) mod model;
mod query;
mod replays;
pub(crate) mod rotate;
pub(crate) mod settings;
mod status;
pub(crate) mod terms;
mod test_event;

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
use crate::error::{AppError, ErrorBody};
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
    components(schemas(ErrorBody)),
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
        .routes(routes!(endpoints::list_project_endpoints))
        .routes(routes!(deliver::deliver_message))
        .routes(routes!(rotate::rotate_endpoint_secret))
        .routes(routes!(endpoints::list_endpoints, endpoints::create_endpoint))
        .routes(routes!(
            endpoints::get_endpoint,
            endpoints::update_endpoint,
            endpoints::delete_endpoint
        ))
        .routes(routes!(rotate::rotate_secret))
        .merge(event_types::routes())
        .routes(routes!(rotate::revoke_secret))
        .routes(routes!(test_event::send_test_event))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::get_delivery))
        .routes(routes!(deliveries::replay_delivery))
        .routes(routes!(deliveries::cancel_delivery))
        .routes(routes!(replays::start_replay))
        .routes(routes!(replays::get_replay, replays::cancel_replay))
}

/// The OpenAPI 3.1 document of everything REST, as indented JSON.
pub fn openapi() -> String {
    let mut document = documented().to_openapi();
    contract::complete(&mut document);
    document.to_pretty_json().unwrap_or_default()
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
pub(crate) struct Key(pub(crate) Arc<Caller>);

impl FromRequestParts<Arc<App>> for Key {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, AppError> {
        let caller = app.keys.authenticate(&parts.headers).inspect_err(|error| {
            metrics::counter!(names::UNAUTHENTICATED, "code" => error.code()).increment(1);
        })?;
        app.limiter.check(&caller)?;
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
