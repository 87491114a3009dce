//! The REST routes of event types.

use hyper::Method;

use super::*;
use crate::rest::{error, refusal};

pub(super) const TYPES: &str = "/manage/v1/webhooks/event-types";
pub(super) const POLICY: &str = "/manage/v1/webhooks/event-type-policy";

pub(super) fn path_of(name: &str) -> String {
    format!("{TYPES}/{name}?project_id={PROJECT}")
}

#[tokio::test]
async fn event_types_are_managed_as_json() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let json_body = [("content-type", "application/json")];
    let send = async |method: Method, path: &str, body: Value| {
        rest.send(method, path, &json_body, body.to_string()).await
    };
    for (name, example) in gateway() {
        let body = json!({"project_id": PROJECT, "name": name, "schema": schema_of(&example), "example": example, "enforceSchema": true});
        let created = rest.post(TYPES, &body).await;
        assert_eq!(created.status, 201);
        assert_eq!(rest.get(&path_of(name)).await.json(), created.json());
        assert_eq!(created.json()["example"], example);
    }
    let bare = json!({"project_id": PROJECT, "name": "a.b"});
    let bare = rest.post(TYPES, &bare).await.json();
    assert_eq!(
        (bare.get("schema"), bare.get("example"), &bare["archived"]),
        (None, None, &json!(false))
    );

    let mut path = format!("{TYPES}?project_id={PROJECT}&limit=4");
    let mut names = Vec::new();
    loop {
        let page = rest.get(&path).await.json();
        let data = page["data"].as_array().unwrap();
        names.extend(data.iter().map(|one| one["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("{TYPES}?project_id={PROJECT}&limit=4&cursor={cursor}");
    }
    assert_eq!(names.len(), 11);
    assert!(names.is_sorted());

    let changed = send(
        Method::PATCH,
        &path_of("budget.exceeded"),
        json!({"description": "much", "example": null}),
    )
    .await;
    assert_eq!(changed.status, 200);
    let changed = changed.json();
    assert_eq!(
        (
            &changed["description"],
            changed.get("example"),
            &changed["revision"]
        ),
        (&json!("much"), None, &json!(2))
    );
    assert!(changed["schema"].is_object());

    assert_eq!(
        rest.send(Method::DELETE, &path_of("budget.exceeded"), &[], "")
            .await
            .status,
        204
    );
    assert_eq!(
        rest.get(&path_of("budget.exceeded")).await.json()["archived"],
        true
    );
    let count = async |query: &str| {
        let page = rest
            .get(&format!("{TYPES}?project_id={PROJECT}&limit=200{query}"))
            .await
            .json();
        page["data"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("&include_archived=true").await), (10, 11));
    let restored = send(
        Method::PATCH,
        &path_of("budget.exceeded"),
        json!({"archived": false}),
    )
    .await;
    assert_eq!(restored.json()["archived"], false);
    let unchanged = send(Method::PATCH, &path_of("budget.exceeded"), json!({})).await;
    assert_eq!(unchanged.json(), restored.json(), "nothing was asked for");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_by_its_fields() {
    let app = TestApp::start().await;
    let rest = app.rest();
    let change = async |path: &str, body: Value| rest.patch(path, &body).await;
    rest.post(TYPES, &json!({"project_id": PROJECT, "name": "a.b"}))
        .await;
    for (answer, expected) in [
        (
            rest.post(TYPES, &json!({"project_id": PROJECT, "name": "a.b"}))
                .await,
            refusal(409, "event_type_conflict", &[]),
        ),
        (
            rest.post(
                TYPES,
                &json!({"project_id": PROJECT, "name": "a b", "schema": {"type": 1}}),
            )
            .await,
            refusal(422, "invalid_fields", &["name", "schema/type"]),
        ),
        (
            rest.post(
                TYPES,
                &json!({"project_id": PROJECT, "name": "c.d", "enforce": true}),
            )
            .await,
            refusal(422, "invalid_fields", &["enforce"]),
        ),
        (
            rest.get(&format!("{TYPES}?project_id=nobody")).await,
            refusal(404, "project_not_found", &[]),
        ),
        (
            rest.get(&format!("{TYPES}?project_id={PROJECT}&include_archived=1"))
                .await,
            refusal(422, "invalid_fields", &["include_archived"]),
        ),
        (
            rest.get(&format!("{TYPES}?project_id={PROJECT}&cursor=!")).await,
            refusal(422, "invalid_fields", &["cursor"]),
        ),
        (
            rest.get(&path_of("c.d")).await,
            refusal(404, "event_type_not_found", &[]),
        ),
        (
            rest.get(&path_of("c..d")).await,
            refusal(422, "invalid_fields", &["name"]),
        ),
        (
            change(
                &path_of("a.b"),
                json!({"schema": {"type": 1}, "example": 7, "name": "c.d", "archive": true}),
            )
            .await,
            refusal(422, "invalid_fields", &["name", "archive", "schema/type"]),
        ),
        (
            change(&format!("{TYPES}/a..b?projct_id=a"), json!({})).await,
            refusal(422, "invalid_fields", &["projct_id", "project_id", "name"]),
        ),
        (
            rest.get(&format!("{TYPES}/%ff?project_id={PROJECT}")).await,
            refusal(422, "invalid_fields", &["name"]),
        ),
        (
            rest.send(Method::DELETE, &path_of("c.d"), &[], "").await,
            refusal(404, "event_type_not_found", &[]),
        ),
    ] {
        assert_eq!(error(&answer), expected);
    }
}

#[tokio::test]
async fn refused_messages_say_which_field_and_which_names_are_near() {
    let app = TestApp::start().await;
    app.create_endpoint_at("http://127.0.0.1:9/unused".into()).await;
    let rest = app.rest();
    let deliver = async |event_type: &str, payload: Value| {
        let body = json!({"project_id": PROJECT, "event_type": event_type, "payload": payload});
        rest.post("/api/webhooks/deliver", &body).await
    };
    let path = format!("{POLICY}?project_id={PROJECT}");
    assert_eq!(
        rest.get(&path).await.json(),
        json!({"project_id": PROJECT, "unknown_event_types": "accepted"})
    );
    let body = json!({"project_id": PROJECT, "unknown_event_types": "refused"});
    let headers = [("content-type", "application/json")];
    let set = rest.send(Method::PUT, POLICY, &headers, body.to_string()).await;
    assert_eq!((set.status.as_u16(), set.json()), (200, body));
    let wrong = json!({"project_id": PROJECT, "unknown_event_types": "maybe"});
    let wrong = rest.send(Method::PUT, POLICY, &headers, wrong.to_string()).await;
    assert_eq!(
        error(&wrong),
        refusal(422, "invalid_fields", &["unknown_event_types"])
    );
    let nobody = rest.get(&format!("{POLICY}?project_id=nobody")).await;
    assert_eq!(error(&nobody), refusal(404, "project_not_found", &[]));

    let schema = json!({"properties": {"order": {"required": ["id"]}}});
    let body = json!({"project_id": PROJECT, "name": "order.paid", "schema": schema, "enforce_schema": true});
    assert_eq!(rest.post(TYPES, &body).await.status, 201);
    let unknown = deliver("order.payed", json!({})).await;
    assert_eq!(
        error(&unknown),
        refusal(422, "event_type_unknown", &["event_type"])
    );
    assert!(
        unknown.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("`order.paid`")
    );
    let wrong = deliver("order.paid", json!({"order": {}})).await;
    assert_eq!(
        error(&wrong),
        refusal(422, "invalid_fields", &["payload/order/id"])
    );
    assert_eq!(
        deliver("order.paid", json!({"order": {"id": 1}})).await.status,
        202
    );
}
