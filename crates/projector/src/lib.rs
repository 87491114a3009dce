//! Folds the event log of Cuitty Webhooks into the delivery history.
//!
//! The log is the truth; the history is what can be asked. Between them stands [`Projector`]: it reads the log from the
//! history's checkpoint in batches, and commits each batch's rows together with the new checkpoint. Any number of
//! projectors may run; the one that holds the lease is active, and the checkpoint, which every commit must find where
//! it left it, keeps two from writing over each other even so.
//!
//! The history can be thrown away at any time: [`rebuild()`] folds it again from the log's first event, and [`verify()`]
//! proves that it equals such a fold.
//!
//! The active projector also sees to what only the history shows: retries whose timers are lost, and endpoints that have
//! been failing for too long. And it carries bulk replays out, whose deliveries it reads from the history.

mod backoff;
mod config;
mod disable;
mod error;
mod feed;
mod fold;
mod gone;
mod leadership;
pub mod metrics;
mod projector;
mod rebuild;
mod replay;
mod survey;
mod sweep;
mod upkeep;
mod verify;

pub use config::{ProjectorConfig, ReplayConfig};
pub use error::ProjectorError;
pub use projector::{Projector, ProjectorStatus};
pub use rebuild::{RebuildOptions, RebuildReport, rebuild};
pub use verify::{Difference, DifferenceKind, VerifyReport, verify};

/// How far a [`rebuild()`] or [`verify()`] has come; passed to their callback after every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Log sequence reached, or deliveries compared.
    pub done: u64,
    /// Where it ends; grows when the end moves.
    pub total: u64,
}

/// The parts of a [`rebuild()`] or [`verify()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Folding the log; counted in log sequences.
    Folding,
    /// A live projector folds, this process watches; counted in log sequences.
    Watching,
    /// Comparing rows; counted in deliveries, of a total that is not known beforehand (0).
    Comparing,
}
