//! The engine against real sockets that answer as scripted.

use std::net::Ipv4Addr;

use cuitty_webhooks_domain::attempt::Header;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

fn loopback() -> EgressPolicy {
    EgressPolicy {
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        ports: Vec::new(),
        ..EgressPolicy::default()
    }
}

fn client(policy: EgressPolicy) -> HttpClient {
    HttpClient::build(&HttpConfig::default(), policy).unwrap()
}

async fn post(client: &HttpClient, url: &str, limit: Duration) -> Exchange {
    client
        .post(
            url.parse().unwrap(),
            HeaderMap::new(),
            Bytes::from_static(b"{}"),
            limit,
        )
        .await
        .unwrap()
}

fn class(exchange: &Exchange) -> Option<ErrorClass> {
    exchange.error.as_ref().map(|error| error.class)
}

/// Reads one request, head and the two bytes of its body; `None` when the peer has closed.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        match socket.read_buf(&mut request).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
    Some(String::from_utf8(request).unwrap())
}

/// A server that treats each connection as `script` says.
async fn server<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(script(socket));
        }
    });
    format!("http://127.0.0.1:{port}/hook?token=secret")
}

/// A server that answers every request with these bytes and keeps the connection.
async fn answering(answer: impl Into<Bytes>) -> String {
    let answer = answer.into();
    server(move |mut socket| {
        let answer = answer.clone();
        async move {
            while read_request(&mut socket).await.is_some() {
                if socket.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

fn response(status: u16, headers: &str, body: &[u8]) -> Bytes {
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

#[tokio::test]
async fn a_kept_connection_is_used_again_and_its_times_count_once() {
    let url = answering(response(200, "x-answer: yes\r\n", b"fine")).await;
    let client = client(loopback());
    let first = post(&client, &url, LIMIT).await;
    let second = post(&client, &url, LIMIT).await;
    for exchange in [&first, &second] {
        let response = exchange.response.as_ref().unwrap();
        assert_eq!(
            (response.status, &response.body[..], response.body_truncated),
            (200, &b"fine"[..], false)
        );
        assert_eq!(
            response.headers[0],
            Header {
                name: "x-answer".into(),
                value: "yes".into()
            }
        );
        assert_eq!(exchange.error, None);
        assert!(exchange.first_byte.is_some());
        assert_eq!(exchange.remote.unwrap().ip(), Ipv4Addr::LOCALHOST);
    }
    assert_eq!(first.remote, second.remote);
    assert!(first.connect.is_some() && second.connect.is_none());
    assert_eq!((first.dns, first.tls), (None, None), "a literal address, no TLS");
}

#[tokio::test]
async fn only_2xx_is_a_success_and_redirects_are_not_followed() {
    let target = answering(response(200, "", b"")).await;
    for (status, expected) in [
        (201, None),
        (204, None),
        (302, Some(ErrorClass::Redirect)),
        (404, Some(ErrorClass::Status)),
        (410, Some(ErrorClass::Status)),
        (503, Some(ErrorClass::Status)),
    ] {
        let url = answering(response(status, &format!("location: {target}\r\n"), b"")).await;
        let exchange = post(&client(loopback()), &url, LIMIT).await;
        assert_eq!(class(&exchange), expected, "{status}");
        assert_eq!(exchange.response.unwrap().status, status);
    }
}

#[tokio::test]
async fn a_huge_body_is_cut_and_its_connection_closed() {
    let url = server(|mut socket| async move {
        read_request(&mut socket).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
        if socket.write_all(head.as_bytes()).await.is_ok() {
            while socket.write_all(&[b'x'; 8192]).await.is_ok() {}
        }
    })
    .await;
    let client = client(loopback());
    for _ in 0..2 {
        let exchange = post(&client, &url, LIMIT).await;
        let response = exchange.response.unwrap();
        assert_eq!((response.body.len(), response.body_truncated), (16 << 10, true));
        assert_eq!(exchange.error, None, "what was read tells that it was taken");
        assert!(
            exchange.connect.is_some(),
            "not on the connection with the rest of the body"
        );
    }
}

#[tokio::test]
async fn a_body_a_little_too_long_is_cut_and_its_connection_kept() {
    let url = answering(response(200, "", &vec![b'x'; 20_000])).await;
    let client = client(loopback());
    let first = post(&client, &url, LIMIT).await.response.unwrap();
    assert_eq!((first.body.len(), first.body_truncated), (16 << 10, true));
    assert_eq!(post(&client, &url, LIMIT).await.connect, None);
}

#[tokio::test]
async fn a_compressed_body_is_kept_as_it_came() {
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let url = answering(response(200, "content-encoding: gzip\r\n", gzip)).await;
    let exchange = post(&client(loopback()), &url, LIMIT).await;
    assert_eq!(exchange.response.unwrap().body, &gzip[..]);
}

#[tokio::test]
async fn a_dripping_body_ends_at_the_deadline() {
    let url = server(|mut socket| async move {
        read_request(&mut socket).await;
        let mut drip = tokio::time::interval(Duration::from_millis(20));
        let _ = socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
            .await;
        while socket.write_all(b"x").await.is_ok() {
            drip.tick().await;
        }
    })
    .await;
    let started = Instant::now();
    let exchange = post(&client(loopback()), &url, Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(class(&exchange), Some(ErrorClass::TooSlow));
    let response = exchange.response.unwrap();
    assert!(response.status == 200 && response.body_truncated && !response.body.is_empty());
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_times_out_with_its_address() {
    let url = server(|mut socket| async move { while read_request(&mut socket).await.is_some() {} }).await;
    let exchange = post(&client(loopback()), &url, Duration::from_millis(200)).await;
    assert_eq!(class(&exchange), Some(ErrorClass::Timeout));
    assert!(exchange.remote.is_some() && exchange.connect.is_some() && exchange.response.is_none());
}

#[tokio::test]
async fn a_connection_closed_early_is_a_reset() {
    for sent in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    ] {
        let url = server(move |mut socket| async move {
            read_request(&mut socket).await;
            let _ = socket.write_all(sent.as_bytes()).await;
        })
        .await;
        let exchange = post(&client(loopback()), &url, LIMIT).await;
        assert_eq!(class(&exchange), Some(ErrorClass::Reset), "{sent}");
        assert!(exchange.remote.is_some());
    }
    let url = server(|mut socket| async move {
        read_request(&mut socket).await;
        // Closes with RST instead of FIN.
        socket.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(
        class(&post(&client(loopback()), &url, LIMIT).await),
        Some(ErrorClass::Reset)
    );
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    let too_long = format!(
        "HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n",
        "x".repeat(2 * MAX_HEAD_BYTES)
    );
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        &too_long,
    ] {
        let url = answering(answer.to_owned()).await;
        let exchange = post(&client(loopback()), &url, LIMIT).await;
        assert_eq!(class(&exchange), Some(ErrorClass::Protocol), "{answer:.20}");
    }
}

#[tokio::test]
async fn a_refused_connection_and_an_unknown_host_are_told_apart() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let exchange = post(
        &client(loopback()),
        &format!("http://127.0.0.1:{port}/?token=secret"),
        LIMIT,
    )
    .await;
    assert_eq!(
        (class(&exchange), exchange.remote),
        (Some(ErrorClass::Connect), None)
    );
    assert!(!exchange.error.unwrap().message.contains("secret"));

    // A name server that answers nothing: the first bound socket is never read.
    let silent = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let config = HttpConfig {
        nameservers: vec![silent.local_addr().unwrap()],
        connect_timeout: Duration::from_millis(200),
        ..HttpConfig::default()
    };
    // Whichever of the two limits ends it.
    let patient = HttpConfig {
        connect_timeout: LIMIT,
        ..config.clone()
    };
    for (config, limit) in [(config, LIMIT), (patient, Duration::from_millis(200))] {
        let client = HttpClient::build(&config, loopback()).unwrap();
        let exchange = post(&client, "http://receiver.example/", limit).await;
        assert_eq!((class(&exchange), exchange.dns), (Some(ErrorClass::Dns), None));
    }
}

#[tokio::test]
async fn addresses_outside_of_the_policy_are_not_connected_to() {
    let url = answering(response(200, "", b"")).await;
    let by_name = url.replace("127.0.0.1", "localhost");
    for url in [
        &url,
        &by_name,
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data",
    ] {
        let exchange = post(&client(EgressPolicy::default()), url, LIMIT).await;
        assert_eq!(class(&exchange), Some(ErrorClass::BlockedAddress), "{url}");
        assert!(exchange.remote.is_none() && exchange.response.is_none());
    }
    let exchange = post(&client(loopback()), &by_name, LIMIT).await;
    assert_eq!(exchange.error, None, "by name, once allowed");
    assert!(exchange.dns.is_some());
}

/// Kept connections that the server closes are the everyday case; nothing was written, so nothing may be lost or doubled.
#[tokio::test]
async fn a_kept_connection_that_the_server_closed_costs_no_attempt() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let url = server(move |mut socket| {
        let seen = seen.clone();
        async move {
            read_request(&mut socket).await;
            socket.write_all(&response(200, "", b"")).await.unwrap();
            drop(socket);
            seen.send(()).unwrap();
        }
    })
    .await;
    let other = answering(response(200, "", b"")).await;
    let client = client(loopback());
    for _ in 0..50 {
        assert_eq!(post(&client, &url, LIMIT).await.error, None);
        requests.recv().await.unwrap();
        // What comes back after the end of the stream shows that the end has been seen.
        assert_eq!(post(&client, &other, LIMIT).await.error, None);
    }
    assert!(requests.try_recv().is_err(), "every request was sent once");
}

/// A TLS server with the certificate of `testdata`, for `localhost` and 127.0.0.1, that answers over what ALPN chooses.
async fn tls_server(alpn: &[&[u8]]) -> String {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let certificate = CertificateDer::from_pem_file(format!("{data}/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{data}/server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let url = server(move |socket| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(session) = acceptor.accept(socket).await else {
                return;
            };
            let answer = service_fn(|request: Request<Incoming>| async move {
                let version = format!(
                    "{:?} {}",
                    request.version(),
                    request.headers().contains_key("host")
                );
                Ok::<_, std::convert::Infallible>(::http::Response::new(Full::new(Bytes::from(version))))
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(session), answer)
                .await;
        }
    })
    .await;
    url.replace("http:", "https:")
}

#[tokio::test]
async fn tls_is_verified_and_alpn_chooses_the_version() {
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/ca.pem");
    let config = HttpConfig {
        extra_ca_file: Some(authority.into()),
        ..HttpConfig::default()
    };
    let trusting = HttpClient::build(&config, loopback()).unwrap();
    for (alpn, answer) in [
        (&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0 false"),
        (&[b"http/1.1"], "HTTP/1.1 true"),
    ] {
        let url = tls_server(alpn).await;
        let first = post(&trusting, &url, LIMIT).await;
        assert_eq!(
            first.response.as_ref().map(|response| &response.body[..]),
            Some(answer.as_bytes()),
            "{:?}",
            first.error
        );
        assert!(first.tls.is_some() && first.connect.is_some());
        let second = post(&trusting, &url, LIMIT).await;
        assert_eq!((second.error, second.tls, second.connect), (None, None, None));

        let exchange = post(&client(loopback()), &url, LIMIT).await;
        assert_eq!(
            class(&exchange),
            Some(ErrorClass::Tls),
            "an authority that is not trusted"
        );
        assert!(exchange.connect.is_some() && exchange.remote.is_some());
        let exchange = post(&trusting, &url.replace("127.0.0.1", "127.0.0.2"), LIMIT).await;
        assert_eq!(
            class(&exchange),
            Some(ErrorClass::Tls),
            "a certificate for another host"
        );
    }
    let plain = server(|mut socket| async move {
        let _ = socket.write_all(&response(400, "", b"")).await;
    })
    .await
    .replace("http:", "https:");
    assert_eq!(
        class(&post(&trusting, &plain, LIMIT).await),
        Some(ErrorClass::Tls),
        "no TLS at all"
    );
}

#[tokio::test]
async fn an_unusable_authority_file_names_its_setting() {
    for path in [
        "/nonexistent/ca.pem",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ] {
        let config = HttpConfig {
            extra_ca_file: Some(path.into()),
            ..HttpConfig::default()
        };
        let refused = HttpClient::build(&config, loopback()).err().expect(path);
        assert!(matches!(
            refused,
            DispatcherError::Config {
                setting: "http.extra_ca_file",
                ..
            }
        ));
    }
}
