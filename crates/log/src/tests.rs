//! The log's behaviour on a real nats-server.

mod append;
mod connect;
mod fixtures;
mod idempotency;
mod read;
mod timer;
mod topology;
mod work;
