//! The behaviour of the service through its public doors, one module per behaviour: a real nats-server, a real history, real
//! receivers.

#![cfg(test)]

mod accept;
mod access;
mod api_keys;
mod auth;
mod auto_disable;
mod backup;
mod bad_input;
mod cancel;
mod cli;
mod client;
mod deliver;
mod demo;
mod destinations;
mod dev;
mod doors;
mod edges;
mod egress;
mod endpoints;
mod event_types;
mod failures;
mod health;
mod history;
mod ingest;
mod keys;
mod lanes;
mod listen;
mod mcp;
mod outage;
mod permissions;
mod projection;
mod replay;
mod rest;
mod retry;
mod revoke;
mod secrets;
mod secured;
mod setup;
mod stream;
mod sweep;
mod test_event;
mod tls;
mod tracing;
mod watch;
