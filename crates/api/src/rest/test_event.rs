//! `POST /manage/v1/webhooks/endpoints/{endpoint_id}/test`

use std::sync::Arc;

use axum::extract::State;
use cuitty_webhooks_domain::ids::EndpointId;
use http::StatusCode;
use utoipa::ToSchema;

use super::Key;
use super::body::{JsonBytes, Members};
use super::model::DeliveryBody;
use super::terms::{IdempotencyKey, PathId, Reply};
use crate::app::App;
use crate::error::AppError;

/// What to send. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = TestEvent)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read member by member")]
pub(super) struct TestEventBody {
    #[schema(
        example = "budget.threshold_reached",
        pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        max_length = 128
    )]
    event_type: String,
}

/// Sends a synthetic event to one endpoint, whatever its event types.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/endpoints/{endpoint_id}/test",
    tag = "endpoints",
    params(("endpoint_id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$")),
    request_body(content = TestEventBody, example = json!({"event_type": "budget.threshold_reached"})),
    responses((status = 202, description = "The delivery, in the log", body = DeliveryBody))
)]
pub(super) async fn send_test_event(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let mut members = Members::parse(&body)?;
    members.demand("event_type");
    let event_type = members.text("event_type");
    members.finish()?;
    let sent = app.send_test_event(&caller, id, &event_type, key).await?;
    Ok(Reply::new(StatusCode::ACCEPTED, DeliveryBody::new(&sent.value)).replayed(sent.is_replayed))
}
