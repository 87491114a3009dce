//! `DeliveryService`.

use std::pin::Pin;

use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::delivery_service_server::DeliveryService;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::message::idempotency_key;
use super::{Door, caller_of, convert};
use crate::app::{DeliveryQuery, NewReplay, Started};
use crate::error::AppError;
use crate::trace_context::traceparent;

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
        request: Request<v1::ReplayDeliveryRequest>,
    ) -> Result<Response<v1::Delivery>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, request) = request.into_parts();
        let id = convert::id("delivery_id", &request.delivery_id).map_err(AppError::from)?;
        let key = idempotency_key(&metadata, request.idempotency_key)?;
        let delivery = self
            .app
            .replay_delivery(&caller, id, key, traceparent(metadata.as_ref()))
            .await?;
        Ok(Response::new(convert::delivery(&delivery.value)))
    }

    async fn start_replay(
        &self,
        request: Request<v1::StartReplayRequest>,
    ) -> Result<Response<v1::Replay>, Status> {
        let caller = caller_of(&request)?;
        let (metadata, _, request) = request.into_parts();
        let key = idempotency_key(&metadata, request.idempotency_key.clone())?;
        let new = read_replay(request, key).map_err(AppError::from)?;
        Ok(Response::new(
            match self.app.start_replay(&caller, new).await?.value {
                Started::Replay(replay) => convert::replay(&replay),
                Started::DryRun { project_id, total } => v1::Replay {
                    state: "dry_run".to_owned(),
                    total,
                    project_id: project_id.to_string(),
                    ..v1::Replay::default()
                },
            },
        ))
    }

    async fn get_replay(
        &self,
        request: Request<v1::GetReplayRequest>,
    ) -> Result<Response<v1::Replay>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("replay_id", &request.get_ref().replay_id).map_err(AppError::from)?;
        let replay = self.app.get_replay(&caller, id).await?;
        Ok(Response::new(convert::replay(&replay)))
    }

    async fn cancel_replay(
        &self,
        request: Request<v1::CancelReplayRequest>,
    ) -> Result<Response<v1::Replay>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("replay_id", &request.get_ref().replay_id).map_err(AppError::from)?;
        let key = idempotency_key(request.metadata(), String::new())?;
        let replay = self.app.cancel_replay(&caller, id, key).await?;
        Ok(Response::new(convert::replay(&replay.value)))
    }

    async fn cancel_delivery(
        &self,
        request: Request<v1::CancelDeliveryRequest>,
    ) -> Result<Response<v1::Delivery>, Status> {
        let caller = caller_of(&request)?;
        let id = convert::id("delivery_id", &request.get_ref().delivery_id).map_err(AppError::from)?;
        let key = idempotency_key(request.metadata(), String::new())?;
        let cancelled = self.app.cancel_delivery(&caller, id, key).await?;
        Ok(Response::new(convert::delivery(&cancelled.value)))
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

fn read_replay(request: v1::StartReplayRequest, idempotency_key: String) -> Result<NewReplay, Rejection> {
    Ok(NewReplay {
        status: convert::read_status(request.status)?,
        since: convert::time("since", request.since)?,
        until: convert::time("until", request.until)?,
        project_id: request.project_id,
        endpoint_id: request.endpoint_id,
        failure_reasons: request.failure_reasons,
        event_type: request.event_type,
        since_disabled: request.since_disabled,
        include_unmatched: request.include_unmatched,
        rate_per_second: request.rate_per_second,
        dry_run: request.dry_run,
        idempotency_key,
        faults: Vec::new(),
    })
}
