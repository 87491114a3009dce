//! The gRPC door: one file per service, each a translation to and from [`App`].

mod api_key;
mod convert;
mod delivery;
mod endpoint;
mod event_type;
mod listen;
mod message;
mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_proto::v1::api_key_service_server::ApiKeyServiceServer;
use cuitty_webhooks_proto::v1::delivery_service_server::DeliveryServiceServer;
use cuitty_webhooks_proto::v1::endpoint_service_server::EndpointServiceServer;
use cuitty_webhooks_proto::v1::event_type_service_server::EventTypeServiceServer;
use cuitty_webhooks_proto::v1::listen_service_server::ListenServiceServer;
use cuitty_webhooks_proto::v1::message_service_server::MessageServiceServer;
use cuitty_webhooks_proto::v1::status_service_server::StatusServiceServer;
use http::Request;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::server::NamedService;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Service, ServiceExt};

use crate::app::App;
use crate::auth::{Caller, Keys};
use crate::error::AppError;
use crate::limit::Limiter;
use crate::metrics as names;

/// Largest message that is decoded, in bytes (1 MiB); of `MessageService` [`limits::BATCH_BYTES`]. Above the payload limit, so
/// that a payload somewhat too large is refused with an error that names the field.
const MESSAGE_BYTES: usize = 1024 * 1024;
const DELIVER_BATCH: &str = "/cuitty.webhooks.v1.MessageService/DeliverBatch";
/// How often health is brought up to date.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Names of the services whose health is reported; the empty one stands for all.
const HEALTH_NAMES: [&str; 8] = [
    "",
    EndpointServiceServer::<()>::NAME,
    MessageServiceServer::<()>::NAME,
    DeliveryServiceServer::<()>::NAME,
    EventTypeServiceServer::<()>::NAME,
    ApiKeyServiceServer::<()>::NAME,
    ListenServiceServer::<()>::NAME,
    StatusServiceServer::<()>::NAME,
];

/// What the services stand before.
#[derive(Debug, Clone)]
struct Door {
    app: Arc<App>,
}

/// Every gRPC service as routes, and what their health is told to.
pub(crate) fn routes(app: &Arc<App>) -> Result<(Router, HealthReporter), tonic_reflection::server::Error> {
    let door = || Door { app: Arc::clone(app) };
    let authenticate = Authenticate {
        keys: Arc::clone(&app.keys),
        limiter: app.limiter.clone(),
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Router::new();
    routes = add(
        routes,
        keyed(
            &authenticate,
            EndpointServiceServer::new(door()).max_decoding_message_size(MESSAGE_BYTES),
        ),
    );
    routes = add(
        routes,
        keyed(
            &authenticate,
            MessageServiceServer::new(door()).max_decoding_message_size(limits::BATCH_BYTES),
        ),
    );
    routes = add(
        routes,
        keyed(
            &authenticate,
            DeliveryServiceServer::new(door()).max_decoding_message_size(MESSAGE_BYTES),
        ),
    );
    routes = add(
        routes,
        keyed(
            &authenticate,
            EventTypeServiceServer::new(door()).max_decoding_message_size(MESSAGE_BYTES),
        ),
    );
    routes = add(
        routes,
        keyed(
            &authenticate,
            ApiKeyServiceServer::new(door()).max_decoding_message_size(MESSAGE_BYTES),
        ),
    );
    routes = add(
        routes,
        keyed(
            &authenticate,
            ListenServiceServer::new(door()).max_decoding_message_size(MESSAGE_BYTES),
        ),
    );
    routes = add(routes, StatusServiceServer::new(door()));
    routes = add(routes, health);
    Ok((with_reflection(routes, &authenticate)?, reporter))
}

/// Adds what tells of the services. It needs a key too: only status and health answer without one.
fn with_reflection(
    routes: Router,
    authenticate: &Authenticate,
) -> Result<Router, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(cuitty_webhooks_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = add(routes, keyed(authenticate, reflection().build_v1()?));
    // Older clients, such as grpcurl before 1.8.8, ask in the earlier version.
    Ok(add(routes, keyed(authenticate, reflection().build_v1alpha()?)))
}

fn add<S>(router: Router, service: S) -> Router
where
    S: Service<Request<tonic::body::Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let path = format!("/{}/{{*method}}", S::NAME);
    router.route_service(
        &path,
        service.map_request(|request: Request<Body>| request.map(tonic::body::Body::new)),
    )
}

/// A service that nobody calls without a key.
fn keyed<S>(authenticate: &Authenticate, service: S) -> InterceptedService<S, Authenticate> {
    InterceptedService::new(service, authenticate.clone())
}

/// Finds out who calls, and whether not too often, before anything else of the call is looked at.
#[derive(Debug, Clone)]
struct Authenticate {
    keys: Arc<Keys>,
    limiter: Limiter,
}

impl Interceptor for Authenticate {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let caller = self
            .keys
            .authenticate(request.metadata().as_ref())
            .inspect_err(|error| {
                metrics::counter!(names::UNAUTHENTICATED, "code" => error.code()).increment(1);
            })?;
        self.limiter.check(&caller)?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// Who calls, as [`Authenticate`] found out.
fn caller_of<T>(request: &tonic::Request<T>) -> Result<Arc<Caller>, AppError> {
    request
        .extensions()
        .get::<Arc<Caller>>()
        .cloned()
        .ok_or(AppError::MissingKey)
}

/// Reports the health of every service until `stop` is cancelled: serving while messages can be accepted. Then nothing is
/// served, and the streams of those who watch end, so that their connections can.
pub(crate) async fn report_health(
    mut reporter: HealthReporter,
    is_accepting: impl Fn() -> bool,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(HEALTH_INTERVAL);
    let mut last = None;
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            _ = tick.tick() => false,
        };
        let status = if is_accepting() && !stopping {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        if last != Some(status) {
            last = Some(status);
            for name in HEALTH_NAMES {
                reporter.set_service_status(name, status).await;
            }
        }
        if stopping {
            for name in HEALTH_NAMES {
                reporter.clear_service_status(name).await;
            }
            return;
        }
    }
}

/// What a message to this path that is too large to be decoded is refused with.
pub(crate) fn too_large(path: &str) -> AppError {
    if path == DELIVER_BATCH {
        return AppError::BatchTooLarge {
            limit: limits::BATCH_BYTES,
        };
    }
    let is_message = path.starts_with("/cuitty.webhooks.v1.MessageService/");
    AppError::RequestTooLarge {
        limit: if is_message {
            limits::BATCH_BYTES
        } else {
            MESSAGE_BYTES
        },
    }
}

/// Whether a path is one of a gRPC service.
pub(crate) fn is_service_path(path: &str) -> bool {
    path.starts_with("/cuitty.webhooks.v1.") || path.starts_with("/grpc.")
}

#[cfg(test)]
mod tests;
