//! Reading fields as callers give them, so that all that is wrong is listed at once.

use std::fmt::Display;
use std::str::FromStr;

use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::names::ProjectId;
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};

use crate::auth::Caller;

/// Most faults that are told of one request: no list that a caller sends grows a longer one here.
const FAULTS: usize = 64;

/// Collects what is wrong with the fields of one request.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    found: Vec<FieldViolation>,
    /// How many of them the door had found: nothing more is said of their fields, which could not even be read.
    by_door: usize,
}

impl Violations {
    /// Goes on collecting after the door.
    pub(crate) fn after(mut faults: Vec<FieldViolation>) -> Self {
        faults.truncate(FAULTS);
        Self {
            by_door: faults.len(),
            found: faults,
        }
    }

    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let field = field.into();
        let is_told = |fault: &FieldViolation| fault.field == field;
        if self.found.len() < FAULTS && !self.found[..self.by_door].iter().any(is_told) {
            self.found.push(FieldViolation::new(field, message));
        }
    }

    /// The value of a field that must be given.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse()
            .map_err(|error: T::Err| self.add(field, error.to_string()))
            .ok()
    }

    /// The value of a field that may be empty.
    pub(crate) fn parse_some<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() {
            None
        } else {
            self.parse(field, text)
        }
    }

    /// The project that is meant: the one given, else the one that the key is bound to.
    pub(crate) fn project(&mut self, caller: &Caller, given: &str) -> Option<ProjectId> {
        match &caller.project {
            Some(bound) if given.is_empty() => Some(bound.clone()),
            None if given.is_empty() => {
                self.add(
                    "project_id",
                    "is required with a key that is not bound to a project",
                );
                None
            }
            _ => self.parse("project_id", given),
        }
    }

    /// Checks an idempotency key; it may be empty.
    pub(crate) fn idempotency_key(&mut self, key: &str) {
        if key.len() > limits::IDEMPOTENCY_KEY_BYTES || key.contains(char::is_control) {
            let text = format!(
                "must be at most {} bytes without control characters",
                limits::IDEMPOTENCY_KEY_BYTES
            );
            self.add("idempotency_key", text);
        }
    }

    /// Adds what a rejection says of fields; any other rejection comes back.
    pub(crate) fn absorb<T>(&mut self, result: Result<T, Rejection>) -> Result<Option<T>, Rejection> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Rejection::Invalid(violations)) => {
                for violation in violations {
                    self.add(violation.field, violation.message);
                }
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// What was read, unless anything was wrong.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Rejection> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(Rejection::Invalid(self.found)),
        }
    }
}

/// Refuses a mask of fields that names none, or others than `flag` and the settings.
pub(crate) fn check_mask(fields: &[String], flag: &str, settings: &[&str]) -> Result<(), Rejection> {
    let mut violations = Violations::default();
    if fields.is_empty() {
        violations.add("update_mask", "must name at least one field");
    }
    // Every field may be named, and none needs to be named twice. What is done for each of them is bounded by that.
    let most = settings.len() + 1;
    if fields.len() > most {
        violations.add("update_mask", format!("must name at most {most} fields"));
        return violations.finish(Some(()));
    }
    for field in fields {
        if field != flag && !settings.contains(&field.as_str()) {
            let (field, known) = (field.escape_default(), settings.join(", "));
            let text = format!("has `{field}`; what can be changed is {flag}, {known}");
            violations.add("update_mask", text);
        }
    }
    violations.finish(Some(()))
}

/// Which page of a list is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageInput {
    /// 1 to 200; `None` means 50.
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before; empty for the first page.
    pub(crate) cursor: String,
    /// What the door has found wrong with the whole question already.
    pub(crate) faults: Vec<FieldViolation>,
}

impl PageInput {
    /// Items on the page.
    pub(crate) fn limit(&self, violations: &mut Violations) -> u32 {
        let limit = self.limit.unwrap_or(limits::DEFAULT_PAGE_SIZE);
        if !(1..=limits::PAGE_SIZE).contains(&limit) {
            violations.add("limit", format!("must be 1 to {}", limits::PAGE_SIZE));
        }
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::caller;

    fn fields(rejection: Rejection) -> Vec<String> {
        match rejection {
            Rejection::Invalid(violations) => {
                violations.into_iter().map(|violation| violation.field).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn project_may_be_left_out_only_with_a_bound_key() {
        let read = |project: Option<&str>, given: &str| {
            let mut violations = Violations::default();
            let project = violations.project(&caller(project), given);
            violations.finish(project).map(|project| project.to_string())
        };
        assert_eq!(read(Some("acme"), "").as_deref(), Ok("acme"));
        assert_eq!(read(Some("acme"), "other").as_deref(), Ok("other"));
        assert_eq!(read(None, "acme").as_deref(), Ok("acme"));
        assert_eq!(fields(read(None, "").unwrap_err()), ["project_id"]);
        assert_eq!(fields(read(None, "a b").unwrap_err()), ["project_id"]);
    }

    #[test]
    fn everything_wrong_is_listed() {
        let mut violations = Violations::default();
        let project = violations.project(&caller(None), "");
        PageInput {
            limit: Some(201),
            ..PageInput::default()
        }
        .limit(&mut violations);
        let none: Option<u64> = violations.parse("cursor", "x");
        assert_eq!(none, None);
        assert_eq!(
            fields(violations.finish(project).unwrap_err()),
            ["project_id", "limit", "cursor"]
        );
    }

    #[test]
    fn what_the_door_could_not_read_is_told_once() {
        let mut violations = Violations::after(vec![FieldViolation::new("url", "must be a string")]);
        violations.add("url", "must be a URL");
        violations.add("timeout_ms", "must be 1000 to 60000");
        let absorbed = violations.absorb::<()>(Err(Rejection::field("url", "is empty")));
        assert_eq!(absorbed, Ok(None));
        assert_eq!(
            violations.finish(Some(())).unwrap_err(),
            Rejection::Invalid(vec![
                FieldViolation::new("url", "must be a string"),
                FieldViolation::new("timeout_ms", "must be 1000 to 60000"),
            ])
        );
    }

    #[test]
    fn faults_are_bounded() {
        let fault = |n: usize| FieldViolation::new(format!("items[{n}]"), "is wrong");
        let by_door = Violations::after((0..FAULTS * 2).map(fault).collect());
        assert_eq!(fields(by_door.finish(Some(())).unwrap_err()).len(), FAULTS);
        let mut violations = Violations::default();
        for n in 0..FAULTS * 2 {
            violations.add(format!("items[{n}]"), "is wrong");
        }
        assert_eq!(fields(violations.finish(Some(())).unwrap_err()).len(), FAULTS);
    }

    #[test]
    fn page_sizes_are_bounded() {
        let limit = |limit: Option<u32>| {
            let mut violations = Violations::default();
            let limit = PageInput {
                limit,
                ..PageInput::default()
            }
            .limit(&mut violations);
            violations.finish(Some(limit))
        };
        assert_eq!(limit(None), Ok(50));
        assert_eq!(limit(Some(1)), Ok(1));
        assert_eq!(limit(Some(200)), Ok(200));
        for refused in [0, 201, u32::MAX] {
            assert_eq!(fields(limit(Some(refused)).unwrap_err()), ["limit"]);
        }
    }
}
