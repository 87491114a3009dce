//! When the next attempt is due: the retry schedule, its jitter, and what a receiver asks for with `Retry-After`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::{Rng, RngExt};

use crate::attempt::{Attempt, ErrorClass};

/// Delays before the 2nd, 3rd, … attempt of a delivery. When they are used up, the delivery has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
}

/// Most retries that a schedule may hold.
pub const MAX_RETRIES: usize = 24;
/// Longest delay of a schedule, in seconds (24 h).
pub const MAX_DELAY_SECONDS: u32 = 24 * 3600;
/// Longest delay that a `Retry-After` header is honoured for (1 h); a longer one counts as this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// How long an endpoint that asks for less, without saying for how long, is left alone.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(1);
/// Jitter: each delay is multiplied by a factor drawn from 1 ± this.
const JITTER: f64 = 0.2;

impl Default for RetrySchedule {
    /// 5 s, 30 s, 2 min, 10 min, 30 min, 2 h, 6 h, 14 h: nine attempts within 24 hours, were none to take long.
    fn default() -> Self {
        Self::from_seconds(&[5, 30, 120, 600, 1800, 7200, 21_600, 50_400])
    }
}

impl RetrySchedule {
    /// A schedule of these delays. The caller has checked their number and size.
    pub fn from_seconds(seconds: &[u32]) -> Self {
        Self {
            delays: seconds
                .iter()
                .map(|&seconds| Duration::from_secs(seconds.into()))
                .collect(),
        }
    }

    /// The delays, without jitter.
    pub fn delays(&self) -> &[Duration] {
        &self.delays
    }

    /// Attempts that a delivery gets at most.
    pub fn max_attempts(&self) -> u32 {
        self.delays.len() as u32 + 1
    }

    /// How long to wait after attempt `number` (1 or more) failed, jitter included; `None` when it was the last one.
    pub fn delay_after(&self, number: u32, rng: &mut impl Rng) -> Option<Duration> {
        let delay = self.delays.get(number.checked_sub(1)? as usize)?;
        Some(delay.mul_f64(rng.random_range(1.0 - JITTER..=1.0 + JITTER)))
    }
}

/// What an ended attempt tells of how its endpoint bears being called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// It took the message.
    Success,
    /// It is there, or cannot be called at all, and does not take this message: slowing down helps nobody. A 3xx, a 4xx
    /// other than 408, 425 and 429, a blocked address, a configuration that cannot be used.
    Refusal,
    /// It is not well: no complete answer, 408, 425, a 5xx that is no [`Pressure::Throttle`], or a status that HTTP does
    /// not know.
    Failure,
    /// It asks for less (429, 502, 503, 504): nothing more for this long, at most [`MAX_RETRY_AFTER`].
    Throttle(Duration),
}

/// Judges an ended attempt, by the status if there is one.
pub fn pressure(attempt: &Attempt, now: DateTime<Utc>) -> Pressure {
    if attempt.succeeded() {
        return Pressure::Success;
    }
    let status = attempt.response.as_ref().map(|response| response.status);
    let class = attempt.error.as_ref().map(|error| error.class);
    match (status, class) {
        (Some(status), _) if throttles(status) => {
            Pressure::Throttle(retry_after(attempt, now).unwrap_or(DEFAULT_THROTTLE))
        }
        (Some(408 | 425), _) => Pressure::Failure,
        (Some(300..500), _) | (None, Some(ErrorClass::BlockedAddress | ErrorClass::Configuration)) => {
            Pressure::Refusal
        }
        _ => Pressure::Failure,
    }
}

/// Whether the status asks for less: `Retry-After` is honoured with it.
fn throttles(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// What the receiver asked for with `Retry-After` (RFC 9110, section 10.2.3: seconds or a date), when its status is one
/// that the header is honoured for (429, 502, 503, 504); at most [`MAX_RETRY_AFTER`].
pub fn retry_after(attempt: &Attempt, now: DateTime<Utc>) -> Option<Duration> {
    let response = attempt
        .response
        .as_ref()
        .filter(|response| throttles(response.status))?;
    let value = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("retry-after"))?
        .value
        .trim();
    let asked = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = DateTime::<Utc>::from(httpdate::parse_http_date(value).ok()?);
        (date - now).to_std().unwrap_or_default()
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Header;
    use crate::delivery::tests::{answered, failed_attempt};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn now() -> DateTime<Utc> {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn answered_with(status: u16, retry_after: &str) -> Attempt {
        let mut attempt = answered(1, status);
        attempt.response.as_mut().unwrap().headers = vec![Header {
            name: "retry-after".into(),
            value: retry_after.into(),
        }];
        attempt
    }

    fn asked(status: u16, value: &str) -> Option<Duration> {
        retry_after(&answered_with(status, value), now())
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        assert_eq!(asked(429, "7"), Some(Duration::from_secs(7)));
        assert_eq!(asked(503, " 0 "), Some(Duration::ZERO));
        assert_eq!(
            asked(503, "Sat, 21 Nov 2026 10:01:00 GMT"),
            Some(Duration::from_mins(1))
        );
        assert_eq!(asked(503, "Sat, 21 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked(429, "18446744073709551615"), Some(MAX_RETRY_AFTER));
        for value in ["", "soon", "-1", "99999999999999999999999"] {
            assert_eq!(asked(429, value), None, "{value}");
        }
    }

    #[test]
    fn retry_after_counts_only_with_a_status_that_asks_for_less() {
        for status in [429, 502, 503, 504] {
            assert_eq!(asked(status, "7"), Some(Duration::from_secs(7)), "{status}");
        }
        for status in [200, 301, 408, 425, 500, 501] {
            assert_eq!(asked(status, "7"), None, "{status}");
        }
    }

    #[test]
    fn pressure_tells_the_unwell_from_the_unwilling() {
        let second = Duration::from_secs(1);
        for (statuses, expected) in [
            (&[200, 204, 299][..], Pressure::Success),
            (
                &[300, 301, 304, 400, 401, 404, 409, 410, 422, 499],
                Pressure::Refusal,
            ),
            (&[408, 425, 500, 501, 505, 599, 600, 999, 101], Pressure::Failure),
            (&[429, 502, 503, 504], Pressure::Throttle(second)),
        ] {
            for &status in statuses {
                assert_eq!(pressure(&answered(1, status), now()), expected, "{status}");
            }
        }
    }

    #[test]
    fn pressure_without_an_answer_is_told_by_the_error() {
        for class in ErrorClass::ALL {
            let mut attempt = failed_attempt(1);
            attempt.error.as_mut().unwrap().class = class;
            let expected = match class {
                ErrorClass::BlockedAddress | ErrorClass::Configuration => Pressure::Refusal,
                _ => Pressure::Failure,
            };
            assert_eq!(pressure(&attempt, now()), expected, "{class:?}");
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_is_told_by_its_status() {
        let cut = |status| Attempt {
            error: failed_attempt(1).error,
            ..answered(1, status)
        };
        assert_eq!(pressure(&cut(200), now()), Pressure::Failure);
        assert_eq!(pressure(&cut(404), now()), Pressure::Refusal);
        assert_eq!(
            pressure(&cut(503), now()),
            Pressure::Throttle(Duration::from_secs(1))
        );
    }

    #[test]
    fn throttling_lasts_as_long_as_was_asked_and_no_longer_than_the_cap() {
        let throttle = |status, value| pressure(&answered_with(status, value), now());
        assert_eq!(throttle(429, "7"), Pressure::Throttle(Duration::from_secs(7)));
        assert_eq!(throttle(504, "0"), Pressure::Throttle(Duration::ZERO));
        assert_eq!(
            throttle(502, "Sat, 21 Nov 2026 10:01:00 GMT"),
            Pressure::Throttle(Duration::from_mins(1))
        );
        assert_eq!(throttle(503, "86400"), Pressure::Throttle(MAX_RETRY_AFTER));
        assert_eq!(throttle(503, "soon"), Pressure::Throttle(Duration::from_secs(1)));
        assert_eq!(throttle(500, "7"), Pressure::Failure);
    }

    #[test]
    fn delays_are_those_of_the_schedule() {
        let schedule = RetrySchedule::from_seconds(&[5, 30]);
        assert_eq!(
            schedule.delays(),
            [Duration::from_secs(5), Duration::from_secs(30)]
        );
    }

    #[test]
    fn default_schedule_ends_within_a_day() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.max_attempts(), 9);
        let total: Duration = schedule.delays.iter().sum();
        assert!(total < Duration::from_hours(24), "{total:?}");
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_jitter_and_end(
            seconds in proptest::collection::vec(1u32..=MAX_DELAY_SECONDS, 0..MAX_RETRIES),
            seed: u64,
        ) {
            let schedule = RetrySchedule::from_seconds(&seconds);
            let mut rng = StdRng::seed_from_u64(seed);
            prop_assert_eq!(schedule.delay_after(0, &mut rng), None);
            for (index, &expected) in seconds.iter().enumerate() {
                let delay = schedule.delay_after(index as u32 + 1, &mut rng).unwrap().as_secs_f64();
                prop_assert!((0.79..=1.21).contains(&(delay / f64::from(expected))));
            }
            prop_assert_eq!(schedule.delay_after(schedule.max_attempts(), &mut rng), None);
        }
    }
}
