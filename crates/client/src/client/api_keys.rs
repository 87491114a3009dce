//! API keys. All of it needs a key with the scope `admin`.

use cuitty_webhooks_proto::v1;

use super::{Client, Repeat, call};
use crate::error::ClientError;

impl Client {
    /// Makes an API key; the answer shows it, once. Not repeated: a key that nobody has seen would be left behind.
    pub async fn create_api_key(
        &self,
        request: v1::CreateApiKeyRequest,
    ) -> Result<v1::CreateApiKeyResponse, ClientError> {
        call!(self.api_keys.create_api_key(request), Repeat::Never)
    }

    /// A page of the API keys, newest first, revoked ones too.
    pub async fn list_api_keys(
        &self,
        request: v1::ListApiKeysRequest,
    ) -> Result<v1::ListApiKeysResponse, ClientError> {
        call!(self.api_keys.list_api_keys(request), Repeat::Freely)
    }

    /// Ends an API key for good.
    pub async fn revoke_api_key(&self, id: &str) -> Result<v1::ApiKey, ClientError> {
        let request = v1::RevokeApiKeyRequest { id: id.into() };
        call!(self.api_keys.revoke_api_key(request), Repeat::Freely)
    }
}
