//! Endpoints: created, read, changed and deleted, with their secrets shown once.

use async_nats::jetstream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeleteEndpointRequest, DeliveryStatus, Endpoint, EndpointKind, GetEndpointRequest,
    Header, ListEndpointsRequest, PageRequest, RotateSecretRequest, UpdateEndpointRequest,
};
use harness::app::{PROJECT, TestApp, event, summary};
use harness::grpc::refused;
use harness::receiver::{Receiver, Reply};
use prost_types::FieldMask;
use serde_json::json;
use tonic::Code;

const URL: &str = "http://127.0.0.1:9/unused";

fn update(endpoint: Endpoint, paths: &[&str]) -> UpdateEndpointRequest {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    UpdateEndpointRequest {
        endpoint: Some(endpoint),
        update_mask: Some(FieldMask { paths }),
        expected_revision: 0,
    }
}

async fn get(app: &TestApp, endpoint_id: &str) -> Endpoint {
    let request = GetEndpointRequest {
        endpoint_id: endpoint_id.to_owned(),
    };
    app.endpoints().get_endpoint(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_created_endpoint_reads_back_as_it_was_given() {
    let app = TestApp::start().await;
    let created = app
        .create_endpoint(CreateEndpointRequest {
            url: "http://127.0.0.1:9/hook?x=1".into(),
            event_types: vec!["budget.*".into(), "api_key.revoked".into()],
            description: "Ops".into(),
            kind: EndpointKind::Http.into(),
            headers: vec![Header {
                name: "x-tenant".into(),
                value: "7".into(),
            }],
            signature_header: "X-Modelux-Signature".into(),
            timeout_ms: 5000,
            max_in_flight: 8,
            rate_limit_per_second: 20,
            retry_schedule_seconds: vec![1, 60],
            envelope: true,
            ..Default::default()
        })
        .await;

    let endpoint = created.endpoint.unwrap();
    assert!(endpoint.id.starts_with("ep_") && created.log_sequence > 0);
    assert!(created.signing_secret.starts_with("whsec_"));
    assert_eq!(endpoint.project_id, PROJECT);
    assert_eq!(endpoint.url, "http://127.0.0.1:9/hook?x=1");
    assert_eq!(endpoint.event_types, ["budget.*", "api_key.revoked"]);
    assert_eq!(endpoint.description, "Ops");
    assert_eq!(
        endpoint.headers,
        [Header {
            name: "x-tenant".into(),
            value: "7".into()
        }]
    );
    assert_eq!(endpoint.signature_header, "X-Modelux-Signature");
    assert_eq!(
        (
            endpoint.timeout_ms,
            endpoint.max_in_flight,
            endpoint.rate_limit_per_second
        ),
        (5000, 8, 20)
    );
    assert_eq!(endpoint.retry_schedule_seconds, [1, 60]);
    assert!(endpoint.envelope && endpoint.active && endpoint.disabled_reason.is_empty());
    assert_eq!((endpoint.secrets.len(), endpoint.revision), (1, 1));
    assert_eq!(get(&app, &endpoint.id).await, endpoint);

    let defaults = app.create_endpoint_at(URL.into()).await.endpoint.unwrap();
    assert_eq!(
        (
            defaults.timeout_ms,
            defaults.max_in_flight,
            defaults.rate_limit_per_second
        ),
        (15_000, 64, 0)
    );
    assert_eq!(defaults.kind(), EndpointKind::Http);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names() {
    let app = TestApp::start().await;
    let request = CreateEndpointRequest {
        url: URL.into(),
        description: "before".into(),
        ..Default::default()
    };
    let before = app.create_endpoint(request).await.endpoint.unwrap();
    let wanted = Endpoint {
        id: before.id.clone(),
        description: "after".into(),
        timeout_ms: 2000,
        url: "http://127.0.0.1:9/not-in-the-mask".into(),
        ..Default::default()
    };

    let mut client = app.endpoints();
    let after = client
        .update_endpoint(update(wanted, &["description", "timeout_ms"]))
        .await
        .unwrap()
        .into_inner();

    let expected = Endpoint {
        description: "after".into(),
        timeout_ms: 2000,
        revision: 2,
        updated_at: after.updated_at,
        ..before.clone()
    };
    assert_eq!(after, expected);
    assert_eq!(get(&app, &before.id).await, expected);
    assert!(after.updated_at.unwrap().seconds >= before.updated_at.unwrap().seconds);

    let stale = UpdateEndpointRequest {
        expected_revision: 1,
        ..update(after.clone(), &["description"])
    };
    let refusal = refused(client.update_endpoint(stale).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::Aborted, "ENDPOINT_CONFLICT")
    );
    let unknown = refused(client.update_endpoint(update(after, &["revision"])).await);
    assert_eq!(unknown.field_names(), ["update_mask"]);
    assert_eq!(get(&app, &before.id).await, expected);
}

#[tokio::test]
async fn an_update_of_settings_and_active_is_one_revision() {
    let app = TestApp::start().await;
    let before = app.create_endpoint_at(URL.into()).await.endpoint.unwrap();
    let mut client = app.endpoints();
    let wanted = Endpoint {
        id: before.id.clone(),
        description: "moved away".into(),
        active: false,
        ..Default::default()
    };
    let request = UpdateEndpointRequest {
        expected_revision: 1,
        ..update(wanted, &["description", "active"])
    };

    let after = client
        .update_endpoint(request.clone())
        .await
        .unwrap()
        .into_inner();

    let expected = Endpoint {
        description: "moved away".into(),
        active: false,
        disabled_reason: "manual".into(),
        revision: 2,
        updated_at: after.updated_at,
        ..before.clone()
    };
    assert_eq!(after, expected);
    let stale = refused(client.update_endpoint(request.clone()).await);
    assert_eq!(
        (stale.code, stale.reason.as_str()),
        (Code::Aborted, "ENDPOINT_CONFLICT")
    );
    let again = UpdateEndpointRequest {
        expected_revision: 0,
        ..request
    };
    let unchanged = client.update_endpoint(again).await.unwrap().into_inner();
    assert_eq!(unchanged, expected, "applied twice");
    assert_eq!(get(&app, &before.id).await, expected);
}

#[tokio::test]
async fn deliveries_to_a_disabled_endpoint_are_recorded_and_not_attempted() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = app
        .create_endpoint_at(receiver.url("/hook"))
        .await
        .endpoint
        .unwrap();
    let mut client = app.endpoints();

    let off = Endpoint {
        active: false,
        ..endpoint.clone()
    };
    let disabled = client
        .update_endpoint(update(off, &["active"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (disabled.active, disabled.disabled_reason.as_str()),
        (false, "manual")
    );
    let accepted = app.deliver("order.paid", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(summary(&detail).status(), DeliveryStatus::Failed);
    assert_eq!(summary(&detail).failure_reason, "endpoint_disabled");
    assert_eq!(detail.attempts, []);

    let on = Endpoint {
        active: true,
        ..endpoint
    };
    let enabled = client
        .update_endpoint(update(on, &["active"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((enabled.active, enabled.disabled_reason.as_str()), (true, ""));
    let accepted = app.deliver("order.paid", &json!({})).await;
    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(summary(&detail).status(), DeliveryStatus::Delivered);
    assert_eq!(receiver.requests("/hook").len(), 1);
}

#[tokio::test]
async fn a_deleted_endpoint_takes_nothing_new_and_completes_what_was_accepted_before() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(500), Reply::status(200)]);
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        retry_schedule_seconds: vec![2],
        ..Default::default()
    };
    let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
    let accepted = app.deliver("order.paid", &json!({})).await;
    receiver.received("/hook", 1).await;

    let request = DeleteEndpointRequest {
        endpoint_id: endpoint.id.clone(),
    };
    app.endpoints().delete_endpoint(request.clone()).await.unwrap();

    let detail = app.ended(&accepted.deliveries[0].id).await;
    assert_eq!(summary(&detail).status(), DeliveryStatus::Delivered);
    assert_eq!(summary(&detail).attempt_count, 2);
    let mut client = app.endpoints();
    let get = GetEndpointRequest {
        endpoint_id: endpoint.id.clone(),
    };
    let to_it = cuitty_webhooks_proto::v1::DeliverRequest {
        endpoint_id: endpoint.id.clone(),
        ..event("order.paid", "{}")
    };
    for refusal in [
        refused(client.get_endpoint(get).await),
        refused(client.delete_endpoint(request).await),
        refused(app.messages().deliver(to_it).await),
    ] {
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::NotFound, "ENDPOINT_NOT_FOUND")
        );
    }
    assert_eq!(app.deliver("order.paid", &json!({})).await.deliveries, []);
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let app = TestApp::start().await;
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.insert(0, app.create_endpoint_at(URL.into()).await.endpoint.unwrap());
    }

    let (mut listed, mut cursor, mut sizes) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = Some(PageRequest { limit: 2, cursor });
        let request = ListEndpointsRequest {
            project_id: PROJECT.into(),
            page,
        };
        let answer = app
            .endpoints()
            .list_endpoints(request)
            .await
            .unwrap()
            .into_inner();
        sizes.push(answer.endpoints.len());
        listed.extend(answer.endpoints);
        cursor = answer.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }

    assert_eq!(sizes, [2, 2, 1]);
    // Ids made within one millisecond have no order of their own.
    let millis = |endpoint: &Endpoint| endpoint.created_at.map(|at| (at.seconds, at.nanos / 1_000_000));
    assert!(listed.is_sorted_by_key(|endpoint| std::cmp::Reverse(millis(endpoint))));
    let by_id = |mut endpoints: Vec<Endpoint>| {
        endpoints.sort_by(|a, b| a.id.cmp(&b.id));
        endpoints
    };
    assert_eq!(by_id(listed), by_id(expected));
}

/// The bytes of every message of both streams.
pub(crate) async fn stored_messages(app: &TestApp) -> Vec<Vec<u8>> {
    let context = jetstream::new(async_nats::connect(app.nats.url()).await.unwrap());
    let mut messages = Vec::new();
    for name in ["WEBHOOKS", "WEBHOOKS_CONTROL"] {
        let stream = context.get_stream(name).await.unwrap();
        for sequence in 1..=stream.get_info().await.unwrap().state.last_sequence {
            messages.push(stream.get_raw_message(sequence).await.unwrap().payload.to_vec());
        }
    }
    assert!(messages.len() >= 4, "created, rotated, requested and concluded");
    messages
}

#[tokio::test]
async fn a_secret_is_shown_once_and_never_again_or_elsewhere() {
    let imported = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let roles = ["api,dispatcher,projector"];
    let app = TestApp::builder()
        .processes(roles)
        .set("telemetry.log_filter", "trace")
        .start()
        .await;
    let receiver = Receiver::start();
    let request = CreateEndpointRequest {
        url: receiver.url("/hook"),
        signing_secret: imported.into(),
        ..Default::default()
    };
    let created = app.create_endpoint(request).await;
    assert_eq!(created.signing_secret, imported);
    let endpoint_id = created.endpoint.unwrap().id;
    let rotate = RotateSecretRequest {
        endpoint_id: endpoint_id.clone(),
        overlap_seconds: None,
        ..Default::default()
    };
    let rotated = app.endpoints().rotate_secret(rotate).await.unwrap().into_inner();
    app.deliver("order.paid", &json!({})).await;
    receiver.received("/hook", 1).await;

    let endpoint = get(&app, &endpoint_id).await;
    assert_eq!(endpoint.secrets.len(), 2);
    assert_eq!(endpoint.secrets[0].id, rotated.secret_id);
    assert_eq!(endpoint.secrets[0].expires_at, None);
    assert_eq!(endpoint.secrets[1].expires_at, rotated.previous_expires_at);
    let overlap = rotated.previous_expires_at.unwrap().seconds - endpoint.updated_at.unwrap().seconds;
    assert_eq!(overlap, 24 * 3600);
    let stored = stored_messages(&app).await;
    let logged = app.roles[0].output();
    assert!(
        logged.len() > 10_000,
        "everything was to be logged: {} bytes",
        logged.len()
    );
    for secret in [imported, &rotated.signing_secret] {
        let bare = secret.trim_start_matches("whsec_");
        assert!(!format!("{endpoint:?}").contains(bare));
        assert!(!logged.contains(bare), "a secret is in the log");
        let bytes = STANDARD.decode(bare).unwrap();
        for needle in [bare.as_bytes(), &bytes] {
            let holds = |message: &Vec<u8>| message.windows(needle.len()).any(|window| window == needle);
            assert!(!stored.iter().any(holds), "a secret is in the stored log");
        }
    }
}
