//! `ApiKeyService`: declared, not available yet.

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::api_key_service_server::ApiKeyService;
use tonic::{Request, Response, Status};

use super::Door;
use crate::error::AppError;

#[tonic::async_trait]
impl ApiKeyService for Door {
    async fn create_api_key(
        &self,
        _request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        Err(AppError::NotImplemented("CreateApiKey").into())
    }

    async fn list_api_keys(
        &self,
        _request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        Err(AppError::NotImplemented("ListApiKeys").into())
    }

    async fn revoke_api_key(
        &self,
        _request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        Err(AppError::NotImplemented("RevokeApiKey").into())
    }
}
