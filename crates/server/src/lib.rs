//! The `cuitty-webhooks` binary as a library: configuration, telemetry, roles and their lifecycle, `dev`, commands.
//!
//! Tests start the same parts in-process: [`config::Config::load`], then [`roles::Running::start`]; or [`dev::Dev::start`]
//! for everything with a nats-server of its own.

pub mod admin;
pub mod cmd;
pub mod config;
pub mod dev;
mod gauges;
pub mod roles;
pub mod shutdown;
pub mod telemetry;
