//! Certificates and keys from PEM files, for every connection that needs them. An error says which file cannot be used and why.

use std::fmt::Display;
use std::path::Path;

use async_nats::rustls::RootCertStore;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What is wrong with a file: the end of a sentence.
pub fn unusable(path: &Path, error: &dyn Display) -> String {
    format!("{} cannot be used: {error}", path.display())
}

/// The certificates of a file, one at least.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"it holds no certificate"));
    }
    Ok(certificates)
}

/// The private key of a file.
///
/// # Errors
/// As above.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, &error))
}

/// Adds the certificates of a file to the authorities that are trusted.
///
/// # Errors
/// As above; or when one of them cannot be an authority's.
pub fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(())
}
