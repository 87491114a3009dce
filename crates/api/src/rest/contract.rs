//! What holds of every route, written into the OpenAPI document: the refusals it may answer with, and the idempotency key of
//! a change. So a route tells only what is its own.

use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::{OpenApi, Ref, RefOr, Response};

/// Header that carries the idempotency key.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A refusal: status, name among the document's components, description, and an example of its code.
struct Refusal(u16, &'static str, &'static str, (&'static str, &'static str));

#[rustfmt::skip] // a table: one row, one line
const REFUSALS: [Refusal; 11] = [
    Refusal(400, "Malformed", "The body is not a JSON object", ("invalid_request", "malformed_body")),
    Refusal(401, "Unauthenticated", "No valid API key", ("authentication", "missing_api_key")),
    Refusal(403, "Forbidden", "The API key lacks a scope", ("permission", "missing_scope")),
    Refusal(404, "NotFound", "There is no such thing, or the API key may not see it", ("not_found", "endpoint_not_found")),
    Refusal(409, "Conflict", "It is not in a state for that, or the idempotency key was used for a different request", ("conflict", "idempotency_key_reused")),
    Refusal(412, "PreconditionFailed", "It is not at a revision that If-Match names", ("conflict", "revision_mismatch")),
    Refusal(413, "TooLarge", "The body or the payload is too large", ("invalid_request", "payload_too_large")),
    Refusal(415, "UnsupportedMediaType", "The body is not said to be application/json", ("invalid_request", "unsupported_media_type")),
    Refusal(422, "Invalid", "Fields are wrong; all of them are named", ("invalid_request", "invalid_fields")),
    Refusal(429, "RateLimited", "The API key has called too often", ("rate_limit", "rate_limited")),
    Refusal(503, "Unavailable", "A part is not available, or too busy; nothing is promised", ("unavailable", "log_unavailable")),
];

/// Completes the document.
pub(super) fn complete(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    for refusal in &REFUSALS {
        components
            .responses
            .insert(refusal.1.to_owned(), refusal.response().into());
    }
    for item in document.paths.paths.values_mut() {
        let changing = [&mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in changing.into_iter().flatten() {
            let parameter = idempotency_key();
            operation
                .parameters
                .get_or_insert_default()
                .push(parameter.into());
            document_refusals(operation, true);
        }
        if let Some(operation) = &mut item.get {
            document_refusals(operation, false);
        }
    }
}

fn document_refusals(operation: &mut Operation, changes: bool) {
    let is_public = operation.security.is_some();
    let has_body = operation.request_body.is_some();
    let parameters = operation.parameters.iter().flatten();
    let names: Vec<_> = parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter.name.as_str()),
            RefOr::Ref(_) => None,
        })
        .collect();
    let applies = |status| match status {
        400 | 413 | 415 => has_body,
        401 | 403 | 404 | 429 => !is_public,
        409 => changes,
        412 => names.contains(&"If-Match"),
        422 => has_body || !names.is_empty(),
        _ => true,
    };
    for Refusal(status, name, ..) in REFUSALS.iter().filter(|refusal| applies(refusal.0)) {
        let responses = &mut operation.responses.responses;
        responses.insert(status.to_string(), Ref::from_response_name(*name).into());
    }
}

impl Refusal {
    fn response(&self) -> Response {
        let Self(status, _, description, (kind, code)) = self;
        let mut headers = json!({});
        if matches!(status, 429 | 503) {
            headers["retry-after"] = header("Seconds after which to try again", "integer");
        }
        if *status == 429 {
            headers["ratelimit-limit"] = header("Calls that the key may make at once", "integer");
            headers["ratelimit-remaining"] = header("Calls that are left", "integer");
            headers["ratelimit-reset"] = header("Seconds after which there is one more", "integer");
        }
        if *status == 401 {
            headers["www-authenticate"] = header("How to say who calls", "string");
        }
        let fields = match status {
            422 => json!([{"field": "url", "message": "must be http or https"}]),
            _ => json!([]),
        };
        typed(json!({
            "description": description,
            "headers": headers,
            "content": {"application/json": {
                "schema": {"$ref": "#/components/schemas/Error"},
                "example": {"error": {
                    "type": kind,
                    "code": code,
                    "message": description,
                    "resource": null,
                    "id": null,
                    "fields": fields,
                }},
            }},
        }))
    }
}

fn header(description: &str, kind: &str) -> Value {
    json!({"description": description, "schema": {"type": kind}})
}

fn idempotency_key() -> Parameter {
    typed(json!({
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "required": false,
        "description": "At most 256 visible ASCII characters, kept for 24 hours. The same key with the same request gives the same answer, with \
                        the header `idempotent-replayed: true`, and changes nothing; with another request 409. Also taken \
                        from `X-Cuitty-Idempotency-Key`",
        "schema": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
    }))
}

/// A part of the document, written as it will be read.
fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a part of an OpenAPI document")
}
