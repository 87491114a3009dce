//! `/manage/v1/webhooks/event-types`, and what becomes of types that are not among them.

pub(crate) mod model;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use cuitty_webhooks_domain::event_type::EventTypeDraft;
use cuitty_webhooks_domain::project::UnknownEventTypes;
use cuitty_webhooks_domain::rejection::Rejection;
use http::StatusCode;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::model::{
    CreateEventTypeBody, EventTypeBody, EventTypeList, EventTypePolicyBody, SetEventTypePolicyBody,
    UpdateEventTypeBody,
};
use super::Key;
use super::body::{JsonBytes, Members};
use super::query::QueryParameters;
use crate::app::{App, EventTypeUpdate, NewEventType};
use crate::error::{AppError, ErrorBody};

/// The routes of event types.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_event_types, create_event_type))
        .routes(routes!(get_event_type, update_event_type, archive_event_type))
        .routes(routes!(get_event_type_policy, set_event_type_policy))
}

/// A project's event types in order of their names.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/event-types",
    params(
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project"),
        ("include_archived" = Option<bool>, Query, description = "Archived ones too; default false"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, default 50; a page holds fewer when they are large", minimum = 1, maximum = 200)
    ),
    responses(
        (status = 200, description = "A page of event types", body = EventTypeList),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `read`", body = ErrorBody),
        (status = 404, description = "Unknown project", body = ErrorBody),
        (status = 422, description = "A parameter is wrong", body = ErrorBody)
    )
)]
async fn list_event_types(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<EventTypeList>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let project_id = query.name("project_id");
    let include_archived = query.flag("include_archived");
    let (entries, next_cursor) = app
        .list_event_types(&caller, &project_id, &query.page(), include_archived)
        .await?;
    let data = entries
        .iter()
        .map(|entry| EventTypeBody::new(&entry.definition))
        .collect::<Result<_, _>>()?;
    Ok(Json(EventTypeList { data, next_cursor }))
}

/// Creates an event type. Messages of types that were never created are accepted, too, unless the project says otherwise.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/event-types",
    request_body = CreateEventTypeBody,
    responses(
        (status = 201, description = "The event type", body = EventTypeBody),
        (status = 400, description = "Not JSON", body = ErrorBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `manage`", body = ErrorBody),
        (status = 404, description = "Unknown project", body = ErrorBody),
        (status = 409, description = "It exists already, or the project has too many", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong; of a schema or an example, where: `schema/properties/id`", body = ErrorBody),
        (status = 503, description = "The log is not available", body = ErrorBody)
    )
)]
async fn create_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    JsonBytes(body): JsonBytes,
) -> Result<(StatusCode, Json<EventTypeBody>), AppError> {
    let mut members = Members::parse(&body)?;
    let new = NewEventType {
        project_id: members.text("project_id"),
        name: members.text("name"),
        draft: EventTypeDraft {
            description: members.text("description"),
            schema: json(members.raw("schema")),
            example: json(members.raw("example")),
            enforce_schema: members
                .value("enforce_schema", "true or false")
                .unwrap_or_default(),
        },
    };
    members.finish()?;
    let created = app.create_event_type(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(EventTypeBody::new(&created)?)))
}

/// One event type, archived ones too.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/event-types/{name}",
    params(
        ("name" = String, Path, description = "Its name"),
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project")
    ),
    responses(
        (status = 200, description = "The event type", body = EventTypeBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `read`", body = ErrorBody),
        (status = 404, description = "Unknown project or event type", body = ErrorBody),
        (status = 422, description = "A parameter is wrong", body = ErrorBody)
    )
)]
async fn get_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<EventTypeBody>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let project_id = query.name("project_id");
    query.finish()?;
    let entry = app.get_event_type(&caller, &project_id, &name).await?;
    Ok(Json(EventTypeBody::new(&entry.definition)?))
}

/// Changes an event type: what is absent stays, what is null becomes the default. `"archived": false` restores it.
#[utoipa::path(
    patch,
    path = "/manage/v1/webhooks/event-types/{name}",
    params(
        ("name" = String, Path, description = "Its name"),
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project")
    ),
    request_body = UpdateEventTypeBody,
    responses(
        (status = 200, description = "The event type after the change", body = EventTypeBody),
        (status = 400, description = "Not JSON", body = ErrorBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `manage`", body = ErrorBody),
        (status = 404, description = "Unknown project or event type", body = ErrorBody),
        (status = 409, description = "Changed by others meanwhile", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong", body = ErrorBody),
        (status = 503, description = "The log is not available", body = ErrorBody)
    )
)]
async fn update_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    JsonBytes(body): JsonBytes,
) -> Result<Json<EventTypeBody>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let project_id = query.name("project_id");
    query.finish()?;
    let update = read_update(&body)?;
    let updated = app.update_event_type(&caller, &project_id, &name, update).await?;
    Ok(Json(EventTypeBody::new(&updated)?))
}

/// Archives an event type: its messages are refused from now on, and endpoints may not name it anew. It can be restored.
#[utoipa::path(
    delete,
    path = "/manage/v1/webhooks/event-types/{name}",
    params(
        ("name" = String, Path, description = "Its name"),
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project")
    ),
    responses(
        (status = 204, description = "It is archived"),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `manage`", body = ErrorBody),
        (status = 404, description = "Unknown project or event type", body = ErrorBody),
        (status = 409, description = "Changed by others meanwhile", body = ErrorBody),
        (status = 422, description = "A parameter is wrong", body = ErrorBody),
        (status = 503, description = "The log is not available", body = ErrorBody)
    )
)]
async fn archive_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let project_id = query.name("project_id");
    query.finish()?;
    app.archive_event_type(&caller, &project_id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What becomes of messages whose event type the project does not know.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/event-type-policy",
    params(
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project")
    ),
    responses(
        (status = 200, description = "The policy", body = EventTypePolicyBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `read`", body = ErrorBody),
        (status = 404, description = "Unknown project", body = ErrorBody),
        (status = 422, description = "A parameter is wrong", body = ErrorBody)
    )
)]
async fn get_event_type_policy(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<EventTypePolicyBody>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let project_id = query.name("project_id");
    query.finish()?;
    let settings = app.event_type_policy(&caller, &project_id).await?;
    Ok(Json(EventTypePolicyBody::new(&settings)))
}

/// Sets what becomes of messages whose event type the project does not know.
#[utoipa::path(
    put,
    path = "/manage/v1/webhooks/event-type-policy",
    request_body = SetEventTypePolicyBody,
    responses(
        (status = 200, description = "The policy", body = EventTypePolicyBody),
        (status = 400, description = "Not JSON", body = ErrorBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 403, description = "The key lacks the scope `manage`", body = ErrorBody),
        (status = 404, description = "Unknown project", body = ErrorBody),
        (status = 409, description = "Changed by others meanwhile", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong", body = ErrorBody),
        (status = 503, description = "The log is not available", body = ErrorBody)
    )
)]
async fn set_event_type_policy(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    JsonBytes(body): JsonBytes,
) -> Result<Json<EventTypePolicyBody>, AppError> {
    let mut members = Members::parse(&body)?;
    let project_id = members.text("project_id");
    let given = members.text("unknown_event_types");
    members.finish()?;
    let unknown = UnknownEventTypes::ALL
        .into_iter()
        .find(|one| one.as_str() == given);
    let settings = app.set_event_type_policy(&caller, &project_id, unknown).await?;
    Ok(Json(EventTypePolicyBody::new(&settings)))
}

/// A member that may hold any JSON, as it stands in the body; empty when it is missing or null.
fn json(raw: Option<&RawValue>) -> String {
    raw.map(RawValue::get)
        .filter(|&text| text != "null")
        .unwrap_or_default()
        .to_owned()
}

fn read_update(body: &[u8]) -> Result<EventTypeUpdate, AppError> {
    let mut members = Members::parse(body)?;
    let mut update = EventTypeUpdate::default();
    let draft = &mut update.draft;
    for field in ["description", "schema", "example", "enforce_schema", "archived"] {
        if !members.has(field) {
            continue;
        }
        update.fields.push(field.to_owned());
        match field {
            "description" => draft.description = members.text(field),
            "schema" => draft.schema = json(members.raw(field)),
            "example" => draft.example = json(members.raw(field)),
            "enforce_schema" => {
                draft.enforce_schema = members.value(field, "true or false").unwrap_or_default();
            }
            _ => update.archived = members.value(field, "true or false").unwrap_or_default(),
        }
    }
    members.finish()?;
    if update.fields.is_empty() {
        return Err(Rejection::field("body", "must have at least one member that can be changed").into());
    }
    Ok(update)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_stays_and_what_is_null_becomes_the_default() {
        let update = read_update(br#"{"schema":null,"enforceSchema":true,"example":{"a": 1.0}}"#).unwrap();
        assert_eq!(update.fields, ["schema", "example", "enforce_schema"]);
        assert_eq!(
            update.draft,
            EventTypeDraft {
                example: r#"{"a": 1.0}"#.into(),
                enforce_schema: true,
                ..EventTypeDraft::default()
            }
        );
        let restored = read_update(br#"{"archived":null}"#).unwrap();
        assert_eq!(
            (restored.fields, restored.archived),
            (vec!["archived".to_owned()], false)
        );
    }

    #[test]
    fn what_cannot_be_changed_is_refused_by_its_name() {
        for (body, field) in [
            ("{}", "body"),
            (r#"{"name":"a.b"}"#, "name"),
            (r#"{"enforce_schema":"yes"}"#, "enforce_schema"),
            (r#"{"description":7}"#, "description"),
        ] {
            let Err(AppError::Rejected(Rejection::Invalid(violations))) = read_update(body.as_bytes()) else {
                panic!("{body} was taken")
            };
            assert_eq!(violations[0].field, field, "{body}");
        }
    }
}
