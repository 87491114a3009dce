//! Waiting for something to become true, with a deadline instead of a guess.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long [`eventually`] waits.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it answers `Ok`, and returns that.
///
/// # Panics
/// After [`PATIENCE`], with the last `Err`.
pub async fn eventually<T, E, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Debug,
{
    eventually_within(PATIENCE, what, probe).await
}

/// [`eventually`] with a patience of its own.
///
/// # Panics
/// After `patience`, with the last `Err`.
pub async fn eventually_within<T, E, F>(patience: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Debug,
{
    let deadline = Instant::now() + patience;
    let mut last = None;
    while Instant::now() < deadline {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => last = Some(error),
            Err(_) => break,
        }
        sleep(INTERVAL).await;
    }
    panic!("{what}: not within {patience:?}; last seen: {last:?}");
}

/// `Ok` with the value when `actual` is `expected`, for use in a probe.
#[expect(
    clippy::needless_pass_by_value,
    reason = "so that a probe can name both values in place"
)]
pub fn is<T: PartialEq + std::fmt::Debug>(actual: T, expected: T) -> Result<T, String> {
    if actual == expected {
        Ok(actual)
    } else {
        Err(format!("{actual:?}, not {expected:?}"))
    }
}
