use cuitty_webhooks_history::HistoryError;
use cuitty_webhooks_log::LogError;

/// Why a rebuild or verification could not be finished. The running [`Projector`](crate::Projector) has no errors: it
/// retries for ever.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The history cannot be read or written.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The log no longer starts at its first event, so a rebuild would lose the rows of the events that are gone.
    #[error(
        "the log starts at sequence {first}: events before it are past their retention, and the history's rows of \
         them would be lost; pass --force to rebuild without them"
    )]
    LogTrimmed {
        /// First sequence that the log still holds.
        first: u64,
    },
    /// Another process wrote to the history in the meantime.
    #[error(
        "another process wrote to the history: expected checkpoint {expected}, found {actual}; run it again"
    )]
    Interrupted {
        /// Where this process had left the checkpoint.
        expected: u64,
        /// Where it was found.
        actual: u64,
    },
    /// No place for the shadow history of a verification.
    #[error("cannot make a temporary directory: {0}")]
    Scratch(#[from] std::io::Error),
    /// Somebody asked to stop.
    #[error("stopped before the end")]
    Stopped,
}
