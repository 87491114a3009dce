//! Backing up and restoring: what comes back is what was there, or the reason why nothing is restored.

mod damage;
mod load;
mod mismatch;

use std::path::Path;
use std::process::Output;

use harness::nats::NatsServer;
use harness::roles::{Settings, command};

/// Runs the command line with `directory` behind `subcommand`.
async fn run(subcommand: &'static str, directory: &Path, settings: &Settings) -> Output {
    let (directory, settings) = (directory.to_owned(), settings.clone());
    let running = tokio::task::spawn_blocking(move || {
        command(&[subcommand, directory.to_str().expect("UTF-8")], &settings)
    });
    running.await.expect("the command runs")
}

/// [`run`], which must succeed: what it printed.
async fn succeeds(subcommand: &'static str, directory: &Path, settings: &Settings) -> String {
    let output = run(subcommand, directory, settings).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// [`run`], which must fail at run time: what it said.
async fn fails(subcommand: &'static str, directory: &Path, settings: &Settings) -> String {
    let output = run(subcommand, directory, settings).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// A new nats-server, and an installation on it whose history is a file of `dir` that does not exist yet.
async fn empty_place(dir: &Path) -> (NatsServer, Settings, String) {
    let nats = NatsServer::start().await;
    let history_url = format!("sqlite:{}", dir.join("restored.db").display());
    let settings = Settings::new(&nats.url(), &history_url);
    (nats, settings, history_url)
}
