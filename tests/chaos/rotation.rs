//! A rotation under load, judged by an implementation that is not ours: no receiver that follows the overlap ever refuses a
//! request.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_client::SigningSecret;
use cuitty_webhooks_proto::v1::{CreateEndpointRequest, RotateSecretRequest};
use harness::app::{TestApp, event};
use harness::eventually::{eventually, is};
use harness::receiver::{Captured, Receiver};
use harness::reference::accepted_by_python;
use harness::traffic::offer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::time::sleep;

/// Events per second; each goes to every receiver.
const RATE: u32 = 70;
/// How long the old secret signs beside the new one.
const OVERLAP_SECONDS: u32 = 6;
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(4);
/// How long the dispatcher may take to learn of the rotation. Only then may a receiver forget the old secret.
const SETTLED: Duration = Duration::from_secs(2);

/// When a request was signed, to the second: at this time or up to a second later.
fn signed_at(request: &Captured) -> DateTime<Utc> {
    let seconds = request.header("webhook-timestamp").parse().expect("seconds");
    DateTime::from_timestamp(seconds, 0).expect("a time")
}

#[tokio::test]
async fn no_receiver_refuses_a_request_while_the_secrets_overlap() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let app = TestApp::builder()
        .processes(["api", "projector", "dispatcher"])
        .start()
        .await;
    let mut rng = StdRng::seed_from_u64(7);
    let [old, new] = [(); 2].map(|()| SigningSecret::generate(&mut rng).expose().to_string());
    let receivers = [
        ("/old", vec![old.clone()]),
        ("/new", vec![new.clone()]),
        ("/both", vec![old.clone(), new.clone()]),
    ];
    let mut endpoints = Vec::new();
    for (path, _) in &receivers {
        let request = CreateEndpointRequest {
            url: receiver.url(path),
            signing_secret: old.clone(),
            ..Default::default()
        };
        endpoints.push(app.create_endpoint(request).await.endpoint.unwrap().id);
    }

    let rotations = async {
        sleep(BEFORE).await;
        let mut expiries = Vec::new();
        for id in &endpoints {
            let request = RotateSecretRequest {
                endpoint_id: id.clone(),
                overlap_seconds: Some(OVERLAP_SECONDS),
                signing_secret: new.clone(),
                ..Default::default()
            };
            let rotated = app.endpoints().rotate_secret(request).await.unwrap().into_inner();
            let expires_at = rotated.previous_expires_at.unwrap();
            expiries.push(DateTime::from_timestamp(expires_at.seconds, expires_at.nanos as u32).unwrap());
        }
        expiries
    };
    let overlap = Duration::from_secs(OVERLAP_SECONDS.into());
    let load = offer(&app, RATE, BEFORE + overlap + AFTER, |number| {
        event("order.paid", json!({ "number": number }).to_string())
    });
    let (sent, expiries) = tokio::join!(load, rotations);
    eventually("every event arrives at every receiver", || async {
        is(
            receivers.each_ref().map(|(path, _)| receiver.count(path)),
            [sent.len(); 3],
        )
    })
    .await;

    let second = Duration::from_secs(1);
    for ((path, known), expires_at) in receivers.iter().zip(expiries) {
        let requests = receiver.requests(path);
        let accepted = accepted_by_python(requests.iter().map(|request| (request, &known[..])));
        let rotated_at = expires_at - overlap;
        let settled = if *path == "/new" { SETTLED } else { Duration::ZERO };
        // By phase: requests, and how many of them the library accepted.
        let (mut before, mut during, mut after) = ([0; 2], [0; 2], [0; 2]);
        for (request, accepted) in requests.iter().zip(accepted) {
            let signed_at = signed_at(request);
            let phase = if signed_at + second <= rotated_at {
                &mut before
            } else if signed_at >= expires_at {
                &mut after
            } else if signed_at >= rotated_at + settled && signed_at + second <= expires_at {
                &mut during
            } else {
                // About the two moments themselves only who knows both secrets can be sure.
                assert!(accepted || *path != "/both", "{request:?}");
                continue;
            };
            phase[0] += 1;
            phase[1] += usize::from(accepted);
        }
        println!("{path}: accepted before {before:?}, during the overlap {during:?}, after it {after:?}");
        let expected = |[all, _]: [usize; 2], accepted| [all, if accepted { all } else { 0 }];
        assert_eq!(before, expected(before, *path != "/new"), "{path} before");
        assert_eq!(during, expected(during, true), "{path} during the overlap");
        assert_eq!(after, expected(after, *path != "/old"), "{path} after it");
        for phase in [before, during, after] {
            assert!(phase[0] >= RATE as usize, "{path}: {phase:?} shows nothing");
        }
    }
}
