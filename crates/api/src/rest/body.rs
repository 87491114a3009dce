//! Reading request bodies: bounded, and every fault named by its field.

use std::fmt;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::rejection::{FieldViolation, Rejection};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::error::AppError;

/// Largest request body, in bytes: the largest payload and room for what stands around it.
const BODY_BYTES: usize = limits::PAYLOAD_BYTES + 16 * 1024;

/// How much of a body that is too large is read and thrown away before it is refused, in bytes.
const DISCARD_BYTES: usize = 4 * 1024 * 1024;

/// Most members of a body's object: far more than any request has.
const MEMBERS: usize = 64;

/// A JSON body, whole but not parsed yet. Empty when there is none.
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for JsonBytes {
    type Rejection = AppError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, AppError> {
        let is_json = is_json(request.headers());
        let bytes = collect(request).await?;
        if is_json || bytes.is_empty() {
            Ok(Self(bytes))
        } else {
            Err(AppError::UnsupportedMediaType("application/json"))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn collect(request: Request<Body>) -> Result<Bytes, AppError> {
    let too_large = || AppError::RequestTooLarge { limit: BODY_BYTES };
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let mut body = request.into_body();
    if announced.is_some_and(|length| length > BODY_BYTES as u64) {
        discard(body).await;
        return Err(too_large());
    }
    match Limited::new(&mut body, BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(too_large())
        }
        Err(_) => Err(AppError::MalformedBody("it ended early".into())),
    }
}

/// Reads on, so that a caller who sends before it reads sees the answer and not a reset connection.
async fn discard(mut body: Body) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        if read > left {
            return;
        }
        left -= read;
    }
}

/// The members of a JSON object, each still raw. Names may be given in `camelCase` too.
#[derive(Debug)]
pub(super) struct Members<'a> {
    members: Vec<(String, &'a RawValue)>,
    violations: Vec<FieldViolation>,
}

impl<'a> Members<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, AppError> {
        let Entries(entries) =
            serde_json::from_slice(body).map_err(|error| AppError::MalformedBody(error.to_string()))?;
        let mut parsed = Self {
            members: Vec::with_capacity(entries.len()),
            violations: Vec::new(),
        };
        for (name, value) in entries {
            let name = snake_case(&name);
            if parsed.members.iter().any(|(known, _)| *known == name) {
                parsed.violate(&name, "is given twice");
            } else {
                parsed.members.push((name, value));
            }
        }
        Ok(parsed)
    }

    pub(super) fn violate(&mut self, field: &str, message: &str) {
        self.violations.push(FieldViolation::new(field, message));
    }

    /// Whether the member is there, be it null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(known, _)| known == name)
    }

    /// The member as it stands in the body.
    pub(super) fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.members.iter().position(|(known, _)| known == name)?;
        Some(self.members.swap_remove(index).1)
    }

    /// The member as it stands in the body; a violation when it is missing.
    pub(super) fn required(&mut self, name: &str) -> Option<&'a RawValue> {
        let value = self.raw(name);
        if value.is_none() {
            self.violate(name, "is required");
        }
        value
    }

    /// A violation when the member is missing.
    pub(super) fn demand(&mut self, name: &str) {
        if !self.has(name) {
            self.violate(name, "is required");
        }
    }

    /// The member's value; `None` when it is missing, null, or not `expected`, which is a violation.
    pub(super) fn value<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Option<T> {
        let raw = self.raw(name)?;
        serde_json::from_str::<Option<T>>(raw.get()).unwrap_or_else(|_| {
            self.violate(name, &format!("must be {expected}"));
            None
        })
    }

    /// The member's text; empty when it is missing or null. A text that is given and empty is a violation: left
    /// out, it may mean everything.
    pub(super) fn name(&mut self, name: &str) -> String {
        let text = self.value::<String>(name, "a string");
        if text.as_deref() == Some("") {
            self.violate(name, "must not be empty");
        }
        text.unwrap_or_default()
    }

    /// The member's text; empty when it is missing or null.
    pub(super) fn text(&mut self, name: &str) -> String {
        self.value(name, "a string").unwrap_or_default()
    }

    /// Refuses these members, which are shown but not asked for.
    pub(super) fn fixed(&mut self, names: &[&str]) {
        for name in names {
            if self.raw(name).is_some() {
                self.violate(name, "cannot be changed");
            }
        }
    }

    /// Everything that was wrong. What nobody asked for is wrong too: a misspelt `endpoint_id` would send to everybody.
    pub(super) fn faults(self) -> Vec<FieldViolation> {
        let Self {
            members,
            mut violations,
        } = self;
        let unknown = members
            .into_iter()
            .map(|(name, _)| FieldViolation::new(name, "is not known"));
        violations.extend(unknown);
        violations
    }

    /// Refuses the body when anything about its members was wrong.
    pub(super) fn finish(self) -> Result<(), Rejection> {
        let violations = self.faults();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Invalid(violations))
        }
    }
}

/// The members of an object in order, duplicates included.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                    if entries.len() > MEMBERS {
                        return Err(Error::custom(format_args!("more than {MEMBERS} members")));
                    }
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The texts of an object in order, duplicates included.
#[derive(Debug, Default)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// `projectId` as `project_id`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests;
