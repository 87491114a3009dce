//! What shall change about an endpoint, field by field.

use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::endpoint::{
    Endpoint, EndpointCommand, EndpointDraft, EndpointSettings, SETTING_FIELDS,
};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};

use crate::app::input::check_mask;
use crate::error::AppError;

/// What shall change about an endpoint.
#[derive(Debug, Default)]
pub(crate) struct EndpointUpdate {
    /// Holds the new values of `fields`.
    pub(crate) draft: EndpointDraft,
    /// New value of `active`, if that is in `fields`.
    pub(crate) active: bool,
    /// Names of the fields to change.
    pub(crate) fields: Vec<String>,
    /// Whether no field at all may be named.
    pub(crate) may_be_empty: bool,
    /// Refuse unless the endpoint is still at this revision.
    pub(crate) expected_revision: Option<u64>,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

impl EndpointUpdate {
    pub(super) fn names(&self, field: &str) -> bool {
        self.fields.iter().any(|named| named == field)
    }

    pub(super) fn changes_settings(&self) -> bool {
        self.fields.iter().any(|field| field != "active")
    }

    /// The settings of `endpoint` with the named fields replaced, unchecked.
    fn apply(&self, endpoint: &Endpoint) -> EndpointDraft {
        let mut draft = EndpointDraft::from(&endpoint.settings);
        let new = self.draft.clone();
        for field in &self.fields {
            match field.as_str() {
                "kind" => draft.kind = new.kind,
                "url" => draft.url.clone_from(&new.url),
                "event_types" => draft.event_types.clone_from(&new.event_types),
                "description" => draft.description.clone_from(&new.description),
                "headers" => draft.headers.clone_from(&new.headers),
                "signature_header" => draft.signature_header.clone_from(&new.signature_header),
                "timeout_ms" => draft.timeout_ms = new.timeout_ms,
                "max_in_flight" => draft.max_in_flight = new.max_in_flight,
                "rate_limit_per_second" => draft.rate_limit_per_second = new.rate_limit_per_second,
                "ordered" => draft.ordered = new.ordered,
                "retry_schedule_seconds" => draft
                    .retry_schedule_seconds
                    .clone_from(&new.retry_schedule_seconds),
                "envelope" => draft.envelope = new.envelope,
                _ => {}
            }
        }
        draft
    }

    /// The settings of `endpoint` after the update.
    pub(super) fn settings(
        &self,
        endpoint: &Endpoint,
        policy: &EgressPolicy,
    ) -> Result<EndpointSettings, Rejection> {
        self.apply(endpoint).validate(policy, Some(&endpoint.project_id))
    }

    /// What to do about `endpoint`. Settings that are not named are not checked again, so that an endpoint which the policy
    /// no longer allows can still be switched off.
    pub(super) fn command(
        &self,
        endpoint: &Endpoint,
        policy: &EgressPolicy,
    ) -> Result<EndpointCommand, AppError> {
        let settings = if self.changes_settings() {
            self.settings(endpoint, policy)?
        } else {
            endpoint.settings.clone()
        };
        Ok(self.command_to(settings))
    }

    /// The command that leads to these settings.
    pub(super) fn command_to(&self, settings: EndpointSettings) -> EndpointCommand {
        EndpointCommand::Update {
            settings: Box::new(settings),
            active: self.names("active").then_some(self.active),
            expected_revision: self.expected_revision,
        }
    }
}

/// Refuses names of fields that cannot be changed.
pub(super) fn check_fields(fields: &[String]) -> Result<(), Rejection> {
    check_mask(fields, "active", &SETTING_FIELDS)
}

#[cfg(test)]
mod tests;
