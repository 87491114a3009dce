//! Reading and writing single fields of the stored contract.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::codec::CodecError;

/// A field that every such message carries.
pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, CodecError> {
    value.ok_or(CodecError::Missing(field))
}

pub(super) fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, CodecError> {
    text.parse().map_err(|error: T::Err| CodecError::Invalid {
        field,
        message: error.to_string(),
    })
}

/// A text whose absence is stored as empty.
pub(super) fn parse_optional<T: FromStr<Err: Display>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, CodecError> {
    (!text.is_empty()).then(|| parse(field, text)).transpose()
}

/// The value of an enumeration; unspecified and unknown ones are errors.
pub(super) fn enumerated<P, T>(
    field: &'static str,
    number: i32,
    convert: impl FnOnce(P) -> Option<T>,
) -> Result<T, CodecError>
where
    P: TryFrom<i32>,
{
    P::try_from(number)
        .ok()
        .and_then(convert)
        .ok_or_else(|| CodecError::Invalid {
            field,
            message: format!("has the unknown value {number}"),
        })
}

pub(super) fn time(field: &'static str, micros: i64) -> Result<DateTime<Utc>, CodecError> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| CodecError::Invalid {
        field,
        message: format!("{micros} is out of range"),
    })
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn none_if_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
