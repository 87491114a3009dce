//! What shall change about an event type, field by field.

use cuitty_webhooks_domain::event_type::{
    self, EventTypeCommand, EventTypeDefinition, EventTypeDraft, EventTypeSettings, SETTING_FIELDS,
};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection, Resource};

use super::validate;
use crate::app::Terms;
use crate::app::input::{Violations, check_mask};
use crate::error::AppError;

/// What shall change about an event type.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventTypeUpdate {
    /// Holds the new values of `fields`.
    pub(crate) draft: EventTypeDraft,
    /// New value of `archived`, if that is in `fields`.
    pub(crate) archived: bool,
    /// Names of the fields to change.
    pub(crate) fields: Vec<String>,
    /// Whether no field at all may be named.
    pub(crate) may_be_empty: bool,
    /// Refuse unless the event type is still at this revision.
    pub(crate) expected_revision: Option<u64>,
    /// What the door has found wrong already.
    pub(crate) faults: Vec<FieldViolation>,
}

impl EventTypeUpdate {
    /// The settings of `definition` with the named fields replaced, unchecked.
    fn apply(&self, definition: &EventTypeDefinition) -> EventTypeDraft {
        let mut draft = EventTypeDraft::from(&definition.settings);
        for field in &self.fields {
            match field.as_str() {
                "description" => draft.description.clone_from(&self.draft.description),
                "schema" => draft.schema.clone_from(&self.draft.schema),
                "example" => draft.example.clone_from(&self.draft.example),
                "enforce_schema" => draft.enforce_schema = self.draft.enforce_schema,
                _ => {}
            }
        }
        draft
    }

    fn changes_settings(&self) -> bool {
        self.fields.iter().any(|field| field != "archived")
    }

    /// Everything that is wrong with it as an update of `definition`.
    pub(super) async fn check(
        &self,
        definition: &EventTypeDefinition,
        terms: &Terms,
    ) -> Result<(), AppError> {
        let mut violations = Violations::after(self.faults.clone());
        let settings = if self.changes_settings() {
            violations.absorb(validate(self.apply(definition)).await?)?
        } else {
            None
        };
        violations.finish(Some(()))?;
        terms.check_revision(Resource::EventType, &definition.name, definition.revision)?;
        let settings = settings.unwrap_or_else(|| definition.settings.clone());
        event_type::decide(definition, self.command_to(settings))?;
        Ok(())
    }

    /// What to do about `definition`. Settings that are not named are not checked again, so that a stored schema which this
    /// version would not take can still be archived.
    pub(super) async fn command(
        &self,
        definition: &EventTypeDefinition,
    ) -> Result<EventTypeCommand, AppError> {
        let settings = if self.changes_settings() {
            validate(self.apply(definition)).await??
        } else {
            definition.settings.clone()
        };
        Ok(self.command_to(settings))
    }

    /// The command that leads to these settings.
    fn command_to(&self, settings: EventTypeSettings) -> EventTypeCommand {
        let archived = self.fields.iter().any(|field| field == "archived");
        EventTypeCommand::Update {
            settings: Box::new(settings),
            archived: archived.then_some(self.archived),
            expected_revision: self.expected_revision,
        }
    }
}

/// Refuses names of fields that cannot be changed.
pub(super) fn check_fields(fields: &[String]) -> Result<(), Rejection> {
    check_mask(fields, "archived", &SETTING_FIELDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mask_names_more_than_there_is() {
        let named = |count: usize| check_fields(&vec!["schema".to_owned(); count]);
        assert_eq!(named(SETTING_FIELDS.len() + 1), Ok(()));
        let Err(Rejection::Invalid(violations)) = named(SETTING_FIELDS.len() + 2) else {
            panic!("a longer one is refused");
        };
        assert_eq!(violations.len(), 1);
    }
}
