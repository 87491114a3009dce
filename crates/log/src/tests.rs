//! The log's behaviour on a real nats-server.

mod append;
mod budget;
mod connect;
mod durable;
mod fixtures;
mod idempotency;
mod read;
mod timer;
mod topology;
mod work;
