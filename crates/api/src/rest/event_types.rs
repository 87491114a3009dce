//! Event types, and what becomes of those that a project does not know, under `/manage/v1/webhooks`.

pub(crate) mod model;

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, RawPathParams, RawQuery, State};
use axum::response::{IntoResponse, Response};
use cuitty_webhooks_domain::event_type::{EventTypeDraft, SETTING_FIELDS};
use cuitty_webhooks_domain::project::UnknownEventTypes;
use cuitty_webhooks_domain::rejection::FieldViolation;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::model::{
    EventTypeBody, EventTypeList, EventTypePatchBody, EventTypePolicyBody, NewEventTypeBody,
    NewEventTypePolicyBody,
};
use super::Key;
use super::body::{JsonBytes, Members};
use super::query::QueryParameters;
use super::terms::{IdempotencyKey, IfMatch, Reply, is_known};
use crate::app::{App, EventTypeName, EventTypeUpdate, NewEventType, NewEventTypePolicy, Terms};
use crate::error::AppError;

/// What an event type shows but nobody sets by a PATCH.
const FIXED: [&str; 5] = ["project_id", "name", "revision", "created_at", "updated_at"];

/// The routes of event types.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_event_types, create_event_type))
        .routes(routes!(get_event_type, update_event_type, archive_event_type))
        .routes(routes!(get_event_type_policy, set_event_type_policy))
}

/// A project's event types, in order of their names.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/event-types",
    tag = "event types",
    params(
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("include_archived" = Option<bool>, Query, description = "Archived ones too"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, default 50; a page holds fewer when they are large", minimum = 1, maximum = 200)
    ),
    responses((status = 200, description = "A page of event types", body = EventTypeList))
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
    tag = "event types",
    request_body(content = NewEventTypeBody, example = json!({
        "project_id": "acme",
        "name": "budget.exceeded",
        "description": "A budget was exceeded",
        "schema": {"type": "object", "required": ["budget"], "properties": {"budget": {"type": "string"}}},
        "example": {"budget": "compute"},
        "enforce_schema": true
    })),
    responses((
        status = 201,
        description = "The event type",
        body = EventTypeBody,
        headers(
            ("etag" = String, description = "The event type's revision"),
            ("location" = String, description = "Where the event type is shown")
        )
    ))
)]
async fn create_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    IdempotencyKey(key): IdempotencyKey,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let created = app.create_event_type(&caller, read_new(&body)?, key).await?;
    let definition = &created.value;
    let location = format!(
        "/manage/v1/webhooks/event-types/{}?project_id={}",
        definition.name, definition.project_id
    );
    Ok(Reply::new(StatusCode::CREATED, EventTypeBody::new(definition)?)
        .revision(definition.revision)
        .location(&location)
        .replayed(created.is_replayed))
}

/// An event type, be it archived.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/event-types/{name}",
    tag = "event types",
    params(
        ("name" = String, Path, description = "Its name", pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length = 128),
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("If-None-Match" = Option<String>, Header, description = "What the caller has: the ETag of an earlier answer")
    ),
    responses(
        (
            status = 200,
            description = "The event type",
            body = EventTypeBody,
            headers(("etag" = String, description = "The event type's revision"))
        ),
        (status = 304, description = "It is at the revision that the caller has")
    )
)]
async fn get_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Named(which): Named,
    headers: HeaderMap,
) -> Result<Response, AppError> {
    let entry = app.get_event_type(&caller, which).await?;
    let definition = &entry.definition;
    let reply = if is_known(&headers, definition.revision) {
        Reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        Reply::new(StatusCode::OK, EventTypeBody::new(definition)?)
    };
    Ok(reply.revision(definition.revision).into_response())
}

/// Changes what the body names, all of it in one change. `"archived": false` restores an archived one.
#[utoipa::path(
    patch,
    path = "/manage/v1/webhooks/event-types/{name}",
    tag = "event types",
    params(
        ("name" = String, Path, description = "Its name", pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length = 128),
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("If-Match" = Option<String>, Header, description = "Change it only if this is its ETag")
    ),
    request_body(content = EventTypePatchBody, example = json!({
        "description": "A budget was exceeded",
        "enforce_schema": false
    })),
    responses((
        status = 200,
        description = "The event type as it is now",
        body = EventTypeBody,
        headers(("etag" = String, description = "The event type's revision"))
    ))
)]
async fn update_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Named(which): Named,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    IfMatch(revisions): IfMatch,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let terms = Terms {
        idempotency_key,
        revisions,
    };
    let updated = app
        .update_event_type(&caller, which, read_patch(&body)?, terms)
        .await?;
    let definition = &updated.value;
    Ok(Reply::new(StatusCode::OK, EventTypeBody::new(definition)?)
        .revision(definition.revision)
        .replayed(updated.is_replayed))
}

/// Archives an event type: its messages are refused, and endpoints may not name it anew.
#[utoipa::path(
    delete,
    path = "/manage/v1/webhooks/event-types/{name}",
    tag = "event types",
    params(
        ("name" = String, Path, description = "Its name", pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length = 128),
        ("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$"),
        ("If-Match" = Option<String>, Header, description = "Archive it only if this is its ETag")
    ),
    responses((status = 204, description = "It is archived"))
)]
async fn archive_event_type(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Named(which): Named,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    IfMatch(revisions): IfMatch,
) -> Result<Reply, AppError> {
    let terms = Terms {
        idempotency_key,
        revisions,
    };
    let archived = app.archive_event_type(&caller, which, terms).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT).replayed(archived.is_replayed))
}

/// What becomes of messages whose event type the project does not know.
#[utoipa::path(
    get,
    path = "/manage/v1/webhooks/event-type-policy",
    tag = "event types",
    params(("project_id" = Option<String>, Query, description = "May be left out with a key that is bound to one project", pattern = "^[A-Za-z0-9_-]{1,64}$")),
    responses((status = 200, description = "The policy", body = EventTypePolicyBody))
)]
async fn get_event_type_policy(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    RawQuery(query): RawQuery,
) -> Result<Json<EventTypePolicyBody>, AppError> {
    let mut query = QueryParameters::parse(query.as_deref());
    let project_id = query.name("project_id");
    let settings = app
        .event_type_policy(&caller, &project_id, query.faults())
        .await?;
    Ok(Json(EventTypePolicyBody::new(&settings)))
}

/// Sets what becomes of messages whose event type the project does not know.
#[utoipa::path(
    put,
    path = "/manage/v1/webhooks/event-type-policy",
    tag = "event types",
    request_body(content = NewEventTypePolicyBody, example = json!({
        "project_id": "acme",
        "unknown_event_types": "refused"
    })),
    responses((status = 200, description = "The policy as it is now", body = EventTypePolicyBody))
)]
async fn set_event_type_policy(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    IdempotencyKey(key): IdempotencyKey,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    let set = app
        .set_event_type_policy(&caller, read_policy(&body)?, key)
        .await?;
    Ok(Reply::new(StatusCode::OK, EventTypePolicyBody::new(&set.value)).replayed(set.is_replayed))
}

/// The event type that the path names, and the project that the query does.
struct Named(EventTypeName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        let mut query = QueryParameters::parse(parts.uri.query());
        let project_id = query.name("project_id");
        let mut faults = query.faults();
        let parameters = RawPathParams::from_request_parts(parts, state).await;
        let mut name = String::new();
        match &parameters {
            Ok(parameters) => parameters.iter().for_each(|(_, text)| text.clone_into(&mut name)),
            Err(_) => faults.push(FieldViolation::new("name", "must be UTF-8")),
        }
        Ok(Self(EventTypeName {
            project_id,
            name,
            faults,
        }))
    }
}

/// The event type that a body asks for.
fn read_new(body: &[u8]) -> Result<NewEventType, AppError> {
    let mut members = Members::parse(body)?;
    members.demand("name");
    Ok(NewEventType {
        project_id: members.name("project_id"),
        name: members.text("name"),
        draft: read_settings(&mut members),
        faults: members.faults(),
    })
}

/// The change that a body asks for: of the members that it has.
fn read_patch(body: &[u8]) -> Result<EventTypeUpdate, AppError> {
    let mut members = Members::parse(body)?;
    let fields = ["archived"].into_iter().chain(SETTING_FIELDS);
    let fields = fields
        .filter(|name| members.has(name))
        .map(str::to_owned)
        .collect();
    let draft = read_settings(&mut members);
    let archived = members.value("archived", "true or false").unwrap_or_default();
    members.fixed(&FIXED);
    Ok(EventTypeUpdate {
        draft,
        archived,
        fields,
        may_be_empty: true,
        expected_revision: None,
        faults: members.faults(),
    })
}

/// The settings that are given; the others are as in a new event type.
fn read_settings(members: &mut Members<'_>) -> EventTypeDraft {
    EventTypeDraft {
        description: members.text("description"),
        schema: json(members.raw("schema")),
        example: json(members.raw("example")),
        enforce_schema: members
            .value("enforce_schema", "true or false")
            .unwrap_or_default(),
    }
}

/// A member that may hold any JSON, as it stands in the body; empty when it is missing or null.
fn json(raw: Option<&RawValue>) -> String {
    raw.map(RawValue::get)
        .filter(|&text| text != "null")
        .unwrap_or_default()
        .to_owned()
}

fn read_policy(body: &[u8]) -> Result<NewEventTypePolicy, AppError> {
    let mut members = Members::parse(body)?;
    let project_id = members.name("project_id");
    members.demand("unknown_event_types");
    let given = members.text("unknown_event_types");
    let named = |one: &UnknownEventTypes| one.as_str() == given;
    Ok(NewEventTypePolicy {
        project_id,
        unknown_event_types: UnknownEventTypes::ALL.into_iter().find(named),
        faults: members.faults(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(faults: &[FieldViolation]) -> Vec<&str> {
        faults.iter().map(|fault| fault.field.as_str()).collect()
    }

    #[test]
    fn what_is_absent_stays_and_what_is_null_becomes_the_default() {
        let body = br#"{"schema":null,"enforceSchema":true,"example":{"a": 1.0}}"#;
        let update = read_patch(body).unwrap();
        assert_eq!(update.fields, ["schema", "example", "enforce_schema"]);
        assert_eq!(
            update.draft,
            EventTypeDraft {
                example: r#"{"a": 1.0}"#.into(),
                enforce_schema: true,
                ..EventTypeDraft::default()
            }
        );
        assert_eq!(update.faults, []);
        let restored = read_patch(br#"{"archived":null}"#).unwrap();
        assert_eq!(
            (restored.fields, restored.archived),
            (vec!["archived".to_owned()], false)
        );
        assert_eq!(read_patch(b"{}").unwrap().fields, Vec::<String>::new());
    }

    #[test]
    fn everything_that_cannot_be_read_is_named() {
        let new = read_new(br#"{"description":7,"enforce_schema":"yes","enforce":true}"#).unwrap();
        assert_eq!(
            fields(&new.faults),
            ["name", "description", "enforce_schema", "enforce"]
        );
        let patch = read_patch(br#"{"name":"a.b","revision":2,"archived":1,"archive":true}"#).unwrap();
        assert_eq!(fields(&patch.faults), ["archived", "name", "revision", "archive"]);
        for (body, expected) in [
            ("{}", &["unknown_event_types"][..]),
            (r#"{"unknown_event_types":7}"#, &["unknown_event_types"]),
            (r#"{"unknownEventTypes":"refused","x":1}"#, &["x"]),
        ] {
            assert_eq!(
                fields(&read_policy(body.as_bytes()).unwrap().faults),
                expected,
                "{body}"
            );
        }
        assert_eq!(read_new(b"[]").unwrap_err().code(), "malformed_body");
    }
}
