//! Ending a rotation's overlap before its time: a secret that got into the wrong hands.

use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_proto::v1::{
    Endpoint, GetEndpointRequest, RevokeSecretRequest, RotateSecretRequest, RotateSecretResponse,
};
use harness::app::TestApp;
use harness::eventually::{eventually, is};
use harness::grpc::{Refusal, refused};
use harness::receiver::{Captured, Receiver};
use serde_json::json;
use tonic::{Code, Status};

use crate::deliver::verified;

const UNKNOWN: &str = "sec_01h455vb4pex5vsknk084sn02q";

async fn rotate(app: &TestApp, endpoint_id: &str) -> RotateSecretResponse {
    let request = RotateSecretRequest {
        endpoint_id: endpoint_id.to_owned(),
        overlap_seconds: Some(3600),
        ..Default::default()
    };
    app.endpoints().rotate_secret(request).await.unwrap().into_inner()
}

async fn revoke(app: &TestApp, endpoint_id: &str, secret_id: &str) -> Result<Endpoint, Status> {
    let request = RevokeSecretRequest {
        endpoint_id: endpoint_id.to_owned(),
        secret_id: secret_id.to_owned(),
    };
    Ok(app.endpoints().revoke_secret(request).await?.into_inner())
}

fn secret_ids(endpoint: &Endpoint) -> Vec<&str> {
    endpoint.secrets.iter().map(|secret| &*secret.id).collect()
}

fn signatures(request: &Captured) -> usize {
    request.header("webhook-signature").split(' ').count()
}

/// Delivers until a request carries `count` signatures, for the dispatcher learns of a change by itself. Gives the
/// request, and the ids of the secrets that the history says it was signed with.
async fn deliver_signed(app: &TestApp, receiver: &Receiver, count: usize) -> (Captured, Vec<String>) {
    eventually(&format!("a request with {count} signatures"), || async {
        let accepted = app.deliver("order.paid", &json!({})).await;
        let detail = app.ended(&accepted.deliveries[0].id).await;
        let mut arrived = receiver.requests("/hook").into_iter();
        let arrived = arrived.find(|request| request.header("webhook-id") == accepted.message_id);
        let arrived = arrived.expect("the history says so");
        is(signatures(&arrived), count)?;
        let request = detail.attempts[0].request.clone().unwrap();
        Ok::<_, String>((arrived, request.signed_with))
    })
    .await
}

#[tokio::test]
async fn a_revoked_secret_signs_nothing_more() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let endpoint = created.endpoint.unwrap();
    let first_id = &endpoint.secrets[0].id;
    let rotated = rotate(&app, &endpoint.id).await;
    let second_id = &rotated.secret_id;
    let secret = |text: &str| [SigningSecret::parse(text).unwrap()];
    let (first, second) = (secret(&created.signing_secret), secret(&rotated.signing_secret));

    let (both, signed_with) = deliver_signed(&app, &receiver, 2).await;
    assert!(verified(&both, &first) && verified(&both, &second));
    assert_eq!(signed_with, [second_id.as_str(), first_id]);

    let revoked = revoke(&app, &endpoint.id, first_id).await.unwrap();
    assert_eq!(secret_ids(&revoked), [second_id]);
    assert_eq!(revoked.revision, 3);
    let (one, signed_with) = deliver_signed(&app, &receiver, 1).await;
    assert!(verified(&one, &second) && !verified(&one, &first));
    assert_eq!(signed_with, [second_id.as_str()]);

    // It is so already.
    let again = revoke(&app, &endpoint.id, first_id).await.unwrap();
    assert_eq!((again.revision, again.updated_at), (3, revoked.updated_at));
}

#[tokio::test]
async fn what_cannot_be_revoked_is_refused_and_changes_nothing() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let endpoint = app
        .create_endpoint_at(receiver.url("/hook"))
        .await
        .endpoint
        .unwrap();
    let other = app
        .create_endpoint_at(receiver.url("/other"))
        .await
        .endpoint
        .unwrap();
    let previous = &endpoint.secrets[0].id;
    let current = rotate(&app, &endpoint.id).await.secret_id;

    let told = |refusal: Refusal| (refusal.code, refusal.reason);
    for (endpoint_id, secret_id, expected) in [
        (&*endpoint.id, &*current, (Code::Aborted, "SECRET_CONFLICT")),
        (&endpoint.id, UNKNOWN, (Code::NotFound, "SECRET_NOT_FOUND")),
        (&other.id, previous, (Code::NotFound, "SECRET_NOT_FOUND")),
        (
            "ep_01h455vb4pex5vsknk084sn02q",
            previous,
            (Code::NotFound, "ENDPOINT_NOT_FOUND"),
        ),
    ] {
        let refusal = told(refused(revoke(&app, endpoint_id, secret_id).await));
        assert_eq!((refusal.0, &*refusal.1), expected, "{endpoint_id} {secret_id}");
    }
    let malformed = refused(revoke(&app, &endpoint.id, "sec_1").await);
    assert_eq!(malformed.field_names(), ["secret_id"]);
    let malformed = refused(revoke(&app, "", previous).await);
    assert_eq!(malformed.field_names(), ["endpoint_id"]);

    let request = GetEndpointRequest {
        endpoint_id: endpoint.id.clone(),
    };
    let after = app.endpoints().get_endpoint(request).await.unwrap().into_inner();
    assert_eq!(secret_ids(&after), [&*current, previous]);
    assert_eq!(after.revision, 2);
}
