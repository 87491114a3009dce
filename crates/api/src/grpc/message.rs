//! `MessageService`.

use std::pin::Pin;

use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::message_service_server::MessageService;
use futures_util::{Stream, StreamExt, TryStreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Door, caller_of};
use crate::app::{Accepted, Item, NewMessage};
use crate::error::AppError;
use crate::trace_context::traceparent;

#[tonic::async_trait]
impl MessageService for Door {
    type DeliverStreamStream = Pin<Box<dyn Stream<Item = Result<v1::DeliverStreamResponse, Status>> + Send>>;

    async fn deliver(
        &self,
        request: Request<v1::DeliverRequest>,
    ) -> Result<Response<v1::DeliverResponse>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, request) = request.into_parts();
        let message = NewMessage {
            idempotency_key: idempotency_key(&metadata, request.idempotency_key.clone())?,
            ..message(request, &traceparent(metadata.as_ref()))
        };
        let accepted = self.app.deliver(&caller, message).await?;
        Ok(Response::new(accepted.into()))
    }

    async fn deliver_batch(
        &self,
        request: Request<v1::DeliverBatchRequest>,
    ) -> Result<Response<v1::DeliverBatchResponse>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, request) = request.into_parts();
        refuse_common_key(&metadata)?;
        let traceparent = traceparent(metadata.as_ref());
        let items = request.items.into_iter();
        let messages = items.map(|item| message(item, &traceparent)).collect();
        let results = self.app.deliver_batch(&caller, messages).await?;
        Ok(Response::new(v1::DeliverBatchResponse {
            results: results.into_iter().map(result).collect(),
        }))
    }

    async fn deliver_stream(
        &self,
        request: Request<Streaming<v1::DeliverStreamRequest>>,
    ) -> Result<Response<Self::DeliverStreamStream>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, requests) = request.into_parts();
        refuse_common_key(&metadata)?;
        let traceparent = traceparent(metadata.as_ref());
        let items = requests.map(move |request| {
            let v1::DeliverStreamRequest { tag, item } = request.map_err(unreadable)?;
            let missing = || AppError::from(Rejection::field("item", "is required"));
            let item = item.map(|item| message(item, &traceparent)).ok_or_else(missing);
            Ok::<(u64, Item), Status>((tag, item))
        });
        let results = self.app.deliver_stream(caller, items).await?;
        let answers = results.map_ok(|(tag, of_item)| v1::DeliverStreamResponse {
            tag,
            result: Some(result(of_item)),
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn message(request: v1::DeliverRequest, traceparent: &str) -> NewMessage {
    NewMessage {
        project_id: request.project_id,
        event_type: request.event_type,
        payload: request.payload,
        endpoint_id: request.endpoint_id,
        idempotency_key: request.idempotency_key,
        content_type: request.content_type,
        traceparent: traceparent.to_owned(),
        faults: Vec::new(),
    }
}

/// Many messages share no key: each has one of its own, or none.
fn refuse_common_key(metadata: &MetadataMap) -> Result<(), AppError> {
    if metadata.contains_key("idempotency-key") {
        let text = "must be given with each item, not as metadata";
        return Err(Rejection::field("idempotency_key", text).into());
    }
    Ok(())
}

/// A request within a stream that cannot be decoded. Where the next one begins is not known then.
fn unreadable(status: Status) -> Status {
    // The decoder says so of a request that is too long, and nothing else does.
    if status.code() == Code::OutOfRange {
        return AppError::RequestTooLarge {
            limit: limits::BATCH_BYTES,
        }
        .into();
    }
    status
}

/// The key of the field, else of the metadata; two that differ are refused.
pub(super) fn idempotency_key(metadata: &MetadataMap, field: String) -> Result<String, AppError> {
    let Some(value) = metadata.get("idempotency-key") else {
        return Ok(field);
    };
    let value = value.to_str().map_err(|_| {
        Rejection::field(
            "idempotency_key",
            "must be visible ASCII when it is given as metadata",
        )
    })?;
    if field.is_empty() || field == value {
        Ok(value.to_owned())
    } else {
        Err(Rejection::field("idempotency_key", "is given twice, and not the same").into())
    }
}

fn result(result: Result<Accepted, AppError>) -> v1::DeliverResult {
    use v1::deliver_result::Result as Is;
    let result = match result {
        Ok(accepted) => Is::Accepted(accepted.into()),
        Err(error) => Is::Rejected((&error).into()),
    };
    v1::DeliverResult { result: Some(result) }
}

impl From<&AppError> for v1::ItemError {
    fn from(error: &AppError) -> Self {
        let field = error.fields().into_iter().next();
        Self {
            reason: error.reason(),
            message: error.message(),
            field: field.map(|violation| violation.field).unwrap_or_default(),
        }
    }
}

impl From<Accepted> for v1::DeliverResponse {
    fn from(accepted: Accepted) -> Self {
        let deliveries = accepted
            .deliveries
            .iter()
            .map(|(id, endpoint_id)| v1::AcceptedDelivery {
                id: id.to_string(),
                endpoint_id: endpoint_id.to_string(),
            });
        Self {
            message_id: accepted.message_id.to_string(),
            deliveries: deliveries.collect(),
            log_sequence: accepted.log_sequence,
            duplicate: accepted.duplicate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_refused_with_what_the_call_would_be() {
        let fields = vec![
            cuitty_webhooks_domain::rejection::FieldViolation::new("payload", "must be JSON"),
            cuitty_webhooks_domain::rejection::FieldViolation::new("event_type", "must not be empty"),
        ];
        let error = v1::ItemError::from(&AppError::from(Rejection::Invalid(fields)));
        assert_eq!(error.reason, "INVALID_FIELDS");
        assert_eq!(
            error.message,
            "payload must be JSON; event_type must not be empty"
        );
        assert_eq!(error.field, "payload");
        let error = v1::ItemError::from(&AppError::Overloaded);
        assert_eq!((error.reason.as_str(), error.field.as_str()), ("OVERLOADED", ""));
    }

    #[test]
    fn idempotency_key_is_taken_from_field_or_metadata() {
        let mut metadata = MetadataMap::new();
        assert_eq!(idempotency_key(&metadata, "a".into()).unwrap(), "a");
        metadata.insert("idempotency-key", "b".parse().unwrap());
        assert_eq!(idempotency_key(&metadata, String::new()).unwrap(), "b");
        assert_eq!(idempotency_key(&metadata, "b".into()).unwrap(), "b");
        let refused = idempotency_key(&metadata, "a".into()).unwrap_err();
        assert_eq!(refused.code(), "invalid_fields");
    }
}
