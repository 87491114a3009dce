use super::*;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Method, Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::tls::TlsConfig;

struct Server {
    address: SocketAddr,
    soft: CancellationToken,
    hard: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// Lets `/slow` answer.
    release: Arc<Notify>,
    /// Told when `/slow` was called.
    called: Arc<Notify>,
}

async fn start(config: ApiConfig) -> Server {
    start_with(config, None).await
}

async fn start_with(config: ApiConfig, tls: Option<TlsAcceptor>) -> Server {
    let (release, called) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (release, called) = (release.clone(), called.clone());
        move || async move {
            called.notify_one();
            release.notified().await;
            "done"
        }
    };
    let too_large = || async { Status::out_of_range("decoded message length too large").into_http::<Body>() };
    let endless = || async {
        let first = futures_util::stream::iter([Ok::<_, axum::Error>("first")]);
        Body::from_stream(futures_util::StreamExt::chain(
            first,
            futures_util::stream::pending(),
        ))
    };
    let routes = Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route("/test.Service/Endless", post(endless))
        .route("/slow", get(slow))
        .route("/panic", get(|| async { panic!("on purpose") as &str }))
        .route("/test.Service/TooLarge", post(too_large));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    let task = {
        let (soft, hard) = (soft.clone(), hard.clone());
        let served = router(&config, routes);
        tokio::spawn(async move { run(&config, listener, tls, served, soft, hard).await })
    };
    Server {
        address,
        soft,
        hard,
        task,
        release,
        called,
    }
}

fn client(http2: bool) -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

impl Server {
    fn request(&self, method: Method, path: &str, content_type: &str) -> HttpRequest<Full<Bytes>> {
        HttpRequest::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", content_type)
            .body(Full::default())
            .unwrap()
    }

    async fn call(&self, http2: bool, method: Method, path: &str, content_type: &str) -> Answer {
        let response = client(http2)
            .request(self.request(method, path, content_type))
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        Answer {
            head,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(false, Method::GET, path, "text/plain").await
    }
}

struct Answer {
    head: http::response::Parts,
    body: Bytes,
}

impl Answer {
    /// HTTP status and the code of the error body.
    fn error(&self) -> (u16, String) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        (
            self.head.status.as_u16(),
            body["error"]["code"].as_str().unwrap().to_owned(),
        )
    }

    fn grpc_code(&self) -> tonic::Code {
        assert_eq!(self.head.status, StatusCode::OK);
        Status::from_header_map(&self.head.headers).unwrap().code()
    }
}

#[tokio::test]
async fn both_versions_are_served_on_one_port() {
    let server = start(ApiConfig::default()).await;
    for http2 in [false, true] {
        let answer = server.call(http2, Method::GET, "/ok", "text/plain").await;
        assert_eq!(
            (answer.head.status, &answer.body[..]),
            (StatusCode::OK, &b"ok"[..])
        );
    }
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_the_form_of_its_door() {
    let server = start(ApiConfig::default()).await;
    assert_eq!(
        server.get("/nothing").await.error(),
        (404, "route_not_found".into())
    );
    let answer = server.call(false, Method::DELETE, "/ok", "text/plain").await;
    assert_eq!(answer.error(), (405, "method_not_allowed".into()));
    assert_eq!(answer.head.headers["allow"], "GET,HEAD");
    let path = "/cuitty.webhooks.v1.Unknown/Method";
    let answer = server.call(true, Method::POST, path, "application/grpc").await;
    assert_eq!(answer.grpc_code(), tonic::Code::Unimplemented);
    let answer = server.call(false, Method::POST, path, "application/json").await;
    assert_eq!(answer.error(), (415, "unsupported_media_type".into()));
}

#[tokio::test]
async fn a_message_too_large_to_decode_is_named_as_such() {
    let server = start(ApiConfig::default()).await;
    let answer = server
        .call(true, Method::POST, "/test.Service/TooLarge", "application/grpc")
        .await;
    let status = Status::from_header_map(&answer.head.headers).unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(details.error_info().unwrap().reason, "PAYLOAD_TOO_LARGE");
}

#[tokio::test]
async fn a_panic_ends_only_its_call() {
    let server = start(ApiConfig::default()).await;
    let client = client(true);
    let request = |path| server.request(Method::GET, path, "text/plain");
    assert_eq!(client.request(request("/panic")).await.unwrap().status(), 500);
    assert_eq!(client.request(request("/ok")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_answered() {
    let config = ApiConfig {
        request_timeout: Duration::from_millis(20),
        ..ApiConfig::default()
    };
    let server = start(config).await;
    assert_eq!(server.get("/slow").await.error(), (503, "timed_out".into()));
}

#[tokio::test]
async fn a_silent_or_slow_client_is_cut_off() {
    let config = ApiConfig {
        header_read_timeout: Duration::from_millis(80),
        ..ApiConfig::default()
    };
    let server = start(config).await;
    for sent in ["", "PRI * HT", "GET /ok HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "{sent:?}");
        assert!(!received.starts_with(b"HTTP/1.1 200"), "{sent:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let config = ApiConfig {
        max_connections: 1,
        header_read_timeout: Duration::from_millis(300),
        ..ApiConfig::default()
    };
    let server = start(config).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    // The second call is answered once the silent first connection has been cut off.
    assert_eq!(server.get("/ok").await.head.status, StatusCode::OK);
    drop(first);
}

#[tokio::test]
async fn soft_shutdown_lets_calls_end() {
    let server = start(ApiConfig::default()).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let call = tokio::spawn(client(false).request(server.request(Method::GET, "/slow", "text/plain")));
    server.called.notified().await;
    server.soft.cancel();
    server.release.notify_one();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn hard_shutdown_cuts_calls_off() {
    let server = start(ApiConfig::default()).await;
    let call = tokio::spawn(client(true).request(server.request(Method::GET, "/slow", "text/plain")));
    server.called.notified().await;
    server.soft.cancel();
    server.hard.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn a_callers_deadline_ends_its_call_before_our_limit_does() {
    let server = start(ApiConfig::default()).await;
    let call = |method: Method, path| {
        let mut request = server.request(method, path, "application/grpc");
        request
            .headers_mut()
            .insert("grpc-timeout", HeaderValue::from_static("50m"));
        client(true).request(request)
    };
    // Before the answer begins ...
    let response = call(Method::GET, "/slow").await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    // ... and after.
    let response = call(Method::POST, "/test.Service/Endless").await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    let status = Status::from_header_map(body.trailers().unwrap()).unwrap();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(&body.to_bytes()[..], b"first");
}

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_cut_off() {
    let config = ApiConfig {
        keepalive_interval: Duration::from_millis(60),
        keepalive_timeout: Duration::from_millis(60),
        ..ApiConfig::default()
    };
    let server = start(config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // Preface and empty SETTINGS; nothing after, not even an acknowledgement of theirs.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut received = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut received)).await;
    assert!(ended.is_ok(), "it is still connected");
    let ping = [0, 0, 8, 6];
    assert!(
        received.windows(4).any(|head| head == ping),
        "it was pinged: {received:?}"
    );
}

fn testdata(name: &str) -> std::path::PathBuf {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../dispatcher/testdata");
    data.join(name)
}

/// A client that trusts the authority of [`testdata`].
fn connector() -> TlsConnector {
    use rustls_pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    let ca = rustls_pki_types::CertificateDer::from_pem_file(testdata("ca.pem")).unwrap();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn over_tls_a_call_is_answered_and_a_silent_client_is_cut_off() {
    let tls = TlsConfig {
        cert_file: Some(testdata("server.pem")),
        key_file: Some(testdata("server.key")),
        client_ca_file: None,
    };
    let config = ApiConfig {
        header_read_timeout: Duration::from_millis(300),
        ..ApiConfig::default()
    };
    let server = start_with(config, tls.acceptor().unwrap()).await;
    let open = async || {
        let stream = TcpStream::connect(server.address).await.unwrap();
        connector()
            .connect("localhost".try_into().unwrap(), stream)
            .await
            .unwrap()
    };
    let read = async |mut stream: tokio_rustls::client::TlsStream<TcpStream>| {
        let mut received = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "it is still connected");
        String::from_utf8_lossy(&received).into_owned()
    };

    let mut stream = open().await;
    // In pieces, so that telling the protocol takes more than one look.
    for piece in ["P", "OST", " /slow"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream
        .write_all(b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read(stream).await.starts_with("HTTP/1.1 405"));

    for sent in ["", "PRI * HT"] {
        let mut stream = open().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        assert!(!read(stream).await.starts_with("HTTP/1.1 200"), "{sent:?}");
    }
    // Not even a handshake.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "it is still connected");
}
