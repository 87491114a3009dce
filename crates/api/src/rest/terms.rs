//! What stands around a call: the ids in its path, its idempotency key, its conditions, and what its answer says of them.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::response::{IntoResponse, Response};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, InvalidId, ReplayId, SecretId};
use cuitty_webhooks_domain::rejection::Rejection;
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::app::App;
use crate::error::AppError;

/// Headers that may carry the idempotency key.
const IDEMPOTENCY_HEADERS: [&str; 2] = ["idempotency-key", "x-cuitty-idempotency-key"];
/// Says that an answer is that of an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// An id that stands in a path.
pub(crate) trait PathParameter: FromStr<Err = InvalidId> {
    /// Its name in errors.
    const FIELD: &str;
}

impl PathParameter for EndpointId {
    const FIELD: &str = "endpoint_id";
}

impl PathParameter for DeliveryId {
    const FIELD: &str = "delivery_id";
}

impl PathParameter for SecretId {
    const FIELD: &str = "secret_id";
}

impl PathParameter for ReplayId {
    const FIELD: &str = "replay_id";
}

/// The path's parameter of this kind, which is called like its field, or `id`.
pub(super) struct PathId<T>(pub(super) T);

impl<T: PathParameter> FromRequestParts<Arc<App>> for PathId<T> {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, AppError> {
        let refused = |message: String| AppError::from(Rejection::field(T::FIELD, message));
        let parameters = RawPathParams::from_request_parts(parts, app).await;
        let parameters = parameters.map_err(|_| refused("must be UTF-8".into()))?;
        let given = parameters
            .iter()
            .find(|(name, _)| [T::FIELD, "id"].contains(name))
            .map_or("", |(_, text)| text);
        given
            .parse()
            .map(Self)
            .map_err(|error: InvalidId| refused(error.to_string()))
    }
}

/// The idempotency key of a request; empty when there is none.
#[derive(Debug)]
pub(super) struct IdempotencyKey(pub(super) String);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, AppError> {
        Ok(Self(idempotency_key(&parts.headers, String::new())?))
    }
}

/// The key of the body, else of a header; two that differ are refused.
pub(super) fn idempotency_key(headers: &HeaderMap, in_body: String) -> Result<String, AppError> {
    let mut key = in_body;
    for value in IDEMPOTENCY_HEADERS.iter().flat_map(|name| headers.get_all(*name)) {
        let value = value
            .to_str()
            .map_err(|_| Rejection::field("idempotency_key", "must be visible ASCII in a header"))?;
        if value.is_empty() {
            continue;
        }
        if key.is_empty() {
            value.clone_into(&mut key);
        } else if key != value {
            return Err(Rejection::field("idempotency_key", "is given twice, and not the same").into());
        }
    }
    Ok(key)
}

/// The revisions that `If-Match` allows; `None` when any will do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IfMatch(pub(super) Option<Vec<u64>>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, AppError> {
        let headers = &parts.headers;
        if !headers.contains_key(IF_MATCH) || tags(headers, &IF_MATCH).any(|tag| tag == "*") {
            return Ok(Self(None));
        }
        // Weak tags and those of others match nothing (RFC 9110, section 13.1.1).
        Ok(Self(Some(
            tags(headers, &IF_MATCH).filter_map(revision_of).collect(),
        )))
    }
}

/// Whether the caller has what is at this revision, by `If-None-Match`.
pub(super) fn is_known(headers: &HeaderMap, revision: u64) -> bool {
    tags(headers, &IF_NONE_MATCH).any(|tag| {
        let strong = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || revision_of(strong) == Some(revision)
    })
}

/// The entity tags of a header. Ours hold no comma.
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn revision_of(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    // As it is written, so that no other text means the same.
    digits
        .parse()
        .ok()
        .filter(|number: &u64| number.to_string() == digits)
}

/// An answer, and what its headers say of it.
#[derive(Debug)]
pub(super) struct Reply {
    response: Response,
}

impl Reply {
    pub(super) fn new(status: StatusCode, body: impl Serialize) -> Self {
        let response = (status, Json(body)).into_response();
        Self { response }
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        let response = status.into_response();
        Self { response }
    }

    /// Of an endpoint at this revision.
    pub(super) fn revision(self, revision: u64) -> Self {
        let tag = HeaderValue::from_str(&format!("\"{revision}\""));
        self.header(ETAG, tag.ok())
    }

    pub(super) fn location(self, path: &str) -> Self {
        self.header(LOCATION, HeaderValue::from_str(path).ok())
    }

    /// Of an earlier request.
    pub(super) fn replayed(self, is_replayed: bool) -> Self {
        let value = HeaderValue::from_static("true");
        self.header(REPLAYED, is_replayed.then_some(value))
    }

    fn header(mut self, name: HeaderName, value: Option<HeaderValue>) -> Self {
        if let Some(value) = value {
            self.response.headers_mut().insert(name, value);
        }
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        self.response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn if_match_names_revisions_by_strong_tags() {
        for (headers, expected) in [
            (&[][..], None),
            (&[("if-match", "*")], None),
            (&[("if-match", "\"7\"")], Some(vec![7])),
            (&[("if-match", "\"7\" , \"8\"")], Some(vec![7, 8])),
            (&[("if-match", "\"7\""), ("if-match", "\"9\"")], Some(vec![7, 9])),
            (&[("if-match", "W/\"7\"")], Some(Vec::new())),
            (&[("if-match", "7")], Some(Vec::new())),
            (&[("if-match", "\"07\", \"+7\", \"x\"")], Some(Vec::new())),
            (&[("if-match", "")], Some(Vec::new())),
        ] {
            let mut parts = parts(headers);
            let read = IfMatch::from_request_parts(&mut parts, &()).await.unwrap();
            assert_eq!(read, IfMatch(expected), "{headers:?}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (value, known) in [
            ("\"7\"", true),
            ("W/\"7\"", true),
            ("\"6\", W/\"7\"", true),
            ("*", true),
            ("\"6\"", false),
            ("7", false),
            ("", false),
        ] {
            let headers = parts(&[("if-none-match", value)]).headers;
            assert_eq!(is_known(&headers, 7), known, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), 7));
    }

    #[test]
    fn an_idempotency_key_is_taken_from_body_or_header() {
        let read = |headers: &[(&str, &str)], body: &str| {
            idempotency_key(&parts(headers).headers, body.to_owned()).map_err(|error| error.code())
        };
        let (standard, ours) = (IDEMPOTENCY_HEADERS[0], IDEMPOTENCY_HEADERS[1]);
        assert_eq!(read(&[], "").as_deref(), Ok(""));
        assert_eq!(read(&[], "a").as_deref(), Ok("a"));
        assert_eq!(read(&[(standard, "a")], "").as_deref(), Ok("a"));
        assert_eq!(read(&[(ours, "a")], "a").as_deref(), Ok("a"));
        assert_eq!(read(&[(standard, "a"), (ours, "a")], "").as_deref(), Ok("a"));
        for two in [
            read(&[(standard, "a"), (ours, "b")], ""),
            read(&[(standard, "a"), (standard, "b")], ""),
            read(&[(standard, "a")], "b"),
            read(&[(standard, "ä")], ""),
        ] {
            assert_eq!(two, Err("invalid_fields"));
        }
    }
}
