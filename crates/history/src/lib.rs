//! The delivery-history store of Cuitty Webhooks, on SQLite and PostgreSQL: log -> projector -> **history** -> read API.
//!
//! The rows are a projection of the log and hold nothing that cannot be folded from it again. [`Store::apply`] writes
//! a batch of log events and the sequence that they reach in one transaction; everything else reads. All SQL of the
//! project is in this crate.
//!
//! Start at [`Store`].

mod apply;
mod backlog;
mod config;
mod copy;
mod cursor;
mod database;
mod detail;
mod error;
mod failures;
mod filter;
mod fold;
mod migrate;
mod postgres;
mod replay;
mod rows;
mod snapshot;
mod sqlite;
mod store;
mod upkeep;

pub use apply::{AppliedStats, Batch};
pub use backlog::{Backlog, COUNTED, Pool};
pub use config::StoreConfig;
pub use cursor::{Cursor, InvalidCursor};
pub use error::HistoryError;
pub use failures::EndpointFailures;
pub use filter::{DeliveryFilter, Page};
pub use replay::UnmatchedRef;
pub use rows::{AttemptRow, DeliveryDetail, UnmatchedMessage};
pub use snapshot::Snapshot;
pub use store::Store;
pub use upkeep::Waiting;
