//! The breaker of a lane: closed (letting through), open (stopped), half-open (probing).

use std::time::Duration;

use tokio::time::Instant;

use super::interface::BreakerState;

/// When a breaker opens, and how it probes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BreakerRules {
    /// It opens after so many failures in a row, 1 or more.
    pub(crate) consecutive_failures: u32,
    /// It opens when this share of the attempts of a window failed, 0 to 1.
    pub(crate) failure_ratio: f64,
    /// Attempts that a window must hold before the share counts.
    pub(crate) min_attempts: u32,
    /// Length of the window.
    pub(crate) window: Duration,
    /// Longest wait before a probe.
    pub(crate) max_probe_delay: Duration,
}

/// Whether an attempt may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// It may.
    Free,
    /// One may, with nothing else in flight.
    Probe,
    /// Not before then.
    Wait(Instant),
}

/// See the module. Told of every start and every end of an attempt.
#[derive(Debug)]
pub(super) struct Breaker {
    rules: BreakerRules,
    state: BreakerState,
    consecutive_failures: u32,
    window: Window,
}

impl Breaker {
    pub(super) fn new(rules: BreakerRules, now: Instant) -> Self {
        Self {
            rules,
            state: BreakerState::Closed,
            consecutive_failures: 0,
            window: Window::new(now),
        }
    }

    /// As another owner left it. A probe that it had in flight is made anew.
    pub(super) fn restored(rules: BreakerRules, state: BreakerState, failures: u32, now: Instant) -> Self {
        Self {
            state,
            consecutive_failures: failures,
            ..Self::new(rules, now)
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    pub(super) fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == BreakerState::Closed
    }

    pub(super) fn permit(&self, now: Instant) -> Permit {
        match self.state {
            BreakerState::Closed => Permit::Free,
            BreakerState::Open { until, .. } if now < until => Permit::Wait(until),
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } => Permit::Probe,
        }
    }

    /// An attempt starts that was permitted.
    pub(super) fn started(&mut self) {
        if let BreakerState::Open { probe, .. } = self.state {
            self.state = BreakerState::HalfOpen { probe };
        }
    }

    /// The next probe need not wait: the endpoint may have been mended.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let BreakerState::Open { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.consecutive_failures = 0;
        if self.is_closed() {
            self.window.count(true, self.rules.window, now);
        } else {
            self.state = BreakerState::Closed;
            self.window = Window::new(now);
        }
    }

    /// An attempt failed. `delays` are the waits before the probes.
    pub(super) fn failed(&mut self, delays: &[Duration], now: Instant) {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let probe = match self.state {
            BreakerState::Closed => {
                self.window.count(false, self.rules.window, now);
                if !self.must_open() {
                    return;
                }
                1
            }
            // In flight since before it opened.
            BreakerState::Open { .. } => return,
            BreakerState::HalfOpen { probe } => probe.saturating_add(1),
        };
        let index = (probe as usize - 1).min(delays.len().saturating_sub(1));
        let delay = delays.get(index).copied().unwrap_or(self.rules.max_probe_delay);
        self.state = BreakerState::Open {
            until: now + delay.min(self.rules.max_probe_delay),
            probe,
        };
    }

    fn must_open(&self) -> bool {
        let (failed, all) = self.window.totals();
        self.consecutive_failures >= self.rules.consecutive_failures
            || (all >= self.rules.min_attempts
                && f64::from(failed) >= self.rules.failure_ratio * f64::from(all))
    }
}

/// How the attempts of the last window ended, by halves.
#[derive(Debug)]
struct Window {
    since: Instant,
    failed: u32,
    all: u32,
    failed_before: u32,
    all_before: u32,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            failed: 0,
            all: 0,
            failed_before: 0,
            all_before: 0,
        }
    }

    fn count(&mut self, succeeded: bool, length: Duration, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age >= length {
            *self = Self::new(now);
        } else if age >= length / 2 {
            *self = Self {
                failed_before: self.failed,
                all_before: self.all,
                ..Self::new(now)
            };
        }
        self.all += 1;
        self.failed += u32::from(!succeeded);
    }

    fn totals(&self) -> (u32, u32) {
        (self.failed + self.failed_before, self.all + self.all_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: [Duration; 3] = [
        Duration::from_secs(5),
        Duration::from_secs(30),
        Duration::from_mins(2),
    ];

    fn rules() -> BreakerRules {
        BreakerRules {
            consecutive_failures: 3,
            failure_ratio: 0.5,
            min_attempts: 10,
            window: Duration::from_mins(1),
            max_probe_delay: Duration::from_mins(1),
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_probes_on_the_schedule() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(rules(), now);
        breaker.failed(&DELAYS, now);
        breaker.failed(&DELAYS, now);
        breaker.succeeded(now);
        breaker.failed(&DELAYS, now);
        breaker.failed(&DELAYS, now);
        assert_eq!(breaker.permit(now), Permit::Free);
        breaker.failed(&DELAYS, now);
        // 5 s, 30 s, then 120 s cut to the longest wait of 60 s.
        for (probe, wait) in [(1, 5), (2, 30), (3, 60), (4, 60)] {
            let until = now + Duration::from_secs(wait);
            assert_eq!(breaker.state(), BreakerState::Open { until, probe });
            assert_eq!(breaker.permit(now), Permit::Wait(until));
            now = until;
            assert_eq!(breaker.permit(now), Permit::Probe);
            breaker.started();
            assert_eq!(breaker.state(), BreakerState::HalfOpen { probe });
            breaker.failed(&DELAYS, now);
        }
        now += Duration::from_mins(1);
        breaker.started();
        breaker.succeeded(now);
        assert_eq!(
            (breaker.state(), breaker.consecutive_failures()),
            (BreakerState::Closed, 0)
        );
    }

    #[test]
    fn what_was_in_flight_when_it_opened_does_not_delay_the_probe() {
        let now = Instant::now();
        let mut breaker = Breaker::new(rules(), now);
        (0..3).for_each(|_| breaker.failed(&DELAYS, now));
        let state = breaker.state();
        breaker.failed(&DELAYS, now + Duration::from_secs(1));
        assert_eq!(breaker.state(), state);
        breaker.succeeded(now + Duration::from_secs(1));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn it_opens_when_a_share_of_the_window_failed() {
        let start = Instant::now();
        let mut breaker = Breaker::new(rules(), start);
        for step in 0..9 {
            let now = start + Duration::from_secs(step);
            if step % 2 == 0 {
                breaker.failed(&DELAYS, now);
            } else {
                breaker.succeeded(now);
            }
            assert!(breaker.is_closed(), "{step}");
        }
        breaker.failed(&DELAYS, start + Duration::from_secs(9));
        assert!(!breaker.is_closed());
    }

    #[test]
    fn old_failures_are_forgotten() {
        let start = Instant::now();
        let mut breaker = Breaker::new(rules(), start);
        for step in 0..8 {
            breaker.failed(&DELAYS, start);
            breaker.succeeded(start);
            if step == 3 {
                break;
            }
        }
        let later = start + Duration::from_secs(61);
        for _ in 0..7 {
            breaker.succeeded(later);
            breaker.failed(&DELAYS, later);
            breaker.succeeded(later);
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_mended_endpoint_is_probed_at_once() {
        let now = Instant::now();
        let mut breaker = Breaker::new(rules(), now);
        (0..3).for_each(|_| breaker.failed(&DELAYS, now));
        breaker.hurry(now + Duration::from_secs(1));
        assert_eq!(breaker.permit(now + Duration::from_secs(1)), Permit::Probe);
    }
}
