//! Endpoints that would break or spoof requests, or reach where nobody may.

use cuitty_webhooks_proto::v1::{CreateEndpointRequest, Header, RotateSecretRequest};
use harness::app::{PROJECT, TestApp};
use harness::grpc::{Refusal, refused};

use super::{invalid, stored, strict};

/// Makes a good request a bad one.
type Spoil = fn(&mut CreateEndpointRequest);

async fn create(app: &TestApp, request: CreateEndpointRequest) -> Refusal {
    let request = CreateEndpointRequest {
        project_id: PROJECT.into(),
        ..request
    };
    refused(app.endpoints().create_endpoint(request).await)
}

#[tokio::test]
async fn urls() {
    let (app, _) = strict().await;
    let before = stored(&app).await;
    let too_long = format!("https://example.com/{}", "x".repeat(2048));
    for url in [
        "",
        "example.com/hook",
        "/hook",
        "https://",
        "https://exa mple.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#fragment",
        "https://example.com:0/",
        &too_long,
        // Private, loopback, link-local, metadata and the like, in every spelling.
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://100.64.0.1/",
        "http://198.18.0.1/",
        "http://203.0.113.200/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://[fd00:ec2::254]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:a00:1::]/",
        "http://[2001:db8::1]/",
        "http://[ff02::1]/",
        // The same by name.
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://anything.localhost/",
    ] {
        let refusal = create(
            &app,
            CreateEndpointRequest {
                url: url.into(),
                ..Default::default()
            },
        )
        .await;
        assert_eq!(invalid(&refusal), ["url"], "{url}");
    }
    assert_eq!(stored(&app).await, before);
}

#[tokio::test]
async fn headers() {
    let (app, _) = strict().await;
    let before = stored(&app).await;
    let with = |name: &str, value: &str| CreateEndpointRequest {
        url: "https://8.8.8.8/hook".into(),
        headers: vec![Header {
            name: name.into(),
            value: value.into(),
        }],
        ..Default::default()
    };
    for name in [
        "",
        "x y",
        "x:y",
        "x\r\nhost: evil",
        "x\ny",
        "é",
        "host",
        "Host",
        "content-length",
        "Content-Length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "content-type",
        "user-agent",
        "traceparent",
        "webhook-id",
        "Webhook-Signature",
        "webhook-anything",
        "x-cuitty-event-type",
        "proxy-authorization",
        &"x".repeat(129),
    ] {
        let refusal = create(&app, with(name, "value")).await;
        let field = format!("headers.{}", name.to_ascii_lowercase().escape_default());
        assert_eq!(invalid(&refusal), [field.as_str()], "{name:?}");
    }
    for value in [
        "a\r\nwebhook-id: forged",
        "a\nb",
        "a\u{0}b",
        "é",
        &"x".repeat(4097),
    ] {
        let refusal = create(&app, with("x-ok", value)).await;
        assert_eq!(invalid(&refusal), ["headers.x-ok"], "{value:?}");
    }
    let signature_header = |name: &str| CreateEndpointRequest {
        url: "https://8.8.8.8/hook".into(),
        signature_header: name.into(),
        ..Default::default()
    };
    for name in ["host", "content-length", "webhook-signature", "x\r\ny", "x y"] {
        let refusal = create(&app, signature_header(name)).await;
        assert_eq!(invalid(&refusal), ["signature_header"], "{name:?}");
    }
    assert_eq!(stored(&app).await, before);
}

#[tokio::test]
async fn settings() {
    let (app, _) = strict().await;
    let before = stored(&app).await;
    let good = || CreateEndpointRequest {
        url: "https://8.8.8.8/hook".into(),
        ..Default::default()
    };
    let spoilt: [(Spoil, &str); 12] = [
        (|r| r.event_types = vec!["a..b".into()], "event_types[0]"),
        (
            |r| r.event_types = vec!["a.b".into(), "*.b".into()],
            "event_types[1]",
        ),
        (|r| r.event_types = vec!["a.b".into(); 129], "event_types"),
        (|r| r.description = "d".repeat(1025), "description"),
        (|r| r.timeout_ms = 999, "timeout_ms"),
        (|r| r.timeout_ms = 60_001, "timeout_ms"),
        (|r| r.max_in_flight = 257, "max_in_flight"),
        (|r| r.rate_limit_per_second = 10_001, "rate_limit_per_second"),
        (
            |r| r.retry_schedule_seconds = vec![1, 0],
            "retry_schedule_seconds[1]",
        ),
        (
            |r| r.retry_schedule_seconds = vec![86_401],
            "retry_schedule_seconds[0]",
        ),
        (
            |r| r.retry_schedule_seconds = vec![1; 25],
            "retry_schedule_seconds",
        ),
        (|r| r.signing_secret = "whsec_short".into(), "signing_secret"),
    ];
    for (spoil, field) in spoilt {
        let mut request = good();
        spoil(&mut request);
        assert_eq!(invalid(&create(&app, request).await), [field]);
    }
    let several = CreateEndpointRequest {
        url: "ftp://x/".into(),
        timeout_ms: 1,
        max_in_flight: 1000,
        ..good()
    };
    assert_eq!(
        invalid(&create(&app, several).await),
        ["max_in_flight", "timeout_ms", "url"]
    );
    let project = refused(app.endpoints().create_endpoint(good()).await);
    assert_eq!(invalid(&project), ["project_id"]);
    assert_eq!(stored(&app).await, before);
}

#[tokio::test]
async fn rotations() {
    let (app, endpoint_id) = strict().await;
    let before = stored(&app).await;
    let rotate = |overlap: Option<u32>, secret: &str| RotateSecretRequest {
        endpoint_id: endpoint_id.clone(),
        overlap_seconds: overlap,
        signing_secret: secret.into(),
        ..Default::default()
    };
    let too_long = refused(app.endpoints().rotate_secret(rotate(Some(604_801), "")).await);
    assert_eq!(invalid(&too_long), ["overlap_seconds"]);
    let weak = refused(app.endpoints().rotate_secret(rotate(None, "whsec_AAAA")).await);
    assert_eq!(invalid(&weak), ["signing_secret"]);
    assert_eq!(stored(&app).await, before);
}
