//! The harness of the tests: starts the real things and takes them down again.
//!
//! | module | gives |
//! |---|---|
//! | [`app`] | a whole installation for one test, and the calls that most tests make |
//! | [`roles`] | the service's roles as real processes: start, SIGKILL, SIGTERM, start again |
//! | [`local`] | the roles inside the test's own process |
//! | [`cli`] | the command line over the API |
//! | [`dev`] | `cuitty-webhooks dev` as a user starts it |
//! | [`traffic`] | many events at once, and how they fared |
//! | [`log`] | everything that the log holds |
//! | [`books`] | what became of every delivery, by the log and by the receiver |
//! | [`nats`] | a real nats-server that can be killed and restarted on its port and store |
//! | [`postgres`] | a real PostgreSQL cluster per test process, a database per test |
//! | [`receiver`] | a webhook receiver that follows a script and captures what arrives |
//! | [`slack`] | what Slack takes |
//! | [`collector`] | an OpenTelemetry collector that keeps what it is sent |
//! | [`python`] | programs in Python, with pinned packages |
//! | [`certificates`] | authorities and what they sign |
//! | [`reference`] | other implementations of what is signed here, to verify it |
//! | [`dns`] | a DNS server that follows a script |
//! | [`mcp`] | the official MCP client |
//! | [`grpc`], [`rest`] | plain clients, and what a program can tell of a refusal |
//! | [`process`] | child processes that never outlive the run |
//! | [`procfs`] | what a process has used |
//! | [`mod@eventually`] | waiting with a deadline |
//! | [`ports`] | ports that stay free while their server is down |
//!
//! Start at [`app::TestApp`].

pub mod app;
mod background;
pub mod books;
pub mod certificates;
pub mod cli;
pub mod collector;
pub mod dev;
pub mod dns;
pub mod eventually;
pub mod grpc;
pub mod local;
pub mod log;
pub mod mcp;
pub mod nats;
pub mod nats_cluster;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod procfs;
pub mod python;
pub mod receiver;
pub mod reference;
pub mod rest;
pub mod roles;
pub mod slack;
pub mod traffic;

/// The root of the workspace.
pub fn workspace() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
}
