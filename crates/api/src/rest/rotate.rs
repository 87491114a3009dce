//! Signing secrets: rotated on both surfaces, revoked under `/manage/v1/webhooks/endpoints`.

use std::sync::Arc;

use axum::extract::State;
use cuitty_webhooks_domain::ids::{EndpointId, SecretId};
use http::StatusCode;
use utoipa::ToSchema;

use super::Key;
use super::body::{JsonBytes, Members};
use super::model::{EndpointBody, RotatedBody, Scheme};
use super::terms::{IdempotencyKey, IfMatch, PathId, Reply};
use crate::app::{App, Rotation, Terms};
use crate::auth::Caller;
use crate::error::AppError;

/// How to rotate. May be left out. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = Rotation)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read member by member")]
pub(super) struct RotateBody {
    /// How long the previous secret keeps signing.
    #[schema(default = 86_400, minimum = 0, maximum = 604_800)]
    overlap_seconds: Option<u32>,
    /// A secret to import: `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and that of an ed25519 seed of 32 bytes, which
    /// its public key may follow. Left out, one is made.
    signing_secret: Option<String>,
    /// Left out, it is what an imported secret is, else that of the current one.
    signature_scheme: Option<Scheme>,
}

/// Makes a new signing secret current; the previous one keeps signing until the overlap ends.
#[utoipa::path(
    post,
    path = "/api/webhooks/endpoints/{id}/rotate",
    operation_id = "rotate_endpoint_secret",
    tag = "endpoints",
    params(
        ("id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("If-Match" = Option<String>, Header, description = "Rotate only if this is the endpoint's ETag")
    ),
    request_body(content = Option<RotateBody>, example = json!({"overlap_seconds": 86400})),
    responses((
        status = 200,
        description = "The new secret, shown once",
        body = RotatedBody,
        headers(("etag" = String, description = "The endpoint's revision"))
    ))
)]
pub(super) async fn rotate_endpoint_secret(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    IdempotencyKey(key): IdempotencyKey,
    if_match: IfMatch,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    rotate(&app, &caller, id, key, if_match, &body).await
}

/// Makes a new signing secret current; the previous one keeps signing until the overlap ends.
#[utoipa::path(
    post,
    path = "/manage/v1/webhooks/endpoints/{endpoint_id}/rotate-secret",
    tag = "endpoints",
    params(
        ("endpoint_id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("If-Match" = Option<String>, Header, description = "Rotate only if this is the endpoint's ETag")
    ),
    request_body(content = Option<RotateBody>, example = json!({"overlap_seconds": 86400})),
    responses((
        status = 200,
        description = "The new secret, shown once",
        body = RotatedBody,
        headers(("etag" = String, description = "The endpoint's revision"))
    ))
)]
pub(super) async fn rotate_secret(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    IdempotencyKey(key): IdempotencyKey,
    if_match: IfMatch,
    JsonBytes(body): JsonBytes,
) -> Result<Reply, AppError> {
    rotate(&app, &caller, id, key, if_match, &body).await
}

async fn rotate(
    app: &App,
    caller: &Caller,
    id: EndpointId,
    idempotency_key: String,
    IfMatch(revisions): IfMatch,
    body: &[u8],
) -> Result<Reply, AppError> {
    let terms = Terms {
        idempotency_key,
        revisions,
    };
    let rotated = app.rotate_secret(caller, id, read(body)?, terms).await?;
    Ok(Reply::new(StatusCode::OK, RotatedBody::from(&rotated.value))
        .revision(rotated.value.revision)
        .replayed(rotated.is_replayed))
}

/// Ends the overlap of a previous secret now. The current one cannot be revoked: nothing would sign.
#[utoipa::path(
    delete,
    path = "/manage/v1/webhooks/endpoints/{endpoint_id}/secrets/{secret_id}",
    tag = "endpoints",
    params(
        ("endpoint_id" = String, Path, description = "The endpoint", pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("secret_id" = String, Path, description = "The secret", pattern = "^sec_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
        ("If-Match" = Option<String>, Header, description = "Revoke only if this is the endpoint's ETag")
    ),
    responses((
        status = 200,
        description = "The endpoint as it is now",
        body = EndpointBody,
        headers(("etag" = String, description = "The endpoint's revision"))
    ))
)]
pub(super) async fn revoke_secret(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    PathId(id): PathId<EndpointId>,
    PathId(secret_id): PathId<SecretId>,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    IfMatch(revisions): IfMatch,
) -> Result<Reply, AppError> {
    let terms = Terms {
        idempotency_key,
        revisions,
    };
    let revoked = app.revoke_secret(&caller, id, secret_id, terms).await?;
    let endpoint = &revoked.value;
    let body = EndpointBody::new(endpoint, app.health(endpoint), app.now());
    Ok(Reply::new(StatusCode::OK, body)
        .revision(endpoint.revision)
        .replayed(revoked.is_replayed))
}

pub(crate) fn read(body: &[u8]) -> Result<Rotation, AppError> {
    if matches!(body.trim_ascii(), b"" | b"null") {
        return Ok(Rotation::default());
    }
    let mut members = Members::parse(body)?;
    Ok(Rotation {
        overlap_seconds: members.value("overlap_seconds", "a whole number of seconds"),
        signing_secret: members.text("signing_secret"),
        signature_scheme: members
            .value::<Scheme>("signature_scheme", "`hmac-sha256` or `ed25519`")
            .map(Into::into),
        faults: members.faults(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuitty_webhooks_domain::signing::SignatureScheme;

    #[test]
    fn body_is_optional_and_read_in_both_spellings() {
        assert_eq!(read(b"").unwrap().overlap_seconds, None);
        assert_eq!(read(b"{}").unwrap().overlap_seconds, None);
        assert_eq!(read(b" null ").unwrap().overlap_seconds, None);
        assert_eq!(
            read(br#"{"overlap_seconds":60}"#).unwrap().overlap_seconds,
            Some(60)
        );
        assert_eq!(read(br#"{"overlapSeconds":0}"#).unwrap().overlap_seconds, Some(0));
        let ed25519 = read(br#"{"signatureScheme":"ed25519"}"#).unwrap();
        assert_eq!(ed25519.signature_scheme, Some(SignatureScheme::Ed25519));
        for (body, field) in [
            (r#"{"signature_scheme":"rsa"}"#, "signature_scheme"),
            (r#"{"overlap_seconds":-1}"#, "overlap_seconds"),
            (r#"{"overlap_seconds":"60"}"#, "overlap_seconds"),
            (r#"{"overlap":60}"#, "overlap"),
        ] {
            let faults = read(body.as_bytes()).unwrap().faults;
            assert_eq!((faults.len(), &*faults[0].field), (1, field), "{body}");
        }
        assert_eq!(read(b"60").unwrap_err().code(), "malformed_body");
    }
}
