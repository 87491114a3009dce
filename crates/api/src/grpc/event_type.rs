//! `EventTypeService`.

use cuitty_webhooks_domain::event_type::{EventTypeDefinition, EventTypeDraft};
use cuitty_webhooks_domain::project::{ProjectSettings, UnknownEventTypes};
use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::event_type_service_server::EventTypeService;
use tonic::{Request, Response, Status};

use super::endpoint::terms;
use super::message::idempotency_key;
use super::{Door, caller_of, convert};
use crate::app::{EventTypeName, EventTypeUpdate, NewEventType, NewEventTypePolicy};

#[tonic::async_trait]
impl EventTypeService for Door {
    async fn create_event_type(
        &self,
        request: Request<v1::CreateEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        let caller = caller_of(&request)?;
        let key = idempotency_key(request.metadata(), String::new())?;
        let new = request.into_inner().event_type.unwrap_or_default();
        let new = NewEventType {
            project_id: new.project_id.clone(),
            name: new.name.clone(),
            draft: draft(new),
            faults: Vec::new(),
        };
        let created = self.app.create_event_type(&caller, new, key).await?;
        Ok(Response::new(shown(&created.value)))
    }

    async fn get_event_type(
        &self,
        request: Request<v1::GetEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        let caller = caller_of(&request)?;
        let v1::GetEventTypeRequest { project_id, name } = request.into_inner();
        let which = named(project_id, name);
        let entry = self.app.get_event_type(&caller, which).await?;
        Ok(Response::new(shown(&entry.definition)))
    }

    async fn list_event_types(
        &self,
        request: Request<v1::ListEventTypesRequest>,
    ) -> Result<Response<v1::ListEventTypesResponse>, Status> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let page = convert::page(request.page);
        let (entries, next) = self
            .app
            .list_event_types(&caller, &request.project_id, &page, request.include_archived)
            .await?;
        Ok(Response::new(v1::ListEventTypesResponse {
            event_types: entries.iter().map(|entry| shown(&entry.definition)).collect(),
            next_cursor: next.unwrap_or_default(),
        }))
    }

    async fn update_event_type(
        &self,
        request: Request<v1::UpdateEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        let caller = caller_of(&request)?;
        let terms = terms(request.metadata())?;
        let request = request.into_inner();
        let new = request.event_type.unwrap_or_default();
        let which = named(new.project_id.clone(), new.name.clone());
        let update = EventTypeUpdate {
            archived: new.archived,
            draft: draft(new),
            fields: request.update_mask.unwrap_or_default().paths,
            expected_revision: Some(request.expected_revision).filter(|&revision| revision > 0),
            ..EventTypeUpdate::default()
        };
        let updated = self.app.update_event_type(&caller, which, update, terms).await?;
        Ok(Response::new(shown(&updated.value)))
    }

    async fn archive_event_type(
        &self,
        request: Request<v1::ArchiveEventTypeRequest>,
    ) -> Result<Response<v1::EventType>, Status> {
        let caller = caller_of(&request)?;
        let terms = terms(request.metadata())?;
        let v1::ArchiveEventTypeRequest { project_id, name } = request.into_inner();
        let which = named(project_id, name);
        let archived = self.app.archive_event_type(&caller, which, terms).await?;
        Ok(Response::new(shown(&archived.value)))
    }

    async fn get_event_type_policy(
        &self,
        request: Request<v1::GetEventTypePolicyRequest>,
    ) -> Result<Response<v1::EventTypePolicy>, Status> {
        let caller = caller_of(&request)?;
        let settings = self
            .app
            .event_type_policy(&caller, &request.get_ref().project_id, Vec::new())
            .await?;
        Ok(Response::new(policy(&settings)))
    }

    async fn set_event_type_policy(
        &self,
        request: Request<v1::SetEventTypePolicyRequest>,
    ) -> Result<Response<v1::EventTypePolicy>, Status> {
        let caller = caller_of(&request)?;
        let key = idempotency_key(request.metadata(), String::new())?;
        let request = request.into_inner();
        let new = NewEventTypePolicy {
            unknown_event_types: match request.unknown_event_types() {
                v1::UnknownEventTypes::Unspecified => None,
                v1::UnknownEventTypes::Accepted => Some(UnknownEventTypes::Accepted),
                v1::UnknownEventTypes::Refused => Some(UnknownEventTypes::Refused),
            },
            project_id: request.project_id,
            faults: Vec::new(),
        };
        let settings = self.app.set_event_type_policy(&caller, new, key).await?;
        Ok(Response::new(policy(&settings.value)))
    }
}

fn named(project_id: String, name: String) -> EventTypeName {
    EventTypeName {
        project_id,
        name,
        faults: Vec::new(),
    }
}

fn draft(new: v1::EventType) -> EventTypeDraft {
    EventTypeDraft {
        description: new.description,
        schema: new.schema,
        example: new.example,
        enforce_schema: new.enforce_schema,
    }
}

fn shown(definition: &EventTypeDefinition) -> v1::EventType {
    let settings = &definition.settings;
    v1::EventType {
        project_id: definition.project_id.to_string(),
        name: definition.name.to_string(),
        description: settings.description.clone(),
        schema: settings.schema.clone().unwrap_or_default(),
        example: settings.example.clone().unwrap_or_default(),
        archived: definition.is_archived(),
        enforce_schema: settings.enforce_schema,
        revision: definition.revision,
        created_at: Some(convert::timestamp(definition.created_at)),
        updated_at: Some(convert::timestamp(definition.updated_at)),
    }
}

fn policy(settings: &ProjectSettings) -> v1::EventTypePolicy {
    let unknown = match settings.unknown_event_types {
        UnknownEventTypes::Accepted => v1::UnknownEventTypes::Accepted,
        UnknownEventTypes::Refused => v1::UnknownEventTypes::Refused,
    };
    v1::EventTypePolicy {
        project_id: settings.project_id.to_string(),
        unknown_event_types: unknown.into(),
    }
}
