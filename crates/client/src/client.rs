//! The typed calls.

use std::time::Duration;

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::api_key_service_client::ApiKeyServiceClient;
use cuitty_webhooks_proto::v1::delivery_service_client::DeliveryServiceClient;
use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::status_service_client::StatusServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::error::ClientError;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the answer of a call; [`Client::watch_deliveries`] has none.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an idle connection is checked.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

type Authorized = InterceptedService<Channel, ApiKey>;

/// A connection to the service. Clones share it; it is made again when it is lost.
#[derive(Clone)]
pub struct Client {
    endpoints: EndpointServiceClient<Authorized>,
    messages: MessageServiceClient<Authorized>,
    deliveries: DeliveryServiceClient<Authorized>,
    api_keys: ApiKeyServiceClient<Authorized>,
    status: StatusServiceClient<Channel>,
}

impl Client {
    /// Connects to `url`, such as `http://127.0.0.1:7710`, and calls with `api_key`.
    pub async fn connect(url: &str, api_key: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| ClientError::Configuration(format!("{url} is not a server's address: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| ClientError::Unavailable(format!("cannot connect to {url}: {error}")))?;
        let key = ApiKey::new(api_key)?;
        Ok(Self {
            endpoints: EndpointServiceClient::with_interceptor(channel.clone(), key.clone()),
            messages: MessageServiceClient::with_interceptor(channel.clone(), key.clone()),
            deliveries: DeliveryServiceClient::with_interceptor(channel.clone(), key.clone()),
            api_keys: ApiKeyServiceClient::with_interceptor(channel.clone(), key),
            status: StatusServiceClient::new(channel),
        })
    }

    /// Delivers a message to every endpoint that takes it. Once this answers, the log holds every delivery.
    pub async fn deliver(&self, request: v1::DeliverRequest) -> Result<v1::DeliverResponse, ClientError> {
        Ok(self.messages.clone().deliver(timed(request)).await?.into_inner())
    }

    /// Creates an endpoint; the answer shows its signing secret, once.
    pub async fn create_endpoint(
        &self,
        request: v1::CreateEndpointRequest,
    ) -> Result<v1::CreateEndpointResponse, ClientError> {
        Ok(self
            .endpoints
            .clone()
            .create_endpoint(timed(request))
            .await?
            .into_inner())
    }

    /// The endpoint of this id.
    pub async fn get_endpoint(&self, endpoint_id: &str) -> Result<v1::Endpoint, ClientError> {
        let request = v1::GetEndpointRequest {
            endpoint_id: endpoint_id.into(),
        };
        Ok(self
            .endpoints
            .clone()
            .get_endpoint(timed(request))
            .await?
            .into_inner())
    }

    /// A page of a project's endpoints, newest first.
    pub async fn list_endpoints(
        &self,
        request: v1::ListEndpointsRequest,
    ) -> Result<v1::ListEndpointsResponse, ClientError> {
        Ok(self
            .endpoints
            .clone()
            .list_endpoints(timed(request))
            .await?
            .into_inner())
    }

    /// Changes the fields of `endpoint` that `fields` names.
    pub async fn update_endpoint(
        &self,
        endpoint: v1::Endpoint,
        fields: &[&str],
    ) -> Result<v1::Endpoint, ClientError> {
        let paths = fields.iter().map(|&field| field.to_owned()).collect();
        let request = v1::UpdateEndpointRequest {
            endpoint: Some(endpoint),
            update_mask: Some(prost_types::FieldMask { paths }),
            expected_revision: 0,
        };
        Ok(self
            .endpoints
            .clone()
            .update_endpoint(timed(request))
            .await?
            .into_inner())
    }

    /// Deletes an endpoint: it takes no new messages, what was accepted before still completes.
    pub async fn delete_endpoint(&self, endpoint_id: &str) -> Result<(), ClientError> {
        let request = v1::DeleteEndpointRequest {
            endpoint_id: endpoint_id.into(),
        };
        self.endpoints.clone().delete_endpoint(timed(request)).await?;
        Ok(())
    }

    /// Makes a new secret current; the answer shows it, once.
    pub async fn rotate_secret(
        &self,
        request: v1::RotateSecretRequest,
    ) -> Result<v1::RotateSecretResponse, ClientError> {
        Ok(self
            .endpoints
            .clone()
            .rotate_secret(timed(request))
            .await?
            .into_inner())
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
        Ok(self
            .endpoints
            .clone()
            .revoke_secret(timed(request))
            .await?
            .into_inner())
    }

    /// A delivery with its payload and every attempt, once the history has passed `min_log_sequence` (0 does not wait).
    pub async fn get_delivery(
        &self,
        delivery_id: &str,
        min_log_sequence: u64,
    ) -> Result<v1::DeliveryDetail, ClientError> {
        self.read_delivery(v1::GetDeliveryRequest {
            delivery_id: delivery_id.into(),
            min_log_sequence,
            verify: false,
        })
        .await
    }

    /// Like [`Self::get_delivery`], with a check of every signature that an attempt carried.
    pub async fn verify_delivery(
        &self,
        delivery_id: &str,
        min_log_sequence: u64,
    ) -> Result<v1::DeliveryDetail, ClientError> {
        self.read_delivery(v1::GetDeliveryRequest {
            delivery_id: delivery_id.into(),
            min_log_sequence,
            verify: true,
        })
        .await
    }

    async fn read_delivery(
        &self,
        request: v1::GetDeliveryRequest,
    ) -> Result<v1::DeliveryDetail, ClientError> {
        Ok(self
            .deliveries
            .clone()
            .get_delivery(timed(request))
            .await?
            .into_inner())
    }

    /// A page of the delivery history, newest first.
    pub async fn list_deliveries(
        &self,
        request: v1::ListDeliveriesRequest,
    ) -> Result<v1::ListDeliveriesResponse, ClientError> {
        Ok(self
            .deliveries
            .clone()
            .list_deliveries(timed(request))
            .await?
            .into_inner())
    }

    /// Delivery events as the log stores them, from now on.
    pub async fn watch_deliveries(&self, request: v1::WatchDeliveriesRequest) -> Result<Watch, ClientError> {
        Ok(Watch(
            self.deliveries
                .clone()
                .watch_deliveries(request)
                .await?
                .into_inner(),
        ))
    }

    /// Makes an API key; the answer shows it, once. Needs a key with the scope `admin`, as every call about keys does.
    pub async fn create_api_key(
        &self,
        request: v1::CreateApiKeyRequest,
    ) -> Result<v1::CreateApiKeyResponse, ClientError> {
        Ok(self
            .api_keys
            .clone()
            .create_api_key(timed(request))
            .await?
            .into_inner())
    }

    /// A page of the API keys, newest first, revoked ones too.
    pub async fn list_api_keys(
        &self,
        request: v1::ListApiKeysRequest,
    ) -> Result<v1::ListApiKeysResponse, ClientError> {
        Ok(self
            .api_keys
            .clone()
            .list_api_keys(timed(request))
            .await?
            .into_inner())
    }

    /// Ends an API key for good.
    pub async fn revoke_api_key(&self, id: &str) -> Result<v1::ApiKey, ClientError> {
        let request = v1::RevokeApiKeyRequest { id: id.into() };
        Ok(self
            .api_keys
            .clone()
            .revoke_api_key(timed(request))
            .await?
            .into_inner())
    }

    /// Whether the service is well. Needs no key.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, ClientError> {
        Ok(self
            .status
            .clone()
            .get_status(timed(v1::GetStatusRequest {}))
            .await?
            .into_inner())
    }
}

/// Events of [`Client::watch_deliveries`], in the order of the log.
pub struct Watch(Streaming<v1::DeliveryEvent>);

impl Watch {
    /// The next event; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<v1::DeliveryEvent>, ClientError> {
        Ok(self.0.message().await?)
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Adds the key to every call.
#[derive(Clone)]
struct ApiKey(MetadataValue<Ascii>);

impl ApiKey {
    fn new(api_key: &str) -> Result<Self, ClientError> {
        let mut value = format!("Bearer {api_key}")
            .parse::<MetadataValue<Ascii>>()
            .map_err(|_| ClientError::Configuration("the API key must be visible ASCII".into()))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}
