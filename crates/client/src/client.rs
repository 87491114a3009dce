//! The connection, and how calls are made on it.

mod api_keys;
mod deliveries;
mod endpoints;
mod event_types;
mod messages;

use std::time::Duration;

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::api_key_service_client::ApiKeyServiceClient;
use cuitty_webhooks_proto::v1::delivery_service_client::DeliveryServiceClient;
use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use cuitty_webhooks_proto::v1::event_type_service_client::EventTypeServiceClient;
use cuitty_webhooks_proto::v1::listen_service_client::ListenServiceClient;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::status_service_client::StatusServiceClient;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Response, Status};

pub use self::deliveries::Watch;
use crate::error::{Again, ClientError};
use crate::keys::Keys;
use crate::patience::Patience;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is checked.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Longest wait for the answer of a call, all tries together; streams have none.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call is repeated, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

type Authorized = InterceptedService<Channel, ApiKey>;

/// A connection to the service. Clones share it; it is made again when it is lost.
///
/// While the service cannot be reached, or asks to try later, calls are repeated with growing pauses until the client's
/// [patience](Builder::patience) ends. That is safe: reads change nothing, and changes carry an idempotency key, which the
/// client makes when the request has none. The few calls that cannot be repeated safely say so.
#[derive(Clone)]
pub struct Client {
    pub(crate) endpoints: EndpointServiceClient<Authorized>,
    pub(crate) messages: MessageServiceClient<Authorized>,
    pub(crate) deliveries: DeliveryServiceClient<Authorized>,
    pub(crate) event_types: EventTypeServiceClient<Authorized>,
    pub(crate) api_keys: ApiKeyServiceClient<Authorized>,
    pub(crate) listeners: ListenServiceClient<Authorized>,
    pub(crate) status: StatusServiceClient<Channel>,
    pub(crate) keys: Keys,
    pub(crate) patience: Duration,
}

/// How to connect.
#[derive(Clone)]
pub struct Builder {
    url: String,
    api_key: String,
    patience: Duration,
    tls: ClientTlsConfig,
}

impl Client {
    /// Connects to `url`, such as `http://127.0.0.1:7710`, or `https://…` for TLS, and calls with `api_key`.
    pub async fn connect(url: &str, api_key: &str) -> Result<Self, ClientError> {
        Self::builder(url, api_key).connect().await
    }

    /// To connect otherwise than [`Self::connect`] does.
    pub fn builder(url: &str, api_key: &str) -> Builder {
        Builder {
            url: url.to_owned(),
            api_key: api_key.to_owned(),
            patience: PATIENCE,
            tls: ClientTlsConfig::new().with_webpki_roots(),
        }
    }

    /// Whether the service is well. Needs no key.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, ClientError> {
        call!(self.status.get_status(v1::GetStatusRequest {}), Repeat::Freely)
    }

    /// Calls, again and again where that is safe and makes sense.
    async fn call<Q, A, F>(
        &self,
        repeat: Repeat,
        message: Q,
        call: impl Fn(Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut patience = Patience::new(self.patience.min(CALL_TIMEOUT));
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            if let Repeat::Under(key) = &repeat {
                request.metadata_mut().insert("idempotency-key", key.clone());
            }
            let status = match call(request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let pause = match Again::after(&status) {
                Again::NotYet(pause) => Some(pause),
                Again::Perhaps(pause) if repeat != Repeat::Never => pause,
                Again::Perhaps(_) | Again::Never => return Err(status.into()),
            };
            if !patience.pause(pause).await {
                return Err(status.into());
            }
        }
    }

    /// How to repeat a change whose request may hold an idempotency key.
    fn keyed(&self, given: &str) -> Repeat {
        if given.is_empty() {
            self.under_new_key()
        } else {
            Repeat::Freely
        }
    }

    /// How to repeat a change whose request has no field for an idempotency key.
    fn under_new_key(&self) -> Repeat {
        let key = self.keys.next().parse();
        Repeat::Under(key.expect("keys are visible ASCII"))
    }
}

impl Builder {
    /// How long calls are repeated while the service cannot be reached or asks to try later: 10 s unless set, at most 30 s;
    /// zero means that nothing is repeated.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Trusts what these authorities (PEM) vouch for, beside the public ones.
    #[must_use]
    pub fn authorities(self, pem: impl AsRef<[u8]>) -> Self {
        let tls = self.tls.ca_certificate(Certificate::from_pem(pem));
        Self { tls, ..self }
    }

    /// Shows this certificate (PEM, followed by those between it and its authority), whose private key is `key` (PEM), where
    /// the service asks for one.
    #[must_use]
    pub fn identity(self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        let tls = self.tls.identity(Identity::from_pem(certificate, key));
        Self { tls, ..self }
    }

    /// What the connection is made to, for calls that are none of gRPC.
    pub fn endpoint(&self) -> Result<Endpoint, ClientError> {
        let url = &self.url;
        let unusable = |what: &str, error: &dyn std::error::Error| {
            ClientError::Configuration(format!("{what}: {}", cause(error)))
        };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| unusable(&format!("{url} is not a server's address"), &error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .tcp_nodelay(true);
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint);
        }
        endpoint
            .tls_config(self.tls.clone())
            .map_err(|error| unusable("the certificates cannot be used", &error))
    }

    /// Connects, and fails at once if that is not possible.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let channel = self.endpoint()?.connect().await.map_err(|error| {
            ClientError::Unavailable(format!("cannot connect to {}: {}", self.url, cause(&error)))
        })?;
        let key = ApiKey::new(&self.api_key)?;
        let keyed = || InterceptedService::new(channel.clone(), key.clone());
        Ok(Client {
            endpoints: EndpointServiceClient::new(keyed()),
            messages: MessageServiceClient::new(keyed()),
            deliveries: DeliveryServiceClient::new(keyed()),
            event_types: EventTypeServiceClient::new(keyed()),
            api_keys: ApiKeyServiceClient::new(keyed()),
            listeners: ListenServiceClient::new(keyed()),
            status: StatusServiceClient::new(channel.clone()),
            keys: Keys::new(),
            patience: self.patience,
        })
    }
}

/// What an error comes from: the transport's own text does not tell.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether a call that may have been carried out can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Repeat {
    Never,
    /// It changes nothing, or the same, or its message holds an idempotency key.
    Freely,
    /// Each time under this idempotency key.
    Under(MetadataValue<Ascii>),
}

/// `call!(self.<service>.<method>(<message>), <repeat>)` makes a call on one of the connection's services.
macro_rules! call {
    ($self:ident.$service:ident.$method:ident($message:expr), $repeat:expr) => {{
        let service = &$self.$service;
        let call = |request| {
            let mut service = service.clone();
            async move { service.$method(request).await }
        };
        $self.call($repeat, $message, call).await
    }};
}
use call;

/// The names of fields to change.
fn mask(fields: &[&str]) -> prost_types::FieldMask {
    prost_types::FieldMask {
        paths: fields.iter().map(|&field| field.to_owned()).collect(),
    }
}

/// Adds the key to every call.
#[derive(Clone)]
pub(crate) struct ApiKey(MetadataValue<Ascii>);

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
