//! The span of a call, from its door on: of its caller's trace, and named after its operation as soon as that is known
//! (`app::observed`). What reaches no operation, as for want of a key, stays `api.call`.

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use cuitty_webhooks_log::trace::{self, Traced};
use http::header::HOST;
use http::uri::Authority;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::{Span, debug_span};

use crate::error::is_grpc;
use crate::trace_context;

/// What a call works in; `None` when neither it nor anything that is logged belongs to a trace.
pub(crate) fn traced(request: &Request) -> Option<Traced> {
    let caller = trace_context::of(request.headers());
    if !trace::is_exporting() {
        return caller.map(|caller| Traced::new(Span::none(), Some(caller)));
    }
    let span = span_of(request);
    trace::set_parent(&span, caller);
    Some(Traced::new(span, caller))
}

/// None for what probes and tools ask of gRPC itself.
fn span_of(request: &Request) -> Span {
    let uri = request.uri();
    let headers = request.headers();
    let host = uri.authority().cloned().or_else(|| {
        let host = headers.get(HOST)?;
        host.to_str().ok()?.parse().ok()
    });
    let (address, port) = (
        host.as_ref().map(Authority::host),
        host.as_ref().and_then(Authority::port_u16),
    );
    if is_grpc(headers) {
        let (service, method) = uri
            .path()
            .trim_start_matches('/')
            .rsplit_once('/')
            .unwrap_or_default();
        if service.starts_with("grpc.") {
            return Span::none();
        }
        return debug_span!(
            "api.call",
            otel.kind = "server",
            otel.status_code = Empty,
            error.type = Empty,
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = Empty,
            server.address = address,
            server.port = port,
            project.id = Empty,
            event.type = Empty,
            message.id = Empty,
            log.seq = Empty
        );
    }
    let route = request.extensions().get::<MatchedPath>();
    debug_span!(
        "api.call",
        otel.kind = "server",
        otel.status_code = Empty,
        error.type = Empty,
        http.request.method = request.method().as_str(),
        http.route = route.map(MatchedPath::as_str),
        http.response.status_code = Empty,
        // A query may hold what is nobody else's business.
        url.path = uri.path(),
        url.scheme = uri.scheme_str().unwrap_or("http"),
        server.address = address,
        server.port = port,
        project.id = Empty,
        event.type = Empty,
        message.id = Empty,
        log.seq = Empty
    )
}

/// Tells the span of a call how it was answered. What its caller did wrong is no failure of ours.
pub(crate) fn answered(span: &Span, response: &Response, is_grpc: bool) {
    if span.is_disabled() {
        return;
    }
    let has_failed = if is_grpc {
        // Without the header it was answered, or is being answered still.
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        span.record("rpc.grpc.status_code", code as i64);
        matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        )
    } else {
        span.record("http.response.status_code", i64::from(response.status().as_u16()));
        response.status().is_server_error()
    };
    if has_failed {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Method;

    use super::*;

    #[test]
    fn a_call_without_a_path_does_no_harm() {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("example.com:443")
            .header("content-type", "application/grpc")
            .body(Body::empty())
            .unwrap();
        assert_eq!(request.uri().path(), "");
        // Nobody listens here; what matters is that it does not panic.
        assert!(span_of(&request).is_disabled());
    }
}
