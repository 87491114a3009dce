//! The first admin key.

use harness::app::TestApp;
use harness::eventually::eventually;
use harness::grpc::{authorized_lazily, refused};
use harness::roles::RoleProcess;
use tonic::Code;

use super::{keys_of, list, list_endpoints, revoke};
use cuitty_webhooks_proto::v1::{CreateApiKeyRequest, ListApiKeysRequest};

/// The keys that processes have printed, and everything else that they have.
fn printed(processes: &[RoleProcess]) -> (Vec<String>, String) {
    let output: String = processes.iter().map(RoleProcess::output).collect();
    let (told, rest): (Vec<_>, Vec<_>) = output
        .lines()
        .partition(|line| line.starts_with("admin API key, shown only this once: "));
    let keys = told
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned());
    (keys.collect(), rest.join("\n"))
}

#[tokio::test]
async fn of_two_processes_that_start_without_a_key_one_makes_it_and_prints_it_once() {
    let mut app = TestApp::builder()
        .set("api.admin_key", "")
        .processes(["api,projector", "api"])
        .start()
        .await;
    let key = eventually("a key is printed", || async {
        printed(&app.roles).0.pop().ok_or("not yet")
    })
    .await;
    for process in &app.roles {
        let code = eventually("it is let in", || async {
            let channel = authorized_lazily(&process.url(), Some(&key)).unwrap();
            match list_endpoints(channel).await.map_err(|status| status.code()) {
                // With a key of all projects, a project must be named.
                Err(Code::InvalidArgument) => Ok(Code::InvalidArgument),
                other => Err(other),
            }
        })
        .await;
        assert_eq!(code, Code::InvalidArgument);
    }
    let listed = list(&app, &key, ListApiKeysRequest::default()).await.unwrap();
    let first = listed[0].clone();
    assert_eq!(
        (listed.len(), &*first.created_by, &first.scopes[..]),
        (1, "system", &["admin".to_owned()][..])
    );

    for process in &mut app.roles {
        process.start_again();
        process.ready().await;
    }
    eventually("the key is let in again", || {
        list(&app, &key, ListApiKeysRequest::default())
    })
    .await;
    let (keys, log) = printed(&app.roles);
    assert_eq!(keys, std::slice::from_ref(&key), "printed once, by one of them");
    assert!(!log.contains(&key), "it is in the log: {log}");

    // Nobody could make another key without it.
    let refusal = refused(revoke(&app, &key, &first.id).await);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::Aborted, "API_KEY_CONFLICT")
    );
    let request = CreateApiKeyRequest {
        scopes: vec!["admin".into()],
        ..Default::default()
    };
    let second = keys_of(&app, &key).create_api_key(request).await.unwrap();
    let second = second.into_inner();
    assert_eq!(second.api_key.unwrap().created_by, first.id);
    revoke(&app, &second.secret, &first.id).await.unwrap();
    assert_eq!(
        refused(revoke(&app, &key, &first.id).await).code,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn where_an_admin_key_is_configured_none_is_made() {
    let app = TestApp::builder().processes(["api,projector"]).start().await;
    let listed = list(&app, harness::roles::ADMIN_KEY, ListApiKeysRequest::default()).await;
    assert_eq!(listed.unwrap(), []);
    assert_eq!(printed(&app.roles).0, <[String; 0]>::default());
    // What is configured is a way back in, so the last one that was made may go.
    let made = app.create_key("", &["admin"]).await;
    revoke(&app, &made.secret, &made.api_key.unwrap().id)
        .await
        .unwrap();
}
