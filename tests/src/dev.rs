//! `cuitty-webhooks dev` and `demo` as a user starts them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::eventually::eventually;
use crate::ports::free_address;
use crate::process::Process;
use crate::roles::binary;

/// A running `dev` or `demo`. On drop it is killed, and so is everything that it has started on its data directory.
#[derive(Debug)]
pub struct Dev {
    process: Process,
    data_dir: PathBuf,
}

impl Dev {
    /// Starts `dev` on `data_dir` and free ports; it will tell when it is [`Self::ready`].
    pub fn spawn(data_dir: &Path) -> Self {
        let mut command = Self::command("dev", data_dir);
        command.arg("--ready-json");
        Self::run(command, data_dir)
    }

    /// `dev` or `demo` on `data_dir` and free ports, for further arguments and environment.
    pub fn command(subcommand: &str, data_dir: &Path) -> Command {
        let mut command = Command::new(binary());
        command
            .args([subcommand, "--listen", &free_address().to_string()])
            .args(["--admin-listen", &free_address().to_string(), "--data-dir"])
            .arg(data_dir)
            .env("CUITTY_WEBHOOKS__DEV__NATS_SERVER", crate::nats::binary())
            .current_dir(data_dir.parent().expect("a directory"));
        command
    }

    /// Starts a [`Self::command`]. Its output goes to `<data_dir>.log`.
    pub fn run(command: Command, data_dir: &Path) -> Self {
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

    /// SIGKILL to it alone: what it has started is left behind.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Sends a signal to it alone.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not end within `patience`.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        self.process.wait(patience).await
    }

    /// Processes other than itself that name its data directory on their command line.
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
