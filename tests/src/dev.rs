//! `cuitty-webhooks dev` as a user starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::eventually::eventually;
use crate::ports::free_address;
use crate::process::Process;
use crate::roles::binary;

/// A running `dev`. On drop it is killed, and so is everything that it has started on its data directory.
#[derive(Debug)]
pub struct Dev {
    process: Process,
    data_dir: PathBuf,
}

impl Dev {
    /// Starts `dev` on `data_dir` and free ports. Its output goes to `<data_dir>.log`.
    pub fn spawn(data_dir: &Path) -> Self {
        let mut command = Command::new(binary());
        command
            .args([
                "dev",
                "--ready-json",
                "--listen",
                &free_address().to_string(),
                "--data-dir",
            ])
            .arg(data_dir)
            .env("CUITTY_WEBHOOKS__LISTEN__ADMIN", free_address().to_string())
            .env("CUITTY_WEBHOOKS__DEV__NATS_SERVER", crate::nats::binary())
            .current_dir(data_dir.parent().expect("a directory"));
        let log = data_dir.with_extension("log");
        // Only what this start prints is of interest.
        let _ = std::fs::remove_file(&log);
        Self {
            process: Process::spawn("dev", command, &log),
            data_dir: data_dir.to_owned(),
        }
    }

    /// The JSON line that it prints when it is ready.
    ///
    /// # Panics
    /// When it does not print one in time.
    pub async fn ready(&self) -> Value {
        eventually("dev is ready", || async {
            let output = self.process.output();
            let line = output
                .lines()
                .filter(|line| line.contains(r#""nats_url""#))
                .find_map(|line| {
                    serde_json::from_str::<Value>(line)
                        .ok()
                        .filter(|value| value.get("api_key").is_some())
                });
            line.ok_or("no such line yet")
        })
        .await
    }

    /// What it has printed since it was started.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// SIGKILL to `dev` alone: what it has started is left behind.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Processes other than `dev` that name its data directory on their command line.
    pub fn children(&self) -> Vec<u32> {
        let needle = self.data_dir.as_os_str().as_encoded_bytes();
        let names_it = |pid: &u32| {
            let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != self.process.pid() && command_line.windows(needle.len()).any(|window| window == needle)
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(names_it)
            .collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process.kill9();
        for pid in self.children() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}
