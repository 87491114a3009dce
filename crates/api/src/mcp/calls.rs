//! What each tool does: it reads its arguments, asks [`App`], and gives what REST would give.

use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};
use http::HeaderMap;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, MetaObject};
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::Arguments;
use crate::app::{App, DeliveryQuery};
use crate::auth::Caller;
use crate::error::AppError;
use crate::rest::deliveries::{STATUSES, status_of};
use crate::rest::endpoints::shown;
use crate::rest::event_types::model::{EventTypeBody, EventTypeList};
use crate::rest::model::{
    CreatedBody, DeliveryBody, DeliveryDetailBody, DeliveryList, EndpointList, RotatedBody,
};
use crate::rest::rotate;
use crate::rest::settings::{read_new, read_patch};
use crate::trace_context::traceparent;

/// Marks the result of a change that an earlier call with the same idempotency key had made.
const REPLAYED: &str = "webhooks.cuitty.com/idempotent-replayed";

const FLAG: &str = "true or false";
const NUMBER: &str = "a whole number";
const TIME: &str = "a time as RFC 3339 writes it";

/// One call of a tool.
pub(super) struct Call<'a> {
    pub(super) app: &'a App,
    pub(super) caller: &'a Caller,
    pub(super) headers: &'a HeaderMap,
    pub(super) arguments: Arguments,
}

/// What a call gives.
pub(super) struct Output {
    /// JSON as REST writes it.
    text: String,
    structured: Value,
    is_replayed: bool,
}

impl Output {
    /// An error when it holds JSON that has no [`Value`], as what callers gave may: a number beyond all floats, half of a
    /// surrogate pair, or too many levels.
    fn new(body: &impl Serialize) -> Result<Self, AppError> {
        let text = serde_json::to_string(body).map_err(AppError::internal)?;
        // As deep as it stands in an answer, which the reader of that may have to parse with the same limit.
        let nested = serde_json::from_str::<[[Value; 1]; 1]>(&format!("[[{text}]]"));
        let [[structured]] = nested.map_err(AppError::internal)?;
        Ok(Self {
            structured,
            text,
            is_replayed: false,
        })
    }

    fn replayed(self, is_replayed: bool) -> Self {
        Self { is_replayed, ..self }
    }

    /// As the protocol puts it: structured, and as text for clients that know only that.
    pub(super) fn into_result(self) -> CallToolResult {
        let mut result = CallToolResult::success(vec![ContentBlock::text(self.text)]);
        result.structured_content = Some(self.structured);
        if self.is_replayed {
            result.meta = Some(MetaObject(JsonObject::from_iter([(
                REPLAYED.to_owned(),
                true.into(),
            )])));
        }
        result
    }
}

pub(super) async fn list_endpoints(mut call: Call<'_>) -> Result<Output, AppError> {
    let project_id = call.arguments.name("project_id");
    let page = call.arguments.page();
    let (entries, next_cursor) = call.app.list_endpoints(call.caller, &project_id, &page).await?;
    let data = entries
        .iter()
        .map(|entry| shown(call.app, &entry.endpoint))
        .collect();
    Output::new(&EndpointList { data, next_cursor })
}

pub(super) async fn get_endpoint(mut call: Call<'_>) -> Result<Output, AppError> {
    let id = call.arguments.id::<EndpointId>();
    let id = call.arguments.finish(id)?;
    let entry = call.app.get_endpoint(call.caller, id).await?;
    Output::new(&shown(call.app, &entry.endpoint))
}

pub(super) async fn create_endpoint(mut call: Call<'_>) -> Result<Output, AppError> {
    let idempotency_key = call.arguments.text("idempotency_key");
    let mut new = read_new(&call.arguments.body())?;
    new.faults.extend(call.arguments.faults);
    let created = call
        .app
        .create_endpoint(call.caller, new, idempotency_key)
        .await?;
    let body = CreatedBody::new(
        shown(call.app, &created.value.endpoint),
        &created.value.signing_secret,
    );
    Ok(Output::new(&body)?.replayed(created.is_replayed))
}

pub(super) async fn update_endpoint(mut call: Call<'_>) -> Result<Output, AppError> {
    let (id, terms) = (call.arguments.id::<EndpointId>(), call.arguments.terms());
    let mut update = read_patch(&call.arguments.body())?;
    let id = identified(id, call.arguments.faults, &mut update.faults)?;
    let updated = call.app.update_endpoint(call.caller, id, update, terms).await?;
    Ok(Output::new(&shown(call.app, &updated.value))?.replayed(updated.is_replayed))
}

pub(super) async fn delete_endpoint(mut call: Call<'_>) -> Result<Output, AppError> {
    let (id, terms) = (call.arguments.id::<EndpointId>(), call.arguments.terms());
    let id = call.arguments.finish(id)?;
    let deleted = call.app.delete_endpoint(call.caller, id, terms).await?;
    let body = json!({"id": id.to_string(), "deleted": true});
    Ok(Output::new(&body)?.replayed(deleted.is_replayed))
}

pub(super) async fn rotate_secret(mut call: Call<'_>) -> Result<Output, AppError> {
    let (id, terms) = (call.arguments.id::<EndpointId>(), call.arguments.terms());
    let mut rotation = rotate::read(&call.arguments.body())?;
    let id = identified(id, call.arguments.faults, &mut rotation.faults)?;
    let rotated = call.app.rotate_secret(call.caller, id, rotation, terms).await?;
    Ok(Output::new(&RotatedBody::from(&rotated.value))?.replayed(rotated.is_replayed))
}

pub(super) async fn send_test(mut call: Call<'_>) -> Result<Output, AppError> {
    let id = call.arguments.id::<EndpointId>();
    let event_type = call.arguments.required("event_type");
    let idempotency_key = call.arguments.text("idempotency_key");
    let id = call.arguments.finish(id)?;
    let sent = call
        .app
        .send_test_event(call.caller, id, &event_type, idempotency_key)
        .await?;
    Ok(Output::new(&DeliveryBody::new(&sent.value))?.replayed(sent.is_replayed))
}

pub(super) async fn list_deliveries(call: Call<'_>) -> Result<Output, AppError> {
    let mut arguments = call.arguments;
    let query = DeliveryQuery {
        project_id: arguments.name("project_id"),
        endpoint_id: arguments.name("endpoint_id"),
        status: arguments.read("status", STATUSES, status_of),
        event_type: arguments.name("event_type"),
        since: arguments.value("since", TIME),
        until: arguments.value("until", TIME),
        min_log_sequence: arguments.value("min_log_sequence", NUMBER).unwrap_or_default(),
        page: arguments.page(),
    };
    let page = call.app.list_deliveries(call.caller, query).await?;
    Output::new(&DeliveryList {
        data: page.deliveries.iter().map(DeliveryBody::new).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    })
}

pub(super) async fn get_delivery(mut call: Call<'_>) -> Result<Output, AppError> {
    let id = call.arguments.id::<DeliveryId>();
    let verify: bool = call.arguments.value("verify", FLAG).unwrap_or_default();
    let min_log_sequence = call
        .arguments
        .value("min_log_sequence", NUMBER)
        .unwrap_or_default();
    let id = call.arguments.finish(id)?;
    let detail = call.app.get_delivery(call.caller, id, min_log_sequence).await?;
    let checks = verify.then(|| call.app.check_signatures(&detail));
    let body = DeliveryDetailBody::new(&detail, checks.as_deref());
    Output::new(&body).or_else(|_| Output::new(&body.in_base64(&detail.payload)))
}

pub(super) async fn replay_delivery(mut call: Call<'_>) -> Result<Output, AppError> {
    let id = call.arguments.id::<DeliveryId>();
    let idempotency_key = call.arguments.text("idempotency_key");
    let id = call.arguments.finish(id)?;
    let traceparent = traceparent(call.headers);
    let replayed = call
        .app
        .replay_delivery(call.caller, id, idempotency_key, traceparent)
        .await?;
    Ok(Output::new(&DeliveryBody::new(&replayed.value))?.replayed(replayed.is_replayed))
}

pub(super) async fn list_event_types(mut call: Call<'_>) -> Result<Output, AppError> {
    let project_id = call.arguments.name("project_id");
    let include_archived = call.arguments.value("include_archived", FLAG).unwrap_or_default();
    let page = call.arguments.page();
    let (entries, next_cursor) = call
        .app
        .list_event_types(call.caller, &project_id, &page, include_archived)
        .await?;
    let data = entries
        .iter()
        .map(|entry| EventTypeBody::new(&entry.definition))
        .collect::<Result<_, _>>()?;
    let list = EventTypeList { data, next_cursor };
    Output::new(&list).or_else(|_| Output::new(&without_unfit_examples(list)))
}

/// The page with every event type in it, but without the examples that an [`Output`] cannot hold.
fn without_unfit_examples(mut list: EventTypeList) -> EventTypeList {
    for body in &mut list.data {
        // As deep as in the page.
        if Output::new(&[[&*body]]).is_err() {
            body.example = None;
        }
    }
    list
}

/// The id, with what else was wrong added to what the body's reader found; without an id nobody can ask [`App`] for more.
fn identified<T>(
    id: Option<T>,
    own: Vec<FieldViolation>,
    faults: &mut Vec<FieldViolation>,
) -> Result<T, AppError> {
    faults.splice(..0, own);
    id.ok_or_else(|| Rejection::Invalid(std::mem::take(faults)).into())
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn an_output_holds_what_can_be_read_where_it_stands_in_an_answer() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let levels = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
        for text in ["1e999", r#""\ud800""#, &levels(126), &levels(1000)] {
            assert!(Output::new(&raw(text)).is_err(), "{text}");
        }
        let output = Output::new(&raw(&levels(125))).unwrap();
        let answer = json!({"result": {"structuredContent": output.structured}}).to_string();
        assert!(serde_json::from_str::<Value>(&answer).is_ok());
    }
}
