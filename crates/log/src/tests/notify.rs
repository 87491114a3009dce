use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::testing::{NatsServer, SOON, eventually};
use crate::{Log, Notification, NotifyError};

fn notification(subject: &str, wants_reply: bool) -> Notification {
    Notification {
        subject: subject.into(),
        id: "dlv_1".into(),
        headers: vec![("x-team".into(), "core".into())],
        payload: "{}".into(),
        wants_reply,
    }
}

/// A subscriber on the log's own connection, so that it is known before whatever is published next.
async fn subscribe(log: &Log, subject: &str) -> Subscriber {
    log.client().subscribe(subject.to_owned()).await.unwrap()
}

#[tokio::test]
async fn a_notification_is_taken_when_somebody_listens() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    for wants_reply in [false, true] {
        let unheard = log.notify(notification("n.a", wants_reply), SOON).await;
        assert_eq!(unheard, Err(NotifyError::NobodyListens));
    }
    let mut subscriber = subscribe(&log, "n.a").await;
    assert_eq!(log.notify(notification("n.a", false), SOON).await, Ok(()));
    let message = timeout(SOON, subscriber.next()).await.unwrap().unwrap();
    let headers = message.headers.unwrap();
    assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), "dlv_1");
    assert_eq!(headers.get("x-team").unwrap().as_str(), "core");
    assert_eq!(message.payload, "{}");
}

#[tokio::test]
async fn a_reply_that_is_wanted_has_to_come_and_to_be_no_error() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let mut subscriber = subscribe(&log, "n.a").await;
    let limit = Duration::from_millis(200);
    let silence = log.notify(notification("n.a", true), limit).await;
    assert_eq!(silence, Err(NotifyError::NoReply(limit)));
    timeout(SOON, subscriber.next()).await.unwrap().unwrap();

    let client = log.client().clone();
    let answering = tokio::spawn(async move {
        let replies = [
            (None, "yes", Ok(())),
            (
                None,
                r#"{"error":{"err_code":10077,"description":"full"}}"#,
                Err("full (10077)"),
            ),
            (None, r#"{"error":null}"#, Ok(())),
            (Some("no such customer"), "", Err("no such customer")),
        ];
        for (service_error, reply, _) in replies {
            let asked = timeout(SOON, subscriber.next()).await.unwrap().unwrap();
            let mut headers = async_nats::HeaderMap::new();
            if let Some(error) = service_error {
                headers.insert("Nats-Service-Error", error);
            }
            let to = asked.reply.unwrap();
            client
                .publish_with_headers(to, headers, reply.into())
                .await
                .unwrap();
        }
        replies.map(|(.., expected)| expected)
    });
    let mut judged = Vec::new();
    for _ in 0..4 {
        judged.push(log.notify(notification("n.a", true), SOON).await);
    }
    let expected = answering.await.unwrap();
    let expected = expected.map(|expected| expected.map_err(|text| NotifyError::Refused(text.to_owned())));
    assert_eq!(judged, expected);
}

#[tokio::test]
async fn without_a_server_nobody_is_to_blame() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let broken = Notification {
        headers: vec![("x y".into(), String::new())],
        ..notification("n.a", false)
    };
    let unfit = log.notify(broken, SOON).await;
    assert_eq!(unfit, Err(NotifyError::Unfit("header x y".into())));
    server.kill();
    eventually("the connection is lost", || async { !log.is_connected() }).await;
    for wants_reply in [false, true] {
        let refused = log.notify(notification("n.a", wants_reply), SOON).await;
        assert_eq!(refused, Err(NotifyError::Unavailable));
    }
}
