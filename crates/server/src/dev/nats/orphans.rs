//! What a `dev` that was killed left running.

use std::fs;

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::files::Files;
use super::process::{POLL_INTERVAL, STOP_TIMEOUT};

/// Ends every nats-server that runs on these files.
pub(super) async fn end(files: &Files) -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let orphans = find(files);
        if orphans.is_empty() {
            return Ok(());
        }
        warn!(?orphans, %signal, "ending the nats-server that an earlier dev left behind");
        for pid in orphans {
            // It may be gone already.
            let _ = kill(pid, signal);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !find(files).is_empty() && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
    }
    match &find(files)[..] {
        [] => Ok(()),
        left => bail!("the nats-server of an earlier dev does not end; end it by hand: {left:?}"),
    }
}

/// Asks the kernel: a file with a process id may not be written yet when `dev` is killed, and ids are used again.
fn find(files: &Files) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| runs_on(*pid, files))
        .map(Pid::from_raw)
        .collect()
}

/// Whether this process has `--config <the configuration in this very directory>` on its command line.
fn runs_on(pid: i32, files: &Files) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<_> = command_line.split(|byte| *byte == 0).collect();
    let config = files.config();
    let expected = [b"--config", config.as_os_str().as_encoded_bytes()];
    arguments.windows(expected.len()).any(|pair| pair == expected)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::process::{Child, Command};

    use super::*;

    /// A shell that waits, with these arguments.
    fn shell(arguments: &[&str], config: &Path) -> Child {
        Command::new("sh")
            .args(["-c", "read line", "sh"])
            .args(arguments)
            .arg(config)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn only_what_runs_on_this_directory_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        let elsewhere = Files::new(directory.path().join("other"));
        let mut orphan = shell(&["--config"], &files.config());
        let mut reader = shell(&[], &files.config());
        let mut other = shell(&["--config"], &elsewhere.config());
        let expected = vec![Pid::from_raw(orphan.id().unwrap() as i32)];
        let deadline = Instant::now() + Duration::from_secs(10);
        // A process that was just started may not show its arguments yet.
        while (find(&files) != expected || find(&elsewhere).is_empty()) && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
        assert_eq!(find(&files), expected);

        let reaped = tokio::spawn(async move { orphan.wait().await });
        end(&files).await.unwrap();

        assert!(!reaped.await.unwrap().unwrap().success());
        assert_eq!(find(&files), []);
        assert!(reader.try_wait().unwrap().is_none() && other.try_wait().unwrap().is_none());
    }
}
