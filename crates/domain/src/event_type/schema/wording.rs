//! What is said of a value that does not satisfy a schema: what it must be, never what it is.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value;

use crate::rejection::FieldViolation;

/// Longest value of a schema that is repeated in a message, in bytes.
const SHOWN_BYTES: usize = 100;

/// The violations of `field` that one error stands for. Members that are missing or too many are named themselves.
pub(super) fn violations(field: &str, error: &ValidationError<'_>) -> Vec<FieldViolation> {
    let at = format!("{field}{}", error.instance_path());
    let of_members = |names: &[String], message: &str| {
        names
            .iter()
            .map(|name| {
                let name = name.replace('~', "~0").replace('/', "~1");
                FieldViolation::new(format!("{at}/{name}"), message)
            })
            .collect()
    };
    match error.kind() {
        Kind::Required {
            property: Value::String(name),
        } => of_members(std::slice::from_ref(name), "is required"),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            of_members(unexpected, "is not allowed")
        }
        _ => vec![FieldViolation::new(at, of(error))],
    }
}

/// What the value at an error's path must be.
pub(super) fn of(error: &ValidationError<'_>) -> String {
    let bound = |what: &str, limit: &dyn std::fmt::Display| format!("must be {what} {limit}");
    let count = |least: bool, limit: u64, unit: &str| {
        let plural = if limit == 1 { "" } else { "s" };
        format!(
            "must have at {} {limit} {unit}{plural}",
            if least { "least" } else { "most" }
        )
    };
    match error.kind() {
        Kind::Type { kind } => format!("must be of type {}", types(kind)),
        Kind::Required { property } => format!("must have {}", shown(property, "another member")),
        Kind::Constant { expected_value } => {
            format!("must be {}", shown(expected_value, "the value of `const`"))
        }
        Kind::Enum { options } => format!("must be one of {}", shown(options, "the values of `enum`")),
        Kind::Minimum { limit } => bound("at least", limit),
        Kind::Maximum { limit } => bound("at most", limit),
        Kind::ExclusiveMinimum { limit } => bound("more than", limit),
        Kind::ExclusiveMaximum { limit } => bound("less than", limit),
        Kind::MultipleOf { multiple_of } => bound("a multiple of", multiple_of),
        Kind::MinLength { limit } => count(true, *limit, "character"),
        Kind::MaxLength { limit } => count(false, *limit, "character"),
        Kind::MinItems { limit } => count(true, *limit, "item"),
        Kind::MaxItems { limit } => count(false, *limit, "item"),
        Kind::MinProperties { limit } => count(true, *limit, "member"),
        Kind::MaxProperties { limit } => count(false, *limit, "member"),
        Kind::UniqueItems => "must have no two equal items".into(),
        Kind::Pattern { pattern } => match pattern.len() {
            ..=SHOWN_BYTES => format!("must match `{pattern}`"),
            _ => "must match the schema's `pattern`".into(),
        },
        Kind::Format { format } => format!("must be a valid `{format}`"),
        Kind::FalseSchema => "is not allowed".into(),
        Kind::AnyOf { .. } => "must satisfy one of the schemas of `anyOf`".into(),
        Kind::OneOfNotValid { .. } | Kind::OneOfMultipleValid { .. } => {
            "must satisfy exactly one of the schemas of `oneOf`".into()
        }
        kind => format!("does not satisfy `{}` of the schema", kind.keyword()),
    }
}

/// What is wrong with a part of a schema that cannot be compiled.
pub(super) fn of_schema(error: &ValidationError<'_>) -> String {
    match error.kind() {
        Kind::Format { format } if format == "regex" => {
            "must be a regular expression without look-around and back-references, and not too large".into()
        }
        Kind::Referencing(error) => format!("cannot be resolved: {error}"),
        _ => of(error),
    }
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(single) => single.to_string(),
        TypeKind::Multiple(several) => {
            let names: Vec<_> = several.iter().map(|one| one.to_string()).collect();
            names.join(" or ")
        }
    }
}

/// A value of the schema, or `otherwise` when it is long.
fn shown(value: &Value, otherwise: &str) -> String {
    let text = value.to_string();
    if text.len() <= SHOWN_BYTES {
        text
    } else {
        otherwise.into()
    }
}
