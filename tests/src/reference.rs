//! Other implementations of what is signed here, to verify it: the published Standard Webhooks library for Python (`v1`) and
//! OpenSSL (`v1a`).

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::receiver::Captured;

/// What stands before the 32 bytes of an ed25519 public key in its DER form (RFC 8410).
const ED25519_DER: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Whether each request is accepted by the Python library, within five minutes of being sent, by a receiver that knows these
/// secrets. Blocks.
///
/// # Panics
/// When the library is not installed; `make setup` does that.
pub fn accepted_by_python<'a>(requests: impl IntoIterator<Item = (&'a Captured, &'a [String])>) -> Vec<bool> {
    let mut input = Vec::new();
    for (request, secrets) in requests {
        let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers = headers.map(|name| (name, request.header(name)));
        let line = json!({
            "secrets": secrets,
            "headers": std::collections::BTreeMap::from(headers),
            "body": std::str::from_utf8(&request.body).expect("the body is text"),
        });
        writeln!(input, "{line}").expect("memory");
    }
    let mut python = Command::new("python3")
        .arg(crate::workspace().join("tests/src/verify_symmetric.py"))
        .env("PYTHONPATH", crate::workspace().join(".tools/python"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run python3");
    let mut stdin = python.stdin.take().expect("is piped");
    // Beside the reading of its output, so that neither pipe fills up.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = python.wait_with_output().expect("python3 ends");
    assert!(
        output.status.success(),
        "python3 failed; `make setup` installs what it needs"
    );
    writer
        .join()
        .expect("a thread")
        .expect("python3 reads everything");
    serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("a line for each request")
}

/// Whether OpenSSL accepts one of the request's `v1a` signatures under a public key, `whpk_` and base64. Blocks.
///
/// # Panics
/// When `openssl` cannot be run, or does not say either.
pub fn accepted_by_openssl(request: &Captured, public_key: &str) -> bool {
    let dir = tempfile::tempdir().expect("make a directory");
    let path = |name: &str| dir.path().join(name);
    let key = STANDARD.decode(public_key.strip_prefix("whpk_").expect("whpk_"));
    let der = [&ED25519_DER[..], &key.expect("base64")].concat();
    std::fs::write(path("key"), der).expect("write");
    let [id, timestamp] = ["webhook-id", "webhook-timestamp"].map(|name| request.header(name));
    let content = [format!("{id}.{timestamp}.").as_bytes(), &request.body].concat();
    std::fs::write(path("content"), content).expect("write");
    let signatures = request.header("webhook-signature").split(' ');
    let mut signatures = signatures.filter_map(|entry| entry.strip_prefix("v1a,"));
    signatures.any(|signature| {
        std::fs::write(path("signature"), STANDARD.decode(signature).expect("base64")).expect("write");
        let output = Command::new("openssl")
            .args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin"])
            .args(["-inkey".into(), path("key")])
            .args(["-in".into(), path("content")])
            .args(["-sigfile".into(), path("signature")])
            .output()
            .expect("run openssl");
        let said = String::from_utf8_lossy(&output.stdout);
        match (output.status.success(), said.trim()) {
            (true, "Signature Verified Successfully") => true,
            (false, "Signature Verification Failure") => false,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    })
}
