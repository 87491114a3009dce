//! Signing keys: the two schemes, what a rotation may do, and whether an old attempt was signed as its record says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cuitty_webhooks_client::{SigningSecret, VerificationKey};
use cuitty_webhooks_proto::v1::{
    Attempt, CreateEndpointRequest, DeleteEndpointRequest, Endpoint, GetDeliveryRequest, GetEndpointRequest,
    RevokeSecretRequest, RotateSecretRequest, RotateSecretResponse, SignatureCheck, SignatureScheme,
    UpdateEndpointRequest,
};
use harness::app::{PROJECT, TestApp};
use harness::eventually::{eventually, is};
use harness::grpc::refused;
use harness::receiver::{Captured, Receiver};
use harness::reference::{accepted_by_openssl, accepted_by_python};
use serde_json::json;
use tonic::{Code, Status};

use crate::deliver::verified;
use crate::endpoints::stored_messages;

const SYMMETRIC: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The seed of RFC 8032, section 7.1, test 1, and its public key.
const SEED: &str = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
const PUBLIC: &str = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
/// Both in one, as other systems export it.
const PAIR: &str =
    "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==";

async fn rotate(app: &TestApp, request: RotateSecretRequest) -> Result<RotateSecretResponse, Status> {
    Ok(app.endpoints().rotate_secret(request).await?.into_inner())
}

fn rotation(endpoint_id: &str) -> RotateSecretRequest {
    RotateSecretRequest {
        endpoint_id: endpoint_id.to_owned(),
        ..Default::default()
    }
}

async fn get(app: &TestApp, endpoint_id: &str) -> Endpoint {
    let request = GetEndpointRequest {
        endpoint_id: endpoint_id.to_owned(),
    };
    app.endpoints().get_endpoint(request).await.unwrap().into_inner()
}

/// Changes a field of an endpoint.
async fn update(app: &TestApp, endpoint: Endpoint, field: &str) -> Result<Endpoint, Status> {
    let request = UpdateEndpointRequest {
        endpoint: Some(endpoint),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![field.to_owned()],
        }),
        expected_revision: 0,
    };
    Ok(app.endpoints().update_endpoint(request).await?.into_inner())
}

/// The versions of the signatures that a request carries.
fn versions(request: &Captured) -> Vec<&str> {
    let entries = request.header("webhook-signature").split(' ');
    entries.map(|entry| entry.split_once(',').unwrap().0).collect()
}

/// Delivers until a request carries signatures of these versions, for the dispatcher learns of a change by itself. Gives the
/// request and its delivery.
async fn deliver_signed(app: &TestApp, receiver: &Receiver, expected: &[&str]) -> (Captured, String) {
    eventually(&format!("a request signed by {expected:?}"), || async {
        let accepted = app.deliver("order.paid", &json!({"spent": 12})).await;
        let delivery_id = &accepted.deliveries[0].id;
        app.ended(delivery_id).await;
        let mut arrived = receiver.requests("/hook").into_iter();
        let arrived = arrived.find(|request| request.header("webhook-id") == accepted.message_id);
        let arrived = arrived.expect("the history says so");
        if versions(&arrived) == expected {
            Ok((arrived, delivery_id.clone()))
        } else {
            Err(arrived)
        }
    })
    .await
}

async fn read(app: &TestApp, delivery_id: &str, verify: bool) -> Attempt {
    let request = GetDeliveryRequest {
        delivery_id: delivery_id.to_owned(),
        verify,
        ..Default::default()
    };
    let detail = app.deliveries().get_delivery(request).await.unwrap().into_inner();
    detail.attempts.into_iter().next().unwrap()
}

/// The checks of the signatures of a delivery's first attempt.
async fn checks(app: &TestApp, delivery_id: &str) -> Vec<SignatureCheck> {
    read(app, delivery_id, true).await.signature_checks
}

fn valid(secret_id: &str, scheme: &str, header: &str) -> SignatureCheck {
    SignatureCheck {
        secret_id: secret_id.to_owned(),
        scheme: scheme.to_owned(),
        header: header.to_owned(),
        valid: Some(true),
        reason: String::new(),
    }
}

#[tokio::test]
async fn an_endpoint_moves_from_one_scheme_to_the_other_by_rotation() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let endpoint = created.endpoint.unwrap();
    assert_eq!(endpoint.signature_scheme(), SignatureScheme::HmacSha256);
    assert_eq!(endpoint.secrets[0].public_key, "");

    let request = RotateSecretRequest {
        signature_scheme: SignatureScheme::Ed25519.into(),
        overlap_seconds: Some(3600),
        ..rotation(&endpoint.id)
    };
    let rotated = rotate(&app, request).await.unwrap();
    let shown = get(&app, &endpoint.id).await;
    assert_eq!(shown.signature_scheme(), SignatureScheme::Ed25519);
    let told: Vec<_> = shown
        .secrets
        .iter()
        .map(|secret| (&*secret.id, secret.scheme(), &*secret.public_key))
        .collect();
    let first_id = &*endpoint.secrets[0].id;
    assert_eq!(
        told,
        [
            (
                &*rotated.secret_id,
                SignatureScheme::Ed25519,
                &*rotated.public_key
            ),
            (first_id, SignatureScheme::HmacSha256, "")
        ]
    );

    // During the overlap both sign, each in its own way, and receivers in other languages accept either.
    let (both, delivery_id) = deliver_signed(&app, &receiver, &["v1a", "v1"]).await;
    assert!(accepted_by_openssl(&both, &rotated.public_key));
    assert!(!accepted_by_openssl(&both, PUBLIC));
    let known = [created.signing_secret.clone()];
    assert_eq!(accepted_by_python([(&both, &known[..])]), [true]);
    let verified = |keys: &[VerificationKey]| verified(&both, keys);
    let key = |text: &str| VerificationKey::parse(text).unwrap();
    assert!(verified(&[key(&rotated.public_key)]));
    assert!(verified(&[key(&rotated.signing_secret)]));
    assert!(verified(&[key(PUBLIC), key(&created.signing_secret)]));
    assert!(!verified(&[key(PUBLIC)]));
    let tampered = Captured {
        body: r#"{"spent":1}"#.into(),
        ..both.clone()
    };
    assert!(!accepted_by_openssl(&tampered, &rotated.public_key));
    let expected = [
        valid(&rotated.secret_id, "ed25519", "webhook-signature"),
        valid(first_id, "hmac-sha256", "webhook-signature"),
    ];
    assert_eq!(checks(&app, &delivery_id).await, expected);

    // Unless it is named, the scheme of a new secret is the current one's. An update changes no key.
    let described = Endpoint {
        description: "changed".into(),
        signature_scheme: SignatureScheme::HmacSha256.into(),
        ..shown.clone()
    };
    let updated = update(&app, described, "description").await.unwrap();
    assert_eq!(updated.secrets, shown.secrets);
    assert_eq!(updated.signature_scheme(), SignatureScheme::Ed25519);
    let next = rotate(&app, rotation(&endpoint.id)).await.unwrap();
    assert!(next.signing_secret.starts_with("whsk_") && next.public_key.starts_with("whpk_"));
    let back = RotateSecretRequest {
        signature_scheme: SignatureScheme::HmacSha256.into(),
        ..rotation(&endpoint.id)
    };
    let back = rotate(&app, back).await.unwrap();
    assert!(back.signing_secret.starts_with("whsec_") && back.public_key.is_empty());
}

#[tokio::test]
async fn an_imported_secret_tells_its_scheme_and_a_contradiction_is_refused() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let request = |secret: &str, scheme: SignatureScheme, signature_header: &str| CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: receiver.url("/hook"),
        signing_secret: secret.into(),
        signature_scheme: scheme.into(),
        signature_header: signature_header.into(),
        ..Default::default()
    };
    let (unspecified, hmac, ed25519) = (
        SignatureScheme::Unspecified,
        SignatureScheme::HmacSha256,
        SignatureScheme::Ed25519,
    );
    for (secret, asked) in [(SEED, unspecified), (PAIR, unspecified), (SEED, ed25519)] {
        let created = app.create_endpoint(request(secret, asked, "")).await;
        assert_eq!(created.signing_secret, SEED);
        let endpoint = created.endpoint.unwrap();
        assert_eq!(endpoint.signature_scheme(), ed25519);
        assert_eq!(endpoint.secrets[0].public_key, PUBLIC);
    }
    let mut generated = app.create_endpoint(request("", ed25519, "")).await;
    assert!(generated.signing_secret.starts_with("whsk_"));

    for (secret, asked, header, field) in [
        (SEED, hmac, "", "signature_scheme"),
        (SYMMETRIC, ed25519, "", "signature_scheme"),
        (PUBLIC, unspecified, "", "signing_secret"),
        (&PAIR[..PAIR.len() - 4], unspecified, "", "signing_secret"),
        (SEED, unspecified, "X-Acme-Signature", "signature_header"),
        ("", ed25519, "X-Acme-Signature", "signature_header"),
    ] {
        let refusal = refused(
            app.endpoints()
                .create_endpoint(request(secret, asked, header))
                .await,
        );
        assert_eq!(refusal.field_names(), [field], "{secret} {asked:?} {header}");
    }

    // The same by rotation and update.
    let endpoint = generated.endpoint.take().unwrap();
    let with_header = Endpoint {
        signature_header: "X-Acme-Signature".into(),
        ..endpoint.clone()
    };
    let refusal = refused(update(&app, with_header, "signature_header").await);
    assert_eq!(refusal.field_names(), ["signature_header"]);
    let plain = app.create_endpoint(request("", hmac, "X-Acme-Signature")).await;
    let plain = plain.endpoint.unwrap();
    for (secret, asked) in [(SEED, unspecified), ("", ed25519), (SYMMETRIC, ed25519)] {
        let request = RotateSecretRequest {
            signing_secret: secret.into(),
            signature_scheme: asked.into(),
            ..rotation(&plain.id)
        };
        let refusal = refused(rotate(&app, request).await);
        assert_eq!(refusal.field_names(), ["signature_scheme"], "{secret} {asked:?}");
    }
    assert_eq!(get(&app, &plain.id).await, plain, "nothing has changed");
    let unknown = RotateSecretRequest {
        signature_scheme: 7,
        ..rotation(&endpoint.id)
    };
    assert_eq!(
        refused(rotate(&app, unknown).await).field_names(),
        ["signature_scheme"]
    );
}

#[tokio::test]
async fn private_keys_are_sealed_in_the_log_and_shown_once() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app
        .create_endpoint(CreateEndpointRequest {
            url: receiver.url("/hook"),
            signing_secret: SEED.into(),
            ..Default::default()
        })
        .await;
    let endpoint_id = created.endpoint.unwrap().id;
    let rotated = rotate(&app, rotation(&endpoint_id)).await.unwrap();
    let accepted = app.deliver("order.paid", &json!({})).await;
    app.ended(&accepted.deliveries[0].id).await;
    let shown = format!("{:?}", get(&app, &endpoint_id).await);
    let stored = stored_messages(&app).await;
    let is_stored = |needle: &[u8]| {
        stored
            .iter()
            .any(|message| message.windows(needle.len()).any(|window| window == needle))
    };
    for secret in [SEED, &rotated.signing_secret] {
        let encoded = secret.trim_start_matches("whsk_");
        assert!(!shown.contains(encoded));
        assert!(!is_stored(encoded.as_bytes()) && !is_stored(&STANDARD.decode(encoded).unwrap()));
    }
    let public = STANDARD.decode(PUBLIC.trim_start_matches("whpk_")).unwrap();
    assert!(is_stored(&public), "what is stored is searched as it should be");
}

#[tokio::test]
async fn rest_tells_and_rotates_schemes_too() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let route = format!("/api/webhooks/endpoints/{}/rotate", created.endpoint.unwrap().id);
    let rest = app.rest();
    let answer = rest.post(&route, &json!({"signature_scheme": "ed25519"})).await;
    assert_eq!(answer.status, 200);
    let public_key = answer.json()["public_key"].clone();
    assert!(public_key.as_str().unwrap().starts_with("whpk_"));
    let listed = rest
        .get(&format!("/api/webhooks/endpoints?project_id={PROJECT}"))
        .await
        .json();
    let endpoint = &listed["data"][0];
    assert_eq!(endpoint["signature_scheme"], "ed25519");
    assert_eq!(endpoint["secrets"][0]["scheme"], "ed25519");
    assert_eq!(endpoint["secrets"][0]["public_key"], public_key);
    assert_eq!(endpoint["secrets"][1]["scheme"], "hmac-sha256");
    assert_eq!(endpoint["secrets"][1]["public_key"], json!(null));
    for (body, field) in [
        (json!({"signature_scheme": "rsa"}), "signature_scheme"),
        (
            json!({"signature_scheme": "hmac-sha256", "signing_secret": SEED}),
            "signature_scheme",
        ),
    ] {
        let answer = rest.post(&route, &body).await;
        assert_eq!(answer.status, 422);
        assert_eq!(answer.json()["error"]["fields"][0]["field"], field);
    }
}

#[tokio::test]
async fn a_rotation_imports_overlaps_up_to_7_days_and_leaves_at_most_10_live() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app.create_endpoint_at(receiver.url("/hook")).await;
    let id = created.endpoint.unwrap().id;
    let with_overlap = |overlap_seconds| RotateSecretRequest {
        overlap_seconds,
        ..rotation(&id)
    };
    let overlap_of = async |asked| {
        let rotated = rotate(&app, with_overlap(asked)).await?;
        let endpoint = get(&app, &id).await;
        let rotated_at = endpoint.updated_at.unwrap();
        let ends = rotated.previous_expires_at.unwrap();
        assert_eq!(ends.nanos, rotated_at.nanos);
        Ok::<_, Status>(ends.seconds - rotated_at.seconds)
    };
    assert_eq!(overlap_of(None).await.unwrap(), 24 * 3600);
    assert_eq!(overlap_of(Some(604_800)).await.unwrap(), 7 * 24 * 3600);
    let refusal = refused(overlap_of(Some(604_801)).await);
    assert_eq!(refusal.field_names(), ["overlap_seconds"]);
    assert_eq!(get(&app, &id).await.secrets.len(), 3);
    assert_eq!(overlap_of(Some(0)).await.unwrap(), 0);
    assert_eq!(
        get(&app, &id).await.secrets.len(),
        3,
        "the one before stopped at once"
    );

    let import = RotateSecretRequest {
        signing_secret: SYMMETRIC.into(),
        ..rotation(&id)
    };
    assert_eq!(rotate(&app, import).await.unwrap().signing_secret, SYMMETRIC);
    for live in 5..=10 {
        rotate(&app, rotation(&id)).await.unwrap();
        assert_eq!(get(&app, &id).await.secrets.len(), live);
    }
    let refusal = refused(rotate(&app, rotation(&id)).await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::Aborted, "ENDPOINT_CONFLICT")
    );
    let secrets = get(&app, &id).await.secrets;
    assert_eq!(secrets.len(), 10);
    // Each of them signs.
    let (request, _) = deliver_signed(&app, &receiver, &["v1"; 10]).await;
    assert!(verified(&request, &[SigningSecret::parse(SYMMETRIC).unwrap()]));

    let revoke = RevokeSecretRequest {
        endpoint_id: id.clone(),
        secret_id: secrets[9].id.clone(),
    };
    app.endpoints().revoke_secret(revoke).await.unwrap();
    rotate(&app, rotation(&id)).await.unwrap();
    assert_eq!(get(&app, &id).await.secrets.len(), 10);
}

#[tokio::test]
async fn an_attempt_made_before_a_rotation_is_verified_under_the_retired_secret() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    let created = app
        .create_endpoint(CreateEndpointRequest {
            url: receiver.url("/hook"),
            signature_header: "X-Acme-Signature".into(),
            ..Default::default()
        })
        .await;
    let endpoint = created.endpoint.unwrap();
    let first_id = &*endpoint.secrets[0].id;
    let (_, delivery_id) = deliver_signed(&app, &receiver, &["v1"]).await;

    let hmac = "hmac-sha256";
    let expected = [
        valid(first_id, hmac, "webhook-signature"),
        valid(first_id, hmac, "x-acme-signature"),
    ];
    assert_eq!(checks(&app, &delivery_id).await, expected);
    assert_eq!(
        read(&app, &delivery_id, false).await.signature_checks,
        [],
        "unless asked for"
    );

    // Nothing of it signs any more, the body is sent in another form, and then the endpoint is deleted.
    let at_once = RotateSecretRequest {
        overlap_seconds: Some(0),
        ..rotation(&endpoint.id)
    };
    let second_id = rotate(&app, at_once).await.unwrap().secret_id;
    let wrapped = Endpoint {
        envelope: true,
        ..endpoint.clone()
    };
    update(&app, wrapped, "envelope").await.unwrap();
    assert_eq!(checks(&app, &delivery_id).await, expected);
    let second = eventually("an envelope is sent", || async {
        let (request, delivery_id) = deliver_signed(&app, &receiver, &["v1"]).await;
        is(request.body.starts_with(br#"{"type":"order.paid""#), true)?;
        Ok::<_, String>(delivery_id)
    })
    .await;
    let expected_of_second = [
        valid(&second_id, hmac, "webhook-signature"),
        valid(&second_id, hmac, "x-acme-signature"),
    ];
    assert_eq!(checks(&app, &second).await, expected_of_second);
    let request = DeleteEndpointRequest {
        endpoint_id: endpoint.id.clone(),
    };
    app.endpoints().delete_endpoint(request).await.unwrap();
    assert_eq!(checks(&app, &delivery_id).await, expected);
}
