//! Reading queries: every parameter that is wrong, unknown or given twice is named.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};

use super::body::snake_case;
use crate::app::PageInput;

/// Most parameters of a query: far more than any request has.
const PARAMETERS: usize = 64;

/// The parameters of a query. Names may be given in `camelCase` too.
#[derive(Debug)]
pub(super) struct QueryParameters<'a> {
    parameters: Vec<(String, Cow<'a, str>)>,
    /// Names that were asked for.
    known: Vec<&'static str>,
    faults: Vec<FieldViolation>,
}

impl<'a> QueryParameters<'a> {
    pub(super) fn parse(query: Option<&'a str>) -> Self {
        let mut parsed = Self {
            parameters: Vec::new(),
            known: Vec::new(),
            faults: Vec::new(),
        };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if parsed.parameters.len() + parsed.faults.len() == PARAMETERS {
                parsed.violate("query", format!("must have at most {PARAMETERS} parameters"));
                break;
            }
            let name = snake_case(&name);
            if parsed.parameters.iter().any(|(known, _)| *known == name) {
                parsed.violate(&name, "is given twice");
            } else {
                parsed.parameters.push((name, value));
            }
        }
        parsed
    }

    fn violate(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push(FieldViolation::new(field, message));
    }

    fn given(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
        self.known.push(name);
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    }

    /// The parameter's text; empty when it is missing.
    pub(super) fn text(&mut self, name: &'static str) -> String {
        self.given(name).map(Cow::into_owned).unwrap_or_default()
    }

    /// The parameter's text; empty when it is missing. One that is given and empty is a fault: left out, it may mean
    /// everything.
    pub(super) fn name(&mut self, name: &'static str) -> String {
        let text = self.value(name, "left out or not empty", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        });
        text.unwrap_or_default()
    }

    /// The parameter's value; `None` when it is missing or not `expected`, which is a fault.
    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.given(name)?;
        let value = read(&text);
        if value.is_none() {
            self.violate(name, format!("must be {expected}"));
        }
        value
    }

    pub(super) fn number(&mut self, name: &'static str) -> Option<u64> {
        self.value(name, "a whole number", |text| {
            // A sign is none of a number that cannot be negative.
            text.parse().ok().filter(|_| !text.starts_with('+'))
        })
    }

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let read = |text: &str| text.parse().ok();
        self.value(name, "true or false", read).unwrap_or_default()
    }

    pub(super) fn time(&mut self, name: &'static str) -> Option<DateTime<Utc>> {
        self.value(name, "a time as RFC 3339 writes it", |text| text.parse().ok())
    }

    /// Everything that was wrong. To be asked for last: what nobody has asked for by then is not known.
    pub(super) fn faults(&mut self) -> Vec<FieldViolation> {
        let unknown: Vec<_> = self
            .parameters
            .iter()
            .filter(|(name, _)| !self.known.contains(&name.as_str()))
            .map(|(name, _)| FieldViolation::new(name, "is not known"))
            .collect();
        self.faults.extend(unknown);
        std::mem::take(&mut self.faults)
    }

    /// Refuses the query when anything about it was wrong.
    pub(super) fn finish(mut self) -> Result<(), Rejection> {
        let faults = self.faults();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Invalid(faults))
        }
    }

    /// Which page is asked for, and everything that was wrong with the query. To be asked for last.
    pub(super) fn page(mut self) -> PageInput {
        PageInput {
            // What does not fit is too large in any case.
            limit: self
                .number("limit")
                .map(|limit| limit.min(u32::MAX.into()) as u32),
            cursor: self.text("cursor"),
            faults: self.faults(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(faults: Vec<FieldViolation>) -> Vec<(String, String)> {
        faults
            .into_iter()
            .map(|fault| (fault.field, fault.message))
            .collect()
    }

    #[test]
    fn no_more_parameters_are_read_than_any_query_has() {
        let distinct = |count: u32| (0..count).map(|n| format!("a{n}")).collect::<Vec<_>>().join("&");
        for (query, told) in [(vec!["a=1"; 10_000].join("&"), 65), (distinct(10_000), 65)] {
            let mut query = QueryParameters::parse(Some(&query));
            let faults = fields(query.faults());
            assert_eq!(faults.len(), told);
            let fault = ("query".to_owned(), "must have at most 64 parameters".to_owned());
            assert!(faults.contains(&fault), "{faults:?}");
        }
        assert_eq!(QueryParameters::parse(Some(&distinct(64))).faults().len(), 64);
    }

    #[test]
    fn queries_are_read_by_name() {
        let mut query = QueryParameters::parse(Some("project_id=a%20b&limit=7&cursor=&verify=true"));
        assert_eq!((&*query.text("project_id"), &*query.text("cursor")), ("a b", ""));
        assert_eq!(query.number("limit"), Some(7));
        assert_eq!(query.number("limits"), None);
        assert!(query.flag("verify") && !query.flag("other"));
        assert_eq!(query.finish(), Ok(()));
        assert_eq!(QueryParameters::parse(None).text("project_id"), "");
        assert_eq!(
            QueryParameters::parse(Some("projectId=a")).text("project_id"),
            "a"
        );
        for limit in ["", "x", "-1", "1.5", "+1", "99999999999999999999"] {
            let query = format!("limit={limit}");
            let mut query = QueryParameters::parse(Some(&query));
            assert_eq!(query.number("limit"), None, "{limit}");
            assert_eq!(fields(query.faults())[0].0, "limit", "{limit}");
        }
    }

    #[test]
    fn a_name_that_is_empty_is_not_one_that_was_left_out() {
        let mut query = QueryParameters::parse(Some("project_id=&event_type=a.b"));
        assert_eq!(
            (&*query.name("project_id"), &*query.name("event_type")),
            ("", "a.b")
        );
        assert_eq!(query.name("endpoint_id"), "");
        assert_eq!(
            fields(query.faults()),
            [(
                "project_id".to_owned(),
                "must be left out or not empty".to_owned()
            )]
        );
    }

    #[test]
    fn times_are_rfc_3339() {
        let mut query = QueryParameters::parse(Some("since=2026-11-22T10:00:00Z&until=yesterday"));
        assert_eq!(
            query.time("since").unwrap().to_rfc3339(),
            "2026-11-22T10:00:00+00:00"
        );
        assert_eq!(query.time("until"), None);
        assert_eq!(fields(query.faults())[0].0, "until");
    }

    #[test]
    fn everything_wrong_with_a_query_is_listed() {
        let mut query = QueryParameters::parse(Some("limit=x&projct_id=a&cursor=a&cursor=b"));
        query.text("project_id");
        let page = query.page();
        let expected = [
            ("cursor", "is given twice"),
            ("limit", "must be a whole number"),
            ("projct_id", "is not known"),
        ];
        assert_eq!(
            fields(page.faults),
            expected.map(|(field, message)| (field.to_owned(), message.to_owned()))
        );
        let huge = QueryParameters::parse(Some("limit=4294967296")).page();
        assert_eq!((huge.limit, huge.faults), (Some(u32::MAX), Vec::new()));
    }
}
