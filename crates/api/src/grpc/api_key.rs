//! `ApiKeyService`.

use cuitty_webhooks_domain::api_key::ApiKey;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::api_key_service_server::ApiKeyService;
use tonic::{Request, Response, Status};

use super::{Door, caller_of, convert};
use crate::app::{ListedApiKey, NewApiKey};
use crate::error::AppError;

#[tonic::async_trait]
impl ApiKeyService for Door {
    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let new = NewApiKey {
            project_id: request.project_id,
            scopes: request.scopes,
            description: request.description,
        };
        let (key, text) = self.app.create_api_key(&caller, new).await?;
        Ok(Response::new(v1::CreateApiKeyResponse {
            api_key: Some(shown(&key)),
            secret: text.expose().to_owned(),
        }))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let page = convert::page(request.page);
        let (keys, next) = self
            .app
            .list_api_keys(&caller, &request.project_id, &page)
            .await?;
        Ok(Response::new(v1::ListApiKeysResponse {
            api_keys: keys.iter().map(listed).collect(),
            next_cursor: next.unwrap_or_default(),
        }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("id", &request.get_ref().id).map_err(AppError::from)?;
        let revoked = self.app.revoke_api_key(&caller, id).await?;
        Ok(Response::new(listed(&revoked)))
    }
}

fn listed(key: &ListedApiKey) -> v1::ApiKey {
    v1::ApiKey {
        last_used_at: key.last_used_at.map(convert::timestamp),
        ..shown(&key.entry.key)
    }
}

fn shown(key: &ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id.to_string(),
        project_id: key
            .project_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        scopes: key.scopes.iter().map(ToString::to_string).collect(),
        created_at: Some(convert::timestamp(key.created_at)),
        revoked_at: key.revoked_at.map(convert::timestamp),
        description: key.description.clone(),
        created_by: key.created_by.clone(),
        last_used_at: None,
    }
}
