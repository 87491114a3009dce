//! Progress of what takes long, for a person at a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// Counts up to `total`, or just counts when nobody knows how many there are.
pub(super) fn counting(total: Option<u64>, what: &'static str) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {bar:40} {human_pos}/{human_len} {per_sec} {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {msg} {human_pos} {per_sec}",
        ),
    };
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    bar.with_message(what)
}
