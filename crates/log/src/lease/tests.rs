use super::*;
use crate::LogConfig;
use crate::testing::{NatsServer, eventually};

const TTL: Duration = Duration::from_secs(2);

async fn log(server: &NatsServer) -> Log {
    let log = Log::connect(LogConfig {
        lease_ttl: TTL,
        ..server.config()
    })
    .await
    .unwrap();
    log.ensure().await.unwrap();
    log
}

#[tokio::test]
async fn one_holds_and_the_next_one_follows_at_once_after_a_release() {
    let server = NatsServer::start().await;
    let log = log(&server).await;
    // Even under the same name they are two.
    let (mut first, mut second) = (log.lease("projector", "p 1"), log.lease("projector", "p 1"));
    assert_eq!(first.holder().await, Ok(None));
    assert_eq!((first.held_until(), first.epoch()), (None, None));
    assert_eq!(first.renew().await, Ok(false), "what is not held is not renewed");

    let before = Instant::now();
    assert_eq!(first.try_acquire().await, Ok(true));
    let (until, epoch) = (first.held_until().unwrap(), first.epoch().unwrap());
    assert!(until >= before + TTL && until <= Instant::now() + TTL);
    assert_eq!(second.try_acquire().await, Ok(false));
    assert_eq!(
        (second.is_held(), second.holder().await),
        (false, Ok(Some("p 1".into())))
    );

    assert_eq!(first.renew().await, Ok(true));
    assert!(first.held_until().unwrap() > until);
    assert_eq!(first.epoch(), Some(epoch), "renewing is no change of hands");
    assert_eq!(first.try_acquire().await, Ok(true));
    assert_eq!(first.epoch(), Some(epoch));

    assert_eq!(first.release().await, Ok(()));
    assert_eq!((first.is_held(), first.holder().await), (false, Ok(None)));
    assert_eq!(second.try_acquire().await, Ok(true));
    assert!(second.epoch().unwrap() > epoch);
    assert_eq!(first.release().await, Ok(()), "releasing twice does no harm");
    assert_eq!(second.renew().await, Ok(true));
}

#[tokio::test]
async fn an_abandoned_lease_is_free_after_its_time_and_not_before() {
    let server = NatsServer::start().await;
    let log = log(&server).await;
    let (mut first, mut second) = (log.lease("projector", "a"), log.lease("projector", "b"));
    assert_eq!(first.try_acquire().await, Ok(true));
    let until = first.held_until().unwrap();
    eventually("the lease is free", async || {
        second.try_acquire().await == Ok(true)
    })
    .await;
    let taken = Instant::now();
    assert!(taken >= until, "taken {:?} too early", until - taken);
    assert!(
        taken < until + Duration::from_millis(1_500),
        "taken {:?} late",
        taken - until
    );
    assert!(!first.is_held());
    assert_eq!(first.renew().await, Ok(false), "somebody else holds it");
    assert_eq!((first.held_until(), second.renew().await), (None, Ok(true)));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let server = NatsServer::start().await;
    let log = log(&server).await;
    let (mut first, mut second) = (log.lease("projector", "a"), log.lease("projector", "b"));
    let store = log.bucket(DISPATCHERS_BUCKET).await.unwrap();

    // It was acquired, but nobody told us.
    store.put("projector", first.value.clone()).await.unwrap();
    assert_eq!(second.try_acquire().await, Ok(false));
    assert_eq!(first.try_acquire().await, Ok(true));
    let epoch = first.epoch();
    // It was renewed, but nobody told us.
    store.put("projector", first.value.clone()).await.unwrap();
    assert_eq!(first.renew().await, Ok(true));
    assert_eq!(first.epoch(), epoch);
    // It ran out and another one took it.
    store.put("projector", second.value.clone()).await.unwrap();
    assert_eq!((first.renew().await, first.is_held()), (Ok(false), false));
}

#[tokio::test]
async fn leases_outlive_a_crash_of_the_server() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let (mut first, mut second) = (log.lease("projector", "a"), log.lease("projector", "b"));
    assert_eq!(first.try_acquire().await, Ok(true));
    let epoch = first.epoch();
    server.kill();
    assert!(matches!(first.renew().await, Err(LogError::Unavailable(_))));
    assert!(first.is_held(), "no answer is not a loss while the time lasts");
    server.restart().await;
    eventually("the lease is renewed", async || first.renew().await == Ok(true)).await;
    assert_eq!((first.epoch(), second.try_acquire().await), (epoch, Ok(false)));
}

#[tokio::test]
async fn what_cannot_be_a_lease_is_refused() {
    let server = NatsServer::start().await;
    let log = Log::connect(server.config()).await.unwrap();
    let missing = LogError::NoTopology {
        stream: "KV_WEBHOOKS_DISPATCHERS".into(),
    };
    assert_eq!(log.lease("projector", "a").try_acquire().await, Err(missing));
    log.ensure().await.unwrap();
    assert!(matches!(
        log.lease("a b", "a").try_acquire().await,
        Err(LogError::Protocol(_))
    ));
}
