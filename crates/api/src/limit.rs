//! How often a key may call: a token bucket per key, in this process alone.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::auth::Caller;
use crate::error::AppError;

/// Buckets beyond which those that are full again are dropped: a bucket that is full is as good as none.
const BUCKETS: usize = 10_000;

type Buckets<C> = RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The limit of every key. Cheap to clone. Only keys that are let in have a bucket, so that guessing takes no memory.
#[derive(Clone, Debug)]
pub(crate) struct Limiter<C: Clock = DefaultClock>(Option<Arc<Limit<C>>>);

#[derive(Debug)]
struct Limit<C: Clock> {
    per_second: NonZeroU32,
    burst: NonZeroU32,
    clock: C,
    buckets: Buckets<C>,
}

impl Limiter {
    /// `per_second` calls of each key, and `burst` at once after a pause; a rate of 0 limits nothing.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self::with_clock(per_second, burst, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(per_second: u32, burst: u32, clock: C) -> Self {
        let limit = NonZeroU32::new(per_second).map(|per_second| {
            let burst = NonZeroU32::new(burst).unwrap_or(per_second);
            let quota = Quota::per_second(per_second).allow_burst(burst);
            Arc::new(Limit {
                per_second,
                burst,
                buckets: RateLimiter::hashmap_with_clock(quota, clock.clone()),
                clock,
            })
        });
        Self(limit)
    }

    /// Counts a call of `caller`; refuses it when there were too many.
    pub(crate) fn check(&self, caller: &Caller) -> Result<(), AppError> {
        let Some(limit) = &self.0 else {
            return Ok(());
        };
        if limit.buckets.len() > BUCKETS {
            limit.buckets.retain_recent();
        }
        limit
            .buckets
            .check_key(&caller.actor.id)
            .map_err(|refused| AppError::RateLimited {
                per_second: limit.per_second.get(),
                burst: limit.burst.get(),
                retry_after: refused.wait_time_from(limit.clock.now()),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::testing::caller;

    fn key(id: &str) -> Caller {
        let mut caller = caller(None);
        id.clone_into(&mut caller.actor.id);
        caller
    }

    fn wait(refused: Result<(), AppError>) -> Duration {
        match refused {
            Err(AppError::RateLimited { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_key_has_its_burst_and_then_its_rate() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::with_clock(4, 3, clock.clone());
        for _ in 0..3 {
            assert!(limiter.check(&key("a")).is_ok());
        }
        assert_eq!(wait(limiter.check(&key("a"))), Duration::from_millis(250));
        assert!(
            limiter.check(&key("b")).is_ok(),
            "another key's calls do not count"
        );
        clock.advance(Duration::from_millis(249));
        assert_eq!(wait(limiter.check(&key("a"))), Duration::from_millis(1));
        clock.advance(Duration::from_millis(1));
        assert!(limiter.check(&key("a")).is_ok());
        assert!(limiter.check(&key("a")).is_err(), "one came back, not more");
    }

    #[test]
    fn a_rate_of_zero_limits_nothing() {
        let limiter = Limiter::new(0, 1);
        assert!((0..1000).all(|_| limiter.check(&key("a")).is_ok()));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::with_clock(1, 1, clock.clone());
        for number in 0..=BUCKETS {
            limiter.check(&key(&number.to_string())).unwrap();
        }
        clock.advance(Duration::from_secs(2));
        limiter.check(&key("another")).unwrap();
        assert_eq!(limiter.0.unwrap().buckets.len(), 1);
    }
}
