//! The MCP door: tools for agents, over streamable HTTP at `/mcp`. What a tool takes and gives is what REST takes and gives.
//!
//! Every request stands alone: there are no sessions to keep, to lose or to run out of, any process may answer, and a call
//! ends as any other does when the service stops.

mod arguments;
mod calls;
mod refusal;
mod schema;
mod server;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use rmcp::model::{ClientJsonRpcMessage, ErrorData, JsonRpcError};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::IgnoredAny;

use self::server::Server;
use crate::app::App;
use crate::error::AppError;
use crate::rest::Key;
use crate::rest::body::JsonBytes;

/// The one route.
pub(crate) fn routes(app: Arc<App>) -> Router {
    let server = Server::new(Arc::clone(&app));
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        // Against DNS rebinding: a browser names the origin of whatever it posts, and no page has any business here. What
        // host a call was meant for tells nothing more, and behind a proxy it may be any.
        .enforce_origin_validation()
        .disable_allowed_hosts();
    let service = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    Router::new()
        .route_service("/mcp", service)
        .route_layer(from_fn_with_state(app, admit))
}

/// Lets in whoever has a key and keeps to its rate, with a message that can be read.
async fn admit(Key(caller): Key, request: Request, next: Next) -> Result<Response, AppError> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(caller);
    // As large as a request of REST may be, and refused alike.
    let whole = Request::from_parts(parts.clone(), body);
    let JsonBytes(bytes) = JsonBytes::from_request(whole, &()).await?;
    if parts.method == Method::POST
        && let Err(unreadable) = read(&bytes)
    {
        let answer = axum::Json(JsonRpcError::new(None, unreadable));
        return Ok((StatusCode::BAD_REQUEST, answer).into_response());
    }
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

/// Refuses what is no message, in the words of JSON-RPC.
fn read(bytes: &[u8]) -> Result<(), ErrorData> {
    if serde_json::from_slice::<ClientJsonRpcMessage>(bytes).is_ok() {
        return Ok(());
    }
    Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
        Ok(_) => ErrorData::invalid_request("must be one JSON-RPC 2.0 request or notification", None),
        Err(error) => ErrorData::parse_error(format!("the body is not JSON: {error}"), None),
    })
}

#[cfg(test)]
mod tests {
    use rmcp::model::ErrorCode;

    use super::*;

    #[test]
    fn what_is_no_message_is_refused_as_json_rpc_says() {
        assert!(read(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).is_ok());
        assert!(read(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).is_ok());
        for (body, code) in [
            ("", ErrorCode::PARSE_ERROR),
            ("{", ErrorCode::PARSE_ERROR),
            ("{}", ErrorCode::INVALID_REQUEST),
            (
                r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
                ErrorCode::INVALID_REQUEST,
            ),
            // Batches left the protocol with its version of June 2025.
            (
                r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
                ErrorCode::INVALID_REQUEST,
            ),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().code, code, "{body}");
        }
    }
}
