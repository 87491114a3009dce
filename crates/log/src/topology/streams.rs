//! How each stream must be.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::{
    API_KEY_USES_BUCKET, CANCELLATIONS_BUCKET, CONTROL_STREAM, DISPATCHERS_BUCKET, IDEMPOTENCY_BUCKET,
    INGEST_STREAM, LANES_BUCKET, PARTITIONS_KEY, STREAM,
};
use crate::config::LogConfig;

/// Values that are kept of each lane, so that one can see how it came to be where it is.
const LANE_HISTORY: i64 = 16;
/// How long a cancellation is kept: longer than any delivery is attempted.
pub(crate) const CANCELLATION_MAX_AGE: Duration = Duration::from_hours(48);

/// How long nats-server itself drops what is published with the same id: the shortest that it takes. It asks nothing but the
/// id, so it would drop what another project publishes, or another event under the same key; acceptance tells them apart.
const INGEST_DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// Every stream as `config` wants it.
pub(super) fn wanted(config: &LogConfig) -> Vec<Config> {
    // No stream is bounded in size, so that none drops what was acknowledged to make room: when nats-server's storage
    // (`max_file_store`) is used up, it refuses new messages.
    let base = |name: &str, subjects: &[&str]| Config {
        name: name.into(),
        subjects: subjects.iter().map(|&subject| subject.into()).collect(),
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: config.replicas,
        compression: Some(if config.compression {
            Compression::S2
        } else {
            Compression::None
        }),
        duplicate_window: config.duplicate_window,
        allow_direct: true,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        ..Config::default()
    };
    let bucket = |name: &str, max_age: Duration| Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_age,
        allow_rollup: true,
        deny_delete: true,
        compression: Some(Compression::None),
        // No longer than the entries live, as nats-server demands.
        duplicate_window: if max_age.is_zero() {
            config.duplicate_window
        } else {
            config.duplicate_window.min(max_age)
        },
        ..base(name, &[])
    };
    vec![
        Config {
            max_age: config.max_age,
            // nats-server demands this together with schedules. Without a bound on size nothing is ever discarded.
            discard: DiscardPolicy::Old,
            allow_message_schedules: true,
            allow_message_ttl: true,
            // A timer that is published again replaces the one that waits.
            allow_rollup: true,
            metadata: HashMap::from([(PARTITIONS_KEY.into(), config.partitions.to_string())]),
            ..base(
                STREAM,
                &[
                    "webhooks.work.>",
                    "webhooks.outcome.>",
                    "webhooks.message.>",
                    "webhooks.timer.>",
                ],
            )
        },
        base(
            CONTROL_STREAM,
            &[
                "webhooks.endpoint.>",
                "webhooks.event_type.>",
                "webhooks.api_key.>",
                "webhooks.replay.>",
                "webhooks.project.>",
            ],
        ),
        Config {
            retention: RetentionPolicy::WorkQueue,
            duplicate_window: INGEST_DUPLICATE_WINDOW,
            ..base(INGEST_STREAM, &["cuitty.events.>"])
        },
        bucket(IDEMPOTENCY_BUCKET, config.idempotency_ttl),
        bucket(DISPATCHERS_BUCKET, config.lease_ttl),
        Config {
            max_messages_per_subject: LANE_HISTORY,
            ..bucket(LANES_BUCKET, Duration::ZERO)
        },
        bucket(CANCELLATIONS_BUCKET, CANCELLATION_MAX_AGE),
        bucket(API_KEY_USES_BUCKET, Duration::ZERO),
    ]
}

/// What of `found` makes it unusable and cannot be changed by an update.
pub(super) fn unusable(found: &Config, wanted: &Config) -> Option<String> {
    let mut differences = Vec::new();
    if found.retention != wanted.retention {
        differences.push(format!(
            "retention is {:?}, must be {:?}",
            found.retention, wanted.retention
        ));
    }
    if found.storage != wanted.storage {
        differences.push(format!(
            "storage is {:?}, must be {:?}",
            found.storage, wanted.storage
        ));
    }
    if found.mirror.is_some() || found.sealed {
        differences.push("it is a mirror or sealed, must take messages".into());
    }
    (!differences.is_empty()).then(|| differences.join("; "))
}

/// `found` with what we decide taken from `wanted`. The number of partitions stays: it is fixed when the stream is made.
pub(super) fn merge(found: &Config, wanted: Config) -> Config {
    let mut metadata = found.metadata.clone();
    for (key, value) in wanted.metadata {
        metadata.entry(key).or_insert(value);
    }
    Config {
        subjects: wanted.subjects,
        discard: wanted.discard,
        num_replicas: wanted.num_replicas,
        compression: wanted.compression,
        duplicate_window: wanted.duplicate_window,
        allow_direct: wanted.allow_direct,
        max_age: wanted.max_age,
        max_bytes: wanted.max_bytes,
        max_messages_per_subject: wanted.max_messages_per_subject,
        allow_message_schedules: wanted.allow_message_schedules,
        allow_message_ttl: wanted.allow_message_ttl,
        allow_rollup: wanted.allow_rollup,
        metadata,
        ..found.clone()
    }
}

/// The fields in which `found` differs from `wanted`, for a person; `None` when they are the same.
pub(super) fn difference(found: &Config, wanted: &Config) -> Option<String> {
    if found == wanted {
        return None;
    }
    let (found, wanted) = (fields(found), fields(wanted));
    let mut names: Vec<_> = found
        .keys()
        .chain(wanted.keys())
        .filter(|name| found.get(*name) != wanted.get(*name))
        .collect();
    names.sort();
    names.dedup();
    let show = |value: Option<&serde_json::Value>| value.map_or_else(|| "unset".into(), ToString::to_string);
    let texts: Vec<_> = names
        .into_iter()
        .map(|name| {
            format!(
                "{name} is {}, {} is wanted",
                show(found.get(name)),
                show(wanted.get(name))
            )
        })
        .collect();
    Some(texts.join("; "))
}

fn fields(config: &Config) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}
