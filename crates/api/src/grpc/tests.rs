use std::future::IntoFuture;

use super::*;
use crate::auth::AdminKey;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Serving;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

const KEY: &str = "test-admin-key-0001";
const SOON: Duration = Duration::from_secs(10);

async fn serve(router: Router) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn reflection_needs_a_key() {
    let authenticate = Authenticate {
        keys: Arc::new(Keys::configured(AdminKey::new(KEY).ok())),
        limiter: Limiter::new(0, 0),
    };
    let channel = serve(with_reflection(Router::new(), &authenticate).unwrap()).await;
    let ask = |authorization: Option<&str>| {
        let question = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..ServerReflectionRequest::default()
        };
        let mut metadata = MetadataMap::new();
        if let Some(value) = authorization {
            metadata.insert("authorization", value.parse().unwrap());
        }
        let asked = futures_util::stream::iter([question]);
        let request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), asked);
        let mut client = ServerReflectionClient::new(channel.clone());
        async move {
            client
                .server_reflection_info(request)
                .await
                .map(drop)
                .map_err(|status| status.code())
        }
    };
    assert_eq!(ask(None).await, Err(Code::Unauthenticated));
    assert_eq!(ask(Some("Bearer wrong")).await, Err(Code::Unauthenticated));
    assert_eq!(ask(Some(&format!("Bearer {KEY}"))).await, Ok(()));
}

#[tokio::test]
async fn watches_of_health_end_with_the_service() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let channel = serve(add(Router::new(), health)).await;
    let stop = CancellationToken::new();
    let reporting = tokio::spawn(report_health(reporter, || true, stop.clone()));
    let request = HealthCheckRequest::default();
    let mut statuses = HealthClient::new(channel)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let first = statuses.message().await.unwrap().unwrap();
    assert_eq!(first.status, i32::from(Serving::Serving));
    stop.cancel();
    reporting.await.unwrap();
    let last = async {
        let mut last = None;
        while let Some(status) = statuses.message().await.unwrap() {
            last = Some(status.status);
        }
        last
    };
    let last = tokio::time::timeout(SOON, last).await.unwrap();
    assert_eq!(last, Some(i32::from(Serving::NotServing)));
}
