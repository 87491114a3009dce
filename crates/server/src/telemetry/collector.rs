//! The collector that traces and metrics are sent to, over OTLP/gRPC.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tracing::{info, warn};

use crate::config::Telemetry;

/// One connection for everything that is sent, made when it is needed first.
#[derive(Debug)]
pub(super) struct Collector {
    channel: Channel,
    headers: MetadataMap,
    timeout: Duration,
    /// Whether the last request failed: that is logged when it changes.
    is_failing: AtomicBool,
}

impl Collector {
    /// Needs a runtime.
    pub(super) fn new(endpoint: &str, config: &Telemetry) -> anyhow::Result<Self> {
        let mut to = Endpoint::from_shared(endpoint.to_owned())
            .context("telemetry.otlp_endpoint")?
            .connect_timeout(config.otlp_timeout);
        if endpoint.starts_with("https://") {
            let mut tls = ClientTlsConfig::new();
            tls = match &config.otlp_ca_file {
                Some(path) => {
                    let pem = fs::read(path)
                        .with_context(|| format!("telemetry.otlp_ca_file: {}", path.display()))?;
                    tls.ca_certificate(Certificate::from_pem(pem))
                }
                None => tls.with_webpki_roots(),
            };
            to = to.tls_config(tls).context("telemetry.otlp_ca_file")?;
        }
        Ok(Self {
            channel: to.connect_lazy(),
            headers: config.otlp_headers.metadata(),
            timeout: config.otlp_timeout,
            is_failing: AtomicBool::new(false),
        })
    }

    /// Sends spans; how many of them the collector refused.
    pub(super) async fn send_spans(&self, request: ExportTraceServiceRequest) -> Result<u64, Status> {
        let mut client = TraceServiceClient::new(self.channel.clone());
        let answer = self.in_time(client.export(self.request(request))).await?;
        let partial = answer.into_inner().partial_success;
        Ok(partial.map_or(0, |partial| partial.rejected_spans.unsigned_abs()))
    }

    /// Sends metrics.
    pub(super) async fn send_metrics(&self, request: ExportMetricsServiceRequest) -> Result<(), Status> {
        let mut client = MetricsServiceClient::new(self.channel.clone());
        self.in_time(client.export(self.request(request))).await.map(drop)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let result = match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(status) if !was_failing => {
                warn!(code = ?status.code(), error = status.message(), "the collector does not take telemetry; some is lost until it does");
            }
            Ok(_) if was_failing => info!("the collector takes telemetry again"),
            _ => {}
        }
        result
    }
}

/// Whether the same request may succeed later, as OTLP has it.
pub(super) fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}
