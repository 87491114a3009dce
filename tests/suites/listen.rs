//! `cuitty-webhooks listen`: events on a machine that nobody can reach.

use std::time::{Duration, SystemTime};

use cuitty_webhooks_client::{Client, ClientError, Code, Verifier};
use cuitty_webhooks_proto::v1::listen_request::Request as Said;
use cuitty_webhooks_proto::v1::listen_service_client::ListenServiceClient;
use cuitty_webhooks_proto::v1::{
    DeliveryDetail, Endpoint, GetEndpointRequest, ListEndpointsRequest, ListenRequest, ListenStart,
};
use futures_util::{StreamExt, stream};
use harness::app::{PROJECT, TestApp, summary};
use harness::cli::{command, json_lines};
use harness::eventually::{PATIENCE, eventually, is};
use harness::process::Process;
use harness::receiver::{Receiver, Reply};
use harness::roles::ADMIN_KEY;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Request;

/// A running `listen --json`.
pub(super) struct Listen {
    process: Process,
    _dir: TempDir,
}

impl Listen {
    /// Starts it, and waits until it listens.
    pub(super) async fn start(app: &TestApp, more: &[&str]) -> (Self, Value) {
        let dir = tempfile::tempdir().unwrap();
        let arguments = [&["listen", "--project", PROJECT, "--json"], more].concat();
        let command = command(app.url(), ADMIN_KEY, &arguments);
        let listen = Self {
            process: Process::spawn("listen", command, &dir.path().join("output")),
            _dir: dir,
        };
        let lines = listen.lines(1).await;
        (listen, lines[0].clone())
    }

    /// What it has printed, once there are so many lines.
    pub(super) async fn lines(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} lines"), || async {
            let output = self.process.output();
            let whole = output
                .rsplit_once('\n')
                .map(|(whole, _)| whole)
                .unwrap_or_default();
            let lines = if whole.is_empty() {
                Vec::new()
            } else {
                json_lines(whole)
            };
            if lines.len() >= count {
                Ok(lines)
            } else {
                Err(output)
            }
        })
        .await
    }
}

fn id(started: &Value) -> String {
    started["endpoint_id"].as_str().unwrap().to_owned()
}

async fn endpoints(app: &TestApp) -> Vec<Endpoint> {
    let request = ListEndpointsRequest {
        project_id: PROJECT.into(),
        ..Default::default()
    };
    let listed = app.endpoints().list_endpoints(request).await.unwrap();
    listed.into_inner().endpoints
}

async fn is_gone(app: &TestApp, endpoint_id: &str) {
    eventually("the endpoint is deleted", || async {
        let request = GetEndpointRequest {
            endpoint_id: endpoint_id.into(),
        };
        let found = app.endpoints().get_endpoint(request).await;
        is(found.err().map(|status| status.code()), Some(Code::NotFound))
    })
    .await;
}

fn errors(detail: &DeliveryDetail) -> Vec<&str> {
    let attempts = detail.attempts.iter();
    attempts
        .map(|attempt| attempt.error.as_ref().map_or("", |error| &error.message))
        .collect()
}

#[tokio::test]
async fn what_arrives_is_printed_signed_and_recorded_until_it_is_interrupted() {
    let app = TestApp::start().await;
    let (mut listen, started) = Listen::start(&app, &["--event-types", "order.*"]).await;
    let endpoint = id(&started);

    let other = app.deliver("budget.exceeded", &json!({})).await;
    assert_eq!(other.deliveries.len(), 0);
    let accepted = app.deliver("order.paid", &json!({"id": 7})).await;

    let arrived = &listen.lines(2).await[1];
    assert_eq!(
        (&arrived["payload"], &arrived["event_type"]),
        (&json!({"id": 7}), &json!("order.paid"))
    );
    assert_eq!(
        (&arrived["forwarded"], &arrived["headers"]["x-cuitty-attempt"]),
        (&Value::Null, &json!("1"))
    );
    let secret = started["signing_secret"].as_str().unwrap();
    let header = |name: &str| arrived["headers"][name].as_str();
    let verifier = Verifier::new([secret]).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the service signs with the real time")]
    let now = SystemTime::now();
    let trusted = verifier.verify(header, br#"{"id":7}"#, now).unwrap();
    assert_eq!(trusted.id, accepted.message_id);
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(
        summary(&detail).status().as_str_name(),
        "DELIVERY_STATUS_DELIVERED"
    );
    assert_eq!(errors(&detail), [""]);

    listen.process.signal(Signal::SIGINT);
    assert_eq!(listen.process.wait(PATIENCE).await.code(), Some(0));
    is_gone(&app, &endpoint).await;
}

#[tokio::test]
async fn what_arrives_is_forwarded_and_a_refusal_is_recorded_and_tried_again() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/local", [Reply::status(500), Reply::status(204)]);
    let (listen, _started) = Listen::start(&app, &["--forward-to", &receiver.url("/local")]).await;

    let accepted = app.deliver("order.paid", &json!({"id": 7})).await;

    let request = &receiver.received("/local", 1).await[0];
    assert_eq!(request.body, r#"{"id":7}"#);
    assert_eq!(request.header("webhook-id"), accepted.message_id);
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.header("webhook-signature").starts_with("v1,"));
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(
        errors(&detail),
        [
            "refused: forwarding was answered with 500 Internal Server Error",
            ""
        ]
    );
    let lines = listen.lines(3).await;
    assert_eq!(
        (&lines[1]["forwarded"], &lines[2]["forwarded"]),
        (&json!({"status": 500}), &json!({"status": 204}))
    );
}

#[tokio::test]
async fn the_endpoint_does_not_outlive_a_listener_that_is_killed() {
    let app = TestApp::start().await;
    let (mut listen, started) = Listen::start(&app, &[]).await;
    listen.process.kill9();
    is_gone(&app, &id(&started)).await;
}

#[tokio::test]
async fn the_endpoint_does_not_outlive_the_service_that_listens_for_it() {
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .start()
        .await;
    let (mut listen, _) = Listen::start(&app, &[]).await;
    app.roles[0].stop().await;
    assert_eq!(listen.process.wait(PATIENCE).await.code(), Some(1));
    app.roles[0].start_again();
    app.roles[0].ready().await;
    assert_eq!(endpoints(&app).await, []);
}

#[tokio::test]
async fn listening_ends_when_its_key_is_revoked() {
    let app = TestApp::start().await;
    let key = app.create_key(PROJECT, &["manage"]).await;
    let client = Client::connect(app.url(), &key.secret).await.unwrap();
    let mut listening = client.listen("", &[]).await.unwrap();
    let endpoint = listening.endpoint.id.clone();
    assert_eq!(listening.endpoint.project_id, PROJECT);

    app.api_keys()
        .revoke_api_key(cuitty_webhooks_proto::v1::RevokeApiKeyRequest {
            id: key.api_key.unwrap().id,
        })
        .await
        .unwrap();

    let ended = tokio::time::timeout(Duration::from_secs(10), listening.next())
        .await
        .unwrap();
    let is_refused = matches!(
        ended,
        Err(ClientError::Refused {
            code: Code::Unauthenticated,
            ..
        })
    );
    assert!(is_refused, "{:?}", ended.map(|_| ()));
    is_gone(&app, &endpoint).await;
}

#[tokio::test]
async fn what_is_not_answered_in_time_fails() {
    let app = TestApp::start().await;
    let client = Client::connect(app.url(), ADMIN_KEY).await.unwrap();
    let mut listening = client.listen(PROJECT, &[]).await.unwrap();
    let mut endpoint = listening.endpoint.clone();
    endpoint.timeout_ms = 1000;
    client.update_endpoint(endpoint, &["timeout_ms"]).await.unwrap();
    let accepted = app.deliver("order.paid", &json!({})).await;
    let arrived = listening.next().await.unwrap().unwrap();
    let id = &accepted.deliveries[0].id;
    assert_eq!(arrived.header("x-cuitty-delivery-id"), id);
    let detail = eventually("an attempt is recorded", || async {
        let detail = app.delivery(id).await;
        if detail.attempts.is_empty() {
            Err("none")
        } else {
            Ok(detail)
        }
    })
    .await;
    let error = detail.attempts[0].error.as_ref().unwrap();
    assert_eq!(
        (&*error.class, &*error.message),
        ("timeout", "no reply within 1s")
    );
    listening.end().await.unwrap();
    is_gone(&app, &listening_id(&detail)).await;
}

fn listening_id(detail: &DeliveryDetail) -> String {
    summary(detail).endpoint_id.clone()
}

#[tokio::test]
async fn listening_needs_the_scope_manage_and_a_project_of_the_key() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let refusal = async |project: &str, scopes: &[&str], event_types: &[String]| {
        let key = app.create_key(project, scopes).await.secret;
        let client = Client::connect(app.url(), &key).await.unwrap();
        match client.listen(PROJECT, event_types).await.map(|_| ()) {
            Err(ClientError::Refused { code, fields, .. }) => (code, fields.len()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refusal(PROJECT, &["read", "deliver"], &[]).await,
        (Code::PermissionDenied, 0)
    );
    assert_eq!(refusal("other", &["manage"], &[]).await, (Code::NotFound, 0));
    let wrong = ["order..paid".to_owned()];
    assert_eq!(
        refusal(PROJECT, &["manage"], &wrong).await,
        (Code::InvalidArgument, 1)
    );
    assert_eq!(endpoints(&app).await.len(), 1);
}

/// A call that gives up at any time, also between the append of its endpoint and the answer.
#[tokio::test]
async fn the_endpoint_does_not_outlive_a_call_that_gave_up_before_it_was_answered() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    for tenths in 5..65 {
        let start = ListenRequest {
            request: Some(Said::Start(ListenStart {
                project_id: PROJECT.into(),
                event_types: Vec::new(),
            })),
        };
        let (open, closed) = tokio::sync::oneshot::channel::<()>();
        let ends = stream::once(closed).filter_map(async |_| None);
        let mut request = Request::new(stream::iter([start]).chain(Box::pin(ends)));
        request.set_timeout(Duration::from_micros(tenths * 100));
        let mut client = ListenServiceClient::new(app.channel(Some(ADMIN_KEY)));
        let _ = client.listen(request).await;
        drop(open);
    }
    eventually("no listener's endpoint is left", || async {
        is(endpoints(&app).await.len(), 1)
    })
    .await;
}

#[tokio::test]
async fn the_endpoint_of_a_process_that_was_killed_is_disabled_when_nobody_comes_back() {
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .start()
        .await;
    let client = Client::connect(app.url(), ADMIN_KEY).await.unwrap();
    let listening = client.listen(PROJECT, &[]).await.unwrap();
    let mut endpoint = listening.endpoint.clone();
    endpoint.retry_schedule_seconds = vec![1, 1, 1, 1];
    client
        .update_endpoint(endpoint, &["retry_schedule_seconds"])
        .await
        .unwrap();
    app.roles[0].start_again();
    app.roles[0].ready().await;

    let accepted = app.deliver("order.paid", &json!({})).await;

    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(
        (&*summary(&detail).failure_reason, errors(&detail).len()),
        ("gone", 3)
    );
    eventually("it is disabled", || async {
        is(endpoints(&app).await[0].active, false)
    })
    .await;
}
