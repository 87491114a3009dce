//! gRPC clients as a caller in any language would have them: generated code over a channel that sends the key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut};
use futures_util::stream;
use hyper::http::uri::PathAndQuery;
use prost::Message;
use prost_types::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
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

/// The path of every method that the server at `channel` tells of by reflection: `/package.Service/Method`.
///
/// # Panics
/// When it does not tell.
pub async fn reflected_methods(channel: Authorized) -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    let services = match reflect(&channel, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(listed) => listed.service,
        other => panic!("{other:?}"),
    };
    for service in services {
        let wanted = MessageRequest::FileContainingSymbol(service.name.clone());
        let files = match reflect(&channel, wanted).await {
            MessageResponse::FileDescriptorResponse(found) => found.file_descriptor_proto,
            other => panic!("{}: {other:?}", service.name),
        };
        let files = files
            .iter()
            .map(|file| FileDescriptorProto::decode(&**file).expect("a file descriptor"));
        methods.extend(files.flat_map(|file| methods_of(&file)));
    }
    methods
}

/// The path of every method that a file declares.
pub fn methods_of(file: &FileDescriptorProto) -> Vec<String> {
    let package = file.package();
    let of_service = |service: &ServiceDescriptorProto| {
        let path =
            |method: &MethodDescriptorProto| format!("/{package}.{}/{}", service.name(), method.name());
        service.method.iter().map(path).collect::<Vec<_>>()
    };
    file.service.iter().flat_map(of_service).collect()
}

async fn reflect(channel: &Authorized, wanted: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(wanted),
    };
    let answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(stream::iter([request]))
        .await;
    let answer = answers.expect("reflection").into_inner().message().await;
    let answer = answer.expect("an answer").expect("an answer");
    answer.message_response.expect("an answer")
}

/// Calls any method with one message in which no field is set, and waits for the first answer.
pub async fn call_empty(channel: Authorized, path: &str) -> Result<(), Status> {
    call_encoded(channel, path, Vec::new()).await.map(drop)
}

/// Calls any method with one encoded message, and waits for the first answer; empty when there is none.
pub async fn call_encoded(channel: Authorized, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut client = Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).expect("a path");
    // On the wire, a single request and a single answer are streams of one.
    let messages = Request::new(stream::iter([message]));
    let mut answers = client.streaming(messages, path, Encoded).await?.into_inner();
    Ok(answers.message().await?.unwrap_or_default())
}

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
