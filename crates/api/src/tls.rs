//! TLS of the listener: a certificate and its key, and if wanted the authorities that callers' certificates must be from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuitty_webhooks_log::pem;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The files of the listener's TLS; without a certificate there is none. They are read when the process starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM: the certificate, then those between it and its authority.
    pub cert_file: Option<PathBuf>,
    /// PEM: the certificate's private key.
    pub key_file: Option<PathBuf>,
    /// PEM: authorities, one of which must have signed the certificate of every client. Not set: clients need none.
    pub client_ca_file: Option<PathBuf>,
}

/// A file of the TLS settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("api.tls.{setting}: {message}")]
pub struct TlsProblem {
    /// The setting's name, without `api.tls.`.
    pub setting: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl TlsConfig {
    /// Everything that is wrong with the settings; the files are read only if `with_files`.
    pub fn problems(&self, with_files: bool) -> Vec<TlsProblem> {
        let mut problems = Vec::new();
        let mut missing = |setting, message: &str| problems.push(TlsProblem::new(setting, message));
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => missing("key_file", "must be set with cert_file"),
            (None, Some(_)) => missing("cert_file", "must be set with key_file"),
            (None, None) if self.client_ca_file.is_some() => {
                missing("cert_file", "must be set with client_ca_file");
            }
            _ => {}
        }
        if with_files {
            let certificates = self.cert_file.as_deref().map(certificates);
            let key = self.key_file.as_deref().map(private_key);
            let authorities = self.client_ca_file.as_deref().map(authorities);
            problems.extend(certificates.and_then(Result::err));
            problems.extend(key.and_then(Result::err));
            problems.extend(authorities.and_then(Result::err));
            if problems.is_empty() {
                problems.extend(self.acceptor().err());
            }
        }
        problems
    }

    /// What makes TLS connections of plain ones; `None` without a certificate.
    pub(crate) fn acceptor(&self) -> Result<Option<TlsAcceptor>, TlsProblem> {
        let (Some(cert_file), Some(key_file)) = (&self.cert_file, &self.key_file) else {
            return match self.problems(false).into_iter().next() {
                Some(problem) => Err(problem),
                None => Ok(None),
            };
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => builder.with_client_cert_verifier(client_verifier(path, provider)?),
        };
        let certificates = certificates(cert_file)?;
        let mut config = builder
            .with_single_cert(certificates, private_key(key_file)?)
            .map_err(|error| TlsProblem::new("key_file", pem::unusable(key_file, &error)))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}

impl TlsProblem {
    fn new(setting: &'static str, message: impl Into<String>) -> Self {
        Self {
            setting,
            message: message.into(),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    pem::certificates(path).map_err(|message| TlsProblem::new("cert_file", message))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    pem::private_key(path).map_err(|message| TlsProblem::new("key_file", message))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    pem::add_authorities(&mut roots, path).map_err(|message| TlsProblem::new("client_ca_file", message))?;
    Ok(roots)
}

fn client_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn tokio_rustls::rustls::server::danger::ClientCertVerifier>, TlsProblem> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider)
        .build()
        .map_err(|error| TlsProblem::new("client_ca_file", pem::unusable(path, &error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../dispatcher/testdata")
            .join(name)
    }

    fn config(cert: Option<&str>, key: Option<&str>, ca: Option<&str>) -> TlsConfig {
        TlsConfig {
            cert_file: cert.map(testdata),
            key_file: key.map(testdata),
            client_ca_file: ca.map(testdata),
        }
    }

    #[test]
    fn every_file_that_cannot_be_used_is_named() {
        let (cert, key, ca) = (Some("server.pem"), Some("server.key"), Some("ca.pem"));
        for (config, expected) in [
            (config(None, None, None), &[][..]),
            (config(cert, key, None), &[]),
            (config(cert, key, ca), &[]),
            (config(cert, None, None), &["key_file"]),
            (config(None, key, None), &["cert_file"]),
            (config(None, None, ca), &["cert_file"]),
            (
                config(key, cert, key),
                &["cert_file", "key_file", "client_ca_file"],
            ),
            (
                config(Some("missing"), key, Some("missing")),
                &["cert_file", "client_ca_file"],
            ),
            // Each can be read, but they do not belong together.
            (config(ca, key, None), &["key_file"]),
        ] {
            let problems = config.problems(true);
            let settings: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
            assert_eq!(settings, expected, "{config:?}: {problems:?}");
        }
    }

    #[test]
    fn files_are_not_read_unless_that_is_asked_for() {
        assert_eq!(config(Some("missing"), Some("missing"), None).problems(false), []);
        assert!(config(None, None, None).acceptor().unwrap().is_none());
    }
}
