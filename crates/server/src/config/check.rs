//! What a type cannot say: ranges, what belongs together, and what a role needs.

use std::time::Duration;

use cuitty_webhooks_domain::delivery::DEFAULT_DEADLINE;
use cuitty_webhooks_domain::limits::REPLAY_RATE;
use cuitty_webhooks_log::topology::MAX_PARTITIONS;
use tracing_subscriber::EnvFilter;

use super::{Config, Problem, Settings};
use crate::roles::Role;

/// Shortest `log.max_age`: a request that is gone before its last retry is lost. The hour is for a dispatcher that is late.
const MIN_MAX_AGE: Duration = DEFAULT_DEADLINE.saturating_add(Duration::from_hours(1));
/// Shortest `lease_ttl`: leases are renewed every second.
const MIN_LEASE_TTL: Duration = Duration::from_secs(3);
/// Smallest `max_append_bytes`: room for a few messages with the largest payload.
const MIN_APPEND_BYTES: u32 = 1 << 20;

/// Shortest `otlp_metrics_interval`.
const MIN_METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// Longest `sweep_after`: what is forgotten is to be found while it matters.
const MAX_SWEEP_AFTER: Duration = Duration::from_hours(1);
/// Largest `replay.max_outstanding`: their ids are asked about again and again.
const MAX_OUTSTANDING: usize = 10_000;
/// Largest `ingest.max_in_flight`.
const MAX_INGESTED: usize = 10_000;
/// Largest of the numbers of the API role: what is allocated for each is small, but not nothing.
const MAX_PLACES: usize = 1_000_000;
/// Longest `disable_after`.
const MAX_DISABLE_AFTER: Duration = Duration::from_hours(365 * 24);
/// Longest `shutdown.delay`.
const MAX_DELAY: Duration = Duration::from_mins(5);

pub(super) fn check(config: &Config, settings: &Settings, roles: &[Role], problems: &mut Vec<Problem>) {
    let mut checks = Checks {
        config,
        settings,
        problems,
    };
    checks.telemetry();
    checks.log();
    checks.history();
    checks.roles(roles);
    checks.ingest();
    checks.api();
    checks.tls(roles.contains(&Role::Api));
    for problem in config.dispatcher.problems() {
        checks.report(&format!("dispatcher.{}", problem.setting), problem.message);
    }
}

/// The files of TLS.
pub(super) fn files(config: &Config, settings: &Settings, problems: &mut Vec<Problem>) {
    let mut checks = Checks {
        config,
        settings,
        problems,
    };
    checks.tls(true);
    if let Some(path) = &config.telemetry.otlp_ca_file
        && let Err(error) = std::fs::read(path)
    {
        let message = format!("cannot read {}: {error}", path.display());
        checks.report("telemetry.otlp_ca_file", &message);
    }
}

/// The files of the connections to the log and, for roles that have one, to the history.
pub(super) fn connections(config: &Config, settings: &Settings, roles: &[Role], problems: &mut Vec<Problem>) {
    let mut checks = Checks {
        config,
        settings,
        problems,
    };
    for problem in config.log.problems(true) {
        checks.report(problem.setting, &problem.message);
    }
    let uses_history = |role: &Role| matches!(role, Role::Api | Role::Projector);
    if roles.is_empty() || roles.iter().any(uses_history) {
        for message in config.history.file_problems() {
            checks.report("history.url", &message);
        }
    }
}

/// Whether answers can be subscribed to below it.
fn is_inbox_prefix(prefix: &str) -> bool {
    let is_token = |token: &str| {
        !token.is_empty()
            && !token.contains(|c: char| matches!(c, '*' | '>') || c.is_whitespace() || c.is_control())
    };
    prefix.split('.').all(is_token)
}

struct Checks<'a> {
    config: &'a Config,
    settings: &'a Settings,
    problems: &'a mut Vec<Problem>,
}

impl Checks<'_> {
    fn report(&mut self, key: &str, message: &str) {
        // A value that could not be read at all was told already.
        if self
            .problems
            .iter()
            .all(|problem| problem.key.trim_end_matches("_file") != key)
        {
            let (key, origin) = (key.to_owned(), self.settings.origin(key));
            self.problems.push(Problem {
                key,
                origin,
                message: message.to_owned(),
            });
        }
    }

    fn require(&mut self, met: bool, key: &str, message: &str) {
        if !met {
            self.report(key, message);
        }
    }

    fn telemetry(&mut self) {
        let Config {
            telemetry,
            shutdown,
            dispatcher,
            ..
        } = self.config;
        let filter = EnvFilter::builder().parse(&telemetry.log_filter);
        self.require(
            filter.is_ok(),
            "telemetry.log_filter",
            "must be levels by target, such as info,hyper=warn",
        );
        let is_http = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        let endpoint = telemetry.otlp_endpoint.as_deref();
        self.require(
            endpoint.is_none_or(is_http),
            "telemetry.otlp_endpoint",
            "must start with http:// or https://",
        );
        self.require(
            !telemetry.otlp_timeout.is_zero(),
            "telemetry.otlp_timeout",
            "must be longer than 0",
        );
        let every = telemetry.otlp_metrics_interval;
        self.require(
            every.is_zero() || every >= MIN_METRICS_INTERVAL,
            "telemetry.otlp_metrics_interval",
            "must be 1 s or longer, or 0 for never",
        );
        let ratio = telemetry.trace_sample_ratio;
        self.require(
            (0.0..=1.0).contains(&ratio),
            "telemetry.trace_sample_ratio",
            "must be 0 to 1",
        );
        self.require(
            shutdown.delay <= MAX_DELAY,
            "shutdown.delay",
            "must be at most 5 min",
        );
        self.require(
            !shutdown.timeout.is_zero() && shutdown.timeout >= dispatcher.drain_timeout,
            "shutdown.timeout",
            "must be longer than 0, and at least dispatcher.drain_timeout",
        );
    }

    fn log(&mut self) {
        let Config { log, dispatcher, .. } = self.config;
        if let Some(message) = log.url_problem() {
            self.report("log.url", &message);
        }
        for problem in log.problems(false) {
            self.report(problem.setting, &problem.message);
        }
        self.require(
            is_inbox_prefix(&log.inbox_prefix),
            "log.inbox_prefix",
            "must be tokens separated by dots, without wildcards or spaces, such as _INBOX.webhooks-api",
        );
        self.require(
            (1..=MAX_PARTITIONS).contains(&log.partitions),
            "log.partitions",
            "must be 1 to 64",
        );
        self.require(
            matches!(log.replicas, 1 | 3 | 5),
            "log.replicas",
            "must be 1, 3 or 5",
        );
        self.require(
            log.max_age >= MIN_MAX_AGE,
            "log.max_age",
            "must be 25 h or longer: a delivery is retried for up to 24 h, with the payload that the log keeps",
        );
        self.require(
            log.max_ack_pending >= 1,
            "log.max_ack_pending",
            "must be 1 or more",
        );
        self.require(
            log.lease_ttl >= MIN_LEASE_TTL,
            "log.lease_ttl",
            "must be 3 s or longer",
        );
        self.require(
            !log.request_timeout.is_zero(),
            "log.request_timeout",
            "must be longer than 0",
        );
        self.require(
            !log.idempotency_ttl.is_zero(),
            "log.idempotency_ttl",
            "must be longer than 0",
        );
        self.require(
            log.max_append_bytes >= MIN_APPEND_BYTES,
            "log.max_append_bytes",
            "must be 1048576 (1 MiB) or more",
        );
        self.require(
            !log.connect_timeout.is_zero(),
            "log.connect_timeout",
            "must be longer than 0",
        );
        self.require(
            log.duplicate_window >= Duration::from_secs(1) && log.duplicate_window <= log.max_age,
            "log.duplicate_window",
            "must be 1 s or longer, and at most log.max_age",
        );
        self.require(
            log.ack_wait >= 3 * dispatcher.progress_interval,
            "log.ack_wait",
            "must be at least three times dispatcher.progress_interval",
        );
    }

    fn history(&mut self) {
        let Config {
            history, projector, ..
        } = self.config;
        let scheme = history.url.split_once(':').map(|(scheme, _)| scheme);
        self.require(
            matches!(scheme, Some("sqlite" | "postgres" | "postgresql")),
            "history.url",
            "must start with sqlite: or postgres://",
        );
        self.require(
            history.max_connections >= 1,
            "history.max_connections",
            "must be 1 or more",
        );
        for (key, time) in [
            ("history.acquire_timeout", history.acquire_timeout),
            ("history.statement_timeout", history.statement_timeout),
        ] {
            self.require(!time.is_zero(), key, "must be longer than 0");
        }
        let events = projector.batch_events;
        self.require(
            (1..=50_000).contains(&events),
            "projector.batch_events",
            "must be 1 to 50000",
        );
        self.require(
            projector.batch_bytes >= 1,
            "projector.batch_bytes",
            "must be 1 or more",
        );
        self.require(
            projector.linger <= Duration::from_secs(10),
            "projector.linger",
            "must be at most 10 s",
        );
        self.require(
            !projector.sweep_interval.is_zero(),
            "projector.sweep_interval",
            "must be longer than 0",
        );
        self.require(
            !projector.sweep_after.is_zero() && projector.sweep_after <= MAX_SWEEP_AFTER,
            "projector.sweep_after",
            "must be longer than 0, and at most 1 h",
        );
        self.require(
            projector.disable_after <= MAX_DISABLE_AFTER,
            "projector.disable_after",
            "must be at most 365 days, 0 for never",
        );
        self.require(
            (1..=REPLAY_RATE).contains(&projector.replay.rate),
            "projector.replay.rate",
            "must be 1 to 10000",
        );
        self.require(
            (1..=MAX_OUTSTANDING).contains(&projector.replay.max_outstanding),
            "projector.replay.max_outstanding",
            "must be 1 to 10000",
        );
    }

    fn ingest(&mut self) {
        self.require(
            (1..=MAX_INGESTED).contains(&self.config.ingest.max_in_flight),
            "ingest.max_in_flight",
            "must be 1 to 10000",
        );
    }

    fn api(&mut self) {
        let api = &self.config.api;
        for (key, number) in [
            ("api.max_connections", api.max_connections),
            (
                "api.max_streams_per_connection",
                api.max_streams_per_connection as usize,
            ),
            ("api.max_concurrent_accepts", api.max_concurrent_accepts),
            ("api.max_deliver_streams", api.max_deliver_streams),
            ("api.max_watchers", api.max_watchers),
            ("api.watch_buffer", api.watch_buffer),
        ] {
            self.require((1..=MAX_PLACES).contains(&number), key, "must be 1 to 1000000");
        }
        for (key, time) in [
            ("api.header_read_timeout", api.header_read_timeout),
            ("api.request_timeout", api.request_timeout),
            ("api.keepalive_interval", api.keepalive_interval),
            ("api.keepalive_timeout", api.keepalive_timeout),
            ("api.resolve_timeout", api.resolve_timeout),
        ] {
            self.require(!time.is_zero(), key, "must be longer than 0");
        }
    }

    fn tls(&mut self, with_files: bool) {
        for problem in self.config.api.tls.problems(with_files) {
            self.report(&format!("api.tls.{}", problem.setting), &problem.message);
        }
    }

    fn roles(&mut self, roles: &[Role]) {
        let seals = roles
            .iter()
            .any(|role| matches!(role, Role::Api | Role::Dispatcher));
        self.require(
            !seals || self.config.sealing.keys.is_some(),
            "sealing.keys",
            "must hold at least one key, <id>:<base64 of 32 random bytes>: signing secrets are sealed with it",
        );
    }
}
