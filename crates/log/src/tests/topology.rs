use std::time::Duration;

use futures_util::TryStreamExt;

use crate::testing::NatsServer;
use crate::topology::{CONTROL_STREAM, LANES_BUCKET, STREAM};
use crate::work::durable_name;
use crate::{Log, LogConfig, LogError, StreamState, Topology};

const STREAMS: [&str; 8] = [
    "WEBHOOKS",
    "WEBHOOKS_CONTROL",
    "WEBHOOKS_INGEST",
    "KV_WEBHOOKS_IDEMPOTENCY",
    "KV_WEBHOOKS_DISPATCHERS",
    "KV_WEBHOOKS_LANES",
    "KV_WEBHOOKS_CANCELLATIONS",
    "KV_WEBHOOKS_API_KEY_USES",
];

fn states(topology: &Topology) -> Vec<(&str, &StreamState)> {
    topology
        .streams
        .iter()
        .map(|stream| (stream.name.as_str(), &stream.state))
        .collect()
}

fn all(state: &StreamState) -> Vec<(&str, &StreamState)> {
    STREAMS.iter().map(|&name| (name, state)).collect()
}

#[tokio::test]
async fn streams_are_made_once() {
    let server = NatsServer::start().await;
    let log = Log::connect(server.config()).await.unwrap();
    assert_eq!(
        log.check().await,
        Err(LogError::NoTopology {
            stream: STREAM.into()
        })
    );
    assert_eq!(states(&log.ensure().await.unwrap()), all(&StreamState::Created));
    assert_eq!(states(&log.ensure().await.unwrap()), all(&StreamState::Unchanged));
    assert_eq!(states(&log.check().await.unwrap()), all(&StreamState::Unchanged));
    assert_eq!(log.check().await.unwrap().drifted().next(), None);
}

#[tokio::test]
async fn several_processes_may_make_them_at_once() {
    let server = NatsServer::start().await;
    let (a, b) = (
        Log::connect(server.config()).await.unwrap(),
        Log::connect(server.config()).await.unwrap(),
    );
    let (a, b) = tokio::join!(a.ensure(), b.ensure());
    assert_eq!((a.unwrap().partitions, b.unwrap().partitions), (4, 4));
}

#[tokio::test]
async fn a_changed_configuration_is_reported_and_applied() {
    let server = NatsServer::start().await;
    server.log().await;
    let config = LogConfig {
        max_age: Duration::from_hours(1),
        ..server.config()
    };
    let log = Log::connect(config).await.unwrap();
    let drifted = log.check().await.unwrap();
    let drifted: Vec<_> = drifted.drifted().collect();
    assert_eq!(
        drifted,
        [(STREAM, "max_age is 1209600000000000, 3600000000000 is wanted")]
    );
    assert_eq!(log.ensure().await.unwrap().streams[0].state, StreamState::Updated);
    assert_eq!(log.check().await.unwrap().drifted().next(), None);
}

/// Buckets made by earlier versions are brought up to date, and keep what they hold.
#[tokio::test]
async fn a_lanes_bucket_that_keeps_fewer_values_is_changed() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let stream = log.jetstream().get_stream("KV_WEBHOOKS_LANES").await.unwrap();
    let before = async_nats::jetstream::stream::Config {
        max_messages_per_subject: 1,
        ..stream.cached_info().config.clone()
    };
    log.jetstream().update_stream(before).await.unwrap();
    let bucket = log.bucket(LANES_BUCKET).await.unwrap();
    bucket.put("floor.1", "{}".into()).await.unwrap();
    let drifted = log.check().await.unwrap();
    let difference = "max_msgs_per_subject is 1, 16 is wanted";
    assert_eq!(
        drifted.drifted().collect::<Vec<_>>(),
        [("KV_WEBHOOKS_LANES", difference)]
    );
    assert_eq!(log.ensure().await.unwrap().streams[5].state, StreamState::Updated);
    assert_eq!(states(&log.check().await.unwrap()), all(&StreamState::Unchanged));
    assert_eq!(bucket.get("floor.1").await.unwrap(), Some("{}".into()));
}

#[tokio::test]
async fn durables_are_made_with_the_stream_and_a_missing_one_is_drift() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let stream = log.jetstream().get_stream(STREAM).await.unwrap();
    let mut made: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
    made.sort();
    assert_eq!(made, [0, 1, 2, 3].map(durable_name));
    for name in ["dispatch-1", "dispatch-3"] {
        stream.delete_consumer(name).await.unwrap();
    }
    let otherwise = Log::connect(LogConfig {
        ack_wait: Duration::from_secs(2),
        ..server.config()
    })
    .await
    .unwrap();
    let difference = "dispatch-0 is configured otherwise; dispatch-1 is missing; dispatch-2 is configured otherwise; \
                      dispatch-3 is missing";
    let drifted = otherwise.check().await.unwrap();
    assert_eq!(drifted.drifted().collect::<Vec<_>>(), [(STREAM, difference)]);
    assert_eq!(
        otherwise.ensure().await.unwrap().streams[0].state,
        StreamState::Updated
    );
    assert_eq!(
        states(&otherwise.check().await.unwrap()),
        all(&StreamState::Unchanged)
    );
}

#[tokio::test]
async fn the_number_of_partitions_stays_as_the_stream_was_made() {
    let server = NatsServer::start().await;
    server.log().await;
    let log = Log::connect(LogConfig {
        partitions: 8,
        ..server.config()
    })
    .await
    .unwrap();
    assert_eq!(log.partitions(), 8);
    let topology = log.ensure().await.unwrap();
    assert_eq!((topology.partitions, log.partitions()), (4, 4));
    // Durables are those of the partitions that there are.
    let expected = StreamState::Drifted("has 4 partitions, 8 are configured".into());
    assert_eq!(topology.streams[0].state, expected);
}

#[tokio::test]
async fn a_stream_that_cannot_be_used_is_an_error_that_says_why() {
    let server = NatsServer::start().await;
    let log = Log::connect(server.config()).await.unwrap();
    let foreign = async_nats::jetstream::stream::Config {
        name: CONTROL_STREAM.into(),
        subjects: vec!["webhooks.endpoint.>".into()],
        storage: async_nats::jetstream::stream::StorageType::Memory,
        ..Default::default()
    };
    log.jetstream().create_stream(foreign).await.unwrap();
    let refused = log.ensure().await;
    let difference = "storage is Memory, must be File".into();
    assert_eq!(
        refused,
        Err(LogError::Drift {
            stream: CONTROL_STREAM.into(),
            difference
        })
    );
}

#[tokio::test]
async fn partitions_out_of_range_name_the_setting() {
    let server = NatsServer::start().await;
    for partitions in [0, 65] {
        let log = Log::connect(LogConfig {
            partitions,
            ..server.config()
        })
        .await
        .unwrap();
        let message = "must be 1 to 64".into();
        assert_eq!(
            log.ensure().await,
            Err(LogError::Config {
                setting: "log.partitions",
                message
            })
        );
    }
}
