use super::*;
use http_body_util::BodyExt;

fn not_found(resource: Resource) -> AppError {
    Rejection::NotFound {
        resource,
        id: "ep_1".into(),
    }
    .into()
}

fn log_down() -> AppError {
    LogError::Unavailable("timed out".into()).into()
}

fn rate_limited() -> AppError {
    AppError::RateLimited {
        per_second: 3,
        burst: 7,
        retry_after: Duration::from_millis(1_200),
    }
}

/// Every row of the table, as callers see it.
#[test]
fn each_error_has_its_code_and_its_two_statuses() {
    let conflict = Rejection::Conflict {
        resource: Resource::Endpoint,
        id: "ep_1".into(),
        message: "x".into(),
    };
    #[rustfmt::skip] // a table: one row, one line
    let rows: Vec<(AppError, &str, u16, Code)> = vec![
        (Rejection::field("url", "x").into(), "invalid_fields", 422, Code::InvalidArgument),
        (not_found(Resource::Project), "project_not_found", 404, Code::NotFound),
        (not_found(Resource::Endpoint), "endpoint_not_found", 404, Code::NotFound),
        (not_found(Resource::Delivery), "delivery_not_found", 404, Code::NotFound),
        (not_found(Resource::Secret), "secret_not_found", 404, Code::NotFound),
        (not_found(Resource::Replay), "replay_not_found", 404, Code::NotFound),
        (conflict.into(), "endpoint_conflict", 409, Code::Aborted),
        (Rejection::PayloadTooLarge { actual: 2, limit: 1 }.into(), "payload_too_large", 413, Code::InvalidArgument),
        (not_found(Resource::EventType), "event_type_not_found", 404, Code::NotFound),
        (AppError::EventTypeArchived("a.b".parse().unwrap()), "event_type_archived", 422, Code::FailedPrecondition),
        (AppError::EventTypeUnknown { nearest: Vec::new() }, "event_type_unknown", 422, Code::InvalidArgument),
        (AppError::IdempotencyKeyReused, "idempotency_key_reused", 409, Code::AlreadyExists),
        (AppError::PreconditionFailed { resource: Resource::Endpoint, id: "ep_1".into(), revision: 2 }, "revision_mismatch", 412, Code::Aborted),
        (rate_limited(), "rate_limited", 429, Code::ResourceExhausted),
        (AppError::MissingKey, "missing_api_key", 401, Code::Unauthenticated),
        (AppError::WrongKey, "invalid_api_key", 401, Code::Unauthenticated),
        (AppError::MissingScope(Scope::Read), "missing_scope", 403, Code::PermissionDenied),
        (AppError::MalformedBody("x".into()), "malformed_body", 400, Code::InvalidArgument),
        (AppError::UnsupportedMediaType("x"), "unsupported_media_type", 415, Code::InvalidArgument),
        (AppError::RequestTooLarge { limit: 1 }, "payload_too_large", 413, Code::InvalidArgument),
        (AppError::BatchTooLarge { limit: 1 }, "batch_too_large", 413, Code::InvalidArgument),
        (AppError::RouteNotFound, "route_not_found", 404, Code::Unimplemented),
        (AppError::MethodNotAllowed, "method_not_allowed", 405, Code::Unimplemented),
        (AppError::Contended("ep_1".into()), "endpoint_contended", 409, Code::Aborted),
        (AppError::Overloaded, "overloaded", 503, Code::Unavailable),
        (log_down(), "log_unavailable", 503, Code::Unavailable),
        (AppError::HistoryUnavailable(None), "history_unavailable", 503, Code::Unavailable),
        (AppError::HistoryBehind(9), "history_behind", 503, Code::Unavailable),
        (AppError::TooManyWatchers(1), "too_many_watchers", 429, Code::ResourceExhausted),
        (AppError::TooManyStreams(1), "too_many_streams", 429, Code::ResourceExhausted),
        (AppError::WatcherBehind(1), "watcher_behind", 429, Code::ResourceExhausted),
        (AppError::TimedOut, "timed_out", 503, Code::DeadlineExceeded),
        (AppError::ShuttingDown, "shutting_down", 503, Code::Unavailable),
        (AppError::internal("x"), "internal", 500, Code::Internal),
    ];
    for (error, code, http, grpc) in rows {
        let status = error.to_status();
        let info = status.get_error_details().error_info().cloned().unwrap();
        assert_eq!(
            (status.code(), info.domain.as_str()),
            (grpc, "webhooks.cuitty.com"),
            "{code}"
        );
        assert_eq!(info.reason, code.to_uppercase());
        let may_retry = matches!(http, 503 | 429);
        assert_eq!(
            status.get_error_details().retry_info().is_some(),
            may_retry,
            "{code}"
        );
        assert_eq!(error.code(), code);
        let response = error.into_response();
        assert_eq!(response.status(), http, "{code}");
        assert_eq!(response.headers().contains_key(RETRY_AFTER), may_retry, "{code}");
        assert_eq!(
            response.headers().contains_key(WWW_AUTHENTICATE),
            http == 401,
            "{code}"
        );
    }
}

async fn body_of(error: AppError) -> serde_json::Value {
    let body = error
        .into_response()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn rest_names_the_fields_at_fault() {
    let fields = vec![
        FieldViolation::new("url", "must be short"),
        FieldViolation::new("limit", "must be small"),
    ];
    assert_eq!(
        body_of(Rejection::Invalid(fields).into()).await,
        serde_json::json!({"error": {
            "type": "invalid_request",
            "code": "invalid_fields",
            "message": "url must be short; limit must be small",
            "resource": null,
            "id": null,
            "fields": [
                {"field": "url", "message": "must be short"},
                {"field": "limit", "message": "must be small"},
            ],
        }})
    );
}

#[tokio::test]
async fn rest_names_the_thing_at_fault() {
    let error = &body_of(not_found(Resource::Endpoint)).await["error"];
    assert_eq!(
        (error["resource"].as_str(), error["id"].as_str()),
        (Some("endpoint"), Some("ep_1"))
    );
}

#[tokio::test]
async fn a_request_too_large_names_the_payload() {
    let status = AppError::RequestTooLarge { limit: 9 }.to_status();
    let details = status.get_error_details();
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "payload");
    let error = &body_of(AppError::RequestTooLarge { limit: 9 }).await["error"];
    assert_eq!(error["fields"][0]["field"], "payload");
    let status = AppError::BatchTooLarge { limit: 9 }.to_status();
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "items");
}

#[test]
fn grpc_carries_the_same_details() {
    let status = AppError::from(Rejection::field("url", "must be short")).to_status();
    let violations = status
        .get_error_details()
        .bad_request()
        .unwrap()
        .field_violations
        .clone();
    assert_eq!(
        (violations[0].field.as_str(), violations[0].description.as_str()),
        ("url", "must be short")
    );
    let status = not_found(Resource::Project).to_status();
    let metadata = status.get_error_details().error_info().unwrap().metadata.clone();
    assert_eq!(
        (metadata["resource"].as_str(), metadata["id"].as_str()),
        ("project", "ep_1")
    );
}

#[tokio::test]
async fn what_went_wrong_inside_is_not_told() {
    let error = AppError::internal("password=hunter2");
    assert_eq!(error.to_status().message(), "internal error");
    assert_eq!(body_of(error).await["error"]["message"], "internal error");
    assert!(!body_of(log_down()).await.to_string().contains("timed out"));
}

#[test]
fn what_callers_sent_cannot_make_an_error_large() {
    let violation = FieldViolation::new("é".repeat(100_000), "x".repeat(100_000));
    let status = AppError::from(Rejection::Invalid(vec![violation; 1000])).to_status();
    assert_eq!(status.message().chars().count(), MESSAGE_CHARS + 1);
    let violations = status
        .get_error_details()
        .bad_request()
        .unwrap()
        .field_violations
        .clone();
    assert_eq!(violations.len(), FIELDS);
    assert_eq!(violations[0].field.chars().count(), FIELD_CHARS + 1);
    assert_eq!(shorten("short", 5), "short");
}

#[test]
fn a_rate_limit_says_when_to_come_back() {
    let status = rate_limited().to_status();
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_millis(1_200)));
    let response = rate_limited().into_response();
    for (name, value) in [
        ("retry-after", "2"),
        ("ratelimit-limit", "7"),
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "2"),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    assert_eq!(whole_seconds(Duration::from_secs(3)), 3);
}
