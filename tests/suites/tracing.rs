//! Traces and metrics, as a collector gets them over OTLP, and the traces that log lines name.

mod metrics;
mod outside;

use async_nats::HeaderMap;
use async_nats::jetstream;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, DeliverBatchRequest, DeliverStreamRequest, Header};
use futures_util::{StreamExt, stream};
use harness::app::{Builder, PROJECT, TestApp, event};
use harness::collector::{Collector, Span};
use harness::eventually::{eventually, is};
use harness::receiver::{Captured, Receiver, Reply};
use harness::roles::ADMIN_KEY;
use hyper::Method;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use tonic::Request;

const PROCESSES: [&str; 4] = ["api", "ingest", "dispatcher", "projector"];
/// The span of whoever calls.
const CALLER: &str = "00f067aa0ba902b7";
/// What the collector asks its callers for.
const COLLECTOR_KEY: &str = "Bearer key-of-the-collector";

/// Processes that export what their callers record, and nothing else.
fn exporting(collector: &Collector) -> Builder {
    TestApp::builder()
        .processes(PROCESSES)
        .set("telemetry.otlp_endpoint", collector.endpoint())
        .set("telemetry.otlp_headers", format!("authorization={COLLECTOR_KEY}"))
        .set("telemetry.otlp_metrics_interval", "1s")
        .set("telemetry.trace_sample_ratio", 0)
}

/// A trace id that nothing else has.
fn trace_id(number: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}")
}

fn traceparent(trace_id: &str, flags: &str) -> String {
    format!("00-{trace_id}-{CALLER}-{flags}")
}

/// Publishes as another module does.
async fn publish(app: &TestApp, event_type: &str, traceparent: &str, payload: &Value) {
    let client = async_nats::connect(app.nats.url()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent);
    let subject = format!("cuitty.events.{PROJECT}.{event_type}");
    let stream = jetstream::new(client);
    let publishing = stream.publish_with_headers(subject, headers, payload.to_string().into());
    publishing.await.unwrap().await.unwrap();
}

/// The one span of the trace that `is_it`, as soon as it has arrived.
async fn span(collector: &Collector, trace_id: &str, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
    eventually(&format!("the span of {what}"), || async {
        let spans = collector.trace(trace_id);
        let found: Vec<_> = spans.iter().filter(|span| is_it(span)).collect();
        match found[..] {
            [found] => Ok(found.clone()),
            _ => Err(format!("{} spans of {spans:#?}", found.len())),
        }
    })
    .await
}

/// The span that has applied what `cause` appended.
async fn projection(collector: &Collector, cause: &Span) -> Span {
    let link = (cause.trace_id.clone(), cause.id.clone());
    eventually("the projection's span", || async {
        let spans = collector.spans();
        let linked = spans.iter().find(|span| span.links.contains(&link));
        linked.cloned().ok_or("none yet")
    })
    .await
}

/// What an exported trace holds of one delivery, from its caller on.
struct Trace {
    first: Span,
    append: Span,
    attempt: Span,
}

/// Follows a trace from its caller to its receiver and into the history, and checks who is whose child.
async fn follow(collector: &Collector, trace_id: &str, first: &str, arrived: &Captured) -> Trace {
    let first = span(collector, trace_id, first, |span| span.name == first).await;
    assert_eq!(first.parent_id, CALLER);
    let append = span(collector, trace_id, "the append", |span| {
        span.name == "log.append" && span.attribute("log.kind") == "requested"
    })
    .await;
    assert_eq!(append.parent_id, first.id);
    let attempt = span(collector, trace_id, "the attempt", |span| {
        span.name == "dispatch.attempt"
    })
    .await;
    assert_eq!(attempt.parent_id, append.id);
    let sent = format!("00-{trace_id}-{}-01", attempt.id);
    assert_eq!(arrived.header("traceparent"), sent);
    let outcome = span(collector, trace_id, "the outcome", |span| {
        span.name == "log.append" && span.attribute("log.kind") == "succeeded"
    })
    .await;
    assert_eq!(outcome.parent_id, attempt.id);
    for cause in [&append, &outcome] {
        let applied = projection(collector, cause).await;
        assert_eq!(
            (&*applied.name, applied.kind),
            ("project.apply", SpanKind::Consumer)
        );
        assert_eq!(applied.resource["cuitty.webhooks.roles"], "projector");
    }
    Trace {
        first,
        append,
        attempt,
    }
}

fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(span.attribute(name), *value, "{name} of {span:#?}");
    }
}

fn payload() -> Value {
    json!({"card": "in-the-payload"})
}

/// Delivers, with a query that nobody reads; the delivery.
async fn over_rest(app: &TestApp, collector: &Collector, receiver: &Receiver, endpoint_id: &str) -> String {
    let port = app.url().rsplit_once(':').unwrap().1.to_owned();
    let (trace, path) = (trace_id(1), "/api/webhooks/deliver");
    let body = json!({"project_id": PROJECT, "event_type": "order.paid", "payload": payload()});
    let headers = [("traceparent", &*traceparent(&trace, "01"))];
    let called = format!("{path}?key=in-a-query");
    let answer = app.rest().send_json(Method::POST, &called, &headers, &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let delivery_id = answer.json()["deliveries"][0]["id"].as_str().unwrap().to_owned();
    let arrived = receiver.received("/hook/in-the-path", 1).await.remove(0);
    let Trace {
        first,
        append,
        attempt,
    } = follow(collector, &trace, "api.deliver_message", &arrived).await;
    assert_eq!((first.kind, first.is_error), (SpanKind::Server, false));
    assert_attributes(
        &first,
        &[
            ("http.request.method", "POST"),
            ("http.route", path),
            ("http.response.status_code", "202"),
            ("url.path", path),
            ("url.scheme", "http"),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
            ("project.id", PROJECT),
            ("event.type", "order.paid"),
            ("message.id", arrived.header("webhook-id")),
        ],
    );
    assert_eq!(append.kind, SpanKind::Producer);
    assert_attributes(
        &append,
        &[
            ("messaging.system", "nats"),
            ("messaging.destination.name", "WEBHOOKS"),
            ("messaging.operation.type", "send"),
            ("messaging.batch.message_count", "1"),
        ],
    );
    assert_eq!((attempt.kind, attempt.is_error), (SpanKind::Client, false));
    assert_attributes(
        &attempt,
        &[
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("server.address", "127.0.0.1"),
            ("server.port", &receiver.port().to_string()),
            ("network.peer.address", "127.0.0.1"),
            ("delivery.id", &delivery_id),
            ("endpoint.id", endpoint_id),
            ("attempt.number", "1"),
        ],
    );
    let roles = [&first, &append, &attempt].map(|span| &*span.resource["cuitty.webhooks.roles"]);
    assert_eq!(roles, ["api", "api", "dispatcher"]);
    assert_eq!(attempt.resource["service.name"], "cuitty-webhooks");
    assert_eq!(attempt.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_ne!(
        attempt.resource["service.instance.id"],
        first.resource["service.instance.id"]
    );
    // What is recorded of the attempt names the same trace.
    let detail = app.ended(&delivery_id).await;
    assert_eq!(detail.attempts[0].trace_id, trace);
    delivery_id
}

async fn over_grpc(app: &TestApp, collector: &Collector, receiver: &Receiver) {
    let trace = trace_id(2);
    let mut request = Request::new(event("order.paid", payload().to_string()));
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent(&trace, "01").parse().unwrap());
    app.messages().deliver(request).await.unwrap();
    let arrived = receiver.received("/hook/in-the-path", 2).await.remove(1);
    let Trace { first, .. } = follow(collector, &trace, "api.deliver_message", &arrived).await;
    assert_eq!(first.kind, SpanKind::Server);
    assert_attributes(
        &first,
        &[
            ("rpc.system", "grpc"),
            ("rpc.service", "cuitty.webhooks.v1.MessageService"),
            ("rpc.method", "Deliver"),
            ("rpc.grpc.status_code", "0"),
            ("server.address", "127.0.0.1"),
        ],
    );
}

async fn over_nats(app: &TestApp, collector: &Collector, receiver: &Receiver) {
    // Under an idempotency key, as always there: the append is made by a task of its own.
    let trace = trace_id(3);
    publish(app, "order.paid", &traceparent(&trace, "01"), &payload()).await;
    let arrived = receiver.received("/hook/in-the-path", 3).await.remove(2);
    let Trace { first, append, .. } = follow(collector, &trace, "api.ingest_message", &arrived).await;
    assert_eq!(first.kind, SpanKind::Consumer);
    assert_attributes(
        &first,
        &[
            ("messaging.system", "nats"),
            ("messaging.destination.name", "WEBHOOKS_INGEST"),
            ("messaging.operation.type", "process"),
            ("message.id", arrived.header("webhook-id")),
        ],
    );
    assert_eq!(append.resource["cuitty.webhooks.roles"], "ingest");
}

/// Sends the delivery again.
async fn over_mcp(app: &TestApp, collector: &Collector, receiver: &Receiver, delivery_id: &str) {
    let trace = trace_id(4);
    let params = json!({"name": "replay_webhook_delivery", "arguments": {"delivery_id": delivery_id}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let headers = [
        ("accept", "application/json, text/event-stream"),
        ("traceparent", &*traceparent(&trace, "01")),
    ];
    let answer = app.rest().send_json(Method::POST, "/mcp", &headers, &call).await;
    assert_eq!(answer.json()["result"]["isError"], false, "{answer:?}");
    let arrived = receiver.received("/hook/in-the-path", 4).await.remove(3);
    let Trace { first, .. } = follow(collector, &trace, "api.replay_delivery", &arrived).await;
    assert_attributes(
        &first,
        &[("http.route", "/mcp"), ("http.response.status_code", "200")],
    );
}

#[tokio::test]
async fn a_trace_leads_from_the_caller_to_the_receiver_and_into_the_history_through_every_door() {
    let collector = Collector::start();
    let app = exporting(&collector).start().await;
    let receiver = Receiver::start();
    let url = receiver.url("/hook/in-the-path?token=in-the-query");
    let created = app
        .create_endpoint(CreateEndpointRequest {
            url,
            headers: vec![Header {
                name: "X-Api-Key".into(),
                value: "in-a-header".into(),
            }],
            ..Default::default()
        })
        .await;
    let endpoint_id = created.endpoint.unwrap().id;

    let delivery_id = over_rest(&app, &collector, &receiver, &endpoint_id).await;
    over_grpc(&app, &collector, &receiver).await;
    over_nats(&app, &collector, &receiver).await;
    over_mcp(&app, &collector, &receiver, &delivery_id).await;

    // Nothing but what is to be seen, in any span or metric; and the collector let us in.
    for text in collector.texts() {
        let secrets = [
            "in-the-payload",
            "in-the-query",
            "in-the-path",
            "in-a-header",
            "in-a-query",
            ADMIN_KEY,
            &created.signing_secret,
            "v1,",
            COLLECTOR_KEY,
        ];
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is exported: {text}");
        }
    }
    assert!(collector.keys().iter().all(|key| key == COLLECTOR_KEY));
}

#[tokio::test]
async fn messages_of_a_batch_and_of_a_stream_are_appended_in_their_call_s_span() {
    let collector = Collector::start();
    let app = exporting(&collector).start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let items = || (0..3).map(|_| event("order.paid", "{}"));

    let batch = trace_id(1);
    let mut request = Request::new(DeliverBatchRequest {
        items: items().collect(),
    });
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent(&batch, "01").parse().unwrap());
    app.messages().deliver_batch(request).await.unwrap();

    let streamed = trace_id(2);
    let items = items().map(|item| DeliverStreamRequest {
        item: Some(item),
        ..Default::default()
    });
    let mut request = Request::new(stream::iter(items.collect::<Vec<_>>()));
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent(&streamed, "01").parse().unwrap());
    let answers = app.messages().deliver_stream(request).await.unwrap();
    assert_eq!(answers.into_inner().count().await, 3);

    for (trace, name) in [(batch, "api.deliver_batch"), (streamed, "api.deliver_stream")] {
        let call = span(&collector, &trace, name, |span| span.name == name).await;
        assert_eq!((&*call.parent_id, call.kind), (CALLER, SpanKind::Server));
        eventually("the appends", || async {
            let spans = collector.trace(&trace).into_iter();
            let appends = spans.filter(|span| span.name == "log.append" && span.parent_id == call.id);
            let requested = appends.filter(|span| span.attribute("log.kind") == "requested");
            is(requested.count(), 3)
        })
        .await;
    }
}

#[tokio::test]
async fn every_attempt_of_a_delivery_has_its_span_and_those_that_fail_say_so() {
    let collector = Collector::start();
    let app = exporting(&collector).start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(503), Reply::status(200)]);
    app.create_endpoint(CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![1],
        ..Default::default()
    })
    .await;
    let trace = trace_id(1);
    let mut request = Request::new(event("order.paid", "{}"));
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent(&trace, "01").parse().unwrap());
    app.messages().deliver(request).await.unwrap();

    let arrived = receiver.received("/hook", 2).await;
    let mut attempts = Vec::new();
    for (number, status) in [("1", "503"), ("2", "200")] {
        let attempt = span(&collector, &trace, "the attempt", |span| {
            span.name == "dispatch.attempt" && span.attribute("attempt.number") == number
        })
        .await;
        assert_attributes(&attempt, &[("http.response.status_code", status)]);
        attempts.push(attempt);
    }
    let [failed, succeeded] = &attempts[..] else {
        panic!("{attempts:#?}")
    };
    assert!(failed.is_error && !succeeded.is_error);
    assert_attributes(
        failed,
        &[("error.type", "status"), ("http.request.resend_count", "")],
    );
    assert_attributes(
        succeeded,
        &[("error.type", ""), ("http.request.resend_count", "1")],
    );
    assert_eq!(
        failed.parent_id, succeeded.parent_id,
        "both are caused by the request"
    );
    for (attempt, request) in attempts.iter().zip(&arrived) {
        let sent = format!("00-{trace}-{}-01", attempt.id);
        assert_eq!(request.header("traceparent"), sent);
    }
}

#[tokio::test]
async fn what_the_caller_does_not_record_is_not_exported_and_goes_on_as_it_came() {
    let collector = Collector::start();
    let app = exporting(&collector).start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    let traces = [trace_id(1), trace_id(2)];
    for (trace, flags) in traces.iter().zip(["00", "01"]) {
        let mut request = Request::new(event("order.paid", "{}"));
        let metadata = request.metadata_mut();
        metadata.insert("traceparent", traceparent(trace, flags).parse().unwrap());
        app.messages().deliver(request).await.unwrap();
        let count = receiver.count("/hook").max(1);
        receiver.received("/hook", count).await;
    }
    let arrived = receiver.received("/hook", 2).await;
    let unrecorded = arrived
        .iter()
        .map(|request| request.header("traceparent"))
        .find(|sent| sent.contains(&traces[0]));
    let unrecorded = unrecorded.expect("the caller's trace");
    assert!(
        unrecorded.ends_with("-00") && !unrecorded.contains(CALLER),
        "{unrecorded}"
    );
    // By then, what came before would have arrived too.
    span(&collector, &traces[1], "the attempt", |span| {
        span.name == "dispatch.attempt"
    })
    .await;
    assert!(collector.trace(&traces[0]).is_empty());
}
