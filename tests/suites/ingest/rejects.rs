//! What is published and cannot be taken.

use std::collections::BTreeMap;

use cuitty_webhooks_domain::limits;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::*;

/// Subject, headers and payload of what is published; then project of the rejection, reason and field.
type Case = (String, Vec<(&'static str, String)>, String, [&'static str; 3]);

#[expect(clippy::too_many_lines, reason = "a table: an entry per case")]
fn cases(another_projects_endpoint: &str) -> Vec<Case> {
    let subject = |rest: &str| format!("cuitty.events.{rest}");
    let json = || "{}".to_owned();
    let large = format!("\"{}\"", "x".repeat(limits::PAYLOAD_BYTES - 1));
    let long = "t".repeat(limits::EVENT_TYPE_BYTES + 1);
    let unknown = "ep_01h455vb4pex5vsknk084sn02q".to_owned();
    let to = |id: String| vec![("Cuitty-Endpoint-Id", id)];
    let id = |text: &str| vec![("Nats-Msg-Id", text.to_owned())];
    vec![
        (
            subject("acme.order.paid"),
            vec![],
            "{".into(),
            ["acme", "INVALID_FIELDS", "payload"],
        ),
        (
            subject("acme.order.paid"),
            vec![],
            String::new(),
            ["acme", "INVALID_FIELDS", "payload"],
        ),
        (
            subject("acme.order.paid"),
            vec![],
            large,
            ["acme", "PAYLOAD_TOO_LARGE", "payload"],
        ),
        (
            subject(&format!("acme.{long}")),
            vec![],
            json(),
            ["acme", "INVALID_FIELDS", "event_type"],
        ),
        (
            subject("acme.a%b"),
            vec![],
            json(),
            ["acme", "INVALID_FIELDS", "event_type"],
        ),
        (
            subject("acme"),
            vec![],
            json(),
            ["acme", "INVALID_FIELDS", "event_type"],
        ),
        (
            subject("a%b.order.paid"),
            vec![],
            json(),
            ["!invalid", "INVALID_FIELDS", "project_id"],
        ),
        (
            subject("nobody.order.paid"),
            vec![],
            json(),
            ["nobody", "PROJECT_NOT_FOUND", ""],
        ),
        (
            subject("acme.order.paid"),
            to(unknown),
            json(),
            ["acme", "ENDPOINT_NOT_FOUND", ""],
        ),
        (
            subject("acme.order.paid"),
            to(another_projects_endpoint.into()),
            json(),
            ["acme", "ENDPOINT_NOT_FOUND", ""],
        ),
        (
            subject("acme.order.paid"),
            to("ep_1".into()),
            json(),
            ["acme", "INVALID_FIELDS", "endpoint_id"],
        ),
        (
            subject("acme.order.paid"),
            id(&"k".repeat(limits::IDEMPOTENCY_KEY_BYTES + 1)),
            json(),
            ["acme", "INVALID_FIELDS", "idempotency_key"],
        ),
        (
            subject("acme.order.paid"),
            id("taken"),
            json(),
            ["acme", "IDEMPOTENCY_KEY_REUSED", ""],
        ),
        (
            subject("acme.order.paid"),
            vec![("Content-Type", "nonsense".into())],
            json(),
            ["acme", "INVALID_FIELDS", "content_type"],
        ),
        (
            subject("acme.checked"),
            vec![],
            r#"{"id":1}"#.into(),
            ["acme", "INVALID_FIELDS", "payload/id"],
        ),
        (
            subject("strict.order.paid"),
            vec![],
            json(),
            ["strict", "EVENT_TYPE_UNKNOWN", "event_type"],
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_taken_is_published_again_with_its_reason_and_counted() {
    let app = TestApp::builder()
        .processes(["api,dispatcher,projector", "ingest"])
        .start()
        .await;
    let receiver = Receiver::start();
    let rest = app.rest();
    let endpoint = |project: &str| json!({"project_id": project, "url": receiver.url("/hook")});
    let mut ids = Vec::new();
    for project in ["acme", "strict"] {
        let created = rest
            .post("/manage/v1/webhooks/endpoints", &endpoint(project))
            .await;
        assert_eq!(created.status, 201);
        ids.push(created.json()["id"].as_str().unwrap().to_owned());
    }
    let checked = json!({
        "project_id": "acme", "name": "checked", "enforce_schema": true,
        "schema": {"type": "object", "properties": {"id": {"type": "string"}}},
    });
    assert_eq!(
        rest.post("/manage/v1/webhooks/event-types", &checked)
            .await
            .status,
        201
    );
    let policy = json!({"project_id": "strict", "unknown_event_types": "refused"});
    let (method, path) = (hyper::Method::PUT, "/manage/v1/webhooks/event-type-policy");
    let set = rest.send_json(method, path, &[], &policy).await;
    assert_eq!(set.status, 200, "{:?}", set.body);
    let taken = json!({"project_id": "acme", "event_type": "a.b", "payload": {}, "idempotency_key": "taken"});
    assert_eq!(rest.post("/api/webhooks/deliver", &taken).await.status, 202);
    receiver.received("/hook", 1).await;

    let publisher = Publisher::new(&app.nats.url()).await;
    let mut rejected = publisher
        .client
        .subscribe("webhooks.ingest.rejected.>")
        .await
        .unwrap();
    publisher.client.flush().await.unwrap();
    let cases = cases(&ids[1]);
    // By what they were published as, as they come in any order.
    let mut expected = BTreeMap::<_, Vec<_>>::new();
    for (subject, headers, payload, rejection) in &cases {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        publisher.publish(subject, &headers, payload.clone()).await;
        let told = rejection.map(str::to_owned);
        expected
            .entry(subject.clone())
            .or_default()
            .push((told, payload.clone()));
    }
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for _ in &cases {
        let message = timeout(Duration::from_secs(20), rejected.next())
            .await
            .unwrap()
            .unwrap();
        let headers = message.headers.unwrap();
        let header = |name: &str| headers.get(name).unwrap().as_str().to_owned();
        assert!(!header("Cuitty-Message").is_empty());
        let project = message.subject.strip_prefix("webhooks.ingest.rejected.").unwrap();
        let told = [
            project.to_owned(),
            header("Cuitty-Reason"),
            header("Cuitty-Field"),
        ];
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        found
            .entry(header("Cuitty-Subject"))
            .or_default()
            .push((told, payload));
    }
    expected
        .values_mut()
        .chain(found.values_mut())
        .for_each(|told| told.sort());
    assert_eq!(found, expected);

    // None of it comes again, and what is good goes on: the largest payload, the longest type, the longest id.
    let largest = format!("\"{}\"", "x".repeat(limits::PAYLOAD_BYTES - 2));
    let longest = "t".repeat(limits::EVENT_TYPE_BYTES);
    let id = "k".repeat(limits::IDEMPOTENCY_KEY_BYTES);
    publisher
        .publish(
            &format!("cuitty.events.acme.{longest}"),
            &[("Nats-Msg-Id", &id)],
            largest,
        )
        .await;
    receiver.received("/hook", 2).await;
    publisher.taken(Duration::from_secs(10)).await;
    assert_eq!(receiver.arrived(), 2);
    let count = app.roles[1].metric("webhooks_ingest_rejected_total").await;
    assert_eq!(count as usize, cases.len());
}
