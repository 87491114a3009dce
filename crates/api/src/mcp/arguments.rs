//! Reading a tool's arguments: everything that is wrong with them is named at once.

use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};
use rmcp::model::JsonObject;
use serde::de::DeserializeOwned;

use crate::app::{PageInput, Terms};
use crate::error::AppError;
use crate::rest::body::snake_case;
use crate::rest::terms::PathParameter;

/// The arguments of one call. Names may be given in `camelCase` too; null is as good as nothing.
#[derive(Debug)]
pub(super) struct Arguments {
    members: JsonObject,
    pub(super) faults: Vec<FieldViolation>,
}

impl Arguments {
    pub(super) fn new(given: JsonObject) -> Self {
        let mut read = Self {
            members: JsonObject::new(),
            faults: Vec::new(),
        };
        for (name, value) in given {
            let name = snake_case(&name);
            if read.members.contains_key(&name) {
                read.fault(&name, "is given twice");
            } else {
                read.members.insert(name, value);
            }
        }
        read
    }

    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push(FieldViolation::new(field, message));
    }

    /// The argument's value; `None` when it is missing, null, or not `expected`, which is a fault.
    pub(super) fn value<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Option<T> {
        let value = self.members.remove(name)?;
        serde_json::from_value::<Option<T>>(value).unwrap_or_else(|_| {
            self.fault(name, format!("must be {expected}"));
            None
        })
    }

    /// The argument's text; empty when it is missing.
    pub(super) fn text(&mut self, name: &str) -> String {
        self.value(name, "a string").unwrap_or_default()
    }

    /// The argument's text; empty when it is missing. One that is given and empty is a fault: left out, it may mean everything.
    pub(super) fn name(&mut self, name: &str) -> String {
        let text = self.value::<String>(name, "a string");
        if text.as_deref() == Some("") {
            self.fault(name, "must be left out or not empty");
        }
        text.unwrap_or_default()
    }

    /// A text that must be given.
    pub(super) fn required(&mut self, name: &str) -> String {
        let faults = self.faults.len();
        let text = self.text(name);
        if text.is_empty() && self.faults.len() == faults {
            self.fault(name, "is required");
        }
        text
    }

    /// The id of what the call is about.
    pub(super) fn id<T: PathParameter>(&mut self) -> Option<T> {
        let text = self.required(T::FIELD);
        if text.is_empty() {
            return None;
        }
        text.parse()
            .map_err(|error| self.fault(T::FIELD, format!("{error}")))
            .ok()
    }

    /// A text that `read` understands.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.value::<String>(name, expected)?;
        let value = read(&text);
        if value.is_none() {
            self.fault(name, format!("must be {expected}"));
        }
        value
    }

    /// On what terms a change is asked for.
    pub(super) fn terms(&mut self) -> Terms {
        Terms {
            idempotency_key: self.text("idempotency_key"),
            revisions: self
                .value::<u64>("revision", "a whole number")
                .map(|revision| vec![revision]),
        }
    }

    /// What is left, as a body of REST.
    pub(super) fn body(&mut self) -> Vec<u8> {
        let left = std::mem::take(&mut self.members);
        serde_json::to_vec(&left).unwrap_or_default()
    }

    /// Which page is asked for, and everything that was wrong. To be asked for last: what is left is not known.
    pub(super) fn page(mut self) -> PageInput {
        PageInput {
            // What does not fit is too large in any case.
            limit: self
                .value::<u64>("limit", "a whole number")
                .map(|limit| limit.min(u32::MAX.into()) as u32),
            cursor: self.text("cursor"),
            faults: self.all_faults(),
        }
    }

    /// The value that was read, unless anything was wrong. To be asked for last: what is left is not known.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, AppError> {
        let faults = self.all_faults();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => Err(Rejection::Invalid(faults).into()),
        }
    }

    fn all_faults(mut self) -> Vec<FieldViolation> {
        let left = std::mem::take(&mut self.members);
        for (name, _) in left {
            self.fault(&name, "is not known");
        }
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use cuitty_webhooks_domain::ids::EndpointId;
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "ep_01h455vb4pex5vsknk084sn02q";

    fn arguments(value: Value) -> Arguments {
        match value {
            Value::Object(members) => Arguments::new(members),
            other => panic!("{other}"),
        }
    }

    fn faults(error: AppError) -> Vec<(String, String)> {
        match error {
            AppError::Rejected(Rejection::Invalid(faults)) => faults
                .into_iter()
                .map(|fault| (fault.field, fault.message))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_read_by_name_in_both_spellings() {
        let mut given =
            arguments(json!({"endpointId": ID, "idempotency_key": "k", "revision": 3, "verify": null}));
        assert_eq!(given.id::<EndpointId>(), ID.parse().ok());
        let terms = given.terms();
        assert_eq!((&*terms.idempotency_key, terms.revisions), ("k", Some(vec![3])));
        assert_eq!(given.value::<bool>("verify", "true or false"), None);
        assert!(given.finish(Some(())).is_ok());
    }

    #[test]
    fn everything_wrong_with_the_arguments_is_named() {
        let mut given = arguments(json!({
            "endpointId": ID, "endpoint_id": ID, "project_id": "", "event_type": 7, "revision": -1, "limits": 5
        }));
        given.id::<EndpointId>();
        given.name("project_id");
        given.required("event_type");
        given.terms();
        assert_eq!(
            faults(given.finish(Some(())).unwrap_err()),
            [
                ("endpoint_id", "is given twice"),
                ("project_id", "must be left out or not empty"),
                ("event_type", "must be a string"),
                ("revision", "must be a whole number"),
                ("limits", "is not known"),
            ]
            .map(|(field, message)| (field.to_owned(), message.to_owned()))
        );
        for missing in [
            json!({}),
            json!({"endpoint_id": null}),
            json!({"endpoint_id": ""}),
        ] {
            let mut given = arguments(missing);
            let id = given.id::<EndpointId>();
            let expected = [("endpoint_id".to_owned(), "is required".to_owned())];
            assert_eq!(faults(given.finish(id).unwrap_err()), expected);
        }
    }

    #[test]
    fn pages_are_asked_for_as_over_rest() {
        let page = arguments(json!({"limit": 7, "cursor": "abc"})).page();
        assert_eq!(
            (page.limit, &*page.cursor, page.faults.len()),
            (Some(7), "abc", 0)
        );
        let page = arguments(json!({"limit": 4_294_967_296_u64})).page();
        assert_eq!((page.limit, page.faults.len()), (Some(u32::MAX), 0));
        let page = arguments(json!({"limit": "7", "page": 2})).page();
        let fields: Vec<_> = page.faults.iter().map(|fault| &*fault.field).collect();
        assert_eq!((page.limit, fields), (None, vec!["limit", "page"]));
    }
}
