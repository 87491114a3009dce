//! The log's behaviour on a real nats-server.

mod api_keys;
mod append;
mod backlog;
mod backup;
mod budget;
mod cancellations;
mod connect;
mod durable;
mod fixtures;
mod idempotency;
mod lag;
mod lanes;
mod notify;
mod outcomes;
mod progress;
mod read;
mod timer;
mod topology;
mod work;
