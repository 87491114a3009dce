//! gRPC clients as a caller in any language would have them: generated code over a channel that sends the key.

use std::collections::BTreeMap;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// A channel that sends an API key with every call.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// Puts `authorization: Bearer <key>` into the metadata, if there is a key.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Connects to `url` (`http://host:port`), with `key` if there is one.
pub async fn authorized(url: &str, key: Option<&str>) -> Result<Authorized, Error> {
    let channel = Endpoint::from_shared(url.to_owned())?
        .tcp_nodelay(true)
        .connect()
        .await?;
    Ok(with_key(channel, key))
}

/// Like [`authorized`], but connects with the first call and again after every loss: the server may be down now.
pub fn authorized_lazily(url: &str, key: Option<&str>) -> Result<Authorized, Error> {
    let channel = Endpoint::from_shared(url.to_owned())?
        .tcp_nodelay(true)
        .connect_lazy();
    Ok(with_key(channel, key))
}

fn with_key(channel: Channel, key: Option<&str>) -> Authorized {
    let value = key.map(|key| format!("Bearer {key}").parse().expect("a key is visible ASCII"));
    InterceptedService::new(channel, Bearer(value))
}

/// What a program can tell of a refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status.
    pub code: Code,
    /// `reason` of its `google.rpc.ErrorInfo`; empty when it has none.
    pub reason: String,
    /// The fields of its `google.rpc.BadRequest`, each with what is wrong with it.
    pub fields: BTreeMap<String, String>,
}

impl Refusal {
    /// The names of the fields at fault.
    pub fn field_names(&self) -> Vec<&str> {
        self.fields.keys().map(String::as_str).collect()
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.clone())
            .unwrap_or_default();
        Self {
            code: status.code(),
            reason: details
                .error_info()
                .map(|info| info.reason.clone())
                .unwrap_or_default(),
            fields: violations
                .into_iter()
                .map(|violation| (violation.field, violation.description))
                .collect(),
        }
    }
}

/// The refusal of a call that must not succeed.
///
/// # Panics
/// When it did.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> Refusal {
    match result {
        Err(status) => Refusal::from(&status),
        Ok(answer) => panic!("was not refused: {answer:?}"),
    }
}
