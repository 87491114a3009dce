//! `StatusService`: needs no key.

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::status_service_server::StatusService;
use tonic::{Request, Response, Status};

use super::Door;

#[tonic::async_trait]
impl StatusService for Door {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = self.app.status().await;
        let part = |is_up: bool| if is_up { "ok" } else { "down" }.to_owned();
        Ok(Response::new(v1::GetStatusResponse {
            status: status.summary().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            components: Some(v1::StatusComponents {
                log: part(status.log),
                history: part(status.history),
                dispatchers: status.dispatchers,
                projection_lag: status.projection_lag,
            }),
        }))
    }
}
