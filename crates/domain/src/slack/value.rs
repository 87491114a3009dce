//! JSON with its keys in the order in which they were written, and its values as people read them.

use std::fmt;
use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Elements of a list that are shown.
const LISTED: usize = 10;
/// How much of lists and of what is nested too deeply is written out, in bytes.
const WRITTEN: usize = 700;

/// A JSON value.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value in a message; never blank.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null => "none".into(),
            Self::Bool(true) => "yes".into(),
            Self::Bool(false) => "no".into(),
            Self::Number(number) => number.clone(),
            Self::Text(text) if is_blank(text) => "(empty)".into(),
            Self::Text(text) => moment(text).unwrap_or_else(|| text.clone()),
            Self::List(values) if values.is_empty() => "(empty list)".into(),
            Self::List(values) => list(values),
            Self::Object(fields) if fields.is_empty() => "(empty)".into(),
            Self::Object(_) => self.compact(),
        }
    }

    fn compact(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    /// Writes it as JSON without white space, the beginning of what is too long.
    fn write(&self, out: &mut String) {
        if out.len() > WRITTEN {
            return;
        }
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => out.push_str(number),
            Self::Text(text) => quote(text, out),
            Self::List(values) => {
                out.push('[');
                for (index, value) in values.iter().take(WRITTEN).enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (key, value)) in fields.iter().take(WRITTEN).enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    quote(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Scalars side by side, of anything else its JSON; how many there are when not all are shown.
fn list(values: &[Json]) -> String {
    let is_flat = |value: &Json| !matches!(value, Json::List(_) | Json::Object(_));
    let mut text = String::new();
    for (index, value) in values.iter().take(LISTED).enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        if text.len() > WRITTEN {
            break;
        }
        if is_flat(value) {
            text.push_str(&value.shown());
        } else {
            text.push_str(&value.compact());
        }
    }
    if values.len() > LISTED {
        write!(text, ", \u{2026} ({} in all)", values.len()).expect("a String takes everything");
    }
    text
}

fn quote(text: &str, out: &mut String) {
    let kept = text.chars().take(WRITTEN).collect::<String>();
    out.push_str(&serde_json::Value::from(kept).to_string());
}

/// A time of RFC 3339 as people write it, in UTC.
fn moment(text: &str) -> Option<String> {
    let may_be = (20..=40).contains(&text.len()) && text.as_bytes()[0].is_ascii_digit();
    let at = DateTime::parse_from_rfc3339(may_be.then_some(text)?).ok()?;
    Some(at.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Whether nothing of it would be seen.
pub(super) fn is_blank(text: &str) -> bool {
    let is_invisible = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
    text.chars()
        .all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        // As serde_json writes it, which is short for 1e300 too.
        Ok(Json::Number(serde_json::Value::from(value).to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_people_write_them() {
        for (json, expected) in [
            ("null", "none"),
            ("true", "yes"),
            ("false", "no"),
            ("-12", "-12"),
            ("18446744073709551615", "18446744073709551615"),
            ("0.5", "0.5"),
            ("1e300", "1e+300"),
            (r#""plain""#, "plain"),
            (r#""""#, "(empty)"),
            (r#"" \n\u200b""#, "(empty)"),
            (r#""2026-11-22T09:30:00.25+01:00""#, "2026-11-22 08:30:00 UTC"),
            (r#""2026-11-22""#, "2026-11-22"),
            (r#""2026-13-22T09:30:00Z""#, "2026-13-22T09:30:00Z"),
            ("[]", "(empty list)"),
            ("{}", "(empty)"),
            (r#"[1, "a", null, true]"#, "1, a, none, yes"),
            (r#"[{"b": 1, "a": "\""}, [2]]"#, r#"{"b":1,"a":"\""}, [2]"#),
            ("[1,2,3,4,5,6,7,8,9,10]", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
            (
                "[1,2,3,4,5,6,7,8,9,10,11]",
                "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, \u{2026} (11 in all)",
            ),
        ] {
            let value: Json = serde_json::from_str(json).unwrap();
            assert_eq!(value.shown(), expected, "{json}");
        }
    }

    #[test]
    fn what_is_long_is_written_out_in_part_only() {
        let long = format!("[{}[1]]", "[0],".repeat(60_000));
        let value: Json = serde_json::from_str(&long).unwrap();
        assert!(value.shown().ends_with("(60001 in all)"));
        let wide = format!("[{{\"a\":[{}0]}}]", "0,".repeat(100_000));
        let value: Json = serde_json::from_str(&wide).unwrap();
        assert!(value.shown().len() < 2 * WRITTEN);
    }
}
