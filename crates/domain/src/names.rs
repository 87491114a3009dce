//! Names that callers choose: projects, event types and the patterns that select event types.
//!
//! Each is also a token, or several, of a log subject, so their characters are bounded here once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits;

/// A name is not well formed; the text says what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(String);

fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// A project: 1 to 64 letters, digits, `_` or `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectId(Arc<str>);

impl ProjectId {
    /// The project id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() > limits::PROJECT_ID_BYTES || !is_segment(text) {
            return Err(InvalidName(format!(
                "must be 1 to {} letters, digits, `_` or `-`",
                limits::PROJECT_ID_BYTES
            )));
        }
        Ok(Self(text.into()))
    }
}

/// An event type: dot-separated segments of letters, digits, `_` and `-`, at most 128 bytes, such as `budget.exceeded`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Arc<str>);

impl EventType {
    /// The event type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() > limits::EVENT_TYPE_BYTES || !text.split('.').all(is_segment) {
            return Err(InvalidName(format!(
                "must be dot-separated segments of letters, digits, `_` and `-`, at most {} bytes",
                limits::EVENT_TYPE_BYTES
            )));
        }
        Ok(Self(text.into()))
    }
}

/// Selects event types: an exact name, `prefix.*` (everything below the prefix, at any depth) or `*` (everything).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventTypePattern(Arc<str>);

impl EventTypePattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern selects `event_type`.
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self.0.strip_suffix('*') {
            None => *self.0 == *event_type.0,
            // `budget.*` is left with `budget.`: what follows the dot is never empty in an event type.
            Some(prefix) => event_type.0.starts_with(prefix),
        }
    }
}

impl FromStr for EventTypePattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = text.strip_suffix(".*").unwrap_or(text);
        if text != "*" && name.parse::<EventType>().is_err() {
            return Err(InvalidName(format!(
                "must be an event type, an event type's prefix and `.*`, or `*`, at most {} bytes",
                limits::EVENT_TYPE_BYTES
            )));
        }
        Ok(Self(text.into()))
    }
}

macro_rules! text_impls {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

text_impls!(ProjectId EventType EventTypePattern);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> EventTypePattern {
        text.parse().unwrap()
    }

    fn event_type(text: &str) -> EventType {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_select_by_name_prefix_or_all() {
        for (text, name, expected) in [
            ("budget.exceeded", "budget.exceeded", true),
            ("budget.exceeded", "budget.exceeded.twice", false),
            ("budget.*", "budget.exceeded", true),
            ("budget.*", "budget.threshold.reached", true),
            ("budget.*", "budget", false),
            ("budget.*", "budgets.exceeded", false),
            ("*", "budget", true),
        ] {
            assert_eq!(
                pattern(text).matches(&event_type(name)),
                expected,
                "{text} on {name}"
            );
        }
    }

    #[test]
    fn ill_formed_names_are_refused() {
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a.*.b",
            "é",
            "a/b",
            "a>b",
            &"a".repeat(129),
        ] {
            assert!(text.parse::<EventType>().is_err(), "{text}");
            assert!(text.parse::<EventTypePattern>().is_err(), "{text}");
        }
        for text in ["a.*", "*"] {
            assert!(text.parse::<EventType>().is_err(), "{text}");
        }
        for text in ["**", "*.a", "a*", "a.b*"] {
            assert!(text.parse::<EventTypePattern>().is_err(), "{text}");
        }
        for text in ["", "a.b", "a b", "*", ">", &"p".repeat(65)] {
            assert!(text.parse::<ProjectId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_event_type_matches_itself_and_its_prefixes(segments in proptest::collection::vec("[a-z0-9_-]{1,8}", 1..6)) {
            let name = event_type(&segments.join("."));
            prop_assert!(pattern(name.as_str()).matches(&name));
            for depth in 1..segments.len() {
                let text = format!("{}.*", segments[..depth].join("."));
                prop_assert!(pattern(&text).matches(&name));
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}") {
            let _ = text.parse::<EventType>();
            let _ = text.parse::<EventTypePattern>();
            let _ = text.parse::<ProjectId>();
        }
    }
}
