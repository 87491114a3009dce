//! The configuration: `config.default.toml` < `--config FILE` < environment < flags.

mod check;
mod layers;
mod problems;
mod show;
#[cfg(test)]
mod tests;
mod warnings;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cuitty_webhooks_api::{ApiConfig, IngestConfig};
use cuitty_webhooks_dispatcher::DispatcherConfig;
use cuitty_webhooks_domain::egress::EgressPolicy;
use cuitty_webhooks_domain::seal::KeyRing;
use cuitty_webhooks_history::StoreConfig;
use cuitty_webhooks_log::LogConfig;
use cuitty_webhooks_projector::ProjectorConfig;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::roles::Role;

pub use self::layers::{Origin, Settings, Sources};
pub use self::problems::{Problem, Problems};
pub(crate) use self::show::without_passwords;

/// Every key with its default and its description.
pub const DEFAULTS: &str = include_str!("config.default.toml");
/// What the names of environment variables start with that set a key: `CUITTY_WEBHOOKS__SECTION__KEY`.
pub const ENV_PREFIX: &str = "CUITTY_WEBHOOKS__";

/// The configuration, parsed. [`DEFAULTS`] describes every key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Listen,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// How a shutdown proceeds.
    pub shutdown: Shutdown,
    /// Keys that seal signing secrets.
    pub sealing: Sealing,
    /// Where requests may go.
    pub egress: Egress,
    /// The log.
    pub log: LogConfig,
    /// The delivery history.
    pub history: StoreConfig,
    /// The API role.
    pub api: ApiConfig,
    /// The ingest role.
    pub ingest: IngestConfig,
    /// The dispatcher role.
    pub dispatcher: DispatcherConfig,
    /// The projector role.
    pub projector: ProjectorConfig,
    /// What only `dev` uses.
    pub dev: Dev,
}

/// Addresses to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// gRPC and REST.
    pub api: SocketAddr,
    /// `/livez`, `/readyz` and `/metrics`.
    pub admin: SocketAddr,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which are written, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// OTLP/gRPC collector that traces and metrics go to; `None` exports nothing.
    pub otlp_endpoint: Option<String>,
    /// What every request to it carries.
    #[serde(deserialize_with = "otlp_headers")]
    pub otlp_headers: OtlpHeaders,
    /// PEM file of the authorities that its certificate may come from; `None` means the public ones.
    pub otlp_ca_file: Option<PathBuf>,
    /// How long one request to it may take.
    #[serde(with = "humantime_serde")]
    pub otlp_timeout: Duration,
    /// How often metrics are sent; zero means never.
    #[serde(with = "humantime_serde")]
    pub otlp_metrics_interval: Duration,
    /// Share of traces exported that no caller has decided on, 0 to 1.
    pub trace_sample_ratio: f64,
}

/// Headers that show no value of theirs.
#[derive(Clone, PartialEq, Eq)]
pub struct OtlpHeaders(Vec<(AsciiMetadataKey, AsciiMetadataValue)>);

impl OtlpHeaders {
    /// As gRPC has them.
    pub(crate) fn metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (name, value) in &self.0 {
            metadata.insert(name.clone(), value.clone());
        }
        metadata
    }
}

impl fmt::Debug for OtlpHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// How a shutdown proceeds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long an API goes on after a signal, not ready any more, before it takes nothing new.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long the roles may take to finish what is in flight.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// Keys that seal signing secrets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    /// The first seals, all open; `None` when none are configured.
    #[serde(deserialize_with = "key_ring")]
    pub keys: Option<SealingKeys>,
}

/// A key ring that shows nothing of itself.
#[derive(Clone)]
pub struct SealingKeys(pub KeyRing);

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKeys(…)")
    }
}

/// Where requests may go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Networks that may be reached although they are not public.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that may be reached; empty means every port.
    pub ports: Vec<u16>,
}

/// What only `dev` uses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dev {
    /// The nats-server to start; `None` takes the newest of those that are found.
    pub nats_server: Option<PathBuf>,
}

impl Config {
    /// Where deliveries may go, which the dispatcher and the API share.
    pub fn policy(&self) -> EgressPolicy {
        EgressPolicy {
            allow_cidrs: self.egress.allow_cidrs.clone(),
            ports: self.egress.ports.clone(),
            nats_prefix: self.dispatcher.nats_prefix.clone(),
        }
    }

    /// Reads the files that only some roles use, as a process of these roles would: what is wrong with them.
    pub fn check_files(&self, settings: &Settings) -> Result<(), Problems> {
        let mut problems = Vec::new();
        check::files(self, settings, &mut problems);
        Problems::none(problems)
    }

    /// Reads the files that connections of these roles need, or of all when there are none: what is wrong with them.
    pub fn check_connections(&self, settings: &Settings, roles: &[Role]) -> Result<(), Problems> {
        let mut problems = Vec::new();
        check::connections(self, settings, roles, &mut problems);
        Problems::none(problems)
    }

    /// Puts the layers together for a process of these roles, and gives beside it the settings that it is made of.
    pub fn load(sources: &Sources, roles: &[Role]) -> Result<(Self, Settings), Problems> {
        let mut problems = Vec::new();
        let mut settings = Settings::merge(sources, &mut problems);
        let config = settings.parse(&mut problems);
        check::check(&config, &settings, roles, &mut problems);
        if problems.is_empty() {
            Ok((config, settings))
        } else {
            Err(Problems(problems))
        }
    }
}

/// Reads `["<id>:<base64 of 32 bytes>", …]`.
fn key_ring<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SealingKeys>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.is_empty() {
        return Ok(None);
    }
    let pairs: Option<Vec<_>> = texts.iter().map(|text| text.split_once(':')).collect();
    let pairs =
        pairs.ok_or_else(|| de::Error::custom("every key must have the form <id>:<base64 of 32 bytes>"))?;
    KeyRing::parse(&pairs)
        .map(|ring| Some(SealingKeys(ring)))
        .map_err(de::Error::custom)
}

/// Reads `["<name>=<value>", …]`.
fn otlp_headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OtlpHeaders, D::Error> {
    let header = |text: &String| {
        let (name, value) = text.split_once('=')?;
        let name = AsciiMetadataKey::from_bytes(name.trim().as_bytes()).ok()?;
        let mut value = AsciiMetadataValue::try_from(value.trim()).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    let texts = Vec::<String>::deserialize(deserializer)?;
    let headers: Option<_> = texts.iter().map(header).collect();
    headers
        .map(OtlpHeaders)
        .ok_or_else(|| de::Error::custom("every header must have the form <name>=<value>"))
}
