//! Many messages in one call: `DeliverBatch` and `DeliverStream`.

mod open;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cuitty_webhooks_domain::limits;
use cuitty_webhooks_proto::v1::deliver_result::Result as Is;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliverBatchRequest, DeliverRequest, DeliverResponse, DeliverResult, ItemError,
};
use harness::app::{PROJECT, TestApp, event};
use harness::grpc::{Refusal, refused};
use harness::python;
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use serde_json::json;
use tonic::{Code, Request};

const BAD: &str = "{";

async fn batch(app: &TestApp, items: Vec<DeliverRequest>) -> Vec<DeliverResult> {
    let answered = app.messages().deliver_batch(DeliverBatchRequest { items }).await;
    answered.unwrap().into_inner().results
}

fn accepted(result: &DeliverResult) -> &DeliverResponse {
    match &result.result {
        Some(Is::Accepted(accepted)) => accepted,
        other => panic!("{other:?}"),
    }
}

fn rejected(result: &DeliverResult) -> &ItemError {
    match &result.result {
        Some(Is::Rejected(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_item_of_a_batch_has_a_result_of_its_own_in_the_order_of_the_items() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        event_types: vec!["order.*".into()],
        ..Default::default()
    };
    app.create_endpoint(request).await;
    let good = |number: usize| event("order.paid", json!({ "number": number }).to_string());
    let keyed = DeliverRequest {
        idempotency_key: "batch-1".into(),
        ..good(3)
    };
    let items = vec![
        good(0),
        event("order.paid", BAD),
        event("nobody.listens", "{}"),
        keyed.clone(),
        DeliverRequest {
            endpoint_id: "ep_01h455vb4pex5vsknk084sn02q".into(),
            ..good(4)
        },
        event("order.paid", vec![b'1'; limits::PAYLOAD_BYTES + 1]),
        DeliverRequest {
            project_id: "unknown".into(),
            ..good(6)
        },
        DeliverRequest::default(),
        good(8),
    ];

    let results = batch(&app, items).await;

    assert_eq!(results.len(), 9);
    for index in [0, 3, 8] {
        let accepted = accepted(&results[index]);
        assert_eq!((accepted.deliveries.len(), accepted.duplicate), (1, false));
        assert!(accepted.log_sequence > 0);
    }
    assert_eq!(accepted(&results[2]).deliveries, []);
    let refusals = [1, 4, 5, 6, 7].map(|index| {
        let ItemError { reason, field, .. } = rejected(&results[index]);
        (reason.as_str(), field.as_str())
    });
    assert_eq!(
        refusals,
        [
            ("INVALID_FIELDS", "payload"),
            ("ENDPOINT_NOT_FOUND", ""),
            ("PAYLOAD_TOO_LARGE", "payload"),
            ("PROJECT_NOT_FOUND", ""),
            ("INVALID_FIELDS", "project_id"),
        ]
    );
    let arrived = receiver.received("/hook", 3).await;
    let bodies: HashMap<_, _> = arrived
        .iter()
        .map(|request| (request.header("webhook-id").to_owned(), request.body.clone()))
        .collect();
    for (index, number) in [(0, 0), (3, 3), (8, 8)] {
        let body = &bodies[&accepted(&results[index]).message_id];
        assert_eq!(*body, json!({ "number": number }).to_string());
    }

    let repeated = batch(&app, vec![good(9), keyed]).await;
    let again = accepted(&repeated[1]);
    assert!(again.duplicate);
    assert_eq!(again.message_id, accepted(&results[3]).message_id);
    receiver.received("/hook", 4).await;
}

#[tokio::test]
async fn a_batch_is_refused_as_a_whole_only_for_what_concerns_all_of_it() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let of = |count: usize, payload: &str| DeliverBatchRequest {
        items: vec![event("order.paid", payload.to_owned()); count],
    };
    let call = async |request: DeliverBatchRequest| app.messages().deliver_batch(request).await;

    for count in [0, limits::BATCH_ITEMS + 1] {
        let refusal = refused(call(of(count, "{}")).await);
        assert_eq!(
            (refusal.code, refusal.field_names()),
            (Code::InvalidArgument, vec!["items"])
        );
    }
    // A thousand is not too many, and an order of bad ones is not either.
    let answered = call(of(limits::BATCH_ITEMS, BAD)).await.unwrap().into_inner();
    assert_eq!(answered.results.len(), limits::BATCH_ITEMS);
    assert!(
        answered
            .results
            .iter()
            .all(|result| rejected(result).field == "payload")
    );
    // Sixteen payloads of 256 KiB are somewhat more than 4 MiB with what is around them.
    let largest = format!("\"{}\"", "x".repeat(limits::PAYLOAD_BYTES - 2));
    let answered = call(of(15, &largest)).await.unwrap().into_inner();
    assert!(
        answered
            .results
            .iter()
            .all(|result| accepted(result).log_sequence > 0)
    );
    let refusal = refused(call(of(16, &largest)).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str(), refusal.field_names()),
        (Code::InvalidArgument, "BATCH_TOO_LARGE", vec!["items"])
    );

    let mut with_key = Request::new(of(1, "{}"));
    with_key
        .metadata_mut()
        .insert("idempotency-key", "k".parse().unwrap());
    let refusal = refused(app.messages().deliver_batch(with_key).await);
    assert_eq!(refusal.field_names(), ["idempotency_key"]);
}

#[tokio::test]
async fn a_batch_is_one_call_for_the_rate_of_its_key() {
    let app = TestApp::builder()
        .set("api.rate_limit_per_second", 1)
        .set("api.rate_limit_burst", 3)
        .start()
        .await;
    let key = app.create_key(PROJECT, &["deliver"]).await.secret;
    let mut client =
        cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient::new(app.channel(Some(&key)));
    let items = vec![event("order.paid", BAD); 200];
    let answered = client.deliver_batch(DeliverBatchRequest { items }).await.unwrap();
    assert_eq!(answered.into_inner().results.len(), 200);
    let mut made = 0;
    let refusal = loop {
        match client.deliver(event("order.paid", BAD)).await {
            Err(status) if status.code() == Code::ResourceExhausted => break Refusal::from(&status),
            _ => made += 1,
        }
        assert!(made < 100, "nothing is limited");
    };
    assert_eq!(refusal.reason, "RATE_LIMITED");
    assert!(
        made >= 2,
        "the batch counted more than once: only {made} calls were let in after it"
    );
}

#[tokio::test]
async fn a_program_in_python_creates_delivers_streams_gets_lists_and_replays() {
    const COUNT: usize = 10_000;
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let target = app.url().trim_start_matches("http://");
    let (url, count) = (receiver.url("/hook"), COUNT.to_string());
    let found = python::run(
        "suites/stream/drive.py",
        &[target, ADMIN_KEY, &url, PROJECT, &count],
    )
    .await;

    let good = COUNT - COUNT / 100;
    assert_eq!(
        (&found["accepted"], &found["distinct"]),
        (&json!(good), &json!(good))
    );
    let expected: BTreeMap<_, _> = (99..COUNT)
        .step_by(100)
        .map(|tag| (tag.to_string(), ["INVALID_FIELDS", "payload"]))
        .collect();
    assert_eq!(found["rejected"], json!(expected));
    assert_eq!(found["payload"], r#"{"number":-1}"#);
    assert_eq!(
        (&found["all_listed"], &found["listed"]),
        (&json!(true), &json!(good + 1))
    );
    assert_eq!(
        (&found["replay_of"], &found["refused"]),
        (&json!(true), &json!("INVALID_ARGUMENT"))
    );
    // Each accepted one, the single one, and its replay under the same id.
    harness::eventually::eventually_within(Duration::from_mins(2), "all of it arrives", || async {
        harness::eventually::is(receiver.count("/hook"), good + 2)
    })
    .await;
    assert_eq!(receiver.ids("/hook").len(), good + 1);
}
