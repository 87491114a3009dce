//! `POST /api/webhooks/endpoints/{id}/rotate`

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::{EndpointId, InvalidId};
use cuitty_webhooks_domain::rejection::Rejection;
use serde::Serialize;
use utoipa::ToSchema;

use super::Key;
use super::body::{JsonBytes, Members};
use super::model::Scheme;
use crate::app::{App, Rotation};
use crate::error::{AppError, ErrorBody};

/// How to rotate. May be left out.
#[derive(ToSchema)]
#[schema(as = Rotation)]
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

/// The new secret. It is shown here and never again.
#[derive(Serialize, ToSchema)]
#[schema(as = RotatedSecret)]
pub(super) struct RotatedBody {
    signing_secret: String,
    secret_id: String,
    /// Of an ed25519 key: what receivers verify with.
    public_key: Option<String>,
    previous_expires_at: DateTime<Utc>,
}

/// Makes a new signing secret current; the previous one keeps signing until the overlap ends.
#[utoipa::path(
    post,
    path = "/api/webhooks/endpoints/{id}/rotate",
    params(("id" = String, Path, description = "The endpoint")),
    request_body = Option<RotateBody>,
    responses(
        (status = 200, description = "The new secret, shown once", body = RotatedBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 404, description = "Unknown endpoint", body = ErrorBody),
        (status = 409, description = "Too many live secrets, or changed by others meanwhile", body = ErrorBody),
        (status = 422, description = "A field is wrong", body = ErrorBody),
        (status = 503, description = "The log is not available", body = ErrorBody)
    )
)]
pub(super) async fn rotate_secret(
    State(app): State<Arc<App>>,
    Key(caller): Key,
    Path(id): Path<String>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<RotatedBody>, AppError> {
    let id: EndpointId = id
        .parse()
        .map_err(|error: InvalidId| Rejection::field("endpoint_id", error.to_string()))?;
    let rotated = app.rotate_secret(&caller, id, read(&body)?).await?;
    Ok(Json(RotatedBody {
        signing_secret: rotated.signing_secret.expose().to_string(),
        secret_id: rotated.secret_id.to_string(),
        public_key: rotated.signing_secret.public_key().map(|key| key.to_string()),
        previous_expires_at: rotated.previous_expires_at,
    }))
}

fn read(body: &[u8]) -> Result<Rotation, AppError> {
    if body.is_empty() {
        return Ok(Rotation::default());
    }
    let mut members = Members::parse(body)?;
    let rotation = Rotation {
        overlap_seconds: members.value("overlap_seconds", "a whole number of seconds"),
        signing_secret: members.text("signing_secret"),
        signature_scheme: members
            .value::<Scheme>("signature_scheme", "`hmac-sha256` or `ed25519`")
            .map(Into::into),
    };
    members.finish()?;
    Ok(rotation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuitty_webhooks_domain::signing::SignatureScheme;

    #[test]
    fn body_is_optional_and_read_in_both_spellings() {
        assert_eq!(read(b"").unwrap().overlap_seconds, None);
        assert_eq!(read(b"{}").unwrap().overlap_seconds, None);
        assert_eq!(
            read(br#"{"overlap_seconds":60}"#).unwrap().overlap_seconds,
            Some(60)
        );
        assert_eq!(read(br#"{"overlapSeconds":0}"#).unwrap().overlap_seconds, Some(0));
        let ed25519 = read(br#"{"signatureScheme":"ed25519"}"#).unwrap();
        assert_eq!(ed25519.signature_scheme, Some(SignatureScheme::Ed25519));
        for (body, code) in [
            (r#"{"signature_scheme":"rsa"}"#, "invalid_fields"),
            (r#"{"overlap_seconds":-1}"#, "invalid_fields"),
            (r#"{"overlap_seconds":"60"}"#, "invalid_fields"),
            (r#"{"overlap":60}"#, "invalid_fields"),
            ("60", "malformed_body"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().code(), code, "{body}");
        }
    }
}
