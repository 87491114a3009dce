//! How each way of failing is told apart, and what it does to the delivery and to its endpoint.

use std::time::Duration;

use cuitty_webhooks_proto::v1::{
    Attempt, CreateEndpointRequest, DeliveryDetail, DeliveryStatus, Endpoint, GetEndpointRequest,
};
use harness::app::{TestApp, summary};
use harness::eventually::{eventually, is};
use harness::ports::free_port;
use harness::receiver::{Receiver, Reply};
use serde_json::json;

/// The first attempt of a delivery to `url`, which has this long for it; 0 means the default of 15 s.
async fn first_attempt(app: &TestApp, url: String, timeout_ms: u32) -> Attempt {
    let request = CreateEndpointRequest {
        url,
        timeout_ms,
        ..Default::default()
    };
    let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
    let request = cuitty_webhooks_proto::v1::DeliverRequest {
        endpoint_id: endpoint.id,
        ..harness::app::event("order.paid", json!({"to": "fail"}).to_string())
    };
    let accepted = app.messages().deliver(request).await.unwrap().into_inner();
    let detail = eventually("the first attempt is known", || async {
        let detail = app.delivery(&accepted.deliveries[0].id).await;
        is(detail.attempts.len(), 1).map(|_| detail)
    })
    .await;
    detail.attempts.into_iter().next().unwrap()
}

/// An endpoint that answers with these replies, and the first delivery to it, ended.
async fn first_delivery(
    app: &TestApp,
    receiver: &Receiver,
    path: &str,
    replies: impl IntoIterator<Item = Reply>,
) -> (String, DeliveryDetail) {
    receiver.script(path, replies);
    let request = CreateEndpointRequest {
        url: receiver.url(path),
        event_types: vec![format!("sent.to_{}", &path[1..])],
        retry_schedule_seconds: vec![1],
        ..Default::default()
    };
    let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
    let accepted = app.deliver(&endpoint.event_types[0], &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;
    (endpoint.id, detail)
}

async fn get(app: &TestApp, endpoint_id: &str) -> Endpoint {
    let request = GetEndpointRequest {
        endpoint_id: endpoint_id.to_owned(),
    };
    app.endpoints().get_endpoint(request).await.unwrap().into_inner()
}

async fn disabled(app: &TestApp, endpoint_id: &str) -> Endpoint {
    eventually("the endpoint is disabled", || async {
        let endpoint = get(app, endpoint_id).await;
        is(endpoint.active, false).map(|_| endpoint)
    })
    .await
}

/// Status, reason and number of attempts.
fn end(detail: &DeliveryDetail) -> (DeliveryStatus, &str, u32) {
    let delivery = summary(detail);
    (
        delivery.status(),
        &delivery.failure_reason,
        delivery.attempt_count,
    )
}

fn class(attempt: &Attempt) -> &str {
    attempt.error.as_ref().map_or("", |error| &error.class)
}

#[tokio::test]
async fn each_way_of_failing_has_its_class() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hangs", [Reply::hang()]);
    receiver.script("/drips", [Reply::drip(Duration::from_millis(50))]);
    receiver.script("/resets", [Reply::reset()]);
    receiver.script(
        "/redirects",
        [Reply::status(302).header("location", receiver.url("/elsewhere"))],
    );
    receiver.script("/refuses", [Reply::status(404).body("no such tenant")]);

    for (path, timeout_ms, expected) in [
        ("/hangs", 2000, "timeout"),
        ("/drips", 2000, "too_slow"),
        ("/resets", 0, "reset"),
        ("/redirects", 0, "redirect"),
        ("/refuses", 0, "status"),
    ] {
        let attempt = first_attempt(&app, receiver.url(path), timeout_ms).await;
        assert_eq!(class(&attempt), expected, "{path}: {attempt:?}");
        assert_eq!(attempt.outcome, "failed");
        assert!(attempt.next_attempt_at.is_some(), "{path} is retried");
        if timeout_ms > 0 {
            // Its own timeout, not the default.
            assert!(
                (f64::from(timeout_ms)..10_000.0).contains(&attempt.duration_ms),
                "{path}: {} ms",
                attempt.duration_ms
            );
        }
    }
    assert_eq!(receiver.requests("/elsewhere").len(), 0);

    let refused = first_attempt(&app, format!("http://127.0.0.1:{}/", free_port()), 0).await;
    assert_eq!(class(&refused), "connect");
    assert_eq!(refused.response, None);
    let plain = first_attempt(&app, format!("https://127.0.0.1:{}/", receiver.port()), 0).await;
    assert_eq!(class(&plain), "tls");
}

#[tokio::test]
async fn a_huge_answer_is_read_up_to_its_cap_and_no_further() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    // Without end: an attempt that reads on times out.
    receiver.script("/huge", [Reply::huge(u64::MAX)]);

    let attempt = first_attempt(&app, receiver.url("/huge"), 0).await;

    assert_eq!(attempt.outcome, "succeeded");
    let response = attempt.response.as_ref().unwrap();
    assert_eq!(
        (response.status, response.body.len(), response.body_truncated),
        (200, 16 * 1024, true)
    );
}

#[tokio::test]
async fn gone_ends_the_delivery_and_disables_the_endpoint() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/gone", [Reply::status(410)]);
    let endpoint = app
        .create_endpoint_at(receiver.url("/gone"))
        .await
        .endpoint
        .unwrap();

    let accepted = app.deliver("order.paid", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;

    let delivery = summary(&detail);
    assert_eq!(
        (delivery.status(), delivery.failure_reason.as_str()),
        (DeliveryStatus::Failed, "gone")
    );
    assert_eq!(delivery.attempt_count, 1);
    let disabled = disabled(&app, &endpoint.id).await;
    assert_eq!(
        (disabled.disabled_reason.as_str(), disabled.revision),
        ("gone", 2)
    );

    // What comes for it now is recorded and ends without an attempt, so that it can be replayed.
    let accepted = app.deliver("order.paid", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(summary(&detail).failure_reason, "endpoint_disabled");
    assert_eq!(detail.attempts, []);
    assert_eq!(receiver.requests("/gone").len(), 1);
}

#[tokio::test]
async fn an_answer_may_say_that_its_message_is_not_wanted_again() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let abort = |status| Reply::status(status).header("webhook-delivery", "Abort-Message");

    let (endpoint_id, aborted) =
        first_delivery(&app, &receiver, "/aborts", [abort(500), Reply::status(200)]).await;
    assert_eq!(end(&aborted), (DeliveryStatus::Failed, "aborted", 1));
    assert_eq!(aborted.attempts[0].next_attempt_at, None);

    // That message only: the endpoint goes on, at its first revision.
    let accepted = app.deliver("sent.to_aborts", &json!({})).await;
    let next = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(end(&next), (DeliveryStatus::Delivered, "", 1));
    let endpoint = get(&app, &endpoint_id).await;
    assert_eq!((endpoint.active, endpoint.revision), (true, 1));

    let (_, taken) = first_delivery(&app, &receiver, "/takes", [abort(200)]).await;
    assert_eq!(end(&taken), (DeliveryStatus::Delivered, "", 1));
    let unknown = [
        Reply::status(500).header("webhook-delivery", "later"),
        Reply::status(200),
    ];
    let (_, retried) = first_delivery(&app, &receiver, "/asks-for-something-else", unknown).await;
    assert_eq!(end(&retried), (DeliveryStatus::Delivered, "", 2));
}

#[tokio::test]
async fn an_answer_may_disable_its_endpoint() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    for (path, status, expected) in [
        ("/fails", 503, (DeliveryStatus::Failed, "gone", 1)),
        // It took this message, and wants no more.
        ("/takes", 200, (DeliveryStatus::Delivered, "", 1)),
    ] {
        let reply = Reply::status(status).header("webhook-delivery", "disable");
        let (endpoint_id, detail) = first_delivery(&app, &receiver, path, [reply]).await;
        assert_eq!(end(&detail), expected, "{path}");
        let endpoint = disabled(&app, &endpoint_id).await;
        assert_eq!(
            (endpoint.disabled_reason.as_str(), endpoint.revision),
            ("gone", 2),
            "{path}"
        );

        let accepted = app.deliver(&endpoint.event_types[0], &json!({})).await;
        let detail = app.ended(&accepted.deliveries[0].id).await;
        assert_eq!(
            end(&detail),
            (DeliveryStatus::Failed, "endpoint_disabled", 0),
            "{path}"
        );
        assert_eq!(receiver.requests(path).len(), 1);
    }
}
