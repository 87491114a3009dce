//! `EndpointService`.

use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::endpoint_service_server::EndpointService;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::message::idempotency_key;
use super::{Door, caller_of, convert};
use crate::app::{EndpointUpdate, NewEndpoint, Rotation, Terms};
use crate::error::AppError;

impl Door {
    /// An endpoint as callers see it now.
    pub(super) fn shown(&self, endpoint: &Endpoint) -> v1::Endpoint {
        convert::endpoint(endpoint, self.app.health(endpoint), self.app.now())
    }
}

/// The terms of a change: what its metadata says.
pub(super) fn terms(metadata: &MetadataMap) -> Result<Terms, AppError> {
    Ok(Terms {
        idempotency_key: idempotency_key(metadata, String::new())?,
        revisions: None,
    })
}

#[tonic::async_trait]
impl EndpointService for Door {
    async fn create_endpoint(
        &self,
        request: Request<v1::CreateEndpointRequest>,
    ) -> Result<Response<v1::CreateEndpointResponse>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, mut request) = request.into_parts();
        let key = idempotency_key(&metadata, String::new())?;
        let new = NewEndpoint {
            project_id: std::mem::take(&mut request.project_id),
            signing_secret: std::mem::take(&mut request.signing_secret),
            signature_scheme: convert::read_scheme(request.signature_scheme).map_err(AppError::from)?,
            draft: convert::new_draft(request).map_err(AppError::from)?,
            faults: Vec::new(),
        };
        let created = self.app.create_endpoint(&caller, new, key).await?.value;
        Ok(Response::new(v1::CreateEndpointResponse {
            endpoint: Some(self.shown(&created.endpoint)),
            signing_secret: created.signing_secret.expose().to_string(),
            log_sequence: created.log_sequence,
        }))
    }

    async fn get_endpoint(
        &self,
        request: Request<v1::GetEndpointRequest>,
    ) -> Result<Response<v1::Endpoint>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("endpoint_id", &request.get_ref().endpoint_id).map_err(AppError::from)?;
        let entry = self.app.get_endpoint(&caller, id).await?;
        Ok(Response::new(self.shown(&entry.endpoint)))
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let page = convert::page(request.page);
        let (entries, next) = self
            .app
            .list_endpoints(&caller, &request.project_id, &page)
            .await?;
        Ok(Response::new(v1::ListEndpointsResponse {
            endpoints: entries.iter().map(|entry| self.shown(&entry.endpoint)).collect(),
            next_cursor: next.unwrap_or_default(),
        }))
    }

    async fn update_endpoint(
        &self,
        request: Request<v1::UpdateEndpointRequest>,
    ) -> Result<Response<v1::Endpoint>, Status> {
        let caller = caller_of(&request)?;
        let terms = terms(request.metadata())?;
        let request = request.into_inner();
        let new = request.endpoint.unwrap_or_default();
        let id = convert::id("endpoint.id", &new.id).map_err(AppError::from)?;
        let fields = request.update_mask.unwrap_or_default().paths;
        if fields.iter().any(|field| field == "kind") {
            convert::read_kind(new.kind).map_err(AppError::from)?;
        }
        let update = EndpointUpdate {
            active: new.active,
            draft: convert::update_draft(new),
            fields,
            expected_revision: Some(request.expected_revision).filter(|&revision| revision > 0),
            ..EndpointUpdate::default()
        };
        let updated = self.app.update_endpoint(&caller, id, update, terms).await?;
        Ok(Response::new(self.shown(&updated.value)))
    }

    async fn delete_endpoint(
        &self,
        request: Request<v1::DeleteEndpointRequest>,
    ) -> Result<Response<v1::DeleteEndpointResponse>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("endpoint_id", &request.get_ref().endpoint_id).map_err(AppError::from)?;
        let terms = terms(request.metadata())?;
        self.app.delete_endpoint(&caller, id, terms).await?;
        Ok(Response::new(v1::DeleteEndpointResponse {}))
    }

    async fn rotate_secret(
        &self,
        request: Request<v1::RotateSecretRequest>,
    ) -> Result<Response<v1::RotateSecretResponse>, Status> {
        let caller = caller_of(&request)?;
        let terms = terms(request.metadata())?;
        let request = request.into_inner();
        let id = convert::id("endpoint_id", &request.endpoint_id).map_err(AppError::from)?;
        let rotation = Rotation {
            overlap_seconds: request.overlap_seconds,
            signing_secret: request.signing_secret,
            signature_scheme: convert::read_scheme(request.signature_scheme).map_err(AppError::from)?,
            faults: Vec::new(),
        };
        let rotated = self.app.rotate_secret(&caller, id, rotation, terms).await?.value;
        Ok(Response::new(v1::RotateSecretResponse {
            signing_secret: rotated.signing_secret.expose().to_string(),
            secret_id: rotated.secret_id.to_string(),
            previous_expires_at: Some(convert::timestamp(rotated.previous_expires_at)),
            public_key: convert::public_key(rotated.signing_secret.public_key()),
        }))
    }

    async fn revoke_secret(
        &self,
        request: Request<v1::RevokeSecretRequest>,
    ) -> Result<Response<v1::Endpoint>, Status> {
        let caller = caller_of(&request)?;
        let terms = terms(request.metadata())?;
        let request = request.into_inner();
        let id = convert::id("endpoint_id", &request.endpoint_id).map_err(AppError::from)?;
        let secret_id = convert::id("secret_id", &request.secret_id).map_err(AppError::from)?;
        let endpoint = self.app.revoke_secret(&caller, id, secret_id, terms).await?;
        Ok(Response::new(self.shown(&endpoint.value)))
    }

    async fn send_test_event(
        &self,
        request: Request<v1::SendTestEventRequest>,
    ) -> Result<Response<v1::SendTestEventResponse>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, request) = request.into_parts();
        let id = convert::id("endpoint_id", &request.endpoint_id).map_err(AppError::from)?;
        let key = idempotency_key(&metadata, request.idempotency_key)?;
        let delivery = self
            .app
            .send_test_event(&caller, id, &request.event_type, key)
            .await?;
        Ok(Response::new(v1::SendTestEventResponse {
            delivery: Some(convert::delivery(&delivery.value)),
        }))
    }
}
