//! Endpoints.

use cuitty_webhooks_proto::v1;

use super::{Client, Repeat, call, mask};
use crate::error::ClientError;

impl Client {
    /// Creates an endpoint; the answer shows its signing secret, once.
    pub async fn create_endpoint(
        &self,
        request: v1::CreateEndpointRequest,
    ) -> Result<v1::CreateEndpointResponse, ClientError> {
        call!(self.endpoints.create_endpoint(request), self.under_new_key())
    }

    /// The endpoint of this id.
    pub async fn get_endpoint(&self, endpoint_id: &str) -> Result<v1::Endpoint, ClientError> {
        let request = v1::GetEndpointRequest {
            endpoint_id: endpoint_id.into(),
        };
        call!(self.endpoints.get_endpoint(request), Repeat::Freely)
    }

    /// A page of a project's endpoints, newest first.
    pub async fn list_endpoints(
        &self,
        request: v1::ListEndpointsRequest,
    ) -> Result<v1::ListEndpointsResponse, ClientError> {
        call!(self.endpoints.list_endpoints(request), Repeat::Freely)
    }

    /// Changes the fields of `endpoint` that `fields` names.
    pub async fn update_endpoint(
        &self,
        endpoint: v1::Endpoint,
        fields: &[&str],
    ) -> Result<v1::Endpoint, ClientError> {
        let request = v1::UpdateEndpointRequest {
            endpoint: Some(endpoint),
            update_mask: Some(mask(fields)),
            expected_revision: 0,
        };
        call!(self.endpoints.update_endpoint(request), self.under_new_key())
    }

    /// Deletes an endpoint: it takes no new messages, what was accepted before still completes.
    pub async fn delete_endpoint(&self, endpoint_id: &str) -> Result<(), ClientError> {
        let request = v1::DeleteEndpointRequest {
            endpoint_id: endpoint_id.into(),
        };
        call!(self.endpoints.delete_endpoint(request), self.under_new_key()).map(drop)
    }

    /// Makes a new secret current; the answer shows it, once.
    pub async fn rotate_secret(
        &self,
        request: v1::RotateSecretRequest,
    ) -> Result<v1::RotateSecretResponse, ClientError> {
        call!(self.endpoints.rotate_secret(request), self.under_new_key())
    }

    /// Ends the overlap of a previous secret now; the current one has to be rotated first.
    pub async fn revoke_secret(
        &self,
        endpoint_id: &str,
        secret_id: &str,
    ) -> Result<v1::Endpoint, ClientError> {
        let request = v1::RevokeSecretRequest {
            endpoint_id: endpoint_id.into(),
            secret_id: secret_id.into(),
        };
        call!(self.endpoints.revoke_secret(request), self.under_new_key())
    }

    /// Sends a synthetic event to one endpoint, whatever its event types.
    pub async fn send_test_event(
        &self,
        request: v1::SendTestEventRequest,
    ) -> Result<v1::Delivery, ClientError> {
        let repeat = self.keyed(&request.idempotency_key);
        let answer = call!(self.endpoints.send_test_event(request), repeat)?;
        Ok(answer.delivery.unwrap_or_default())
    }
}
