//! `MessageService`.

use std::pin::Pin;

use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::message_service_server::MessageService;
use futures_util::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::{Door, caller_of};
use crate::app::{Accepted, NewMessage};
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
            idempotency_key: idempotency_key(&metadata, request.idempotency_key)?,
            project_id: request.project_id,
            event_type: request.event_type,
            payload: request.payload,
            endpoint_id: request.endpoint_id,
            content_type: request.content_type,
            traceparent: traceparent(metadata.as_ref()),
            faults: Vec::new(),
        };
        let accepted = self.app.deliver(&caller, message).await?;
        Ok(Response::new(accepted.into()))
    }

    async fn deliver_batch(
        &self,
        _request: Request<v1::DeliverBatchRequest>,
    ) -> Result<Response<v1::DeliverBatchResponse>, Status> {
        Err(AppError::NotImplemented("DeliverBatch").into())
    }

    async fn deliver_stream(
        &self,
        _request: Request<Streaming<v1::DeliverStreamRequest>>,
    ) -> Result<Response<Self::DeliverStreamStream>, Status> {
        Err(AppError::NotImplemented("DeliverStream").into())
    }
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
