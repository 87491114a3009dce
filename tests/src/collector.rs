//! An OpenTelemetry collector: takes what is sent over OTLP/gRPC, and keeps it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as proto;
use tokio::net::TcpListener;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::background::Background;
use crate::certificates::Certified;

/// Attributes, each value as text.
pub type Attributes = BTreeMap<String, String>;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    /// Of the process that it is from.
    pub resource: Attributes,
    /// Its name.
    pub name: String,
    /// `Server`, `Client`, `Producer`, `Consumer` or `Internal`.
    pub kind: proto::span::SpanKind,
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub id: String,
    /// As above; empty for a root.
    pub parent_id: String,
    /// What it says.
    pub attributes: Attributes,
    /// The trace and the span of each link.
    pub links: Vec<(String, String)>,
    /// Whether it says that it failed.
    pub is_error: bool,
}

impl Span {
    /// An attribute; empty when it is missing.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
struct State {
    spans: Vec<Span>,
    /// By the roles of the process: what it sent last.
    metrics: BTreeMap<String, Vec<Metric>>,
    /// Everything that was sent, as text.
    texts: Vec<String>,
    /// `authorization` of every request.
    keys: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<State>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T: std::fmt::Debug>(&self, request: &Request<T>) {
        let key = request.metadata().get("authorization");
        let key = key.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut state = self.lock();
        state.keys.push(key.to_owned());
        state.texts.push(format!("{:?}", request.get_ref()));
    }
}

/// A collector on a free port of 127.0.0.1, on a thread of its own.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    kept: Kept,
    _thread: Background,
}

impl Collector {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that speaks TLS.
    ///
    /// # Panics
    /// When the certificate cannot be read.
    pub fn start_tls(certified: &Certified) -> Self {
        let read = |path| std::fs::read(path).expect("a certificate and its key");
        let identity = Identity::from_pem(read(&certified.cert), read(&certified.key));
        Self::start_with(Some(ServerTlsConfig::new().identity(identity)))
    }

    fn start_with(tls: Option<ServerTlsConfig>) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("is bound");
        let kept = Kept::default();
        let service = kept.clone();
        let thread = Background::spawn("collector", move |stop| async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let incoming = stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            });
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).expect("a certificate and its key");
            }
            let serving = server
                .add_service(TraceServiceServer::new(service.clone()))
                .add_service(MetricsServiceServer::new(service))
                .serve_with_incoming(incoming);
            if let Some(served) = stop.run_until_cancelled(serving).await {
                served.expect("serve");
            }
        });
        Self {
            address,
            kept,
            _thread: thread,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `telemetry.otlp_endpoint`, without TLS.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of a trace that have arrived.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let state = self.kept.lock();
        let of_trace = state.spans.iter().filter(|span| span.trace_id == trace_id);
        of_trace.cloned().collect()
    }

    /// Every span that has arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().spans.clone()
    }

    /// A metric as the process with these roles sent it last.
    pub fn metric(&self, roles: &str, name: &str) -> Option<Metric> {
        let state = self.kept.lock();
        let metrics = state.metrics.get(roles)?;
        metrics.iter().find(|metric| metric.name == name).cloned()
    }

    /// Everything that was sent, each request as text.
    pub fn texts(&self) -> Vec<String> {
        self.kept.lock().texts.clone()
    }

    /// `authorization` of every request.
    pub fn keys(&self) -> Vec<String> {
        self.kept.lock().keys.clone()
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.note(&request);
        let mut state = self.lock();
        for group in request.into_inner().resource_spans {
            let resource = of_resource(group.resource);
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            state.spans.extend(spans.map(|span| read(span, &resource)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.note(&request);
        let mut state = self.lock();
        for group in request.into_inner().resource_metrics {
            let mut resource = of_resource(group.resource);
            let roles = resource.remove("cuitty.webhooks.roles").unwrap_or_default();
            let metrics = group.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            state.metrics.insert(roles, metrics.collect());
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn of_resource(resource: Option<Resource>) -> Attributes {
    attributes(resource.unwrap_or_default().attributes)
}

fn read(span: proto::Span, resource: &Attributes) -> Span {
    let status = span.status.clone().unwrap_or_default();
    let links = span.links.iter();
    Span {
        resource: resource.clone(),
        kind: span.kind(),
        trace_id: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent_id: hex(&span.parent_span_id),
        links: links
            .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
        is_error: status.code() == proto::status::StatusCode::Error,
        name: span.name,
        attributes: attributes(span.attributes),
    }
}

/// Attributes with their values as texts.
pub fn attributes(of: Vec<KeyValue>) -> Attributes {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(is_it)) => is_it.to_string(),
        other => format!("{other:?}"),
    };
    of.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
