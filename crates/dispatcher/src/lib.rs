//! The delivery engine of Cuitty Webhooks: log → attempt → log.
//!
//! Its place in the flow: it pulls the work of the partitions that it holds the lease of, gives each item to the
//! scheduler, which decides what starts when, makes the attempt, appends its outcome to the log and only
//! then acknowledges the item. Killed anywhere in between, the item comes back.
//!
//! The scheduler does no IO and reads no clock; the service is the one loop that carries its commands out, with
//! one task per attempt. Start at [`Dispatcher`].

mod attempt;
mod config;
mod destination;
mod dispatcher;
mod engine;
mod error;
mod http;
pub mod metrics;
mod scheduler;
mod service;
mod target;

pub use crate::config::{BreakerConfig, DispatcherConfig, HttpConfig, LaneConfig, Problem};
pub use crate::dispatcher::Dispatcher;
pub use crate::error::DispatcherError;
