//! Bad input is refused with the name of the field at fault, and leaves nothing behind.

mod endpoints;

use async_nats::jetstream;
use cuitty_webhooks_proto::v1::endpoint_service_client::EndpointServiceClient;
use cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient;
use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliverRequest, GetDeliveryRequest, GetStatusRequest, ListDeliveriesRequest,
    ListEndpointsRequest, PageRequest,
};
use harness::app::{PROJECT, TestApp, event};
use harness::grpc::{Refusal, refused};
use tonic::Code;

const URL: &str = "https://203.0.113.200/never-called";

/// An installation whose egress policy is the strict one that production has, with one endpoint.
async fn strict() -> (TestApp, String) {
    let app = TestApp::builder()
        .processes(["api,projector"])
        .set("egress.allow_cidrs", "")
        .start()
        .await;
    let request = CreateEndpointRequest {
        url: "https://8.8.8.8/hook".into(),
        ..Default::default()
    };
    let endpoint = app.create_endpoint(request).await.endpoint.unwrap();
    (app, endpoint.id)
}

/// The last sequence of both streams: what a refusal must not move.
async fn stored(app: &TestApp) -> [u64; 2] {
    let context = jetstream::new(async_nats::connect(app.nats.url()).await.unwrap());
    let mut last = [0; 2];
    for (last, name) in last.iter_mut().zip(["WEBHOOKS", "WEBHOOKS_CONTROL"]) {
        *last = context
            .get_stream(name)
            .await
            .unwrap()
            .get_info()
            .await
            .unwrap()
            .state
            .last_sequence;
    }
    last
}

fn invalid(refusal: &Refusal) -> Vec<&str> {
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::InvalidArgument, "INVALID_FIELDS"),
        "{refusal:?}"
    );
    refusal.field_names()
}

async fn deliver(app: &TestApp, request: DeliverRequest) -> Refusal {
    refused(app.messages().deliver(request).await)
}

#[tokio::test]
async fn events() {
    let (app, _) = strict().await;
    let before = stored(&app).await;
    let delivered = async |spoil: &dyn Fn(&mut DeliverRequest)| {
        let mut request = event("order.paid", "{}");
        spoil(&mut request);
        deliver(&app, request).await
    };

    let nobody = delivered(&|r| r.project_id = "nobody".into()).await;
    assert_eq!(
        (nobody.code, &*nobody.reason),
        (Code::NotFound, "PROJECT_NOT_FOUND")
    );
    let nowhere = delivered(&|r| r.endpoint_id = "ep_01h455vb4pex5vsknk084sn02q".into()).await;
    assert_eq!(
        (nowhere.code, &*nowhere.reason),
        (Code::NotFound, "ENDPOINT_NOT_FOUND")
    );
    for id in ["ep_1", "msg_01h455vb4pex5vsknk084sn02q", "../etc"] {
        let refusal = delivered(&|r| r.endpoint_id = id.into()).await;
        assert_eq!(invalid(&refusal), ["endpoint_id"], "{id}");
    }
    for id in ["", "a b", "a.b", "*", ">", &"p".repeat(65)] {
        let refusal = delivered(&|r| r.project_id = id.into()).await;
        assert_eq!(invalid(&refusal), ["project_id"], "{id:?}");
    }
    let long = "e".repeat(129);
    for name in [
        "", ".", "a..b", ".a", "a.", "a b", "a.*", "*", ">", "a/b", "é", &long,
    ] {
        let refusal = delivered(&|r| r.event_type = name.into()).await;
        assert_eq!(invalid(&refusal), ["event_type"], "{name:?}");
    }
    for key in ["a\u{7}b", &"k".repeat(257)] {
        let refusal = delivered(&|r| r.idempotency_key = key.into()).await;
        assert_eq!(invalid(&refusal), ["idempotency_key"], "{key:?}");
    }
    let everything = DeliverRequest {
        project_id: "a b".into(),
        ..event("", "{")
    };
    assert_eq!(
        invalid(&deliver(&app, everything).await),
        ["event_type", "payload", "project_id"]
    );

    assert_eq!(stored(&app).await, before);
}

#[tokio::test]
async fn payloads() {
    let (app, _) = strict().await;
    let before = stored(&app).await;
    for payload in ["", "{", "{}{}", "nope", "{'a':1}", "\u{0}"] {
        let refusal = deliver(&app, event("order.paid", payload)).await;
        assert_eq!(invalid(&refusal), ["payload"], "{payload:?}");
    }
    let vendor_json = DeliverRequest {
        content_type: "application/vnd.acme+json".into(),
        ..event("a.b", "<xml/>")
    };
    assert_eq!(invalid(&deliver(&app, vendor_json).await), ["payload"]);
    for content_type in [
        "json",
        "text/",
        "text/plain\r\nx-evil: 1",
        &format!("text/{}", "x".repeat(200)),
    ] {
        let refusal = deliver(
            &app,
            DeliverRequest {
                content_type: content_type.into(),
                ..event("order.paid", "{}")
            },
        )
        .await;
        assert_eq!(invalid(&refusal), ["content_type"], "{content_type:?}");
    }

    let json_of = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
    let too_large = deliver(&app, event("order.paid", json_of(256 * 1024 + 1))).await;
    assert_eq!(
        (too_large.code, too_large.reason.as_str()),
        (Code::InvalidArgument, "PAYLOAD_TOO_LARGE")
    );
    assert_eq!(too_large.field_names(), ["payload"]);

    assert_eq!(stored(&app).await, before);
    app.messages()
        .deliver(event("order.paid", json_of(256 * 1024)))
        .await
        .unwrap();
    assert_eq!(stored(&app).await, [before[0] + 1, before[1]]);
}

#[tokio::test]
async fn pages_and_ids() {
    let (app, _) = strict().await;
    let page = |limit: u32, cursor: &str| {
        Some(PageRequest {
            limit,
            cursor: cursor.into(),
        })
    };
    for (page, field) in [
        (page(201, ""), "limit"),
        (page(u32::MAX, ""), "limit"),
        (page(10, "nonsense"), "cursor"),
        (page(10, "../../etc/passwd"), "cursor"),
        (page(10, "\u{e9}"), "cursor"),
    ] {
        let endpoints = ListEndpointsRequest {
            project_id: PROJECT.into(),
            page: page.clone(),
        };
        let refusal = refused(app.endpoints().list_endpoints(endpoints).await);
        assert_eq!(invalid(&refusal), [field], "{page:?}");
        let deliveries = ListDeliveriesRequest {
            project_id: PROJECT.into(),
            page: page.clone(),
            ..Default::default()
        };
        let refusal = refused(app.deliveries().list_deliveries(deliveries).await);
        assert_eq!(invalid(&refusal), [field], "{page:?}");
    }
    let delivery = |id: &str| GetDeliveryRequest {
        delivery_id: id.into(),
        ..Default::default()
    };
    for id in ["", "dlv_", "ep_01h455vb4pex5vsknk084sn02q"] {
        assert_eq!(
            invalid(&refused(app.deliveries().get_delivery(delivery(id)).await)),
            ["delivery_id"],
            "{id:?}"
        );
    }
    let unknown = refused(
        app.deliveries()
            .get_delivery(delivery("dlv_01h455vb4pex5vsknk084sn02q"))
            .await,
    );
    assert_eq!(
        (unknown.code, unknown.reason.as_str()),
        (Code::NotFound, "DELIVERY_NOT_FOUND")
    );
    let nobodys = ListEndpointsRequest {
        project_id: "nobody".into(),
        page: None,
    };
    let unknown = refused(app.endpoints().list_endpoints(nobodys).await);
    assert_eq!(
        (unknown.code, unknown.reason.as_str()),
        (Code::NotFound, "PROJECT_NOT_FOUND")
    );
}

#[tokio::test]
async fn keys() {
    let (app, _) = strict().await;
    let before = stored(&app).await;
    for (key, reason) in [
        (None, "MISSING_API_KEY"),
        (Some("wrong-key-of-the-right-length-000"), "INVALID_API_KEY"),
    ] {
        let mut endpoints = EndpointServiceClient::new(app.channel(key));
        let mut messages = MessageServiceClient::new(app.channel(key));
        let create = CreateEndpointRequest {
            project_id: PROJECT.into(),
            url: URL.into(),
            ..Default::default()
        };
        let list = ListEndpointsRequest {
            project_id: PROJECT.into(),
            page: None,
        };
        for refusal in [
            refused(endpoints.create_endpoint(create).await),
            refused(endpoints.list_endpoints(list).await),
            refused(messages.deliver(event("order.paid", "{}")).await),
        ] {
            assert_eq!(
                (refusal.code, refusal.reason.as_str()),
                (Code::Unauthenticated, reason)
            );
        }
    }
    assert_eq!(stored(&app).await, before);
    let status = app
        .status()
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.status, "degraded", "no dispatcher runs: {status:?}");
}
