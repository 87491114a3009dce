//! `EventTypeService`: declared, not available yet.

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::event_type_service_server::EventTypeService;
use tonic::{Request, Response, Status};

use super::Door;
use crate::error::AppError;

#[tonic::async_trait]
impl EventTypeService for Door {
    async fn create_event_type(
        &self,
        _request: Request<v1::CreateEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        Err(AppError::NotImplemented("CreateEventType").into())
    }

    async fn get_event_type(
        &self,
        _request: Request<v1::GetEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        Err(AppError::NotImplemented("GetEventType").into())
    }

    async fn list_event_types(
        &self,
        _request: Request<v1::ListEventTypesRequest>,
    ) -> Result<Response<v1::ListEventTypesResponse>, Status> {
        Err(AppError::NotImplemented("ListEventTypes").into())
    }

    async fn update_event_type(
        &self,
        _request: Request<v1::UpdateEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        Err(AppError::NotImplemented("UpdateEventType").into())
    }

    async fn archive_event_type(
        &self,
        _request: Request<v1::ArchiveEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        Err(AppError::NotImplemented("ArchiveEventType").into())
    }
}
