//! What a process shows of itself beside what its parts count: gauges that are set whenever somebody looks.

use std::sync::Weak;

use cuitty_webhooks_api::App;
use cuitty_webhooks_log::metrics::names;
use metrics::{Unit, describe_gauge, gauge};
use metrics_process::Collector;

use crate::admin::Health;
use crate::roles::Role;

/// 1 for each `role` of this process, with its `version` and the source `revision` that it was built from.
const BUILD_INFO: &str = "webhooks_build_info";
/// Connections to the history's database, by `state`: `used` or `idle`.
const HISTORY_CONNECTIONS: &str = "webhooks_history_connections";
/// Connections to it that may be open at most.
const HISTORY_CONNECTIONS_LIMIT: &str = "webhooks_history_connections_limit";

/// Describes them to the installed recorder, and what the process uses of the machine.
pub(crate) fn describe() {
    describe_gauge!(
        BUILD_INFO,
        Unit::Count,
        "1 for each role of this process, by version and revision"
    );
    describe_gauge!(
        HISTORY_CONNECTIONS,
        Unit::Count,
        "Connections to the database of the history by state (used, idle)"
    );
    describe_gauge!(
        HISTORY_CONNECTIONS_LIMIT,
        Unit::Count,
        "Connections to the database of the history that may be open at most"
    );
    Collector::default().describe();
}

/// Shows what never changes, and everything else at 0.
pub(crate) fn start(roles: &[Role]) {
    // Given by whoever builds an image.
    let revision = option_env!("CUITTY_WEBHOOKS_REVISION").unwrap_or("unknown");
    for role in roles {
        let labels = [
            ("role", role.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", revision.to_owned()),
        ];
        gauge!(BUILD_INFO, &labels).set(1.0);
    }
    for state in ["used", "idle"] {
        let _ = gauge!(HISTORY_CONNECTIONS, "state" => state);
    }
    let _ = gauge!(HISTORY_CONNECTIONS_LIMIT);
}

/// Sets them to what is the case now.
pub(crate) fn refresh(health: &Health) {
    Collector::default().collect();
    if let Some(log) = health.log.get() {
        gauge!(names::CONNECTED).set(f64::from(u8::from(log.is_connected())));
        gauge!(names::PARTITIONS).set(f64::from(log.partitions()));
    }
    if let Some(directory) = health.directory.get() {
        gauge!(names::DIRECTORY_AGE).set(directory.age().as_secs_f64());
    }
    if let Some(app) = health.app.get().and_then(Weak::upgrade) {
        App::show_load(&app);
    }
    if let Some(store) = health.history.get() {
        let pool = store.pool();
        gauge!(HISTORY_CONNECTIONS, "state" => "used").set(f64::from(pool.used));
        gauge!(HISTORY_CONNECTIONS, "state" => "idle").set(f64::from(pool.idle));
        gauge!(HISTORY_CONNECTIONS_LIMIT).set(f64::from(pool.limit));
    }
}
