//! TLS towards nats-server: which files are needed, whether they can be used, and what a failed handshake says.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_nats::ConnectOptions;
use async_nats::rustls::crypto::aws_lc_rs;
use async_nats::rustls::{AlertDescription, ClientConfig, Error as TlsError, RootCertStore};

use crate::config::LogConfig;
use crate::error::LogError;
use crate::pem;

/// A setting of the log's connection cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, such as `log.key_file`.
    pub setting: &'static str,
    /// What is wrong with it: the end of a sentence.
    pub message: String,
}

impl Problem {
    fn new(setting: &'static str, message: impl Into<String>) -> Self {
        Self {
            setting,
            message: message.into(),
        }
    }
}

impl LogConfig {
    /// Everything that is wrong with the credentials and the TLS settings; the files are read only if `with_files`.
    pub fn problems(&self, with_files: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => problems.push(Problem::new("log.key_file", "must be set with log.cert_file")),
            (None, Some(_)) => problems.push(Problem::new("log.cert_file", "must be set with log.key_file")),
            _ => {}
        }
        if with_files {
            let credentials = self.credentials_file.as_deref().map(readable);
            problems.extend(credentials.and_then(Result::err));
            let authorities = self.ca_file.as_deref().map(authorities);
            problems.extend(authorities.and_then(Result::err));
            if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
                problems.extend(certified(cert, key));
            }
        }
        problems
    }

    /// Whether a connection is encrypted, whatever nats-server offers.
    pub fn is_encrypted(&self) -> bool {
        self.tls_required || self.ca_file.is_some() || self.cert_file.is_some()
    }
}

/// Adds what the configuration says of TLS. With a `ca_file` the authorities of the system are not asked.
pub(crate) fn with_tls(mut options: ConnectOptions, config: &LogConfig) -> Result<ConnectOptions, LogError> {
    if let Some(Problem { setting, message }) = config.problems(true).into_iter().next() {
        return Err(LogError::Config { setting, message });
    }
    if config.is_encrypted() {
        options = options.require_tls(true);
    }
    if let Some(path) = &config.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(options)
}

/// What of the configuration a handshake failed for; `None` when it may be nothing of it.
pub(crate) fn refused(error: &(dyn Error + 'static)) -> Option<LogError> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = error
            .downcast_ref::<TlsError>()
            .or_else(|| inner?.downcast_ref::<TlsError>());
        match tls {
            Some(TlsError::InvalidCertificate(why)) => {
                return Some(LogError::Config {
                    setting: "log.ca_file",
                    message: format!("does not make nats-server's certificate a trusted one: {why}"),
                });
            }
            Some(TlsError::AlertReceived(alert)) if is_about_us(*alert) => {
                return Some(LogError::Config {
                    setting: "log.cert_file",
                    message: format!("is not what nats-server asks of its clients: it answered {alert:?}"),
                });
            }
            _ => {}
        }
        next = error.source();
    }
    None
}

/// Whether the server says by it that it does not take our certificate, or that we showed none.
fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn readable(path: &Path) -> Result<(), Problem> {
    std::fs::read(path)
        .map(drop)
        .map_err(|error| Problem::new("log.credentials_file", pem::unusable(path, &error)))
}

fn authorities(path: &Path) -> Result<(), Problem> {
    pem::add_authorities(&mut RootCertStore::empty(), path)
        .map_err(|message| Problem::new("log.ca_file", message))
}

/// What is wrong with a certificate and its key, each by itself and together.
fn certified(cert: &Path, key: &Path) -> Vec<Problem> {
    let certificates = pem::certificates(cert).map_err(|message| Problem::new("log.cert_file", message));
    let private = pem::private_key(key).map_err(|message| Problem::new("log.key_file", message));
    let (certificates, private) = match (certificates, private) {
        (Ok(certificates), Ok(private)) => (certificates, private),
        (certificates, private) => {
            return [certificates.err(), private.err()]
                .into_iter()
                .flatten()
                .collect();
        }
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(RootCertStore::empty()));
    let matched = builder.and_then(|builder| builder.with_client_auth_cert(certificates, private));
    matched
        .err()
        .map(|error| Problem::new("log.key_file", pem::unusable(key, &error)))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../dispatcher/testdata")
            .join(name)
    }

    fn config(ca: Option<&str>, cert: Option<&str>, key: Option<&str>) -> LogConfig {
        LogConfig {
            ca_file: ca.map(testdata),
            cert_file: cert.map(testdata),
            key_file: key.map(testdata),
            ..LogConfig::default()
        }
    }

    #[test]
    fn every_file_that_cannot_be_used_is_named() {
        let (ca, cert, key) = (Some("ca.pem"), Some("server.pem"), Some("server.key"));
        for (config, expected) in [
            (config(None, None, None), &[][..]),
            (config(ca, None, None), &[]),
            (config(ca, cert, key), &[]),
            (config(None, cert, None), &["log.key_file"]),
            (config(None, None, key), &["log.cert_file"]),
            (
                config(key, key, cert),
                &["log.ca_file", "log.cert_file", "log.key_file"],
            ),
            (config(Some("missing"), None, None), &["log.ca_file"]),
            // Each can be read, but they do not belong together.
            (config(None, ca, key), &["log.key_file"]),
        ] {
            let problems = config.problems(true);
            let settings: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
            assert_eq!(settings, expected, "{problems:?}");
        }
        let missing = LogConfig {
            credentials_file: Some(testdata("missing")),
            ..LogConfig::default()
        };
        assert_eq!(missing.problems(true)[0].setting, "log.credentials_file");
        assert_eq!(missing.problems(false), []);
    }
}
