//! Leaving: a process that is asked to end says so before it refuses anything; and what asks it, `healthcheck`.

use std::net::SocketAddr;
use std::time::Duration;

use harness::eventually::{eventually, is};
use harness::nats::NatsServer;
use harness::rest::RestClient;
use harness::roles::{RoleProcess, Settings, command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::Instant;

const DELAY: Duration = Duration::from_secs(2);

/// Of an installation whose history nobody has made: an API is ready without it.
fn settings(nats: &NatsServer, dir: &TempDir) -> Settings {
    let history = format!("sqlite:{}", dir.path().join("history.db").display());
    Settings::new(&nats.url(), &history).set("shutdown.delay", "2s")
}

/// The exit code of `healthcheck` with these arguments, and what it said.
fn healthcheck(process: &RoleProcess, settings: &Settings, arguments: &[&str]) -> (Option<i32>, String) {
    let admin: SocketAddr = process.admin_url()["http://".len()..].parse().unwrap();
    let asked = settings.clone().set("listen.admin", admin);
    let ran = command(&[&["healthcheck"], arguments].concat(), &asked);
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.code(), String::from_utf8(said).unwrap())
}

fn terminate(process: &RoleProcess) {
    kill(Pid::from_raw(process.pid() as i32), Signal::SIGTERM).unwrap();
}

#[tokio::test]
async fn an_api_that_leaves_is_not_ready_and_serves_until_its_delay_has_passed() {
    let (nats, dir) = (NatsServer::start().await, TempDir::new().unwrap());
    let settings = settings(&nats, &dir);
    let mut api = RoleProcess::spawn("api", &settings);
    api.ready_without_history().await;
    let (code, said) = healthcheck(&api, &settings, &[]);
    assert!(code == Some(0) && said.contains("\"ready\":true"), "{said}");
    assert_eq!(said.lines().count(), 1);

    let asked = Instant::now();
    terminate(&api);
    eventually("it is not ready", || async { is(api.readiness().await.0, 503) }).await;
    let (_, readiness) = api.readiness().await;
    assert_eq!(readiness["draining"], true);
    let (code, said) = healthcheck(&api, &settings, &[]);
    assert!(code == Some(1) && said.contains("503"), "{said}");
    assert_eq!(healthcheck(&api, &settings, &["--live"]).0, Some(0));
    // A new connection: there is one for each request.
    let status = RestClient::new(api.url(), None).get("/api/webhooks/status").await;
    assert!(asked.elapsed() < DELAY, "too slow to tell");
    assert_eq!(status.status, 200);

    let ended = api.stop().await;
    assert_eq!(ended.code(), Some(0));
    let (code, said) = healthcheck(&api, &settings, &["--live"]);
    assert!(code == Some(1) && said.starts_with("error: no answer"), "{said}");
}

#[tokio::test]
async fn only_an_api_waits_before_it_drains() {
    let (nats, dir) = (NatsServer::start().await, TempDir::new().unwrap());
    let mut dispatcher =
        RoleProcess::start("dispatcher", &settings(&nats, &dir).set("shutdown.delay", "5m")).await;
    let asked = Instant::now();
    assert_eq!(dispatcher.stop().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_second_signal_ends_the_delay() {
    let (nats, dir) = (NatsServer::start().await, TempDir::new().unwrap());
    let mut api = RoleProcess::spawn("api", &settings(&nats, &dir).set("shutdown.delay", "5m"));
    api.ready_without_history().await;
    terminate(&api);
    eventually("it is not ready", || async { is(api.readiness().await.0, 503) }).await;
    let asked = Instant::now();
    assert_eq!(api.stop().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(20));
}
