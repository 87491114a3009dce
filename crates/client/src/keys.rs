//! Idempotency keys for those who give none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, make_rng};

/// Makes keys that nobody else makes. Clones go on where the other is.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    origin: u128,
    made: Arc<AtomicU64>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let mut rng: StdRng = make_rng();
        Self {
            origin: rng.random(),
            made: Arc::default(),
        }
    }

    /// The next one: visible ASCII, at most 53 bytes.
    pub(crate) fn next(&self) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{:032x}-{number}", self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_made_twice() {
        let keys = Keys::new();
        let clone = keys.clone();
        let mut made = vec![keys.next(), clone.next(), keys.next(), Keys::new().next()];
        made.sort();
        made.dedup();
        assert_eq!(made.len(), 4);
    }
}
