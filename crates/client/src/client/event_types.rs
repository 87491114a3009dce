//! Event types.

use cuitty_webhooks_proto::v1;

use super::{Client, Repeat, call};
use crate::error::ClientError;

impl Client {
    /// Creates an event type. Not repeated: the second time it would exist.
    pub async fn create_event_type(&self, event_type: v1::EventType) -> Result<v1::EventType, ClientError> {
        let request = v1::CreateEventTypeRequest {
            event_type: Some(event_type),
        };
        call!(self.event_types.create_event_type(request), Repeat::Never)
    }

    /// The event type of this name; `project_id` may be empty with a key that is bound to one.
    pub async fn get_event_type(&self, project_id: &str, name: &str) -> Result<v1::EventType, ClientError> {
        let request = v1::GetEventTypeRequest {
            project_id: project_id.into(),
            name: name.into(),
        };
        call!(self.event_types.get_event_type(request), Repeat::Freely)
    }

    /// A page of a project's event types, in order of their names.
    pub async fn list_event_types(
        &self,
        request: v1::ListEventTypesRequest,
    ) -> Result<v1::ListEventTypesResponse, ClientError> {
        call!(self.event_types.list_event_types(request), Repeat::Freely)
    }

    /// Changes the fields of `event_type` that `fields` names.
    pub async fn update_event_type(
        &self,
        event_type: v1::EventType,
        fields: &[&str],
    ) -> Result<v1::EventType, ClientError> {
        let request = v1::UpdateEventTypeRequest {
            event_type: Some(event_type),
            update_mask: Some(super::mask(fields)),
            expected_revision: 0,
        };
        call!(self.event_types.update_event_type(request), Repeat::Freely)
    }

    /// Archives an event type: messages of it are refused from then on.
    pub async fn archive_event_type(
        &self,
        project_id: &str,
        name: &str,
    ) -> Result<v1::EventType, ClientError> {
        let request = v1::ArchiveEventTypeRequest {
            project_id: project_id.into(),
            name: name.into(),
        };
        call!(self.event_types.archive_event_type(request), Repeat::Freely)
    }

    /// What becomes of messages whose event type a project does not know.
    pub async fn event_type_policy(&self, project_id: &str) -> Result<v1::EventTypePolicy, ClientError> {
        let request = v1::GetEventTypePolicyRequest {
            project_id: project_id.into(),
        };
        call!(self.event_types.get_event_type_policy(request), Repeat::Freely)
    }

    /// Says what becomes of them.
    pub async fn set_event_type_policy(
        &self,
        request: v1::SetEventTypePolicyRequest,
    ) -> Result<v1::EventTypePolicy, ClientError> {
        call!(self.event_types.set_event_type_policy(request), Repeat::Freely)
    }
}
