//! Programs in Python, with the packages that `make setup` installs.

use std::process::Command;

use serde_json::Value;

/// Runs a script of `tests/` with these arguments: what it prints, which is JSON.
///
/// # Panics
/// When it fails.
pub async fn run(script: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new("python3");
    command
        .arg(crate::workspace().join("tests").join(script))
        .args(arguments)
        .env("PYTHONPATH", crate::workspace().join(".tools/python"));
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran.await.expect("a thread").expect("run python3");
    assert!(
        ran.status.success(),
        "{script} failed:\n{}\n`make setup` installs what is needed",
        String::from_utf8_lossy(&ran.stderr)
    );
    serde_json::from_slice(&ran.stdout).expect("it prints JSON")
}
