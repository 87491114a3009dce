//! Bodies of event types.

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::event_type::EventTypeDefinition;
use cuitty_webhooks_domain::project::{ProjectSettings, UnknownEventTypes};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::error::AppError;

/// An event type that a project knows.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventType)]
pub(crate) struct EventTypeBody {
    project_id: String,
    #[schema(example = "budget.exceeded")]
    name: String,
    description: String,
    /// JSON Schema 2020-12, as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    schema: Option<Box<RawValue>>,
    /// A payload that satisfies the schema; test events are made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub(crate) example: Option<Box<RawValue>>,
    /// Whether JSON payloads that do not satisfy the schema are refused.
    enforce_schema: bool,
    /// Whether its messages are refused.
    archived: bool,
    /// 1 when created, one more with each change.
    revision: u64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl EventTypeBody {
    /// What is stored is JSON; if it is not, that is a defect.
    pub(crate) fn new(definition: &EventTypeDefinition) -> Result<Self, AppError> {
        let settings = &definition.settings;
        let raw = |text: &Option<String>| {
            let raw = text.clone().map(RawValue::from_string).transpose();
            raw.map_err(AppError::internal)
        };
        Ok(Self {
            project_id: definition.project_id.to_string(),
            name: definition.name.to_string(),
            description: settings.description.clone(),
            schema: raw(&settings.schema)?,
            example: raw(&settings.example)?,
            enforce_schema: settings.enforce_schema,
            archived: definition.is_archived(),
            revision: definition.revision,
            created_at: definition.created_at,
            updated_at: definition.updated_at,
        })
    }
}

/// A page of event types, in order of their names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventTypeList {
    pub(crate) data: Vec<EventTypeBody>,
    /// Pass it as `cursor` for the next page; null on the last one.
    pub(crate) next_cursor: Option<String>,
}

/// A new event type. What is left out or null has its default. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = NewEventType)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "describes what is read member by member, so that JSON keeps its bytes"
)]
pub(super) struct NewEventTypeBody {
    /// May be left out with a key that is bound to one project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "acme")]
    project_id: Option<String>,
    #[schema(
        example = "budget.exceeded",
        pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        max_length = 128
    )]
    name: String,
    /// For people.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// JSON Schema 2020-12, at most 64 KiB. It may refer to itself only.
    schema: Option<Value>,
    /// A payload that satisfies the schema, at most 64 KiB. Test events say what it says.
    example: Option<Value>,
    /// Refuse JSON payloads that do not satisfy the schema.
    #[schema(default = false)]
    enforce_schema: Option<bool>,
}

/// What shall change. What is left out stays as it is; null means the default. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = EventTypePatch)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "describes what is read member by member, so that JSON keeps its bytes"
)]
pub(super) struct EventTypePatchBody {
    /// For people.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// JSON Schema 2020-12, at most 64 KiB. It may refer to itself only.
    schema: Option<Value>,
    /// A payload that satisfies the schema, at most 64 KiB. Test events say what it says.
    example: Option<Value>,
    /// Refuse JSON payloads that do not satisfy the schema.
    enforce_schema: Option<bool>,
    /// Refuse its messages, and endpoints that name it anew.
    archived: Option<bool>,
}

/// What becomes of messages whose event type a project does not know.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventTypePolicy)]
pub(super) struct EventTypePolicyBody {
    project_id: String,
    unknown_event_types: Unknown,
}

/// `accepted`: as any other; `refused`: with the known types that are most like it.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = UnknownEventTypes)]
#[serde(rename_all = "lowercase")]
enum Unknown {
    Accepted,
    Refused,
}

impl EventTypePolicyBody {
    pub(super) fn new(settings: &ProjectSettings) -> Self {
        Self {
            project_id: settings.project_id.to_string(),
            unknown_event_types: match settings.unknown_event_types {
                UnknownEventTypes::Accepted => Unknown::Accepted,
                UnknownEventTypes::Refused => Unknown::Refused,
            },
        }
    }
}

/// What shall become of messages whose event type the project does not know. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = NewEventTypePolicy)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read member by member")]
pub(super) struct NewEventTypePolicyBody {
    /// May be left out with a key that is bound to one project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "acme")]
    project_id: Option<String>,
    unknown_event_types: Unknown,
}
