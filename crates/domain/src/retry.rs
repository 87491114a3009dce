//! When the next attempt is due: the retry schedule, its jitter, and what a receiver asks for with `Retry-After`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::{Rng, RngExt};

use crate::attempt::Attempt;

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

/// What the receiver asked for with `Retry-After` (RFC 9110, section 10.2.3: seconds or a date), when its status is one
/// that the header is honoured for (429 and 503); at most [`MAX_RETRY_AFTER`].
pub fn retry_after(attempt: &Attempt, now: DateTime<Utc>) -> Option<Duration> {
    let response = attempt
        .response
        .as_ref()
        .filter(|response| matches!(response.status, 429 | 503))?;
    let value = response
        .headers
        .iter()
        .find(|header| header.name == "retry-after")?
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
    use crate::attempt::{AttemptResponse, Header};
    use crate::delivery::tests::failed_attempt;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn asked(status: u16, value: &str) -> Option<Duration> {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let mut attempt = failed_attempt(1);
        attempt.response = Some(AttemptResponse {
            status,
            headers: vec![Header {
                name: "retry-after".into(),
                value: value.into(),
            }],
            body: bytes::Bytes::new(),
            body_truncated: false,
        });
        retry_after(&attempt, now)
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
        assert_eq!(asked(500, "7"), None);
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
