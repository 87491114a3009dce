use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::endpoint::{
    self, Actor, EndpointChange, EndpointCommand, EndpointKind, EndpointSettings, Secret,
};
use cuitty_webhooks_domain::ids::SecretId;
use cuitty_webhooks_domain::seal::SealedSecret;
use cuitty_webhooks_proto::events::v1::EndpointChanged;
use cuitty_webhooks_proto::events::v1::endpoint_changed::Change;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::*;
use crate::codec::tests::unknown_change;
use crate::testing::{NatsServer, SOON, eventually};

fn at(number: u8) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + i64::from(number)).unwrap()
}

/// The endpoint number `number`; higher numbers are newer, and the same number has the same id.
pub(super) fn endpoint(number: u8, project: &str, patterns: &[impl AsRef<str>]) -> Endpoint {
    created(number, project, patterns).1
}

fn created(number: u8, project: &str, patterns: &[impl AsRef<str>]) -> (EndpointChange, Endpoint) {
    let mut rng = StdRng::seed_from_u64(number.into());
    let now = at(number);
    let settings = EndpointSettings {
        kind: EndpointKind::Http,
        url: "https://example.com/".into(),
        event_types: patterns
            .iter()
            .map(|pattern| pattern.as_ref().parse().unwrap())
            .collect(),
        description: String::new(),
        headers: Vec::new(),
        signature_header: None,
        timeout: Duration::from_secs(15),
        max_in_flight: 8,
        rate_limit_per_second: None,
        ordered: false,
        retry_schedule_seconds: Vec::new(),
        envelope: false,
    };
    let sealed = SealedSecret {
        sealing_key_id: "k1".into(),
        nonce: [7; 24],
        ciphertext: vec![9; 48],
        public_key: None,
    };
    let secret = Secret {
        id: SecretId::new(now, &mut rng),
        sealed,
        created_at: now,
        expires_at: None,
    };
    endpoint::create(
        EndpointId::new(now, &mut rng),
        project.parse().unwrap(),
        settings,
        secret,
        now,
    )
}

async fn create(log: &Log, number: u8, project: &str, patterns: &[&str]) -> (Endpoint, u64) {
    let (change, endpoint) = created(number, project, patterns);
    let sequence = log
        .append_endpoint(&change, &endpoint, &Actor::system("test"), 0)
        .await
        .unwrap();
    (endpoint, sequence)
}

async fn command(log: &Log, entry: &Entry, command: EndpointCommand) -> (Endpoint, u64) {
    let now = at(200);
    let change = endpoint::decide(&entry.endpoint, command, now).unwrap().unwrap();
    let changed = endpoint::evolve(entry.endpoint.clone(), &change, now);
    let sequence = log
        .append_endpoint(&change, &changed, &Actor::system("test"), entry.sequence)
        .await
        .unwrap();
    (changed, sequence)
}

fn ids(entries: Option<Vec<Arc<Entry>>>) -> Option<Vec<EndpointId>> {
    entries.map(|entries| entries.iter().map(|entry| entry.endpoint.id).collect())
}

#[tokio::test]
async fn a_writer_reads_its_own_writes() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let (acme, budget) = ("acme".parse().unwrap(), "budget.exceeded".parse().unwrap());
    let (first, _) = create(&log, 1, "acme", &["budget.*"]).await;
    let (second, second_at) = create(&log, 2, "acme", &["key.revoked"]).await;

    let directory = Directory::start(&log, CancellationToken::new()).await.unwrap();
    assert!(directory.is_live());
    assert_eq!(directory.applied(), second_at);
    assert_eq!(ids(directory.project(&acme)), Some(vec![second.id, first.id]));
    assert_eq!(ids(directory.matching(&acme, &budget)), Some(vec![first.id]));
    assert_eq!(ids(directory.project(&"nobody".parse().unwrap())), None);
    let entry = directory.get(first.id).unwrap();
    assert_eq!((&entry.endpoint, entry.sequence), (&first, 1));
    assert_eq!(entry.partition, subjects::partition_of(first.id, 4));

    let mut changes = directory.changes();
    let (third, third_at) = create(&log, 3, "acme", &[]).await;
    assert!(directory.wait_for(third_at, SOON).await);
    assert_eq!(changes.recv().await, Ok(third.id));
    assert_eq!(
        ids(directory.matching(&acme, &budget)),
        Some(vec![first.id, third.id])
    );

    let (_, deleted_at) = command(&log, &entry, EndpointCommand::Delete).await;
    assert!(directory.wait_for(deleted_at, SOON).await);
    assert_eq!(changes.recv().await, Ok(first.id));
    assert_eq!(ids(directory.matching(&acme, &budget)), Some(vec![third.id]));
    assert_eq!(ids(directory.project(&acme)), Some(vec![third.id, second.id]));
    let entry = directory.get(first.id).unwrap();
    assert_eq!(
        (entry.endpoint.deleted_at, entry.sequence),
        (Some(at(200)), deleted_at)
    );

    assert!(
        !directory
            .wait_for(deleted_at + 1, Duration::from_millis(20))
            .await
    );
}

#[tokio::test]
async fn other_subjects_count_and_what_cannot_be_read_is_left_out() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let (known, _) = create(&log, 1, "acme", &[]).await;
    let publish = async |subject: String, body: Vec<u8>| {
        log.jetstream()
            .publish(subject, body.into())
            .await
            .unwrap()
            .await
            .unwrap()
            .sequence
    };
    let poison = format!("webhooks.endpoint.acme.{}", endpoint(2, "acme", &[""; 0]).id);
    publish(poison.clone(), b"\xff\xff".to_vec()).await;

    let directory = Directory::start(&log, CancellationToken::new()).await.unwrap();
    assert_eq!(directory.applied(), 2);
    for (subject, body) in [
        ("webhooks.api_key.k1".into(), b"{}".to_vec()),
        (poison, b"\xff".to_vec()),
        ("webhooks.endpoint.acme.nonsense".into(), Vec::new()),
        ("webhooks.event_type.acme.budget".into(), b"{}".to_vec()),
    ] {
        let sequence = publish(subject.clone(), body).await;
        assert!(directory.wait_for(sequence, SOON).await, "{subject}");
    }
    // A state under the subject of another endpoint.
    let (change, other) = created(4, "acme", &[""; 0]);
    let body = codec::encode_endpoint(&change, &[], &other, &Actor::system("test"));
    publish(format!("webhooks.endpoint.acme.{}", known.id), body.to_vec()).await;
    let (last, sequence) = create(&log, 3, "acme", &[]).await;
    assert!(directory.wait_for(sequence, SOON).await);
    assert_eq!(
        ids(directory.project(&"acme".parse().unwrap())),
        Some(vec![last.id, known.id])
    );
    assert_eq!(directory.get(known.id).map(|entry| entry.sequence), Some(1));
}

#[tokio::test]
async fn a_change_of_a_kind_that_only_later_versions_know_is_folded_in_and_built_upon() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let (change, first) = created(1, "acme", &["budget.*"]);
    create(&log, 1, "acme", &["budget.*"]).await;
    let directory = Directory::start(&log, CancellationToken::new()).await.unwrap();

    let body = codec::encode_endpoint(&change, &[], &first, &Actor::system("later"));
    let body = unknown_change(&body, |state| {
        state.revision = 2;
        state.url = "https://example.com/moved".into();
    });
    let subject = format!("webhooks.endpoint.acme.{}", first.id);
    let published = log.jetstream().publish(subject, body).await.unwrap();
    let sequence = published.await.unwrap().sequence;
    assert!(directory.wait_for(sequence, SOON).await);
    let entry = directory.get(first.id).unwrap();
    assert_eq!(
        (
            entry.endpoint.revision,
            entry.endpoint.settings.url.as_str(),
            entry.sequence
        ),
        (2, "https://example.com/moved", sequence)
    );

    let update = EndpointCommand::Update {
        settings: Box::new(EndpointSettings {
            max_in_flight: 9,
            ..entry.endpoint.settings.clone()
        }),
        active: None,
        expected_revision: None,
    };
    let (updated, sequence) = command(&log, &entry, update).await;
    assert_eq!((updated.revision, updated.settings.max_in_flight), (3, 9));
    let stored = log.message_at(topology::CONTROL_STREAM, sequence).await.unwrap();
    let message = EndpointChanged::decode(stored.unwrap().payload).unwrap();
    let fields = match message.change {
        Some(Change::Updated(updated)) => updated.fields,
        other => panic!("{other:?}"),
    };
    assert_eq!(fields, ["max_in_flight"]);
}

#[tokio::test]
async fn an_empty_log_is_a_ready_directory_and_a_missing_one_is_an_error() {
    let server = NatsServer::start().await;
    let log = Log::connect(server.config()).await.unwrap();
    let missing = Directory::start(&log, CancellationToken::new()).await.err();
    assert!(
        matches!(missing, Some(LogError::NoTopology { .. })),
        "{missing:?}"
    );
    log.ensure().await.unwrap();
    let directory = Directory::start(&log, CancellationToken::new()).await.unwrap();
    assert_eq!((directory.applied(), directory.is_live()), (0, true));
    assert!(directory.wait_for(0, Duration::ZERO).await);
}

#[tokio::test]
async fn nothing_is_missed_over_a_crash_of_the_server() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let acme = "acme".parse().unwrap();
    let directory = Directory::start(&log, CancellationToken::new()).await.unwrap();
    let (first, first_at) = create(&log, 1, "acme", &[]).await;
    assert!(directory.wait_for(first_at, SOON).await);

    for number in 2..=5 {
        server.kill();
        server.restart().await;
        // Another connection may be back before the directory's is.
        let other = Log::connect(server.config()).await.unwrap();
        let (_, sequence) = create(&other, number, "acme", &[]).await;
        let appended = Instant::now();
        assert!(directory.wait_for(sequence, SOON).await, "endpoint {number}");
        assert!(
            appended.elapsed() < Duration::from_secs(5),
            "took {:?}",
            appended.elapsed()
        );
        assert_eq!(
            directory.project(&acme).map(|entries| entries.len()),
            Some(number.into())
        );
    }
    assert!(directory.is_live() && directory.get(first.id).is_some());
}

#[tokio::test]
async fn a_directory_without_its_log_says_so_after_a_while_and_answers_on() {
    let mut server = NatsServer::start().await;
    let log = server.log().await;
    let (first, _) = create(&log, 1, "acme", &[]).await;
    let stop = CancellationToken::new();
    let directory = Directory::start(&log, stop.clone()).await.unwrap();
    server.kill();
    let killed = Instant::now();
    eventually("the directory is not live", async || !directory.is_live()).await;
    assert!(
        killed.elapsed() >= Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    assert!(directory.get(first.id).is_some());
    server.restart().await;
    eventually("the directory is live", async || directory.is_live()).await;
    stop.cancel();
    eventually("the follower has stopped", async || !directory.is_live()).await;
}

#[tokio::test]
async fn a_stream_that_was_made_anew_is_folded_anew() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let acme = "acme".parse().unwrap();
    let (old, _) = create(&log, 1, "acme", &[]).await;
    create(&log, 2, "acme", &[]).await;
    let directory = Directory::start(&log, CancellationToken::new()).await.unwrap();
    assert_eq!(directory.applied(), 2);
    log.jetstream()
        .delete_stream(topology::CONTROL_STREAM)
        .await
        .unwrap();
    log.ensure().await.unwrap();
    let (new, _) = create(&log, 3, "acme", &[]).await;
    eventually("only the new endpoint is known", async || {
        ids(directory.project(&acme)) == Some(vec![new.id])
    })
    .await;
    assert!(directory.get(old.id).is_none());
    assert_eq!(directory.applied(), 1);
}
