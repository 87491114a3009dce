//! What stops a dispatcher. A delivery that fails is not an error: it is an outcome that becomes an event.

use cuitty_webhooks_log::LogError;

/// A dispatcher cannot be built or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DispatcherError {
    /// A setting cannot be used.
    #[error("dispatcher.{setting} {message}")]
    Config {
        /// Its name below `dispatcher`.
        setting: &'static str,
        /// What it must be.
        message: String,
    },
    /// The log refuses what nothing but a person can change. An outage is waited out instead.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl DispatcherError {
    pub(crate) fn config(setting: &'static str, message: impl Into<String>) -> Self {
        Self::Config {
            setting,
            message: message.into(),
        }
    }
}
