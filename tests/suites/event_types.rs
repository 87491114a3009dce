//! Event types: what a project says of them, and what becomes of messages because of that.

mod checking;
mod rest;
mod terms;

use cuitty_webhooks_proto::v1::event_type_service_client::EventTypeServiceClient;
use cuitty_webhooks_proto::v1::{
    ArchiveEventTypeRequest, CreateEndpointRequest, CreateEventTypeRequest, Endpoint, EventType,
    EventTypePolicy, GetEventTypePolicyRequest, GetEventTypeRequest, ListEndpointsRequest,
    ListEventTypesRequest, PageRequest, SetEventTypePolicyRequest, UnknownEventTypes, UpdateEndpointRequest,
    UpdateEventTypeRequest,
};
use harness::app::{PROJECT, TestApp, event};
use harness::eventually::{eventually, is};
use harness::grpc::{Authorized, authorized_lazily, refused};
use harness::receiver::Receiver;
use harness::roles::ADMIN_KEY;
use prost_types::FieldMask;
use serde_json::{Value, json};
use tonic::{Code, Status};

type Client = EventTypeServiceClient<Authorized>;

fn client(app: &TestApp) -> Client {
    Client::new(app.channel(Some(ADMIN_KEY)))
}

/// Types of events as a gateway to language models sends them, each with what its payload holds.
fn gateway() -> [(&'static str, Value); 10] {
    let config = json!({"routing_config": {"id": "rc_1", "name": "default"}});
    [
        (
            "budget.threshold_reached",
            json!({"budget": {"id": "b_1", "spent": 80, "limit": 100}}),
        ),
        (
            "budget.exceeded",
            json!({"budget": {"id": "b_1", "spent": 101, "limit": 100}}),
        ),
        ("routing_config.created", config.clone()),
        ("routing_config.updated", config.clone()),
        ("routing_config.deleted", config),
        (
            "provider.health_changed",
            json!({"provider": "p", "health": "degraded"}),
        ),
        ("api_key.revoked", json!({"api_key": "k_1"})),
        (
            "request.anomaly_detected",
            json!({"request": "r_1", "score": 0.97}),
        ),
        ("experiment.completed", json!({"experiment": "e_1"})),
        (
            "experiment.regression_detected",
            json!({"experiment": "e_1", "metric": "latency"}),
        ),
    ]
}

/// Demands exactly the members of an example, each of its own type.
fn schema_of(example: &Value) -> Value {
    match example {
        Value::Object(members) => {
            let properties: Value = members
                .iter()
                .map(|(name, value)| (name.clone(), schema_of(value)))
                .collect();
            let names: Vec<_> = members.keys().collect();
            json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
        }
        Value::String(_) => json!({"type": "string"}),
        Value::Number(_) => json!({"type": "number"}),
        other => panic!("{other}"),
    }
}

fn event_type(name: &str, schema: &str) -> EventType {
    EventType {
        project_id: PROJECT.into(),
        name: name.into(),
        schema: schema.into(),
        enforce_schema: !schema.is_empty(),
        ..Default::default()
    }
}

async fn create(app: &TestApp, event_type: EventType) -> Result<EventType, Status> {
    let request = CreateEventTypeRequest {
        event_type: Some(event_type),
    };
    Ok(client(app).create_event_type(request).await?.into_inner())
}

async fn update(
    app: &TestApp,
    event_type: EventType,
    fields: &[&str],
    revision: u64,
) -> Result<EventType, Status> {
    let request = UpdateEventTypeRequest {
        event_type: Some(event_type),
        update_mask: Some(FieldMask {
            paths: fields.iter().map(|&field| field.to_owned()).collect(),
        }),
        expected_revision: revision,
    };
    Ok(client(app).update_event_type(request).await?.into_inner())
}

async fn archive(app: &TestApp, name: &str) -> EventType {
    let request = ArchiveEventTypeRequest {
        project_id: PROJECT.into(),
        name: name.into(),
    };
    let answer = client(app).archive_event_type(request).await;
    answer.unwrap().into_inner()
}

async fn list(app: &TestApp, limit: u32, include_archived: bool) -> Result<Vec<Vec<String>>, Status> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let request = ListEventTypesRequest {
            project_id: PROJECT.into(),
            page: Some(PageRequest { limit, cursor }),
            include_archived,
        };
        let page = client(app).list_event_types(request).await?.into_inner();
        pages.push(
            page.event_types
                .into_iter()
                .map(|event_type| event_type.name)
                .collect(),
        );
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return Ok(pages);
        }
    }
}

async fn policy(app: &TestApp, unknown: UnknownEventTypes) -> EventTypePolicy {
    let request = SetEventTypePolicyRequest {
        project_id: PROJECT.into(),
        unknown_event_types: unknown.into(),
    };
    let answer = client(app).set_event_type_policy(request).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn an_event_type_is_created_found_changed_archived_and_restored() {
    let app = TestApp::start().await;
    assert_eq!(refused(list(&app, 0, true).await).reason, "PROJECT_NOT_FOUND");
    for (name, example) in gateway() {
        let created = create(
            &app,
            EventType {
                description: format!("When there is a {name}"),
                example: example.to_string(),
                ..event_type(name, &schema_of(&example).to_string())
            },
        );
        let created = created.await.unwrap();
        assert_eq!((created.name.as_str(), created.revision), (name, 1));
        let request = GetEventTypeRequest {
            project_id: PROJECT.into(),
            name: name.into(),
        };
        let found = client(&app).get_event_type(request).await.unwrap().into_inner();
        assert_eq!(found, created);
    }
    let mut names: Vec<_> = gateway().iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    let pages = list(&app, 3, false).await.unwrap();
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
    assert_eq!(pages.concat(), names);
    // A project is known as soon as it has event types.
    let request = ListEndpointsRequest {
        project_id: PROJECT.into(),
        page: None,
    };
    assert!(
        app.endpoints()
            .list_endpoints(request)
            .await
            .unwrap()
            .into_inner()
            .endpoints
            .is_empty()
    );

    let archived = archive(&app, "budget.exceeded").await;
    assert_eq!((archived.archived, archived.revision), (true, 2));
    assert_eq!(
        archive(&app, "budget.exceeded").await,
        archived,
        "it is so already"
    );
    assert_eq!(list(&app, 0, false).await.unwrap().concat().len(), 9);
    assert_eq!(list(&app, 0, true).await.unwrap().concat(), names);

    let described = EventType {
        description: "again".into(),
        archived: false,
        ..archived.clone()
    };
    let restored = update(&app, described.clone(), &["archived", "description"], 2)
        .await
        .unwrap();
    assert_eq!((restored.archived, restored.revision), (false, 3));
    assert_eq!(
        (restored.description.as_str(), &restored.schema),
        ("again", &archived.schema)
    );
    let stale = refused(update(&app, described, &["description"], 2).await);
    assert_eq!(
        (stale.code, stale.reason.as_str()),
        (Code::Aborted, "EVENT_TYPE_CONFLICT")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_field() {
    let app = TestApp::start().await;
    create(&app, event_type("budget.exceeded", "")).await.unwrap();
    let again = refused(create(&app, event_type("budget.exceeded", "")).await);
    assert_eq!(
        (again.code, again.reason.as_str()),
        (Code::Aborted, "EVENT_TYPE_CONFLICT")
    );

    let long = format!(r#"{{"title":"{}"}}"#, "x".repeat(64 * 1024));
    let deep = format!("{}true{}", r#"{"items":"#.repeat(1000), "}".repeat(1000));
    for (schema, fields) in [
        ("{", &["schema"][..]),
        (long.as_str(), &["schema"]),
        (deep.as_str(), &["schema"]),
        (r#"{"type":"strong"}"#, &["schema/type"]),
        (
            r#"{"items":{"$ref":"https://example.com/x.json"}}"#,
            &["schema/items/$ref"],
        ),
        (r##"{"$ref":"#"}"##, &["schema"]),
        (r#"{"pattern":"^(a+)+$(?=b)"}"#, &["schema/pattern"]),
    ] {
        let refusal = refused(create(&app, event_type("a.b", schema)).await);
        assert_eq!(
            refusal.field_names(),
            fields,
            "{}",
            &schema[..schema.len().min(60)]
        );
    }
    for (wrong, fields) in [
        (event_type("a..b", ""), &["name"][..]),
        (
            EventType {
                project_id: String::new(),
                ..event_type("a.b", "")
            },
            &["project_id"],
        ),
        (
            EventType {
                enforce_schema: true,
                ..event_type("a.b", "")
            },
            &["enforce_schema"],
        ),
        (
            EventType {
                example: "{".into(),
                description: "x".repeat(1025),
                ..event_type("a.b", "")
            },
            &["description", "example"],
        ),
        (
            EventType {
                example: "7".into(),
                ..event_type("a.b", r#"{"type":"string"}"#)
            },
            &["example"],
        ),
    ] {
        assert_eq!(refused(create(&app, wrong).await).field_names(), fields);
    }
    let known = event_type("budget.exceeded", "");
    for fields in [&[][..], &["name"], &["description", "revision"]] {
        assert_eq!(
            refused(update(&app, known.clone(), fields, 0).await).field_names(),
            ["update_mask"]
        );
    }
    let missing = refused(update(&app, event_type("a.b", ""), &["description"], 0).await);
    assert_eq!(
        (missing.code, missing.reason.as_str()),
        (Code::NotFound, "EVENT_TYPE_NOT_FOUND")
    );
    let unspecified = SetEventTypePolicyRequest {
        project_id: PROJECT.into(),
        ..Default::default()
    };
    let refusal = refused(client(&app).set_event_type_policy(unspecified).await);
    assert_eq!(refusal.field_names(), ["unknown_event_types"]);
    assert_eq!(list(&app, 0, true).await.unwrap().concat(), ["budget.exceeded"]);
}

#[tokio::test]
async fn unknown_types_are_accepted_until_the_project_says_otherwise() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    app.create_endpoint_at(receiver.url("/hook")).await;
    for name in ["budget.exceeded", "budget.reset", "api_key.revoked"] {
        create(&app, event_type(name, "")).await.unwrap();
    }
    archive(&app, "budget.reset").await;
    let get = GetEventTypePolicyRequest {
        project_id: PROJECT.into(),
    };
    let initial = client(&app)
        .get_event_type_policy(get.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(initial.unknown_event_types(), UnknownEventTypes::Accepted);
    app.messages()
        .deliver(event("budget.exceded", "{}"))
        .await
        .unwrap();

    let set = policy(&app, UnknownEventTypes::Refused).await;
    assert_eq!(
        client(&app)
            .get_event_type_policy(get)
            .await
            .unwrap()
            .into_inner(),
        set
    );
    let refusal = refused(app.messages().deliver(event("budget.exceded", "{}")).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::InvalidArgument, "EVENT_TYPE_UNKNOWN")
    );
    let told = &refusal.fields["event_type"];
    assert!(
        told.contains("`budget.exceeded`") && !told.contains("budget.reset"),
        "{told}"
    );
    app.messages()
        .deliver(event("budget.exceeded", "{}"))
        .await
        .unwrap();
    // Another project's setting is its own.
    let mut elsewhere = event("budget.exceded", "{}");
    elsewhere.project_id = "other".into();
    let elsewhere = refused(app.messages().deliver(elsewhere).await);
    assert_eq!(elsewhere.reason, "PROJECT_NOT_FOUND");

    policy(&app, UnknownEventTypes::Accepted).await;
    app.messages()
        .deliver(event("budget.exceded", "{}"))
        .await
        .unwrap();
    receiver.received("/hook", 3).await;
}

#[tokio::test]
async fn messages_of_archived_types_are_refused_and_endpoints_may_not_name_them_anew() {
    let app = TestApp::start().await;
    let receiver = Receiver::start();
    create(&app, event_type("budget.exceeded", "")).await.unwrap();
    let subscribed = |patterns: &[&str]| CreateEndpointRequest {
        project_id: PROJECT.into(),
        url: receiver.url("/hook"),
        event_types: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..Default::default()
    };
    let endpoint = app
        .create_endpoint(subscribed(&["budget.exceeded"]))
        .await
        .endpoint
        .unwrap();
    archive(&app, "budget.exceeded").await;

    let refusal = refused(app.messages().deliver(event("budget.exceeded", "{}")).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::FailedPrecondition, "EVENT_TYPE_ARCHIVED")
    );
    assert_eq!(refusal.field_names(), ["event_type"]);
    let anew = refused(
        app.endpoints()
            .create_endpoint(subscribed(&["a.b", "budget.exceeded"]))
            .await,
    );
    assert_eq!(anew.field_names(), ["event_types[1]"]);
    app.create_endpoint(subscribed(&["budget.*"])).await;
    // One that named it before may go on doing so.
    let changed = |patterns: &[&str]| UpdateEndpointRequest {
        endpoint: Some(Endpoint {
            id: endpoint.id.clone(),
            event_types: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            ..Default::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["event_types".into()],
        }),
        ..Default::default()
    };
    for patterns in [&["budget.exceeded", "x.y"][..], &["x.y"]] {
        app.endpoints().update_endpoint(changed(patterns)).await.unwrap();
    }
    let again = refused(
        app.endpoints()
            .update_endpoint(changed(&["budget.exceeded"]))
            .await,
    );
    assert_eq!(again.field_names(), ["event_types[0]"]);
}

#[tokio::test]
async fn what_one_process_is_told_every_other_one_does() {
    let app = TestApp::builder()
        .processes(["api,projector", "api"])
        .start()
        .await;
    let other = app.roles[1].url();
    let elsewhere = || authorized_lazily(&other, Some(ADMIN_KEY)).unwrap();
    let deliver = async |event_type: &str, payload: &'static str| {
        let mut messages =
            cuitty_webhooks_proto::v1::message_service_client::MessageServiceClient::new(elsewhere());
        let answer = messages.deliver(event(event_type, payload)).await;
        answer.map_or_else(
            |status| harness::grpc::Refusal::from(&status).reason,
            |_| "taken".into(),
        )
    };
    let becomes = async |event_type: &'static str, payload: &'static str, expected: &'static str| {
        eventually(&format!("{event_type} {payload} is {expected}"), || async {
            is(deliver(event_type, payload).await, expected.to_owned())
        })
        .await;
    };
    create(&app, event_type("budget.exceeded", r#"{"type":"object"}"#))
        .await
        .unwrap();
    becomes("budget.exceeded", "[]", "INVALID_FIELDS").await;
    becomes("budget.exceeded", "{}", "taken").await;
    policy(&app, UnknownEventTypes::Refused).await;
    becomes("budget.reset", "{}", "EVENT_TYPE_UNKNOWN").await;
    let request = ArchiveEventTypeRequest {
        project_id: PROJECT.into(),
        name: "budget.exceeded".into(),
    };
    let archived = Client::new(elsewhere())
        .archive_event_type(request)
        .await
        .unwrap();
    assert_eq!(archived.into_inner().revision, 2);
    eventually("the first one knows", || async {
        let answer = app.messages().deliver(event("budget.exceeded", "{}")).await;
        is(refused(answer).reason, "EVENT_TYPE_ARCHIVED".to_owned())
    })
    .await;
}

#[tokio::test]
async fn changes_made_at_the_same_time_all_happen() {
    let app = TestApp::start().await;
    create(&app, event_type("budget.exceeded", "")).await.unwrap();
    let described = |number: usize| EventType {
        description: format!("{number}"),
        ..event_type("budget.exceeded", "")
    };
    let updates = (0..6).map(|number| {
        let app = &app;
        async move {
            update(app, described(number), &["description"], 0)
                .await
                .unwrap()
                .revision
        }
    });
    let mut revisions = futures_util::future::join_all(updates).await;
    revisions.sort_unstable();
    assert_eq!(revisions, [2, 3, 4, 5, 6, 7]);

    let twins = (0..4).map(|_| create(&app, event_type("budget.reset", "")));
    let created = futures_util::future::join_all(twins).await;
    assert_eq!(created.iter().filter(|answer| answer.is_ok()).count(), 1);
}
