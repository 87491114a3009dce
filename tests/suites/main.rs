//! The behaviour of the service through its public doors, one module per behaviour: a real nats-server, a real history, real
//! receivers.

#![cfg(test)]

mod accept;
mod bad_input;
mod chaos;
mod deliver;
mod dev;
mod doors;
mod edges;
mod endpoints;
mod failures;
mod history;
mod projection;
mod rest;
mod setup;
mod watch;
