//! Every method of gRPC.

use std::collections::BTreeMap;

use cuitty_webhooks_proto::v1;
use harness::app::TestApp;
use harness::grpc::{Refusal, call_encoded, methods_of};
use prost::Message;
use prost_types::{FieldMask, FileDescriptorSet};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Ids, MADE_HERE, a_key_of_each_scope, two_projects};

const PACKAGE: &str = "/cuitty.webhooks.v1.";
/// Answer with OK, and with what is refused in it.
const IN_BAND: [&str; 2] = ["MessageService/DeliverBatch", "MessageService/DeliverStream"];
/// Answers as long as its caller listens.
const ENDLESS: &str = "DeliveryService/WatchDeliveries";

/// The scope that a method needs (`None`: no key at all), and a request about these things.
#[expect(clippy::too_many_lines, reason = "a table: an entry per method")]
fn entry(method: &str, ids: &Ids) -> Option<(Option<&'static str>, Vec<u8>)> {
    let Ids {
        project: project_id,
        endpoint: endpoint_id,
        secret: secret_id,
        delivery: delivery_id,
        replay: replay_id,
        key,
        event_type: name,
    } = ids.clone();
    let deliver = v1::DeliverRequest {
        project_id: project_id.clone(),
        event_type: "order.paid".into(),
        payload: "{}".into(),
        endpoint_id: endpoint_id.clone(),
        ..Default::default()
    };
    let event_type = v1::EventType {
        project_id: project_id.clone(),
        name: name.clone(),
        ..Default::default()
    };
    let (scope, request) = match method {
        "ApiKeyService/CreateApiKey" => (
            "admin",
            encoded(&v1::CreateApiKeyRequest {
                project_id,
                scopes: vec!["read".into()],
                ..Default::default()
            }),
        ),
        "ApiKeyService/ListApiKeys" => (
            "admin",
            encoded(&v1::ListApiKeysRequest {
                project_id,
                ..Default::default()
            }),
        ),
        "ApiKeyService/RevokeApiKey" => ("admin", encoded(&v1::RevokeApiKeyRequest { id: key })),
        "DeliveryService/CancelDelivery" => ("manage", encoded(&v1::CancelDeliveryRequest { delivery_id })),
        "DeliveryService/CancelReplay" => ("manage", encoded(&v1::CancelReplayRequest { replay_id })),
        "DeliveryService/GetDelivery" => (
            "read",
            encoded(&v1::GetDeliveryRequest {
                delivery_id,
                verify: true,
                ..Default::default()
            }),
        ),
        "DeliveryService/GetReplay" => ("read", encoded(&v1::GetReplayRequest { replay_id })),
        "DeliveryService/ListDeliveries" => (
            "read",
            encoded(&v1::ListDeliveriesRequest {
                project_id,
                endpoint_id,
                ..Default::default()
            }),
        ),
        "DeliveryService/ReplayDelivery" => (
            "manage",
            encoded(&v1::ReplayDeliveryRequest {
                delivery_id,
                ..Default::default()
            }),
        ),
        "DeliveryService/StartReplay" => (
            "manage",
            encoded(&v1::StartReplayRequest {
                project_id,
                endpoint_id,
                ..Default::default()
            }),
        ),
        ENDLESS => (
            "read",
            encoded(&v1::WatchDeliveriesRequest {
                project_id,
                endpoint_id,
            }),
        ),
        "EndpointService/CreateEndpoint" => (
            "manage",
            encoded(&v1::CreateEndpointRequest {
                project_id,
                url: "http://127.0.0.1:9/unused".into(),
                ..Default::default()
            }),
        ),
        "EndpointService/DeleteEndpoint" => ("manage", encoded(&v1::DeleteEndpointRequest { endpoint_id })),
        "EndpointService/GetEndpoint" => ("read", encoded(&v1::GetEndpointRequest { endpoint_id })),
        "EndpointService/ListEndpoints" => (
            "read",
            encoded(&v1::ListEndpointsRequest {
                project_id,
                ..Default::default()
            }),
        ),
        "EndpointService/RevokeSecret" => (
            "manage",
            encoded(&v1::RevokeSecretRequest {
                endpoint_id,
                secret_id,
            }),
        ),
        "EndpointService/RotateSecret" => (
            "manage",
            encoded(&v1::RotateSecretRequest {
                endpoint_id,
                ..Default::default()
            }),
        ),
        "EndpointService/SendTestEvent" => (
            "manage",
            encoded(&v1::SendTestEventRequest {
                endpoint_id,
                event_type: "order.paid".into(),
                ..Default::default()
            }),
        ),
        "EndpointService/UpdateEndpoint" => (
            "manage",
            encoded(&v1::UpdateEndpointRequest {
                endpoint: Some(v1::Endpoint {
                    id: endpoint_id,
                    description: "changed".into(),
                    ..Default::default()
                }),
                update_mask: Some(FieldMask {
                    paths: vec!["description".into()],
                }),
                ..Default::default()
            }),
        ),
        "EventTypeService/ArchiveEventType" => (
            "manage",
            encoded(&v1::ArchiveEventTypeRequest { project_id, name }),
        ),
        "EventTypeService/CreateEventType" => {
            let event_type = Some(v1::EventType {
                name: MADE_HERE.into(),
                ..event_type
            });
            ("manage", encoded(&v1::CreateEventTypeRequest { event_type }))
        }
        "EventTypeService/GetEventTypePolicy" => {
            ("read", encoded(&v1::GetEventTypePolicyRequest { project_id }))
        }
        "EventTypeService/SetEventTypePolicy" => (
            "manage",
            encoded(&v1::SetEventTypePolicyRequest {
                project_id,
                unknown_event_types: v1::UnknownEventTypes::Accepted.into(),
            }),
        ),
        "EventTypeService/GetEventType" => ("read", encoded(&v1::GetEventTypeRequest { project_id, name })),
        "EventTypeService/ListEventTypes" => (
            "read",
            encoded(&v1::ListEventTypesRequest {
                project_id,
                ..Default::default()
            }),
        ),
        "EventTypeService/UpdateEventType" => {
            let event_type = Some(event_type);
            let update = v1::UpdateEventTypeRequest {
                event_type,
                update_mask: Some(FieldMask {
                    paths: vec!["description".into()],
                }),
                ..Default::default()
            };
            ("manage", encoded(&update))
        }
        "ListenService/Listen" => {
            let start = v1::ListenStart {
                project_id,
                ..Default::default()
            };
            let request = Some(v1::listen_request::Request::Start(start));
            ("manage", encoded(&v1::ListenRequest { request }))
        }
        "MessageService/Deliver" => ("deliver", encoded(&deliver)),
        "MessageService/DeliverBatch" => (
            "deliver",
            encoded(&v1::DeliverBatchRequest { items: vec![deliver] }),
        ),
        "MessageService/DeliverStream" => (
            "deliver",
            encoded(&v1::DeliverStreamRequest {
                tag: 1,
                item: Some(deliver),
            }),
        ),
        "StatusService/GetStatus" => return Some((None, Vec::new())),
        _ => return None,
    };
    Some((Some(scope), request))
}

fn encoded(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

/// Every method of the contract that needs a key, as `Service/Method`, with its scope.
fn methods() -> BTreeMap<String, &'static str> {
    let contract = FileDescriptorSet::decode(cuitty_webhooks_proto::FILE_DESCRIPTOR_SET).unwrap();
    let paths = contract.file.iter().flat_map(methods_of);
    let names = paths.filter_map(|path| Some(path.strip_prefix(PACKAGE)?.to_owned()));
    names
        .filter_map(|name| {
            let (scope, _) =
                entry(&name, &Ids::unknown()).unwrap_or_else(|| panic!("{name} stands in no table"));
            Some((name, scope?))
        })
        .collect()
}

async fn call(app: &TestApp, key: &str, method: &str, ids: &Ids) -> Result<Vec<u8>, Status> {
    let (_, request) = entry(method, ids).unwrap();
    call_encoded(app.channel(Some(key)), &format!("{PACKAGE}{method}"), request).await
}

/// All that a caller is told, without the ids that it named.
fn told(result: &Result<Vec<u8>, Status>, named: &Ids) -> String {
    let text = match result {
        Ok(answer) => format!("{:?}", String::from_utf8_lossy(answer)),
        Err(status) => {
            let details = status.get_error_details();
            let info = details.error_info();
            let about: BTreeMap<_, _> = info.into_iter().flat_map(|info| info.metadata.clone()).collect();
            let metadata = status.metadata().len();
            format!(
                "{:?} {:?} {about:?} {metadata}",
                Refusal::from(status),
                status.message()
            )
        }
    };
    named.blur(&text)
}

#[tokio::test]
async fn every_method_needs_its_scope_and_no_other() {
    let app = TestApp::start().await;
    let keys = a_key_of_each_scope(&app).await;
    let nothing = Ids::unknown().of_the_key();
    let methods = methods();
    assert!(methods.len() > 25, "{methods:?}");
    for (method, needed) in methods {
        for (scope, key) in &keys {
            let result = call(&app, key, &method, &nothing).await;
            let refusal = result.as_ref().err().map(Refusal::from);
            let code = refusal.as_ref().map(|refusal| refusal.code);
            if [needed, "admin"].contains(scope) {
                // What is to be made may be there already.
                let is_through = matches!(code, None | Some(Code::NotFound | Code::Aborted));
                assert!(is_through, "{method} with {scope}: {result:?}");
            } else {
                let reason = refusal.map(|refusal| refusal.reason);
                let expected = (Some(Code::PermissionDenied), Some("MISSING_SCOPE".to_owned()));
                assert_eq!((code, reason), expected, "{method} with {scope}");
            }
        }
    }
}

#[tokio::test]
async fn another_projects_things_are_answered_for_as_if_they_did_not_exist() {
    let app = TestApp::start().await;
    let (ours, theirs, key) = two_projects(&app).await;
    let nothing = Ids::unknown();
    let (with_theirs, with_nothing) = (ours.with_parts_of(&theirs), ours.with_parts_of(&nothing));
    let mut compared = 0;
    for (method, scope) in methods() {
        // What is ours is found, so the rest is refused for its ids.
        if scope == "read" && method != ENDLESS {
            let found = call(&app, &key, &method, &ours).await;
            assert!(found.is_ok(), "{method}: {found:?}");
        }
        for (with_theirs, with_nothing) in with_theirs.iter().zip(&with_nothing) {
            if entry(&method, with_theirs) == entry(&method, with_nothing) {
                // It names nothing of that kind.
                continue;
            }
            let of_theirs = call(&app, &key, &method, with_theirs).await;
            let of_nothing = call(&app, &key, &method, with_nothing).await;
            assert_eq!(
                told(&of_theirs, with_theirs),
                told(&of_nothing, with_nothing),
                "{method}"
            );
            let code = of_theirs.as_ref().err().map(Status::code);
            let expected = (!IN_BAND.contains(&&*method)).then_some(Code::NotFound);
            assert_eq!(code, expected, "{method} with {with_theirs:?}: {of_theirs:?}");
            compared += 1;
        }
    }
    assert!(compared >= 40, "only {compared} were compared");
}
