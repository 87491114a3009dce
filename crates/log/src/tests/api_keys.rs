use bytes::Bytes;
use cuitty_webhooks_domain::api_key::{self, ApiKey, ApiKeyChange, ApiKeyCommand, ApiKeyDraft, KeyText};
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::ids::ApiKeyId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use super::fixtures::now;
use crate::append::Outgoing;
use crate::subjects::Subject;
use crate::testing::{NatsServer, SOON, eventually};
use crate::{ApiKeys, Log, LogError};

async fn keys_of(log: &Log) -> ApiKeys {
    ApiKeys::start(log, CancellationToken::new()).await.unwrap()
}

fn key(number: u64) -> ApiKey {
    let mut rng = StdRng::seed_from_u64(number);
    let (id, text) = (ApiKeyId::new(now(), &mut rng), KeyText::generate(&mut rng));
    let draft = ApiKeyDraft {
        scopes: vec!["read".into()],
        ..ApiKeyDraft::default()
    };
    api_key::create(id, draft, text.digest(), "admin", now())
        .unwrap()
        .1
}

fn revoked(key: &ApiKey) -> (ApiKeyChange, ApiKey) {
    let change = api_key::decide(key, ApiKeyCommand::Revoke).unwrap();
    (change, api_key::evolve(key.clone(), change, now()))
}

async fn append(log: &Log, change: ApiKeyChange, key: &ApiKey, expected: u64) -> Result<u64, LogError> {
    log.append_api_key(change, key, &Actor::system("t"), now(), expected)
        .await
}

#[tokio::test]
async fn a_key_and_its_end_are_known_everywhere() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let there = keys_of(&other).await;
    let (first, second) = (key(1), key(2));
    let made = append(&log, ApiKeyChange::Created, &first, 0).await.unwrap();
    append(&log, ApiKeyChange::Created, &second, 0).await.unwrap();
    assert!(there.wait_for(made, SOON).await);
    let found = there.find(&first.digest).unwrap();
    assert_eq!((&found.key, found.sequence), (&first, made));

    let mut changes = there.changes();
    let (change, ended) = revoked(&first);
    let sequence = append(&log, change, &ended, made).await.unwrap();
    let gone = changes.wait_for(|_| there.find(&first.digest).is_some_and(|e| !e.key.is_live()));
    tokio::time::timeout(SOON, gone).await.unwrap().unwrap();
    assert_eq!(there.get(first.id).unwrap().key, ended);
    assert!(there.get(second.id).unwrap().key.is_live());
    let late = keys_of(&log).await;
    assert_eq!(late.get(first.id).unwrap().sequence, sequence);
    assert_eq!(late.all().len(), 2);
}

#[tokio::test]
async fn of_two_that_write_at_once_one_succeeds() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let mine = key(1);
    let theirs = ApiKey {
        id: mine.id,
        ..key(2)
    };
    let (one, two) = tokio::join!(
        append(&log, ApiKeyChange::Created, &mine, 0),
        append(&other, ApiKeyChange::Created, &theirs, 0),
    );
    let winner = match (one, two) {
        (Ok(_), Err(LogError::Conflict { .. })) => mine.digest,
        (Err(LogError::Conflict { .. }), Ok(_)) => theirs.digest,
        both => panic!("{both:?}"),
    };
    let keys = keys_of(&log).await;
    assert_eq!(keys.get(mine.id).unwrap().key.digest, winner);
    assert_eq!(keys.all().len(), 1);
}

#[tokio::test]
async fn a_key_whose_last_change_cannot_be_read_is_not_let_in() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let keys = keys_of(&log).await;
    let (first, second) = (key(1), key(2));
    for key in [&first, &second] {
        append(&log, ApiKeyChange::Created, key, 0).await.unwrap();
    }
    eventually("both are known", async || keys.all().len() == 2).await;
    let subject = Subject::ApiKey { key_id: first.id };
    let later = Outgoing::new(subject, Bytes::from_static(b"\xff"));
    log.append(later).await.unwrap();
    eventually("it is forgotten", async || keys.find(&first.digest).is_none()).await;
    assert!(keys.get(first.id).is_none() && keys.find(&second.digest).is_some());
    assert_eq!(keys_of(&log).await.all().len(), 1);
}

#[tokio::test]
async fn the_hour_of_its_last_use_is_known_everywhere() {
    let server = NatsServer::start().await;
    let (log, other) = (server.log().await, server.log().await);
    let (here, there) = (keys_of(&log).await, keys_of(&other).await);
    let id = key(1).id;
    let at = |text: &str| text.parse().unwrap();
    let used = at("2026-11-22T10:59:00Z");
    assert_eq!(there.last_used(id), None);
    assert!(here.note_use(id, used));
    here.save_use(id, used).await.unwrap();
    let hour = Some(at("2026-11-22T10:00:00Z"));
    eventually("it is known there", async || there.last_used(id) == hour).await;
    assert!(!there.note_use(id, used) && there.note_use(id, at("2026-11-22T11:00:00Z")));
    assert_eq!(keys_of(&other).await.last_used(id), hour);
}
