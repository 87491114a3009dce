use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fixtures::requested;
use crate::testing::{NatsServer, SOON, eventually};
use crate::topology::CANCELLATIONS_BUCKET;
use crate::{Cancellations, Log};

async fn cancellations_of(log: &Log) -> Cancellations {
    Cancellations::start(log, CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn a_cancelled_delivery_is_known_here_at_once_and_everywhere_soon() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (here, there) = (cancellations_of(&log).await, cancellations_of(&other).await);
    let (mut changes, mut changes_there) = (here.changes(), there.changes());
    let (first, second) = (requested(1, 1).delivery, requested(2, 1).delivery);
    here.cancel(&first).await.unwrap();
    assert!(here.contains(first.delivery_id) && !here.contains(second.delivery_id));
    here.cancel(&second).await.unwrap();
    for changes in [&mut changes, &mut changes_there] {
        for delivery in [&first, &second] {
            let change = timeout(SOON, changes.recv()).await.unwrap();
            assert_eq!(change, Ok((delivery.endpoint_id, delivery.delivery_id)));
        }
    }
    assert!(there.contains(first.delivery_id) && there.contains(second.delivery_id));
    assert!(cancellations_of(&other).await.contains(first.delivery_id));
    let stored = log.bucket(CANCELLATIONS_BUCKET).await.unwrap();
    let stored = stored.get(first.delivery_id.to_string()).await.unwrap().unwrap();
    let expected = format!(r#"{{"endpoint_id":"{}","project_id":"acme"}}"#, first.endpoint_id);
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn to_cancel_again_changes_nothing() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (here, there) = (cancellations_of(&log).await, cancellations_of(&other).await);
    let mut changes = here.changes();
    let (twice, last) = (requested(1, 1).delivery, requested(2, 1).delivery);
    // At once, so that neither need know of the other.
    let (one, two) = tokio::join!(here.cancel(&twice), there.cancel(&twice));
    assert_eq!((one, two), (Ok(()), Ok(())));
    here.cancel(&twice).await.unwrap();
    there.cancel(&last).await.unwrap();
    for delivery in [twice, last] {
        let change = timeout(SOON, changes.recv()).await.unwrap();
        assert_eq!(change, Ok((delivery.endpoint_id, delivery.delivery_id)));
    }
}

#[tokio::test]
async fn an_entry_that_is_deleted_or_cannot_be_read_cancels_nothing() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let here = cancellations_of(&log).await;
    let (deleted, unreadable) = (requested(1, 1).delivery, requested(2, 1).delivery);
    let last = requested(3, 1).delivery;
    let bucket = log.bucket(CANCELLATIONS_BUCKET).await.unwrap();
    here.cancel(&deleted).await.unwrap();
    bucket.delete(deleted.delivery_id.to_string()).await.unwrap();
    bucket
        .put(unreadable.delivery_id.to_string(), "{".into())
        .await
        .unwrap();
    bucket.put("nothing", "{}".into()).await.unwrap();
    cancellations_of(&log).await.cancel(&last).await.unwrap();
    eventually("the last one is known", async || here.contains(last.delivery_id)).await;
    for delivery in [deleted, unreadable] {
        assert!(!here.contains(delivery.delivery_id));
    }
}

#[tokio::test]
async fn cancelling_outlasts_a_restart_of_the_server() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let here = cancellations_of(&log).await;
    let there = cancellations_of(&server.log().await).await;
    let delivery = requested(1, 1).delivery;
    server.kill();
    let cancelling = tokio::spawn({
        let (here, delivery) = (here.clone(), delivery.clone());
        async move { here.cancel(&delivery).await }
    });
    server.restart().await;
    assert_eq!(cancelling.await.unwrap(), Ok(()));
    eventually("it is known elsewhere", async || {
        there.contains(delivery.delivery_id)
    })
    .await;
}
