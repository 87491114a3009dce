//! What does not depend on a collector: deliveries when there is none, and the traces that log lines name.

use std::time::Duration;

use harness::app::{TestApp, event};
use harness::certificates::Authority;
use harness::collector::Collector;
use harness::eventually::eventually;
use harness::receiver::{Receiver, Reply};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Request;

use super::{span, trace_id, traceparent};

/// How long a process may take to end that has nothing to do but give up its last telemetry.
const STOPPING: Duration = Duration::from_secs(8);

/// Delivers with every span exported to `endpoint`, and stops. The warnings that the API has logged meanwhile.
async fn deliver_and_stop(endpoint: &str) -> Vec<String> {
    let mut app = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .set("telemetry.otlp_endpoint", endpoint)
        .set("telemetry.otlp_timeout", "500ms")
        .set("telemetry.otlp_metrics_interval", "1s")
        .set("telemetry.trace_sample_ratio", 1)
        .start()
        .await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    for _ in 0..20 {
        app.deliver("order.paid", &json!({})).await;
    }
    receiver.received("/hook", 20).await;
    let api = &app.roles[0];
    eventually("spans are given up", || async {
        let failed = api.metric("webhooks_otlp_spans_total").await;
        if failed > 0.0 { Ok(()) } else { Err(failed) }
    })
    .await;
    let spans = api.metric("webhooks_otlp_spans_total").await;
    assert!(spans >= 20.0, "{spans} spans");
    for process in &mut app.roles {
        let began = Instant::now();
        assert!(process.stop().await.success());
        assert!(began.elapsed() < STOPPING, "{:?}", began.elapsed());
    }
    let output = app.roles[0].output();
    let warnings = output.lines().filter(|line| line.contains("collector"));
    warnings.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_collector_that_is_down_holds_nothing_up_and_is_told_of_once() {
    let address = harness::ports::free_address();
    let warnings = deliver_and_stop(&format!("http://{address}")).await;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nothing_up() {
    // The kernel accepts, and nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let warnings = deliver_and_stop(&format!("http://{}", listener.local_addr().unwrap())).await;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}

#[tokio::test]
async fn a_collector_is_reached_over_tls_and_only_if_it_is_trusted() {
    let authority = Authority::new();
    let collector = Collector::start_tls(&authority.certify("collector"));
    let trusting = |ca: &Authority| {
        TestApp::builder()
            .processes(["api,dispatcher,projector"])
            .set(
                "telemetry.otlp_endpoint",
                format!("https://{}", collector.address()),
            )
            .set("telemetry.otlp_ca_file", ca.cert().display())
            .set("telemetry.otlp_metrics_interval", "0s")
            .set("telemetry.trace_sample_ratio", 0)
    };
    let receiver = Receiver::start();
    let deliver = async |app: &TestApp, trace: &str| {
        app.create_endpoint_at(receiver.url("/hook")).await;
        let mut request = Request::new(event("order.paid", "{}"));
        let metadata = request.metadata_mut();
        metadata.insert("traceparent", traceparent(trace, "01").parse().unwrap());
        app.messages().deliver(request).await.unwrap();
    };
    let app = trusting(&Authority::new()).start().await;
    deliver(&app, &trace_id(1)).await;
    eventually("the collector is not trusted", || async {
        let output = app.roles[0].output();
        output
            .contains("does not take telemetry")
            .then_some(())
            .ok_or(output)
    })
    .await;
    assert!(collector.spans().is_empty());
    drop(app);
    let app = trusting(&authority).start().await;
    let trace = trace_id(2);
    deliver(&app, &trace).await;
    span(&collector, &trace, "the call", |span| {
        span.name == "api.deliver_message"
    })
    .await;
}

/// The JSON lines of a process that say this.
fn lines(output: &str, message: &str) -> Vec<Value> {
    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

/// What `message` is logged with, once it is: trace and span.
async fn logged(app: &TestApp, process: usize, message: &str) -> (String, String) {
    eventually(message, || async {
        let lines = lines(&app.roles[process].output(), message);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match &lines[..] {
            [line, ..] => Ok((text(&line["trace_id"]), text(&line["span_id"]))),
            [] => Err("not logged yet"),
        }
    })
    .await
}

/// Makes a call that is refused and a delivery that fails, in one trace: what is logged of each, and what the receiver got.
async fn refuse_and_fail(app: &TestApp, trace: &str) -> [(String, String); 3] {
    let receiver = Receiver::start();
    receiver.script(
        "/hook",
        [Reply::status(400).header("webhook-delivery", "abort-message")],
    );
    app.create_endpoint_at(receiver.url("/hook")).await;
    for event_type in ["no event type", "order.paid"] {
        let mut request = Request::new(event(event_type, "{}"));
        let metadata = request.metadata_mut();
        metadata.insert("traceparent", traceparent(trace, "01").parse().unwrap());
        let _ = app.messages().deliver(request).await;
    }
    let arrived = receiver.received("/hook", 1).await.remove(0);
    let parts: Vec<_> = arrived.header("traceparent").split('-').collect();
    [
        logged(app, 0, "call refused").await,
        logged(app, 1, "delivery failed").await,
        (parts[1].to_owned(), parts[2].to_owned()),
    ]
}

#[tokio::test]
async fn log_lines_name_the_trace_they_belong_to_whether_or_not_it_is_exported() {
    let collector = Collector::start();
    let trace = trace_id(1);
    let builder = TestApp::builder()
        .processes(["api", "dispatcher,projector"])
        .set("telemetry.log_filter", "info,cuitty_webhooks_api=debug")
        .set("telemetry.trace_sample_ratio", 0);
    let app = builder.clone().start().await;
    let [refused, failed, sent] = refuse_and_fail(&app, &trace).await;
    assert_eq!(refused, (trace.clone(), super::CALLER.to_owned()));
    assert_eq!((&failed.0, &failed), (&trace, &sent));
    drop(app);

    let app = builder
        .set("telemetry.otlp_endpoint", collector.endpoint())
        .start()
        .await;
    let [refused, failed, sent] = refuse_and_fail(&app, &trace).await;
    let call = span(&collector, &trace, "the refused call", |span| {
        span.attribute("error.type") == "invalid_fields"
    })
    .await;
    assert_eq!(refused, (trace.clone(), call.id));
    let attempt = span(&collector, &trace, "the attempt", |span| {
        span.name == "dispatch.attempt"
    })
    .await;
    assert_eq!(failed, sent);
    assert_eq!(sent, (trace, attempt.id));
}
