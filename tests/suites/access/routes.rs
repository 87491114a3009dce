//! Every route of REST.

use harness::app::TestApp;
use harness::rest::{RestClient, RestResponse};
use hyper::Method;
use serde_json::{Value, json};

use super::{Ids, MADE_HERE, a_key_of_each_scope, two_projects};

/// What is sent to a route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
}

/// The scope that a route needs (`None`: no key at all), and a call about these things. Routes are named without the names
/// of their parameters.
fn entry(route: &str, ids: &Ids) -> Option<(Option<&'static str>, Call)> {
    const MANAGE: &str = "/manage/v1/webhooks";
    let (method, path) = route.split_once(' ')?;
    let in_project = |mut body: Value| {
        if !ids.project.is_empty() {
            body["project_id"] = ids.project.clone().into();
        }
        Some(body)
    };
    let (project, endpoint) = (&ids.project, &ids.endpoint);
    let of_project = if project.is_empty() {
        String::new()
    } else {
        format!("project_id={project}")
    };
    let short = path.strip_prefix(MANAGE).unwrap_or(path);
    let (scope, query, body) = match (method, short) {
        ("GET", "/api/webhooks/status") => (None, String::new(), None),
        (
            "GET",
            "/api/webhooks/endpoints"
            | "/endpoints"
            | "/event-types"
            | "/event-types/{}"
            | "/event-type-policy",
        ) => (Some("read"), of_project, None),
        ("POST", "/event-types") => {
            let body = json!({"name": MADE_HERE});
            (Some("manage"), String::new(), in_project(body))
        }
        ("PATCH", "/event-types/{}") => (Some("manage"), of_project, Some(json!({"description": "x"}))),
        ("DELETE", "/event-types/{}") => (Some("manage"), of_project, None),
        ("PUT", "/event-type-policy") => {
            let body = json!({"unknown_event_types": "accepted"});
            (Some("manage"), String::new(), in_project(body))
        }
        ("POST", "/api/webhooks/deliver") => {
            let body = json!({"event_type": "order.paid", "payload": {}, "endpoint_id": endpoint});
            (Some("deliver"), String::new(), in_project(body))
        }
        ("POST", "/endpoints") => {
            let body = json!({"url": "http://127.0.0.1:9/unused"});
            (Some("manage"), String::new(), in_project(body))
        }
        ("GET", "/endpoints/{}" | "/deliveries/{}" | "/replays/{}") => (Some("read"), String::new(), None),
        ("PATCH", "/endpoints/{}") => (Some("manage"), String::new(), Some(json!({"description": "x"}))),
        ("DELETE", "/endpoints/{}" | "/endpoints/{}/secrets/{}" | "/replays/{}")
        | ("POST", "/deliveries/{}/cancel") => (Some("manage"), String::new(), None),
        ("POST", "/endpoints/{}/test") => {
            let body = json!({"event_type": "order.paid"});
            (Some("manage"), String::new(), Some(body))
        }
        (
            "POST",
            "/api/webhooks/endpoints/{}/rotate" | "/endpoints/{}/rotate-secret" | "/deliveries/{}/replay",
        ) => (Some("manage"), String::new(), Some(json!({}))),
        ("GET", "/deliveries") => {
            let query = format!("endpoint_id={endpoint}&{of_project}");
            (Some("read"), query, None)
        }
        ("POST", "/replays") => {
            let body = json!({"endpoint_id": endpoint});
            (Some("manage"), String::new(), in_project(body))
        }
        _ => return None,
    };
    let call = Call {
        method: method.parse().ok()?,
        path: format!("{}?{query}", with_ids(path, ids)?),
        body,
    };
    Some((scope, call))
}

/// The path with an id for each parameter: of the kind that stands before it.
fn with_ids(path: &str, ids: &Ids) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        parts.push(match (part, parts.last()) {
            ("{}", Some(&"endpoints")) => &ids.endpoint,
            ("{}", Some(&"secrets")) => &ids.secret,
            ("{}", Some(&"deliveries")) => &ids.delivery,
            ("{}", Some(&"replays")) => &ids.replay,
            ("{}", Some(&"event-types")) => &ids.event_type,
            ("{}", _) => return None,
            (part, _) => part,
        });
    }
    Some(parts.join("/"))
}

/// Every route of the document that needs a key, with its scope.
async fn routes(app: &TestApp) -> Vec<(String, &'static str)> {
    let document = app.rest().with_key(None).get("/api/openapi.json").await.json();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let parts: Vec<_> = path
            .split('/')
            .map(|part| if part.starts_with('{') { "{}" } else { part })
            .collect();
        let path = parts.join("/");
        for method in operations.as_object().unwrap().keys() {
            let route = format!("{} {path}", method.to_uppercase());
            let (scope, _) =
                entry(&route, &Ids::unknown()).unwrap_or_else(|| panic!("{route} stands in no table"));
            routes.extend(scope.map(|scope| (route, scope)));
        }
    }
    assert!(routes.len() >= 25, "{routes:?}");
    routes
}

async fn call(rest: &RestClient, route: &str, ids: &Ids) -> RestResponse {
    let (_, Call { method, path, body }) = entry(route, ids).unwrap();
    let headers: &[_] = if body.is_some() {
        &[("content-type", "application/json")]
    } else {
        &[]
    };
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    rest.send(method, &path, headers, body).await
}

#[tokio::test]
async fn every_route_needs_its_scope_and_no_other() {
    let app = TestApp::start().await;
    let keys = a_key_of_each_scope(&app).await;
    let nothing = Ids::unknown().of_the_key();
    for (route, needed) in routes(&app).await {
        for (scope, key) in &keys {
            let rest = app.rest().with_key(Some(key));
            let answer = call(&rest, &route, &nothing).await;
            let status = answer.status.as_u16();
            if [needed, "admin"].contains(scope) {
                // What is to be made may be there already.
                let is_through = answer.status.is_success() || matches!(status, 404 | 409);
                assert!(is_through, "{route} with {scope}: {answer:?}");
            } else {
                let code = answer.json()["error"]["code"].clone();
                assert_eq!(
                    (status, code),
                    (403, "missing_scope".into()),
                    "{route} with {scope}"
                );
            }
        }
    }
}

#[tokio::test]
async fn another_projects_things_are_answered_for_as_if_they_did_not_exist() {
    let app = TestApp::start().await;
    let (ours, theirs, key) = two_projects(&app).await;
    let rest = app.rest().with_key(Some(&key));
    let (with_theirs, with_nothing) = (ours.with_parts_of(&theirs), ours.with_parts_of(&Ids::unknown()));
    let mut compared = 0;
    for (route, scope) in routes(&app).await {
        if scope == "read" {
            let found = call(&rest, &route, &ours).await;
            assert_eq!(found.status, 200, "{route}: {found:?}");
        }
        for (with_theirs, with_nothing) in with_theirs.iter().zip(&with_nothing) {
            if entry(&route, with_theirs) == entry(&route, with_nothing) {
                // It names nothing of that kind.
                continue;
            }
            let told = async |named: &Ids| {
                let answer = call(&rest, &route, named).await;
                let headers: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
                let body = named.blur(&String::from_utf8_lossy(&answer.body));
                (answer.status.as_u16(), headers, body)
            };
            let (of_theirs, of_nothing) = (told(with_theirs).await, told(with_nothing).await);
            assert_eq!(of_theirs, of_nothing, "{route}");
            let is_its_own = !of_theirs.2.contains("route_not_found");
            assert!(of_theirs.0 == 404 && is_its_own, "{route}: {of_theirs:?}");
            compared += 1;
        }
    }
    assert!(compared >= 40, "only {compared} were compared");
}
