//! What is allowed and rarely meant.

use std::net::IpAddr;

use super::Config;
use crate::roles::Role;

/// Connections to the history that a projector uses at the same time: it writes, looks for what is overdue, and reads for
/// replays.
const PROJECTOR_CONNECTIONS: u32 = 3;

impl Config {
    /// What a process of these roles, or of all when there are none, may do although it is seldom wanted: a sentence each.
    pub fn warnings(&self, roles: &[Role]) -> Vec<String> {
        let has = |role| roles.is_empty() || roles.contains(&role);
        let mut warnings = Vec::new();
        let mut warn = |applies: bool, text: &str| {
            if applies {
                warnings.push(text.to_owned());
            }
        };
        warn(
            has(Role::Api) && !self.listen.api.ip().is_loopback() && self.api.tls.cert_file.is_none(),
            "listen.api is reachable from other machines without TLS: API keys and payloads travel in the clear \
             (api.tls.cert_file), unless something in front of it ends TLS",
        );
        let is_far = self.log.url.split(',').any(|url| !is_local(url));
        let is_plain =
            !self.log.is_encrypted() && self.log.url.split(',').any(|url| !url.trim().starts_with("tls:"));
        warn(
            is_far && is_plain,
            "log.url leads to another machine without TLS: passwords and payloads travel in the clear (log.ca_file, \
             log.tls_required)",
        );
        warn(
            is_far && self.log.replicas == 1,
            "log.replicas is 1: what a nats-server that loses its disk had stored is lost",
        );
        let stores = has(Role::Api) || has(Role::Projector);
        warn(
            stores && !self.history.is_verified() && !is_local(&self.history.url),
            "history.url leads to another machine without sslmode=verify-full: whoever is in between can read along",
        );
        let is_file = self.history.url.starts_with("sqlite:");
        warn(
            stores && is_file && self.log.replicas > 1,
            "history.url is a SQLite file while log.replicas is above 1: processes on several machines cannot share it",
        );
        warn(
            has(Role::Projector) && !is_file && self.history.max_connections < PROJECTOR_CONNECTIONS,
            "history.max_connections is below 3: replays and the search for what is overdue hold up the projection",
        );
        warnings
    }
}

/// Whether a URL leads to this machine.
fn is_local(url: &str) -> bool {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = address.split(['/', '?']).next().unwrap_or_default();
    let host = address.rsplit_once('@').map_or(address, |(_, host)| host).trim();
    let host = match host.strip_prefix('[') {
        Some(host) => host.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    url.starts_with("sqlite:")
        || host.is_empty()
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn what_leads_to_this_machine_is_told() {
        for url in [
            "nats://127.0.0.1:4222",
            "tls://u:p@localhost",
            "postgres://u:p@[::1]:5432/db",
            "sqlite:history.db",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "nats://nats:4222",
            "postgres://u:p@db.example.com/x?host=localhost",
            "nats://10.0.0.1",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }

    #[test]
    fn defaults_warn_of_nothing_and_plain_connections_do() {
        let (mut config, _) = Config::load(&Sources::default(), &[]).unwrap();
        assert_eq!(config.warnings(&[]), [""; 0]);
        config.listen.api = "0.0.0.0:7710".parse().unwrap();
        config.log.url = "nats://nats-0:4222,nats://nats-1:4222".into();
        config.history.url = "postgres://u:p@db/history?sslmode=require".into();
        config.history.max_connections = 2;
        let settings = |roles: &[Role]| -> Vec<String> {
            let first = |warning: &String| warning.split(' ').next().unwrap().to_owned();
            config.warnings(roles).iter().map(first).collect()
        };
        assert_eq!(
            settings(&[]),
            [
                "listen.api",
                "log.url",
                "log.replicas",
                "history.url",
                "history.max_connections"
            ]
        );
        assert_eq!(settings(&[Role::Dispatcher]), ["log.url", "log.replicas"]);
        config.log.ca_file = Some("ca.pem".into());
        config.log.replicas = 3;
        assert_eq!(config.warnings(&[Role::Ingest]), [""; 0]);
    }
}
