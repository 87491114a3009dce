//! Certificates made for a test with OpenSSL.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Without the extensions of the system's configuration.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// An authority in a directory of its own, which goes with it.
#[derive(Debug)]
pub struct Authority(TempDir);

/// A certificate and its key, each in a file.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When `openssl` cannot be run.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        std::fs::write(dir.path().join("openssl.cnf"), CONFIG).expect("write");
        let authority = Self(dir);
        authority.issue("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        authority
    }

    /// Its certificate, PEM.
    pub fn cert(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// A certificate for 127.0.0.1, or for a client there, signed by this authority. The name is its file's.
    pub fn certify(&self, name: &str) -> Certified {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let (ca, key) = (path("ca.pem"), path("ca.key"));
        let arguments = [
            "-CA",
            &ca,
            "-CAkey",
            &key,
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ];
        self.issue(
            name,
            &[&arguments[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat(),
        )
    }

    fn issue(&self, name: &str, arguments: &[&str]) -> Certified {
        let path = |name: &str| -> PathBuf { Path::new(self.0.path()).join(name) };
        let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
            ])
            .args([
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-config",
            ])
            .arg(path("openssl.cnf"))
            .args(arguments)
            .args([Path::new("-out"), &cert, Path::new("-keyout"), &key])
            .output()
            .expect("run openssl");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Certified { cert, key }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
