//! What is known of event types, held against messages and subscriptions.

use std::sync::Arc;

use cuitty_webhooks_domain::event_type::nearest;
use cuitty_webhooks_domain::names::{EventType, EventTypePattern, ProjectId};
use cuitty_webhooks_domain::project::UnknownEventTypes;
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};
use cuitty_webhooks_log::EventTypeEntry;

use crate::app::App;
use crate::app::deliver::Message;
use crate::error::AppError;

/// Longest payload that is checked at once, in bytes. Longer ones do not hold up what else runs here.
const CHECKED_AT_ONCE: usize = 4 * 1024;

impl App {
    /// Refuses patterns that name an archived event type, unless they are `known` already.
    pub(in crate::app) fn vet_subscriptions(
        &self,
        project_id: &ProjectId,
        patterns: &[EventTypePattern],
        known: &[EventTypePattern],
    ) -> Result<(), Rejection> {
        let is_archived = |pattern: &EventTypePattern| {
            let name: Option<EventType> = pattern.as_str().parse().ok();
            name.and_then(|name| self.event_types.find(project_id, &name).ok())
                .is_some_and(|entry| entry.definition.is_archived())
        };
        let violations: Vec<_> = (patterns.iter().enumerate())
            .filter(|(_, pattern)| !known.contains(pattern) && is_archived(pattern))
            .map(|(index, _)| {
                let message = "names an archived event type, of which there are no messages any more";
                FieldViolation::new(format!("event_types[{index}]"), message)
            })
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Invalid(violations))
        }
    }

    /// Refuses a message whose event type is archived, or unknown where that is refused, or whose payload is not as its
    /// schema says. A message that repeats one which was accepted under its key is not looked at again.
    pub(in crate::app) async fn vet_message(&self, message: Message) -> Result<Message, AppError> {
        let refusal = match self.event_types.find(&message.project_id, &message.event_type) {
            Err(UnknownEventTypes::Accepted) => return Ok(message),
            Err(UnknownEventTypes::Refused) => self.unknown_event_type(&message),
            Ok(entry) if entry.definition.is_archived() => {
                AppError::EventTypeArchived(message.event_type.clone())
            }
            Ok(entry) => match check_payload(entry, &message).await? {
                Ok(()) => return Ok(message),
                Err(violations) => Rejection::Invalid(violations).into(),
            },
        };
        if self.is_repeated(&message).await? {
            Ok(message)
        } else {
            Err(refusal)
        }
    }

    fn unknown_event_type(&self, message: &Message) -> AppError {
        let known = self.event_types.list(&message.project_id, None);
        let in_use = known
            .iter()
            .map(|entry| &entry.definition)
            .filter(|definition| !definition.is_archived());
        let nearest = nearest(&message.event_type, in_use.map(|definition| &definition.name));
        AppError::EventTypeUnknown {
            nearest: nearest.into_iter().cloned().collect(),
        }
    }

    /// A test message that says what the example of its event type says, if there is one.
    pub(in crate::app) fn with_example(&self, mut message: Message) -> Message {
        let known = self.event_types.find(&message.project_id, &message.event_type);
        let example = known
            .ok()
            .and_then(|entry| entry.definition.settings.example.clone());
        message.example = example.map(Into::into);
        message
    }
}

/// Checks a JSON payload against the schema that is enforced, if one is.
async fn check_payload(
    entry: Arc<EventTypeEntry>,
    message: &Message,
) -> Result<Result<(), Vec<FieldViolation>>, AppError> {
    if entry.enforced.is_none() || !message.is_json() {
        return Ok(Ok(()));
    }
    let payload = message.payload.clone();
    let is_short = payload.len() <= CHECKED_AT_ONCE;
    let check = move || match &entry.enforced {
        Some(schema) => schema.check("payload", &payload),
        None => Ok(()),
    };
    if is_short {
        return Ok(check());
    }
    tokio::task::spawn_blocking(check)
        .await
        .map_err(AppError::internal)
}
