//! How fast a lane goes: the rate that is configured, and the attempts at a time that the endpoint has shown to take.

use std::time::Duration;

use tokio::time::Instant;

/// What may come early, so that timers that are late do not lower the rate.
const BURST: Duration = Duration::from_millis(100);
/// Attempts at a time that an endpoint gets that has shown nothing yet.
const FIRST_WINDOW: u32 = 2;

/// A rate limit, by the generic cell rate algorithm.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Time between two attempts.
    interval: Duration,
    /// When the next attempt would come, were all evenly spaced.
    next: Instant,
}

impl RateLimit {
    /// `per_second` is 1 or more.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            next: now,
        }
    }

    /// Goes on at another rate.
    pub(super) fn set(&mut self, per_second: u32) {
        self.interval = Duration::from_secs(1) / per_second.max(1);
    }

    /// When the next attempt may start.
    pub(super) fn next(&self) -> Instant {
        self.next.checked_sub(BURST).unwrap_or(self.next)
    }

    /// An attempt starts.
    pub(super) fn started(&mut self, now: Instant) {
        self.next = self.next.max(now) + self.interval;
    }

    /// When a new one would be no different.
    pub(super) fn idle_at(&self) -> Instant {
        self.next
    }
}

/// Attempts at a time: one more with each success, half with each failure that may be a matter of load, between 1 and the
/// endpoint's cap.
///
/// An endpoint that hangs from its first request on never holds more than [`FIRST_WINDOW`] slots.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    /// Whether the last thing it heard was a success.
    proven: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            size: FIRST_WINDOW,
            proven: false,
        }
    }

    /// Attempts at a time, 1 to `cap`.
    pub(super) fn size(&self, cap: u32) -> u32 {
        self.size.min(cap).max(1)
    }

    /// Whether the endpoint is known to answer well.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    pub(super) fn succeeded(&mut self, cap: u32) {
        self.size = (self.size + 1).min(cap).max(1);
        self.proven = true;
    }

    pub(super) fn failed(&mut self, cap: u32) {
        self.size = (self.size(cap) / 2).max(1);
        self.proven = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is offered and however late the timers are, no second holds more than the rate and the burst.
        #[test]
        fn a_rate_is_kept(rate in 1u32..2000, gaps in proptest::collection::vec(0u64..200_000, 1..400)) {
            let start = Instant::now();
            let mut limit = RateLimit::new(rate, start);
            let mut now = start;
            let mut starts = Vec::new();
            for gap in gaps {
                now = (now + Duration::from_micros(gap)).max(limit.next());
                limit.started(now);
                starts.push(now);
            }
            let burst = (BURST.as_secs_f64() * f64::from(rate)).max(1.0);
            for (index, &first) in starts.iter().enumerate() {
                let within = starts[index..].iter().filter(|&&at| at < first + Duration::from_secs(1)).count();
                prop_assert!(within as f64 <= f64::from(rate) + burst + 1.0, "{within} at {rate}/s");
            }
        }

        #[test]
        fn steady_work_goes_at_the_rate(rate in 1u32..2000, lateness in 0u64..20_000) {
            let start = Instant::now();
            let mut limit = RateLimit::new(rate, start);
            let (mut now, mut started) = (start, 0u32);
            while now < start + Duration::from_secs(30) {
                if limit.next() <= now {
                    limit.started(now);
                    started += 1;
                } else {
                    now = limit.next() + Duration::from_micros(lateness);
                }
            }
            let expected = f64::from(rate) * 30.0;
            prop_assert!((f64::from(started) - expected).abs() <= expected * 0.01 + f64::from(rate) * 0.1 + 2.0,
                "{started} of {expected}");
        }
    }

    #[test]
    fn an_endpoint_earns_its_slots_and_loses_them() {
        let mut window = Window::new();
        assert_eq!((window.size(8), window.is_proven()), (2, false));
        (0..10).for_each(|_| window.succeeded(8));
        assert_eq!((window.size(8), window.is_proven()), (8, true));
        window.failed(8);
        assert_eq!((window.size(8), window.is_proven()), (4, false));
        (0..5).for_each(|_| window.failed(8));
        assert_eq!(window.size(8), 1);
        assert_eq!(Window::new().size(1), 1);
    }
}
