//! A JSON Schema (draft 2020-12) that payloads of an event type are checked against.
//!
//! Whoever may manage a project gives schemas, and whoever may deliver gives payloads: neither may keep the service busy for
//! long or make it fetch anything. So a schema refers to itself only, its size is bounded in every direction that costs time
//! (see [`outline`]), and its regular expressions run on an engine that is linear in the text.

mod outline;
mod wording;

use std::collections::HashSet;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use self::outline::Outline;
use crate::limits;
use crate::rejection::FieldViolation;

/// Largest compiled form of one regular expression, in bytes.
const PATTERN_BYTES: usize = 256 * 1024;
/// Most violations that one check tells of.
const VIOLATIONS: usize = 16;
/// Most steps of a check that tells where a payload is wrong, which costs more than to tell that it is.
const DETAIL_STEPS: usize = 50_000;

/// A schema, compiled. It may be shared; checking takes no lock.
#[derive(Debug)]
pub struct PayloadSchema {
    schema: Value,
    validator: Validator,
}

impl PayloadSchema {
    /// Compiles the text of a schema. Violations are of `field` and the JSON Pointer into it: `schema/properties/id/type`.
    pub fn compile(field: &str, text: &str) -> Result<Self, Vec<FieldViolation>> {
        let one = |message: String| vec![FieldViolation::new(field, message)];
        if text.len() > limits::SCHEMA_BYTES {
            return Err(one(format!("must be at most {} bytes", limits::SCHEMA_BYTES)));
        }
        let schema: Value =
            serde_json::from_str(text).map_err(|error| one(format!("must be JSON: {error}")))?;
        let metaschema = jsonschema::draft202012::meta::validator();
        let faults = told(metaschema.iter_errors(&schema).map(|error| {
            let at = format!("{field}{}", error.instance_path());
            FieldViolation::new(at, wording::of(&error))
        }));
        if !faults.is_empty() {
            return Err(faults);
        }
        Outline::of(&schema).check(field)?;
        let mut compiled = schema.clone();
        if let Value::Object(root) = &mut compiled {
            // Nothing refers to it: references lead from the root. It could only be taken for a schema known by its name.
            root.remove("$id");
        }
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(patterns)
            .build(&compiled)
            .map_err(|error| {
                let at = format!("{field}{}", error.instance_path());
                vec![FieldViolation::new(at, wording::of_schema(&error))]
            })?;
        Ok(Self { schema, validator })
    }

    /// Checks a payload. There is a violation for each place where it is wrong, named by `field` and the JSON Pointer to it,
    /// such as `payload/order/id`; at most 16, and only one of the whole payload when telling them would take long. They
    /// tell names of members, never values.
    pub fn check(&self, field: &str, payload: &[u8]) -> Result<(), Vec<FieldViolation>> {
        let one = |message: String| vec![FieldViolation::new(field, message)];
        let payload: Value = serde_json::from_slice(payload).map_err(|error| {
            one(format!(
                "cannot be read to be checked against the schema of its event type: {error}"
            ))
        })?;
        if is_deeper(&payload, limits::CHECKED_DEPTH) {
            let depth = limits::CHECKED_DEPTH;
            return Err(one(format!(
                "is nested more than {depth} deep and cannot be checked against the schema of its event type"
            )));
        }
        if self.validator.is_valid(&payload) {
            return Ok(());
        }
        let mut steps = DETAIL_STEPS;
        let mut violations = Vec::new();
        if outline::steps(&self.schema, &self.schema, &payload, &mut steps).is_some() {
            let errors = self.validator.iter_errors(&payload);
            violations = told(errors.flat_map(|error| wording::violations(field, &error)));
        }
        if violations.is_empty() {
            return Err(one("does not satisfy the schema of its event type".into()));
        }
        Err(violations)
    }
}

/// What is told of violations: one for each field, and not too many.
fn told(violations: impl Iterator<Item = FieldViolation>) -> Vec<FieldViolation> {
    let mut seen = HashSet::new();
    violations
        .filter(|violation| seen.insert(violation.field.clone()))
        .take(VIOLATIONS)
        .collect()
}

/// Whether `value` holds others that hold others and so on, more than `depth` times.
fn is_deeper(value: &Value, depth: usize) -> bool {
    let below = |mut values: Box<dyn Iterator<Item = &Value> + '_>| {
        values.any(|value| depth == 0 || is_deeper(value, depth - 1))
    };
    match value {
        Value::Array(items) => below(Box::new(items.iter())),
        Value::Object(members) => below(Box::new(members.values())),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
