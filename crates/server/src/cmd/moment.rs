//! Times as people type them.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use cuitty_webhooks_client::Timestamp;

use super::show::timestamp;

/// A time, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

/// A text is no [`Moment`].
#[derive(Debug, thiserror::Error)]
#[error("must be a time such as 2026-11-01T00:00:00Z, or how long ago, such as 90s, 15m, 2h or 3d")]
pub(super) struct NotAMoment;

impl Moment {
    /// For a request.
    pub(super) fn timestamp(self, now: DateTime<Utc>) -> Timestamp {
        timestamp(match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub_signed(ago).unwrap_or(DateTime::UNIX_EPOCH),
        })
    }
}

impl FromStr for Moment {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Self, NotAMoment> {
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(at.to_utc()));
        }
        let unit = text.chars().next_back().ok_or(NotAMoment)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(NotAMoment),
        };
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| NotAMoment)?;
        Ok(Self::Ago(TimeDelta::seconds(i64::from(count) * seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let at = |text: &str| text.parse::<Moment>().ok();
        let ago = |seconds| Some(Moment::Ago(TimeDelta::seconds(seconds)));
        assert_eq!(
            at("1970-01-01T01:00:01+01:00"),
            Some(Moment::At(DateTime::from_timestamp(1, 0).unwrap()))
        );
        assert_eq!((at("90s"), at("15m")), (ago(90), ago(900)));
        assert_eq!((at("2h"), at("3d")), (ago(7_200), ago(259_200)));
        for wrong in ["", "h", "2", "-2h", "2w", "yesterday", "2026-11-01", "1ö"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
