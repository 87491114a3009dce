//! Finding a nats-server that will do.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::time::timeout;

const NAME: &str = "nats-server";
/// How long a program may take to tell its version.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The lowest version that will do: earlier ones lose timers when they are killed.
const REQUIRED: Version = Version(2, 14, 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Reads what `nats-server --version` prints: `nats-server: v2.14.6`, pre-release tags ignored.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().rsplit_once('v')?.1.split('.').map(|part| {
            let digits = part
                .find(|c: char| !c.is_ascii_digit())
                .map_or(part, |end| &part[..end]);
            digits.parse::<u32>().ok()
        });
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??))
    }
}

/// The nats-server to start: `configured`, or the newest of those on `path` and in the `.tools/bin` of the working
/// directory and of the build.
pub(super) async fn nats_server(configured: Option<&Path>, path: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    let candidates = match configured {
        Some(path) => vec![path.to_owned()],
        None => candidates(path),
    };
    let mut found = Vec::new();
    for candidate in candidates.into_iter().filter(|candidate| candidate.is_file()) {
        match version(&candidate).await {
            Ok(version) => found.push((version, candidate)),
            Err(error) => {
                tracing::warn!(path = %candidate.display(), "cannot use this nats-server: {error:#}");
            }
        }
    }
    match found.iter().max_by_key(|(version, _)| *version) {
        Some((version, path)) if *version >= REQUIRED => Ok(path.clone()),
        Some((version, path)) => bail!(
            "{} is version {version}, {REQUIRED} or newer is needed: earlier ones lose retry timers when they are \
             killed. Run `make setup`, set dev.nats_server, or pass --nats URL",
            path.display(),
        ),
        None if configured.is_some() => bail!("dev.nats_server: there is no nats-server that can be started"),
        None => bail!(
            "no nats-server found on PATH or in .tools/bin: run `make setup`, set dev.nats_server, or pass --nats URL"
        ),
    }
}

fn candidates(path: Option<&OsStr>) -> Vec<PathBuf> {
    let on_path = path
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join(NAME));
    let here = PathBuf::from(".tools/bin").join(NAME);
    // A build lies in <root>/target/<profile>/.
    let beside = std::env::current_exe().ok();
    let beside = beside
        .as_deref()
        .and_then(|exe| Some(exe.parent()?.parent()?.parent()?.join(".tools/bin").join(NAME)));
    on_path.chain([here]).chain(beside).collect()
}

async fn version(path: &Path) -> anyhow::Result<Version> {
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(ANSWER_TIMEOUT, output)
        .await
        .context("it does not tell its version")??;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text).with_context(|| format!("cannot read its version from {:?}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for (text, expected) in [
            ("nats-server: v2.14.6\n", Some(Version(2, 14, 6))),
            ("nats-server: v2.15.0-RC.1", Some(Version(2, 15, 0))),
            ("nats-server: v2.14", None),
            ("bash: no such thing", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text}");
        }
        assert!(Version(2, 9, 25) < REQUIRED);
        assert!(Version(2, 14, 0) >= REQUIRED);
    }

    #[tokio::test]
    async fn old_and_missing_servers_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let old = directory.path().join(NAME);
        std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.12.8'\n").unwrap();
        std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let refusal = nats_server(Some(&old), None).await.unwrap_err().to_string();
        assert!(
            refusal.contains("is version 2.12.8, 2.14.0 or newer is needed"),
            "{refusal}"
        );
        let missing = directory.path().join("missing");
        let refusal = nats_server(Some(&missing), None).await.unwrap_err().to_string();
        assert!(refusal.starts_with("dev.nats_server:"), "{refusal}");
    }
}
