//! What is said of an event type as a caller gives it, and what makes it valid.

use super::{EventTypeSettings, PayloadSchema};
use crate::limits;
use crate::rejection::{FieldViolation, Rejection};

/// Fields of [`EventTypeDraft`] that an update may name.
pub const SETTING_FIELDS: [&str; 4] = ["description", "schema", "example", "enforce_schema"];

/// Settings that have not been checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventTypeDraft {
    /// For people.
    pub description: String,
    /// A JSON Schema; empty means none.
    pub schema: String,
    /// A payload; empty means none.
    pub example: String,
    /// Refuse payloads that do not satisfy the schema.
    pub enforce_schema: bool,
}

impl From<&EventTypeSettings> for EventTypeDraft {
    fn from(settings: &EventTypeSettings) -> Self {
        Self {
            description: settings.description.clone(),
            schema: settings.schema.clone().unwrap_or_default(),
            example: settings.example.clone().unwrap_or_default(),
            enforce_schema: settings.enforce_schema,
        }
    }
}

impl EventTypeDraft {
    /// Checks every field; all that is wrong is listed at once.
    pub fn validate(self) -> Result<EventTypeSettings, Rejection> {
        let mut violations = Vec::new();
        let mut refuse = |field: &str, message: String| violations.push(FieldViolation::new(field, message));
        if self.description.len() > limits::DESCRIPTION_BYTES {
            let text = format!("must be at most {} bytes", limits::DESCRIPTION_BYTES);
            refuse("description", text);
        }
        if self.enforce_schema && self.schema.is_empty() {
            refuse("enforce_schema", "needs a schema".into());
        }
        let schema = Some(self.schema).filter(|schema| !schema.is_empty());
        let compiled = match schema
            .as_deref()
            .map(|text| PayloadSchema::compile("schema", text))
        {
            Some(Ok(compiled)) => Some(compiled),
            Some(Err(faults)) => {
                violations.extend(faults);
                None
            }
            None => None,
        };
        let example = Some(self.example).filter(|example| !example.is_empty());
        if let Some(example) = &example {
            violations.extend(check_example(example, compiled.as_ref()));
        }
        if !violations.is_empty() {
            return Err(Rejection::Invalid(violations));
        }
        Ok(EventTypeSettings {
            description: self.description,
            schema,
            example,
            enforce_schema: self.enforce_schema,
        })
    }
}

/// An example is JSON, and as the schema says, whether or not that is enforced.
fn check_example(example: &str, schema: Option<&PayloadSchema>) -> Vec<FieldViolation> {
    const FIELD: &str = "example";
    if example.len() > limits::EXAMPLE_BYTES {
        let text = format!("must be at most {} bytes", limits::EXAMPLE_BYTES);
        return vec![FieldViolation::new(FIELD, text)];
    }
    // What is JSON by its grammar alone, such as 1e999, many a reader of it could not show.
    if let Err(error) = serde_json::from_str::<serde_json::Value>(example) {
        return vec![FieldViolation::new(FIELD, format!("must be JSON: {error}"))];
    }
    schema
        .and_then(|schema| schema.check(FIELD, example.as_bytes()).err())
        .unwrap_or_default()
}
