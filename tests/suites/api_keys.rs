//! API keys: their life, what they are bound to, their end, the first one, and the command line for them.

mod cli;
mod first;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Timelike};
use cuitty_webhooks_proto::v1::api_key_service_client::ApiKeyServiceClient;
use cuitty_webhooks_proto::v1::delivery_service_client::DeliveryServiceClient;
use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::{
    ApiKey, CreateApiKeyRequest, CreateEndpointRequest, DeliverRequest, ListApiKeysRequest,
    ListDeliveriesRequest, ListEndpointsRequest, PageRequest, RevokeApiKeyRequest, WatchDeliveriesRequest,
};
use harness::app::{PROJECT, TestApp, event};
use harness::eventually::eventually;
use harness::grpc::{Authorized, authorized_lazily, refused};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

const OTHER: &str = "other";

fn keys_of(app: &TestApp, key: &str) -> ApiKeyServiceClient<Authorized> {
    ApiKeyServiceClient::new(app.channel(Some(key)))
}

async fn list(app: &TestApp, key: &str, request: ListApiKeysRequest) -> Result<Vec<ApiKey>, Status> {
    let answer = keys_of(app, key).list_api_keys(request).await?;
    Ok(answer.into_inner().api_keys)
}

async fn revoke(app: &TestApp, key: &str, id: &str) -> Result<ApiKey, Status> {
    let request = RevokeApiKeyRequest { id: id.into() };
    Ok(keys_of(app, key).revoke_api_key(request).await?.into_inner())
}

async fn list_endpoints(channel: Authorized) -> Result<Vec<String>, Status> {
    let request = ListEndpointsRequest::default();
    let answer = EndpointServiceClient::new(channel)
        .list_endpoints(request)
        .await?;
    let endpoints = answer.into_inner().endpoints.into_iter();
    Ok(endpoints.map(|endpoint| endpoint.id).collect())
}

/// An endpoint of a project, and an event that goes to it: their ids.
async fn delivered(app: &TestApp, project: &str) -> (String, String) {
    let request = CreateEndpointRequest {
        project_id: project.into(),
        url: "http://127.0.0.1:9/unused".into(),
        ..Default::default()
    };
    let created = app.endpoints().create_endpoint(request).await.unwrap();
    let request = DeliverRequest {
        project_id: project.into(),
        ..event("order.paid", "{}")
    };
    let accepted = app.messages().deliver(request).await.unwrap().into_inner();
    let delivery = accepted.deliveries[0].id.clone();
    app.delivery(&delivery).await;
    (created.into_inner().endpoint.unwrap().id, delivery)
}

#[tokio::test]
async fn a_key_is_shown_once_and_its_life_is_listed() {
    let app = TestApp::start().await;
    let request = CreateApiKeyRequest {
        project_id: PROJECT.into(),
        scopes: vec!["read".into(), "deliver".into(), "read".into()],
        description: "for billing".into(),
    };
    let created = app.api_keys().create_api_key(request).await.unwrap().into_inner();
    let (made, secret) = (created.api_key.unwrap(), created.secret);
    assert!(secret.starts_with("cwk_") && secret.len() == 62, "{secret}");
    let expected = (PROJECT, "for billing", "admin");
    assert_eq!(
        (&*made.project_id, &*made.description, &*made.created_by),
        expected
    );
    assert_eq!(made.scopes, ["deliver", "read"]);
    assert_eq!((made.revoked_at, made.last_used_at), (None, None));

    let admin = app.create_key("", &["admin"]).await;
    let listed = async || {
        let all = list(&app, &admin.secret, ListApiKeysRequest::default()).await;
        let all = all.unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        all.into_iter().find(|key| key.id == made.id).unwrap()
    };
    assert_eq!(listed().await, made);

    let mut messages = MessageServiceClient::new(app.channel(Some(&secret)));
    messages.deliver(event("order.paid", "{}")).await.unwrap();
    let used = eventually("its use is known", || async {
        listed().await.last_used_at.ok_or("not yet")
    })
    .await;
    let used = DateTime::from_timestamp(used.seconds, 0).unwrap();
    assert_eq!((used.minute(), used.second()), (0, 0), "{used}");

    let revoked = revoke(&app, &admin.secret, &made.id).await.unwrap();
    assert!(revoked.revoked_at.is_some());
    assert_eq!(revoke(&app, &admin.secret, &made.id).await.unwrap(), revoked);
    assert_eq!(listed().await, revoked);
    let refusal = refused(messages.deliver(event("order.paid", "{}")).await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::Unauthenticated, "INVALID_API_KEY")
    );
}

#[tokio::test]
async fn with_a_bound_key_the_project_may_be_left_out_and_lists_hold_nothing_else() {
    let app = TestApp::start().await;
    let (ours, our_delivery) = delivered(&app, PROJECT).await;
    let (_, their_delivery) = delivered(&app, OTHER).await;
    let bound = app.create_key(PROJECT, &["admin"]).await;
    let channel = || app.channel(Some(&bound.secret));

    assert_eq!(
        list_endpoints(channel()).await.unwrap(),
        std::slice::from_ref(&ours)
    );
    let request = DeliverRequest {
        project_id: String::new(),
        ..event("order.paid", "{}")
    };
    let accepted = MessageServiceClient::new(channel()).deliver(request).await;
    let accepted = accepted.unwrap().into_inner();
    assert_eq!(accepted.deliveries[0].endpoint_id, ours);
    app.delivery(&accepted.deliveries[0].id).await;
    let request = ListDeliveriesRequest::default();
    let listed = DeliveryServiceClient::new(channel())
        .list_deliveries(request)
        .await;
    let listed: Vec<_> = listed
        .unwrap()
        .into_inner()
        .deliveries
        .into_iter()
        .map(|delivery| delivery.id)
        .collect();
    assert_eq!(listed, [accepted.deliveries[0].id.clone(), our_delivery]);
    assert!(!listed.contains(&their_delivery));

    let mut events = DeliveryServiceClient::new(channel())
        .watch_deliveries(WatchDeliveriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    delivered(&app, OTHER).await;
    let last = app.deliver("order.paid", &serde_json::json!({})).await;
    let first = timeout(Duration::from_secs(20), events.message()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().message_id, last.message_id);
}

#[tokio::test]
async fn a_project_that_has_nothing_but_a_key_is_empty_and_not_unknown() {
    let app = TestApp::start().await;
    let bound = app.create_key("newcomer", &["read", "deliver"]).await;
    let channel = || app.channel(Some(&bound.secret));
    assert_eq!(list_endpoints(channel()).await.unwrap(), Vec::<String>::new());
    let request = DeliverRequest {
        project_id: String::new(),
        ..event("order.paid", "{}")
    };
    let accepted = MessageServiceClient::new(channel()).deliver(request).await;
    let accepted = accepted.unwrap().into_inner();
    assert_eq!((accepted.deliveries.len(), accepted.log_sequence > 0), (0, true));
}

#[tokio::test]
async fn a_bound_admin_makes_and_sees_keys_of_its_project_only() {
    let app = TestApp::start().await;
    let global = app.create_key("", &["admin"]).await.api_key.unwrap();
    let theirs = app.create_key(OTHER, &["read"]).await.api_key.unwrap();
    let bound = app.create_key(PROJECT, &["admin"]).await;
    let ours = bound.api_key.unwrap();
    let create = async |project: &str| {
        let request = CreateApiKeyRequest {
            project_id: project.into(),
            scopes: vec!["admin".into()],
            ..Default::default()
        };
        keys_of(&app, &bound.secret).create_api_key(request).await
    };
    let made = create("").await.unwrap().into_inner().api_key.unwrap();
    assert_eq!(
        (&*made.project_id, &made.created_by),
        (PROJECT, &ours.id),
        "not one of all projects"
    );
    let refusal = refused(create(OTHER).await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::NotFound, "PROJECT_NOT_FOUND")
    );
    let listed = list(&app, &bound.secret, ListApiKeysRequest::default()).await;
    let listed: BTreeSet<_> = listed.unwrap().into_iter().map(|key| key.id).collect();
    assert_eq!(listed, BTreeSet::from([made.id, ours.id]));
    for hidden in [&global, &theirs] {
        let refusal = refused(revoke(&app, &bound.secret, &hidden.id).await);
        assert_eq!(
            (refusal.code, &*refusal.reason),
            (Code::NotFound, "API_KEY_NOT_FOUND")
        );
    }
    let of_other = ListApiKeysRequest {
        project_id: OTHER.into(),
        ..Default::default()
    };
    assert_eq!(
        list(&app, harness::roles::ADMIN_KEY, of_other).await.unwrap(),
        [theirs]
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_told_and_pages_cover_the_list() {
    let app = TestApp::start().await;
    let request = CreateApiKeyRequest {
        project_id: "a b".into(),
        scopes: vec!["read".into(), "write".into()],
        description: "x".repeat(1025),
    };
    let refusal = refused(app.api_keys().create_api_key(request).await);
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert_eq!(refusal.field_names(), ["description", "project_id", "scopes[1]"]);
    let none = refused(
        app.api_keys()
            .create_api_key(CreateApiKeyRequest::default())
            .await,
    );
    assert_eq!(none.field_names(), ["scopes"]);
    for id in ["", "ep_01h455vb4pex5vsknk084sn02q", "cwk_x"] {
        let refusal = refused(revoke(&app, harness::roles::ADMIN_KEY, id).await);
        assert_eq!(refusal.field_names(), ["id"], "{id}");
    }

    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, app.create_key(PROJECT, &["read"]).await.api_key.unwrap());
    }
    made.sort_by(|a, b| b.id.cmp(&a.id));
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let request = ListApiKeysRequest {
            page: Some(PageRequest { limit: 2, cursor }),
            ..Default::default()
        };
        let page = app.api_keys().list_api_keys(request).await.unwrap().into_inner();
        listed.extend(page.api_keys);
        cursor = page.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    assert_eq!(listed, made);
    let request = ListApiKeysRequest {
        page: Some(PageRequest {
            limit: 201,
            cursor: "x".into(),
        }),
        ..Default::default()
    };
    let refusal = refused(app.api_keys().list_api_keys(request).await);
    assert_eq!(refusal.field_names(), ["cursor", "limit"]);
}

#[tokio::test]
async fn a_revoked_key_is_out_of_every_process_within_a_second_and_so_is_its_watch() {
    let app = TestApp::builder()
        .processes(["api,dispatcher,projector", "api"])
        .start()
        .await;
    delivered(&app, PROJECT).await;
    let created = app.create_key(PROJECT, &["read"]).await;
    let (id, secret) = (created.api_key.unwrap().id, created.secret);
    let there = || authorized_lazily(&app.roles[1].url(), Some(&secret)).unwrap();
    eventually("the other process knows the key", || list_endpoints(there())).await;
    let mut events = DeliveryServiceClient::new(there())
        .watch_deliveries(WatchDeliveriesRequest::default())
        .await
        .unwrap()
        .into_inner();

    revoke(&app, harness::roles::ADMIN_KEY, &id).await.unwrap();

    let revoked = Instant::now();
    let refusal = eventually("the other process refuses it", || async {
        list_endpoints(there()).await.err().ok_or("let in")
    })
    .await;
    assert_eq!(refusal.code(), Code::Unauthenticated);
    let end = timeout(Duration::from_secs(20), events.message()).await.unwrap();
    assert_eq!(refused(end).code, Code::Unauthenticated);
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(1), "took {took:?}");
}
