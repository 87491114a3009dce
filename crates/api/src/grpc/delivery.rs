//! `DeliveryService`.

use std::pin::Pin;

use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::delivery_service_server::DeliveryService;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Door, caller_of, convert};
use crate::app::DeliveryQuery;
use crate::error::AppError;

#[tonic::async_trait]
impl DeliveryService for Door {
    type WatchDeliveriesStream = Pin<Box<dyn Stream<Item = Result<v1::DeliveryEvent, Status>> + Send>>;

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::DeliveryDetail>, Status> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let id = convert::id("delivery_id", &request.delivery_id).map_err(AppError::from)?;
        let detail = self
            .app
            .get_delivery(&caller, id, request.min_log_sequence)
            .await?;
        let checks = if request.verify {
            self.app.check_signatures(&detail)
        } else {
            Vec::new()
        };
        Ok(Response::new(convert::delivery_detail(&detail, &checks)))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let caller = caller_of(&request)?;
        let query = read_query(request.into_inner()).map_err(AppError::from)?;
        let page = self.app.list_deliveries(&caller, query).await?;
        Ok(Response::new(v1::ListDeliveriesResponse {
            deliveries: page.deliveries.iter().map(convert::delivery).collect(),
            next_cursor: page.next.map(|cursor| cursor.to_string()).unwrap_or_default(),
        }))
    }

    async fn watch_deliveries(
        &self,
        request: Request<v1::WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        let caller = caller_of(&request)?;
        let request = request.get_ref();
        let events = self
            .app
            .watch_deliveries(&caller, &request.project_id, &request.endpoint_id)
            .await?;
        let shown = events.filter_map(|event| async move {
            match event {
                Ok(watched) => convert::delivery_event(&watched).map(Ok),
                Err(error) => Some(Err(error.to_status())),
            }
        });
        Ok(Response::new(Box::pin(shown)))
    }

    async fn replay_delivery(
        &self,
        _request: Request<v1::ReplayDeliveryRequest>,
    ) -> Result<Response<v1::Delivery>, Status> {
        Err(AppError::NotImplemented("ReplayDelivery").into())
    }

    async fn start_replay(
        &self,
        _request: Request<v1::StartReplayRequest>,
    ) -> Result<Response<v1::Replay>, Status> {
        Err(AppError::NotImplemented("StartReplay").into())
    }

    async fn get_replay(
        &self,
        _request: Request<v1::GetReplayRequest>,
    ) -> Result<Response<v1::Replay>, Status> {
        Err(AppError::NotImplemented("GetReplay").into())
    }

    async fn cancel_replay(
        &self,
        _request: Request<v1::CancelReplayRequest>,
    ) -> Result<Response<v1::Replay>, Status> {
        Err(AppError::NotImplemented("CancelReplay").into())
    }

    async fn cancel_delivery(
        &self,
        request: Request<v1::CancelDeliveryRequest>,
    ) -> Result<Response<v1::Delivery>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("delivery_id", &request.get_ref().delivery_id).map_err(AppError::from)?;
        let cancelled = self.app.cancel_delivery(&caller, id).await?;
        Ok(Response::new(convert::delivery(&cancelled)))
    }
}

fn read_query(request: v1::ListDeliveriesRequest) -> Result<DeliveryQuery, Rejection> {
    Ok(DeliveryQuery {
        status: convert::read_status(request.status)?,
        since: convert::time("since", request.since)?,
        until: convert::time("until", request.until)?,
        project_id: request.project_id,
        endpoint_id: request.endpoint_id,
        event_type: request.event_type,
        page: convert::page(request.page),
        min_log_sequence: request.min_log_sequence,
    })
}
